"""What an experiment's page shows: tables of cells with a number for each seed, and what follows.

Nothing here knows of HTML, or of how an experiment is performed.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from onward.errors import EvaluationError
from onward.evaluation import METRICS
from onward.report.wording import percent

GAINS = ("cmc@1", "map")
"""The metrics whose update gain is shown."""


@dataclass(frozen=True)
class ExperimentRow:
    """A cell of an experiment.

    Attributes:
        cell: what it is called.
        numbers: by seed, "cmc@1", "cmc@5" and "map" in [0, 1]; NaN where one is not known.
        gain: by seed, the update gain in "cmc@1" and "map"; NaN where full backfill gains nothing.
            Empty for a cell that is no way to upgrade, such as old/old.
        extra: what else is to be said of it, by the head of a column, such as
            `{"bytes an item": "256", "method": "ridge"}`.
    """

    cell: str
    numbers: Mapping[int, Mapping[str, float]]
    gain: Mapping[int, Mapping[str, float]]
    extra: Mapping[str, str]

    def values(self, metric: str) -> list[float]:
        """Return a metric by seed, those that are known."""
        return _known(numbers[metric] for numbers in self.numbers.values())

    def gains(self, metric: str) -> list[float]:
        """Return the update gain in a metric by seed, where it is defined."""
        return _known(gain[metric] for gain in self.gain.values())


@dataclass(frozen=True)
class ExperimentTable:
    """Cells that answer the same queries from the same items.

    Attributes:
        name: such as "Closed set".
        rows: in the order that they are shown in.

    Raises:
        EvaluationError: if there is no row, a cell stands twice, the rows are not of the same
            seeds, or a number is missing.
    """

    name: str
    rows: tuple[ExperimentRow, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise EvaluationError(f"the table {self.name!r} has no rows", "leave it out")
        cells = [row.cell for row in self.rows]
        if len(set(cells)) != len(cells):
            twice = next(cell for cell in cells if cells.count(cell) > 1)
            raise EvaluationError(
                f"{twice!r} stands twice in the table {self.name!r}", "give each row its own name"
            )
        for row in self.rows:
            self._check(row)

    def _check(self, row: ExperimentRow) -> None:
        if row.numbers.keys() != self.rows[0].numbers.keys() or not row.numbers:
            raise EvaluationError(
                f"{row.cell!r} has the seeds {sorted(row.numbers)}, {self.rows[0].cell!r} has "
                f"{sorted(self.rows[0].numbers)}",
                "the rows of a table are means over the same seeds, one or more",
            )
        if row.gain and row.gain.keys() != row.numbers.keys():
            raise EvaluationError(
                f"{row.cell!r} has update gains for the seeds {sorted(row.gain)} and numbers for "
                f"{sorted(row.numbers)}",
                "give NaN where a gain is not defined",
            )
        for given, wanted in ((row.numbers, METRICS), (row.gain, GAINS)):
            for seed, values in given.items():
                missing = [metric for metric in wanted if metric not in values]
                if missing:
                    raise EvaluationError(
                        f"seed {seed} of {row.cell!r} lacks {missing}",
                        "give NaN where a number is not known",
                    )

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of every row."""
        return tuple(self.rows[0].numbers)

    @property
    def columns(self) -> tuple[str, ...]:
        """Heads of the columns that the rows have besides numbers and gains."""
        return tuple(dict.fromkeys(head for row in self.rows for head in row.extra))

    @property
    def verdict(self) -> tuple[str, ...]:
        """What follows, in sentences: the best way to upgrade, and those worse than nothing."""
        upgrades = [row for row in self.rows if row.gains("map") and row.gains("cmc@1")]
        if not upgrades:
            return ("Nothing can be said of upgrades: no row has an update gain.",)
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        best, first = (_best(upgrades, metric) for metric in ("map", "cmc@1"))
        said = [
            f"Best of {len(upgrades)} in map, over {seeds}: {best.cell}, with "
            f"{_gained(best, 'map')} of what full backfill gains in map, and "
            f"{_gained(best, 'cmc@1')} in cmc@1."
        ]
        if first is not best:
            said.append(f"Best in cmc@1: {first.cell}, with {_gained(first, 'cmc@1')}.")
        return (*said, _worse_than_nothing(upgrades))


class Spread(NamedTuple):
    """Mean, least and greatest over the seeds; NaN where no value is known."""

    mean: float
    least: float
    greatest: float


def spread(values: list[float]) -> Spread:
    """Return mean, least and greatest."""
    if not values:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(statistics.fmean(values), min(values), max(values))


def _best(rows: list[ExperimentRow], metric: str) -> ExperimentRow:
    return max(rows, key=lambda row: spread(row.gains(metric)).mean)


def _gained(row: ExperimentRow, metric: str) -> str:
    gains = spread(row.gains(metric))
    if len(row.gains(metric)) == 1:
        return f"{percent(gains.mean)} %"
    return f"{percent(gains.mean)} % ({percent(gains.least)} to {percent(gains.greatest)})"


def _worse_than_nothing(rows: list[ExperimentRow]) -> str:
    named = []
    for row in rows:
        lost = [metric for metric in GAINS if spread(row.gains(metric)).mean < 0]
        if lost:
            named.append(f"{row.cell} ({' and '.join(lost)})")
    if not named:
        return "No way to upgrade is worse than doing nothing."
    return f"Worse than doing nothing: {', '.join(named)}."


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
