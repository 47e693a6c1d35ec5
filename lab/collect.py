"""Collect several `onward demo --seed N --out runs/seed-N` into one file and one table.

python lab/collect.py lab/results/digits.json runs/seed-*
"""

import json
import sys
from pathlib import Path

METRICS = ("cmc@1", "cmc@5", "map")


def main() -> None:
    """Write the file and print the table of means with the least and greatest of each."""
    target, *directories = map(Path, sys.argv[1:])
    runs = [json.loads((directory / "comparison.json").read_text()) for directory in directories]
    runs.sort(key=lambda run: run["recipe"]["seed"])
    cells = list(runs[0]["cells"])
    values = {
        cell: {metric: [run["cells"][cell][metric] for run in runs] for metric in METRICS}
        for cell in cells
    }
    collected = {
        "recipe": runs[0]["recipe"]["name"],
        "command": "onward demo --seed SEED --out runs/seed-SEED",
        "seeds": {str(run["recipe"]["seed"]): run for run in runs},
        "mean": {
            cell: {metric: sum(each) / len(each) for metric, each in of_cell.items()}
            for cell, of_cell in values.items()
        },
        "seconds": sum(run["seconds"] for run in runs),
        "versions": runs[0]["versions"],
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(collected, indent=1) + "\n")
    sys.stdout.write(f"| {len(runs)} seeds, percent | " + " | ".join(METRICS) + " |\n")
    sys.stdout.write("| --- " * (len(METRICS) + 1) + "|\n")
    for cell in cells:
        shown = [
            f"{100 * sum(each) / len(each):.1f} ({100 * min(each):.1f} to {100 * max(each):.1f})"
            for each in values[cell].values()
        ]
        sys.stdout.write(f"| {cell} | " + " | ".join(shown) + " |\n")


if __name__ == "__main__":
    main()
