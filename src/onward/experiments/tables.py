"""What the seeds of an experiment came to, together: means, spreads and paired differences.

A seed is what `run_study` wrote as JSON, or the variants of a recipe joined into one such value.
Nothing here evaluates anything.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from onward.compatibility import NEW, OLD, UPGRADED
from onward.evaluation import METRICS
from onward.intervals import over_seeds
from onward.report import ExperimentRow, ExperimentTable

Seed = Mapping[str, Any]
PARTS = ("cells", "open", "unsampled")
TITLES = {
    "cells": "closed set",
    "open": "open set: classes that no model knows",
    "unsampled": "open set, the half that no gallery sample was taken from",
}
OF_PART = {"cells": "", "open": "open_", "unsampled": "unsampled_"}  # how its fields begin
GAIN, FLIPS = "update_gain_by_cell", "negative_flips_by_cell"
BY_CELL = (
    *PARTS,
    "arms",
    *(f"{before}{field}" for before in OF_PART.values() for field in (GAIN, FLIPS)),
)


def join_variants(variants: Mapping[str, Seed]) -> dict[str, Any]:
    """Return one seed's variants as one value: each cell has the variant's name before its own.

    Args:
        variants: by name; a single one that is called "" is returned as it is.
    """
    if "" in variants:
        return dict(variants[""])
    joined = {
        part: {
            f"{variant}: {cell}": value
            for variant, seed in variants.items()
            for cell, value in seed.get(part, {}).items()
        }
        for part in BY_CELL
    }
    runs = list(variants.values())
    return {part: cells for part, cells in joined.items() if cells} | {
        "variants": {
            variant: {name: value for name, value in seed.items() if name not in BY_CELL}
            for variant, seed in variants.items()
        },
        "seconds": sum(run["seconds"] for run in runs),
        "versions": runs[0]["versions"],
    }


def split_variants(joined: Seed) -> dict[str, dict[str, Any]]:
    """Return what `join_variants` joined, by variant."""
    if "variants" not in joined:
        return {"": dict(joined)}
    split: dict[str, dict[str, Any]] = {}
    for variant, rest in joined["variants"].items():
        before = f"{variant}: "
        own = {
            part: {
                cell.removeprefix(before): value
                for cell, value in joined.get(part, {}).items()
                if cell.startswith(before)
            }
            for part in BY_CELL
        }
        split[variant] = {part: cells for part, cells in own.items() if cells} | dict(rest)
    return split


def means(seeds: Mapping[int, Seed]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return the mean over the seeds, by part, cell and metric; None for what is not known."""
    return {
        part: {
            cell: {metric: _mean(values(seeds, part, cell, metric)) for metric in METRICS}
            for cell in cells_of(seeds, part)
        }
        for part in PARTS
        if cells_of(seeds, part)
    }


def differences(seeds: Mapping[int, Seed]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each cell less new/old, seed by seed, with its interval; by part, cell and metric.

    Nothing for a single seed, which shows no spread.
    """
    if len(seeds) < 2:
        return {}
    paired: dict[str, dict[str, dict[str, Any]]] = {}
    for part in PARTS:
        for cell in cells_of(seeds, part):
            base = reference(cell, UPGRADED)
            if cell == base or base not in cells_of(seeds, part):
                continue
            paired.setdefault(part, {})[cell] = {
                metric: over_seeds(
                    dict(zip(seeds, values(seeds, part, cell, metric), strict=True)),
                    baseline=dict(zip(seeds, values(seeds, part, base, metric), strict=True)),
                ).to_json()
                for metric in METRICS
            }
    return paired


def markdown(name: str, seeds: Mapping[int, Seed]) -> str:
    """Return a table for each part: mean, least and greatest of each cell, in percent.

    Where arms say how unsure they are, tables of their backfill follow: the mean over evenly spaced
    shares re-embedded, by order, between both ends of the curve.
    """
    count = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}, percent"
    of_arm = ("gain cmc@1", "gain map", "flips", "bytes", "MACs")
    tables = [
        _lines(
            [f"{name}, {TITLES[part]}, {count}", *METRICS, *of_arm],
            [
                [
                    cell,
                    *(mean_and_range(values(seeds, part, cell, metric)) for metric in METRICS),
                    *_of_arm(seeds, part, cell),
                ]
                for cell in cells_of(seeds, part)
            ],
        )
        for part in PARTS
        if cells_of(seeds, part)
    ]
    return "\n\n".join([*tables, *_backfill_tables(name, seeds, count)])


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    first, *rest = (f"| {' | '.join(row)} |" for row in (head, *rows))
    return "\n".join([first, "| --- " * len(head) + "|", *rest])


def _of_arm(seeds: Mapping[int, Seed], part: str, cell: str) -> list[str]:
    """Return gains, negative flips, bytes and MACs of an arm; nothing for other cells.

    A gain is that of the seeds in which full backfill gains something.
    """
    arm = next(iter(seeds.values())).get("arms", {}).get(cell)
    if arm is None:
        return [""] * 5
    gains = [
        [gain for seed in seeds.values() if not math.isnan(gain := _gain(seed[part], cell, metric))]
        for metric in ("cmc@1", "map")
    ]
    found = (seed.get(f"{OF_PART[part]}{FLIPS}", {}).get(cell) for seed in seeds.values())
    flips = [_number(value) for value in found]
    return [*map(mean_and_range, (*gains, flips)), str(arm["side_bytes"]), _macs(arm)]


def _backfill_tables(name: str, seeds: Mapping[int, Seed], count: str) -> list[str]:
    """Return the AUC of each arm and order, for the parts of which there are curves."""
    curves = [seed.get("backfill", {}) for seed in seeds.values()]
    tables = []
    for part, arms in curves[0].items():
        orders = list(next(iter(arms.values())))
        auc = next(key for key in arms[next(iter(arms))][orders[0]] if key.startswith("auc@"))
        ends = ("nothing re-embedded", *(f"{auc} {order}" for order in orders), "everything")
        rows = []
        for arm, metric in itertools.product(arms, ("cmc@1", "map")):
            of_seeds = [of[part][arm] for of in curves]
            first, last = ([each[orders[0]][metric][end] for each in of_seeds] for end in (0, -1))
            means = [[each[order][auc][metric] for each in of_seeds] for order in orders]
            rows.append([arm, metric, *map(mean_and_range, (first, *means, last))])
        head = (f"{name}, backfill of the {part} set, {count}", "metric", *ends)
        tables.append(_lines(head, rows))
    return tables


def report_tables(seeds: Mapping[int, Seed]) -> tuple[ExperimentTable, ...]:
    """Return the same tables as values for the report, seed by seed."""
    return tuple(
        ExperimentTable(
            TITLES[part], tuple(_row(seeds, part, cell) for cell in cells_of(seeds, part))
        )
        for part in PARTS
        if cells_of(seeds, part)
    )


def _row(seeds: Mapping[int, Seed], part: str, cell: str) -> ExperimentRow:
    arm = next(iter(seeds.values())).get("arms", {}).get(cell)
    numbers = {
        seed: {metric: _number(of[part][cell][metric]) for metric in METRICS}
        for seed, of in seeds.items()
    }
    if arm is None:
        return ExperimentRow(cell, numbers, {}, {})
    gained = {
        seed: {metric: _gain(of[part], cell, metric) for metric in ("cmc@1", "map")}
        for seed, of in seeds.items()
    }
    extra = {
        "side bytes an item": str(arm["side_bytes"]),
        "MACs an item": _macs(arm),
        "method": str(arm["fit"].get("method", "")),
    }
    return ExperimentRow(cell, numbers, gained, extra)


def cells_of(seeds: Mapping[int, Seed], part: str) -> list[str]:
    """Return the cells of a part, in order; none where the study has no such part."""
    return list(next(iter(seeds.values())).get(part, {}))


def values(seeds: Mapping[int, Seed], part: str, cell: str, metric: str) -> list[float]:
    """Return a metric of a cell, by seed in their order; NaN for what is not known."""
    return [_number(seed[part][cell][metric]) for seed in seeds.values()]


def reference(cell: str, which: str) -> str:
    """Return the cell of the same variant that is called so."""
    variant, colon, _ = cell.rpartition(": ")
    return f"{variant}{colon}{which}"


def mean_and_range(given: Sequence[float]) -> str:
    """Return mean, least and greatest in percent; a single value alone, - for what is unknown."""
    if not given or any(math.isnan(value) for value in given):
        return "-"
    mean = f"{100 * statistics.mean(given):.1f}"
    if len(given) == 1:
        return mean
    return f"{mean} ({100 * min(given):.1f} to {100 * max(given):.1f})"


def _macs(arm: Mapping[str, Any]) -> str:
    """Return what an item's side-information takes to make; older files have another name."""
    return f"{arm['side_macs'] if 'side_macs' in arm else arm['side_multiply_adds']:,}"


def _gain(cells: Mapping[str, Any], cell: str, metric: str) -> float:
    """Return the update gain; NaN where full backfill gains nothing."""
    here = _number(cells[cell][metric])
    old, new = (_number(cells[reference(cell, each)][metric]) for each in (OLD, NEW))
    return (here - old) / (new - old) if new > old else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _mean(given: Sequence[float]) -> float | None:
    mean = statistics.fmean(given)
    return None if math.isnan(mean) else mean
