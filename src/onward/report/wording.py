"""How the report names the cells of a comparison, orders them and writes numbers.

Fractions become percent here and nowhere else. Nothing here knows of HTML.
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

MISSING = "–"

CELLS: Mapping[str, str] = MappingProxyType(
    {
        "independent": "New queries, old gallery as it stands. Nothing joins the spaces: chance.",
        "old/old": "Do nothing: the old model asks, the old gallery answers.",
        "bct new/old": "A new model trained to fit the old space, old gallery as it stands.",
        "new/old without side": "Upgraded from the old embeddings alone.",
        "new/old": "Upgraded: the stored vectors carried over, no image read.",
        "new/old as stored": "The gallery as it stands: some items upgraded, some embedded again.",
        "new/old layers": "Upgraded; the side-information is the old model’s own layers.",
        "bct new/new": "The model trained to fit the old space, every image embedded again.",
        "new/new": "Full backfill: every image embedded again with the new model.",
    }
)
"""What stands behind each cell that the recipes make, in the order of a reader's questions."""

_LAST_UPGRADED = list(CELLS).index("new/old layers")


def in_order(cells: Iterable[str]) -> list[str]:
    """Return the cells' names as the report lists them: known ones first to last by `CELLS`.

    A name that is not known stands behind the upgraded galleries, in the order given.
    """
    place = {name: float(position) for position, name in enumerate(CELLS)}
    return sorted(cells, key=lambda name: place.get(name, _LAST_UPGRADED + 0.5))


def explain(cell: str, cells: Iterable[str]) -> str:
    """Say in a sentence what stands behind a cell; nothing where its name is not known.

    Only beside `new/old without side` does `new/old` say by its name that it had side-information.
    """
    if cell == "new/old" and "new/old without side" in cells:
        return "Upgraded from the old embeddings and their side-information."
    return CELLS.get(cell, "")


def percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction as percent without the sign, or a dash where it is not defined."""
    if not math.isfinite(fraction):
        return MISSING
    return f"{100 * fraction:.{digits}f}".replace("-", "−")


def with_sign(fraction: float, digits: int = 1) -> str:
    """Return a fraction as percent with the sign, or "not defined"."""
    if not math.isfinite(fraction):
        return "not defined"
    return f"{percent(fraction, digits)} %"
