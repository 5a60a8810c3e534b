"""Time to show help, beside a bare interpreter.

    python benchmarks/startup.py [--runs 9]

Claim: `maskprep --help` and `masktrain --help` within 0.3 s of `python -c pass`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    scripts = Path(sys.executable).parent
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "maskprep --help": [str(scripts / "maskprep"), "--help"],
        "masktrain --help": [str(scripts / "masktrain"), "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):  # in turn, so that a busy moment hits all of them
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - started)
    bare = statistics.median(times["python -c pass"])
    print("| command | median s | above the bare interpreter |")
    print("|---|---:|---:|")
    for name, values in times.items():
        print(f"| `{name}` | {statistics.median(values):.3f} | {statistics.median(values) - bare:.3f} |")


if __name__ == "__main__":
    main()
