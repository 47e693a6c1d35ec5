"""How long `onward --help` takes, beside an empty Python in the same run."""

import subprocess
import sys
import time

ROUNDS = 7


def seconds(*arguments: str) -> float:
    """Return the median time of a process."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return sorted(times)[ROUNDS // 2]


if __name__ == "__main__":
    empty = seconds("-c", "pass")
    help_ = seconds("-c", "from onward.cli import main; main(['--help'])")
    print(f"onward --help {help_:.3f} s, empty Python {empty:.3f} s, ratio {help_ / empty:.1f}")
