"""What the machine is: its processor, memory and graphics driver, as far as it tells."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """Name of the processor; that of its family where the system does not tell more."""
    try:
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().casefold() in ("model name", "hardware", "cpu model") and value.strip():
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def memory() -> int | None:
    """Bytes of main memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a Unix
        return None


def graphics_driver() -> str | None:
    """Version of NVIDIA's driver; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next((line.strip() for line in done.stdout.splitlines() if line.strip()), None)


OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-python-headless", "opencv-contrib-python-headless")
"""Packages that all write into one folder, cv2: of several, the one that was installed last is what runs."""


def opencv() -> str | None:
    """Version of the OpenCV that runs, whatever its packages say; None where none can be imported."""
    try:
        import cv2
    except ImportError:
        return None
    found = getattr(cv2, "__version__", None)  # an empty folder is left behind where one of several is uninstalled
    return found if isinstance(found, str) else None


def installed(package: str) -> str | None:
    """Version of an installed package, by its name in pip; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
