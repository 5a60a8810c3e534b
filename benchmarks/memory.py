"""Peak memory of `maskprep run` per process, over a photo folder and over several copies of it.

    python benchmarks/memory.py PHOTOS [--copies 4] [--workers 2]

Claim: below 1.5 GiB per worker, and constant in the number of photos. Linux only (reads /proc).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def children(pid: int) -> list[int]:
    """The process and everything below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += children(int(child))
    return found


def resident_peak(pid: int) -> int:
    """Highest resident memory of one process so far, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(photos: Path, cache: Path, workers: int) -> tuple[dict[int, int], float]:
    """Peak per process and seconds of one run."""
    command = [sys.executable, "-c", "from maskprep.cli import main; main()", "run", os.fspath(photos), "-q"]
    started = time.monotonic()
    process = subprocess.Popen([*command, "-j", str(workers), "--cache", os.fspath(cache)], stdout=subprocess.DEVNULL)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        try:
            for pid in children(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), resident_peak(pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"maskprep run failed with status {process.returncode}")
    return {process.pid: peaks.pop(process.pid), **peaks}, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print("| photos | seconds | main process MiB | workers MiB (largest) |")
    print("|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for copies in (1, options.copies):
            photos = Path(folder) / f"photos-{copies}"
            for i in range(copies):
                shutil.copytree(options.photos, photos / str(i), symlinks=True)
            peaks, seconds = measure(photos, Path(folder) / f"cache-{copies}", options.workers)
            main_peak, *worker_peaks = peaks.values()
            count = sum(path.is_file() for path in photos.rglob("*"))
            print(f"| {count} | {seconds:.0f} | {main_peak / 2**20:.0f} | {max(worker_peaks, default=0) / 2**20:.0f} |")


if __name__ == "__main__":
    main()
