"""Publish experiments: keep their JSON here, and renew their tables in docs/measured.md.

Usage: python lab/publish.py runs/cifar100-small/cifar100-small.json ...

Tables stand on the page where the recipe's tables stood before; those of a recipe that is new there
replace the line `<!-- tables: NAME -->`. Where a run was written is left out of its command. What
stands around the tables is for people to write.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from onward.experiments.experiment import markdown

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "measured.md"


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        published = without_places(json.loads(path.read_text()))
        name = published["recipe"]
        seeds = {int(seed): numbers for seed, numbers in published["seeds"].items()}
        PAGE.write_text(renew(PAGE.read_text(), name, markdown(name, seeds)))
        (HERE / "results" / f"{name}.json").write_text(json.dumps(published, indent=1) + "\n")
        print(f"{name}: seeds {', '.join(map(str, seeds))}, made by {published['command']}")


def without_places(value: Any) -> Any:
    """Return the same JSON with commands that do not say where a run was written."""
    if isinstance(value, list):
        return [without_places(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: re.sub(r" --(?:out|cache|merge)[ =]\S+", "", each)
        if name == "command"
        else without_places(each)
        for name, each in value.items()
    }


def renew(page: str, name: str, tables: str) -> str:
    """Return the page with these tables in place of the recipe's former ones, or of its mark."""
    former = re.compile(rf"(?:\| {re.escape(name)}, [^\n]*\n(?:\|[^\n]*\n)+\n?)+")
    mark = f"<!-- tables: {name} -->\n"
    if mark in page:
        return page.replace(mark, f"{tables}\n")
    if not former.search(page):
        raise SystemExit(f"{PAGE} has no tables of {name}; write the line {mark.strip()} there")
    return former.sub(lambda _: f"{tables}\n\n", page, count=1)


if __name__ == "__main__":
    main()
