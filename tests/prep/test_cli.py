"""The command as a person meets it: exit codes, what goes where, Ctrl-C, and a machine that is switched off."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

COMMANDS = [
    "audit",
    "decide",
    "index",
    "review",
    "crop",
    "stats",
    "run",
    "status",
    "explain",
    "sheet",
    "sample",
    "weights",
]
HEAVY = ["numpy", "pandas", "cv2", "mediapipe", "pyarrow", "PIL", "rich.progress", "yaml", "torch"]

Work = tuple[Path, Path]


def loaded(statement: str) -> list[str]:
    code = f"import sys\n{statement}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_command_imports_nothing_heavy() -> None:
    assert loaded("import maskprep.cli") == []
    assert "numpy" in loaded("import maskprep.pipeline.config"), "the check would see it"


def test_help_imports_nothing_heavy() -> None:
    code = "import contextlib\nsys.argv=['maskprep','--help']\nimport maskprep.cli\n"
    code += "with contextlib.suppress(SystemExit): maskprep.cli.main()"
    assert [word for word in loaded(code) if word in HEAVY] == []


def test_help_of_every_command(cli: Callable[..., Any]) -> None:
    found = cli("--help")
    assert found.returncode == 0
    for name in COMMANDS:
        assert name in found.stdout
        own = cli(name, "--help")
        assert own.returncode == 0
        assert "Usage" in own.stdout
    assert cli("--version").stdout.startswith("maskprep ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nope"],
        ["nope"],
        ["run"],
        ["run", "nowhere"],
        ["run", ".", "--nope"],
        ["run", ".", "--workers", "0"],
        ["run", ".", "--workers", "many"],
        ["run", ".", "--engine", "steam"],
        ["crop", ".", "--size", "huge"],
        ["crop", ".", "--view", "../x"],
        ["weights", "--fetch", "--all"],
        ["run", ".", "--config", "gone.yaml"],
    ],
)
def test_wrong_usage_is_2(cli: Callable[..., Any], tmp_path: Path, arguments: list[str]) -> None:
    found = cli(*arguments, cwd=tmp_path)
    assert found.returncode == 2, found.stderr
    assert found.stdout == ""
    assert found.stderr.strip()
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_all_well_is_0(cli: Callable[..., Any], work: Work) -> None:
    found = cli("run", work[0], "--cache", work[1], "--strict")
    assert found.returncode == 0, found.stderr
    assert "nothing, all was up to date" in found.stdout
    assert "8 (8 train), layout flat (detected)" in found.stdout
    for command in (["status", work[1]], ["explain", work[1], "b/001.jpg"], ["stats", work[1]]):
        found = cli(*command)
        assert found.returncode == 0, found.stderr
        assert found.stdout.strip()
    assert json.loads((work[1] / "log.jsonl").read_text().splitlines()[-1])["command"] == "stats"


def test_the_next_command_runs_as_it_is_printed(cli: Callable[..., Any], work: Work) -> None:
    said = cli("index", work[0], "--cache", work[1]).stdout.splitlines()[-1]
    assert said == f"next      maskprep run {work[1]}"
    found = cli(*shlex.split(said.removeprefix("next      maskprep ")))
    assert found.returncode == 0 and "nothing, all was up to date" in found.stdout
    assert found.stdout.splitlines()[-1] == f"next      maskprep audit {work[1]}"


def test_errors_in_photos_are_3_when_strict(cli: Callable[..., Any], work: Work) -> None:
    (work[0] / "empty.jpg").touch()
    (work[0] / "notes.txt").touch()
    assert cli("index", work[0], "--cache", work[1]).returncode == 0
    found = cli("run", work[0], "--cache", work[1], "--strict")
    assert found.returncode == 3
    assert "1 empty" in found.stdout
    assert "1 not a photo (.txt)" in found.stderr
    assert cli("run", work[1], "--strict").returncode == 3
    quiet = cli("run", work[1], "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")


def check_failure(found: Any, *says: str) -> None:
    assert found.returncode == 1, (found.returncode, found.stderr)
    assert "Traceback" not in found.stderr
    assert "Error:" in found.stderr
    for text in says:
        assert text in found.stderr


def test_failures_are_1_without_a_traceback(cli: Callable[..., Any], work: Work, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    check_failure(cli("run", tmp_path / "none", cwd=tmp_path), "no photos")
    empty = cli("status", tmp_path / "none", cwd=tmp_path)
    assert empty.returncode == 2 and "cache" in empty.stderr and "Traceback" not in empty.stderr
    (work[1] / "subjects.parquet").write_bytes(b"rubbish")
    check_failure(cli("status", work[1]), "subjects.parquet", "damaged", "maskprep verify")
    (work[1] / "stages/detect/00000.parquet").write_bytes(b"PAR1")
    assert cli("run", work[1]).returncode == 0  # both can be made again
    (work[1] / "dataset.json").write_text("{")
    for command in ("run", "status", "sheet"):
        check_failure(cli(command, work[1]), "dataset.json", "damaged")


def test_errors_of_the_system_are_no_traceback(cli: Callable[..., Any], work: Work, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_failure(cli("sheet", work[1], "--out", tmp_path / "file" / "a.png"), "file")
    check_failure(cli("index", work[0], "--cache", tmp_path / "file" / "cache"), "file")


def test_a_wrong_key_in_the_settings(cli: Callable[..., Any], work: Work) -> None:
    (work[0] / "maskprep.yaml").write_text("vievs: {}\n")
    found = cli("run", work[0], "--cache", work[1])
    assert found.returncode == 2
    assert "Did you mean 'views'" in found.stderr
    assert "maskprep.yaml" in found.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs byte file names")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_cannot_be_shown(cli: Callable[..., Any], work: Work, tmp_path: Path, encoding: str) -> None:
    photos, cache = work
    odd = "얼굴 [red]:cat:😀\n.jpg"
    shutil.copyfile(photos / "000.jpg", photos / odd)
    (photos / os.fsdecode(b"na\xffme.jpg")).write_bytes(b"x")
    (photos / os.fsdecode(b"x.\xfe")).write_bytes(b"x")
    env = {"PYTHONIOENCODING": encoding}
    for arguments in (
        ["run", photos, "--cache", cache],
        ["status", cache],
        ["explain", cache, odd],
    ):
        found = cli(*arguments, env=env)
        assert found.returncode == 0, found.stderr
    assert "[red]:cat:" in found.stdout
    assert encoding == "ascii" or "😀" in found.stdout
    images = pd.read_parquet(cache / "images.parquet").set_index("image")
    assert images.loc["na\\xffme.jpg", "error"] == "unreadable"
    assert images.loc[odd, "width"] == 240
    bad = tmp_path / os.fsdecode(b"bad\xff")
    bad.mkdir()
    shutil.copyfile(photos / "000.jpg", bad / "a.jpg")
    found = cli("index", bad, "--cache", tmp_path / "c", env=env)
    assert (found.returncode, "Traceback" in found.stderr) == (2, False)
    assert "UTF-8" in found.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_output_is_shown_as_it_is(cli: Callable[..., Any], work: Work, tmp_path: Path, encoding: str) -> None:
    """Paths that look like markup, and signs that the terminal lacks."""
    cache = work[1].rename(work[1].parent / "of [red]:cat:")
    settings = tmp_path / "new.yaml"
    settings.write_text("views: {face: {size: 32, margin: 0.1}}")
    found = cli("status", cache, "--config", settings, env={"PYTHONIOENCODING": encoding, "COLUMNS": "200"})
    assert found.returncode == 0, found.stderr
    assert "of [red]:cat:" in found.stdout
    assert ("0.35 → 0.1" if encoding == "utf-8" else "0.35 \\u2192 0.1") in found.stdout


def test_the_default_detectors_through_the_command(
    cli: Callable[..., Any], make_photos: Callable[..., Any], all_detectors: None, tmp_path: Path
) -> None:
    make_photos(tmp_path / "photos", 3)
    found = cli("crop", "photos", "--size", "40x32", "--align", "eyes", "-j", "1", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    faces = pd.read_parquet(tmp_path / "cache/photos/faces.parquet")
    assert set(faces["detector"]) == {"yunet", "blazeface_short"} and faces["confirmed"].all()
    assert (pd.read_parquet(tmp_path / "cache/photos/subjects.parquet")["status"] == "ok").all()
    assert "INFO" not in found.stderr and "WARNING" not in found.stderr, "native libraries stay quiet"


# ---------------------------------------------------------------- stopping it


@pytest.fixture(scope="module")
def many(make_photos: Callable[..., Any], yunet: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 photos (100 different ones) and a settings file for them."""
    folder = tmp_path_factory.mktemp("many") / "photos"
    paths = make_photos(folder, 100)
    for i in range(2):
        for path in paths:
            shutil.copyfile(path, folder / f"{i}-{path.name}")
    (folder / "maskprep.yaml").write_text("detect: {detectors: [yunet]}\nviews: {face: {size: 32}}\n")
    return folder


@pytest.fixture(scope="module")
def calm(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one worker makes of them undisturbed."""
    import maskprep as api

    cache = tmp_path_factory.mktemp("calm") / "cache"
    api.run(many, cache, workers=1)
    return contents(cache)


def contents(cache: Path) -> dict[str, str]:
    return {
        p.relative_to(cache).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in cache.rglob("*")
        if p.is_file() and not p.name.startswith(".") and p.name != "log.jsonl"
    }


@pytest.fixture
def start(
    command_line: Callable[..., list[str]], many: Path, tmp_path: Path
) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a run with two workers as a terminal would: a process group of its own."""
    running: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        arguments = command_line("run", many, "--cache", tmp_path / "cache", "--workers", "2")
        pipe = subprocess.PIPE
        running.append(
            subprocess.Popen(
                arguments,
                stdout=pipe,
                stderr=pipe,
                text=True,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a job in the background
            )
        )
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


def group_of(process: subprocess.Popen[str]) -> list[int]:
    """Living processes of a run's group, the run itself among them."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(group) == process.pid and state != "Z":
                members.append(int(entry.name))
    return members


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come to that"
        time.sleep(0.01)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

MOMENTS = ["workers start", "index", "detect", "crop"]


def wait_for(moment: str, cache: Path, process: subprocess.Popen[str]) -> None:
    """Until a run has come to a stage with its workers."""
    if moment == "workers start":
        wait_until(lambda: len(group_of(process)) >= 4)
        time.sleep(0.2)  # while they import, before they can ignore anything themselves
        return
    folder = {"index": "stages/index", "detect": "stages/detect", "crop": "views/face"}[moment]
    wait_until(lambda: any((cache / folder).glob("0*.parquet")) or process.poll() is not None)


@needs_proc
@pytest.mark.parametrize("moment", MOMENTS[:3])
def test_ctrl_c(start: Callable[[], Any], many: Path, tmp_path: Path, calm: dict[str, str], moment: str) -> None:
    process = start()
    wait_for(moment, tmp_path / "cache", process)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Interrupted" in stderr
    assert "Traceback" not in stderr
    wait_until(lambda: group_of(process) == [], 10)
    finish(many, tmp_path / "cache", calm)


def finish(many: Path, cache: Path, calm: dict[str, str]) -> None:
    """The next run completes, and nothing tells of the interruption."""
    import maskprep as api

    api.run(many, cache, workers=1)
    assert contents(cache) == calm


@needs_proc
def test_sigkill_at_random_moments(start: Callable[[], Any], many: Path, tmp_path: Path, calm: dict[str, str]) -> None:
    for moment in MOMENTS:
        process = start()
        wait_for(moment, tmp_path / "cache", process)
        process.kill()
        process.communicate(timeout=30)
        wait_until(lambda process=process: group_of(process) == [], 10)
    finish(many, tmp_path / "cache", calm)


@needs_proc
def test_a_worker_that_is_killed(start: Callable[[], Any], many: Path, tmp_path: Path, calm: dict[str, str]) -> None:
    process = start()
    wait_for("workers start", tmp_path / "cache", process)

    def workers() -> list[int]:
        found = []
        for pid in group_of(process):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"spawn_main" in line:
                found.append(pid)
        return found

    wait_until(lambda: len(workers()) >= 1)
    os.kill(workers()[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (0, 1), stderr  # 1 where the worker was at a photo
    assert ("a worker process died while working on it (SIGKILL" in stderr) == (process.returncode == 1)
    assert "Traceback" not in stderr
    wait_until(lambda: group_of(process) == [], 10)
    finish(many, tmp_path / "cache", calm)
