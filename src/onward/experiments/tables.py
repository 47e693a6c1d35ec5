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
    """Return one seed's variants as one value: each cell has the variant's name before its own."""
    joined: dict[str, Any] = {part: {} for part in BY_CELL}
    for variant, seed in variants.items():
        for part in BY_CELL:
            for cell, value in seed.get(part, {}).items():
                joined[part][f"{variant}: {cell}"] = value
    rest = {
        variant: {name: value for name, value in seed.items() if name not in BY_CELL}
        for variant, seed in variants.items()
    }
    runs = list(variants.values())
    return {part: of for part, of in joined.items() if of} | {
        "variants": rest,
        "seconds": sum(run["seconds"] for run in runs),
        "versions": runs[0]["versions"],
    }


def split_variants(joined: Seed) -> dict[str, dict[str, Any]]:
    """Return what `join_variants` joined, by variant."""
    return {
        variant: {
            part: cells
            for part in BY_CELL
            if (cells := _cells_of_variant(joined.get(part, {}), variant))
        }
        | dict(rest)
        for variant, rest in joined["variants"].items()
    }


def _cells_of_variant(cells: Mapping[str, Any], variant: str) -> dict[str, Any]:
    before = f"{variant}: "
    return {
        cell.removeprefix(before): value for cell, value in cells.items() if cell.startswith(before)
    }


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


def gains(seeds: Mapping[int, Seed], part: str, cell: str, metric: str) -> list[float]:
    """Return the update gain of a cell for each seed in which full backfill gains something."""
    found = (_gain(seed[part], cell, metric) for seed in seeds.values())
    return [gain for gain in found if not math.isnan(gain)]


def markdown(name: str, seeds: Mapping[int, Seed]) -> str:
    """Return a table for each part: mean, least and greatest of each cell, in percent.

    Where arms say how unsure they are, tables of their backfill follow: the mean over evenly spaced
    shares re-embedded, by order, between both ends of the curve.
    """
    count = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    tables = []
    for part in PARTS:
        cells = cells_of(seeds, part)
        if not cells:
            continue
        lines = [
            f"| {name}, {TITLES[part]}, {count}, percent | "
            + " | ".join(METRICS)
            + " | gain cmc@1 | gain map | flips | bytes | MACs |",
            "| --- " * (6 + len(METRICS)) + "|",
        ]
        for cell in cells:
            shown = [mean_and_range(values(seeds, part, cell, metric)) for metric in METRICS]
            lines.append(f"| {cell} | " + " | ".join([*shown, *_of_arm(seeds, part, cell)]) + " |")
        tables.append("\n".join(lines))
    return "\n\n".join([*tables, *_backfill_tables(name, seeds, count)])


def report_tables(seeds: Mapping[int, Seed]) -> tuple[ExperimentTable, ...]:
    """Return the same tables as values for the report, seed by seed."""
    return tuple(
        ExperimentTable(
            TITLES[part], tuple(_row(seeds, part, cell) for cell in cells_of(seeds, part))
        )
        for part in PARTS
        if cells_of(seeds, part)
    )


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


def _backfill_tables(name: str, seeds: Mapping[int, Seed], count: str) -> list[str]:
    """Return the AUC of each arm and order, for the parts of which there are curves."""
    curves = [seed.get("backfill", {}) for seed in seeds.values()]
    tables = []
    for part in curves[0]:
        arms = curves[0][part]
        orders = list(next(iter(arms.values())))
        auc = next(key for key in arms[next(iter(arms))][orders[0]] if key.startswith("auc@"))
        head = ["nothing re-embedded", *(f"{auc} {order}" for order in orders), "everything"]
        lines = [
            f"| {name}, backfill of the {part} set, {count}, percent | metric | "
            + " | ".join(head)
            + " |",
            "| --- " * (2 + len(head)) + "|",
        ]
        for arm, metric in itertools.product(arms, ("cmc@1", "map")):
            of_seeds = [of[part][arm] for of in curves]
            ends = [[each[orders[0]][metric][end] for each in of_seeds] for end in (0, -1)]
            means = [[each[order][auc][metric] for each in of_seeds] for order in orders]
            shown = map(mean_and_range, (ends[0], *means, ends[1]))
            lines.append(f"| {arm} | {metric} | " + " | ".join(shown) + " |")
        tables.append("\n".join(lines))
    return tables


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


def _gain(cells: Mapping[str, Any], cell: str, metric: str) -> float:
    """Return the update gain; NaN where full backfill gains nothing."""
    here = _number(cells[cell][metric])
    old, new = (_number(cells[reference(cell, each)][metric]) for each in (OLD, NEW))
    return (here - old) / (new - old) if new > old else math.nan


def _macs(arm: Mapping[str, Any]) -> str:
    """Return what an item's side-information takes to make; older files have another name."""
    return f"{arm['side_macs'] if 'side_macs' in arm else arm['side_multiply_adds']:,}"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _mean(given: Sequence[float]) -> float | None:
    mean = statistics.fmean(given)
    return None if math.isnan(mean) else mean


def _of_arm(seeds: Mapping[int, Seed], part: str, cell: str) -> list[str]:
    """Return gains, negative flips, bytes and MACs of an arm; nothing for other cells."""
    arm = next(iter(seeds.values())).get("arms", {}).get(cell)
    if arm is None:
        return [""] * 5
    shown = [gains(seeds, part, cell, metric) for metric in ("cmc@1", "map")]
    found = (seed.get(f"{OF_PART[part]}{FLIPS}", {}).get(cell) for seed in seeds.values())
    flips = [_number(value) for value in found]
    costs = [str(arm["side_bytes"]), _macs(arm)]
    return [*map(mean_and_range, shown), mean_and_range(flips), *costs]
