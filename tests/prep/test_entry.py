"""What both commands make of an error of the system, and of Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from maskprep.base import entry
from maskprep.errors import UsageError


def test_a_full_disk_is_named_and_not_traced(capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "cache/faces.parquet")

    with pytest.raises(SystemExit) as stop:
        entry.run(full, "")
    assert stop.value.code == 1
    assert capsys.readouterr().err == "Error: No space left on device: 'cache/faces.parquet'\n"


def test_an_error_without_a_file_and_of_two_files() -> None:
    assert entry.of_system(OSError("gone")).message == "gone"
    assert entry.of_system(OSError(errno.EXDEV, "Not here", "a", None, "b")).message == "Not here: 'b'"


@pytest.mark.parametrize("stop, code", [(KeyboardInterrupt(), 130), (SystemExit(130), 130), (SystemExit(3), 3)])
def test_how_a_stop_ends(capsys: pytest.CaptureFixture[str], stop: BaseException, code: int) -> None:
    def stopped() -> None:
        raise stop

    with pytest.raises(SystemExit) as ended:
        entry.run(stopped, "Go on [later].")
    assert ended.value.code == code
    assert capsys.readouterr().err == ("\nGo on [later].\n" if code == 130 else "")


def test_an_error_for_people_keeps_its_code_and_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong() -> None:
        raise UsageError("No [red] view.", "Choose [a].")

    with pytest.raises(SystemExit) as ended:
        entry.run(wrong, "")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "Error: No [red] view.\nChoose [a].\n"


NATIVE = """
import hashlib, signal
from maskprep.base import entry
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
def work():
    print("at work", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000_000)  # minutes in native code, where no handler runs
entry.run(work, "Go on later.", seconds={seconds})
"""


@pytest.mark.parametrize(("seconds", "presses"), [(0.2, 1), (3600, 2)])
def test_native_code_does_not_keep_a_command_that_was_interrupted(seconds: float, presses: int) -> None:
    script = [sys.executable, "-c", NATIVE.format(seconds=seconds)]
    process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "at work\n"
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        _, stderr = process.communicate(timeout=10)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (130, "\nGo on later.\n")


LINGERS = """
import os, signal, threading, time
from maskprep.base import entry
signal.signal(signal.SIGINT, signal.default_int_handler)
def work():
    threading.Thread(target=time.sleep, args=[60]).start()  # the interpreter waits for its end
    print("at work", flush=True)
    time.sleep(60)
entry.run(work, "Go on later.", seconds={seconds})
"""


@pytest.mark.parametrize(("seconds", "presses"), [(0.5, 1), (3600, 2)])
def test_a_thread_that_goes_on_does_not_keep_a_command_that_was_interrupted(seconds: float, presses: int) -> None:
    script = [sys.executable, "-c", LINGERS.format(seconds=seconds)]
    process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "at work\n"
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (130, "\nGo on later.\n")


AFTERWARDS = """
import os, signal, time
from maskprep.base import entry
signal.signal(signal.SIGINT, signal.default_int_handler)
entry.run(lambda: None, "Go on later.", seconds=0.1)
for _ in range(2):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
    except KeyboardInterrupt:
        time.sleep(0.3)
print("alive", signal.set_wakeup_fd(-1))
"""


def test_a_command_that_has_ended_leaves_ctrl_c_to_its_caller() -> None:
    ended = subprocess.run([sys.executable, "-c", AFTERWARDS], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "alive -1\n", "")
