"""A recipe over several seeds, of which a study knows nothing: one file of numbers, one page.

A seed's numbers are what `run_study` wrote as JSON, or the variants of a recipe joined into one
such value. A seed that is finished is not performed again, so an experiment that was interrupted
goes on.

Rows of some arms can be added to what was written before, or renewed: the arms are performed as any
study of theirs is, and their numbers join those of the same seed in the file. What the models give
without a transformation, such as old/old and new/new, stays as it was written, and has to be what
it is now: rows of other models would not be comparable.
"""

import copy
import itertools
import json
import math
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from onward.artifacts import write_aside
from onward.errors import ConfigurationError
from onward.evaluation.comparison import NEW, OLD, UPGRADED, WHEN_FUSED
from onward.evaluation.intervals import over_seeds
from onward.evaluation.metrics import METRICS
from onward.experiments.recipe import Baseline, Recipe
from onward.experiments.splits import split
from onward.experiments.study import (
    COMPARED_BY,
    COMPARISON,
    DISTANCES,
    RECIPE,
    check_place,
    describe_study,
    run_study,
)
from onward.experiments.vectors import Stage
from onward.report import ExperimentRow, ExperimentTable, write_experiment_report
from onward.training.settings import renamed

INTRODUCTION = (
    "Galleries were filled by an old model. Then a new one came, trained as if there were no old "
    "one. Each row is one way to answer the new model's queries from the old gallery; old/old is "
    "doing nothing, new/new is embedding every image again. The update gain is the share of what "
    "embedding everything again gains. Each row is searched by l2 and by cosine, and counts by the "
    "one that finds more."
)
SUFFIXES = (".json", ".md", ".html")

PARTS = {
    "cells": "closed set",
    "open": "open set: classes that no model knows",
    "unsampled": "open set, the half that no gallery sample was taken from",
}
OF_PART = {"cells": "", "open": "open_", "unsampled": "unsampled_"}  # how its fields begin
GAIN, FLIPS, OF_DISTANCE = "update_gain_by_cell", "negative_flips_by_cell", "distances"
BY_CELL = (
    *PARTS,
    "arms",
    *(f"{before}{field}" for before in OF_PART.values() for field in (GAIN, FLIPS, OF_DISTANCE)),
)

BYTES, MACS = "side bytes an item", "MACs an item"
ADVISED = "advised"  # the column that says in how many seeds `fit` advises to serve a row
SAME = 0.001  # metrics of one and the same model differ by no more, on whatever machine
TABLES = (
    *((name,) for name in BY_CELL),
    ("verification",),
    *(("by_classes", classes) for classes in ("old", "new")),
    *(("intervals", part) for part in PARTS),
    *(("backfill", part) for part in ("closed", "open")),
)
"""Where a study's JSON has a value for each cell or arm."""
OF_UPGRADED = tuple(
    f"{before}{field}"
    for before in OF_PART.values()
    for field in ("update_gain", "negative_flips", "compatible", "verdict")
)
BEFORE_ARMS = ("independent", OLD, *(f"{baseline} new/old" for baseline in get_args(Baseline)))
OF_RUN = ("recipe", "data", "seconds", "training_seconds", "peak_bytes", "versions")

MALFORMED = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError),
    StopIteration,  # no seed
)

Study = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Experiment:
    """What a recipe gave over several seeds.

    Attributes:
        recipe: the recipe's name.
        command: what to type to perform it again.
        seeds: what each seed's `comparison.json` holds, by seed; of a recipe with variants, all of
            them, each cell with the variant's name before its own.
    """

    recipe: str
    command: str
    seeds: Mapping[int, Study]

    def to_json(self) -> dict[str, Any]:
        """Return recipe, command, seeds, means, differences, seconds and versions."""
        runs = list(self.seeds.values())
        return {
            "recipe": self.recipe,
            "command": self.command,
            "seeds": {str(seed): dict(run) for seed, run in self.seeds.items()},
            "mean": means(self.seeds),
            "difference_to_upgraded": differences(self.seeds),
            "seconds": sum(run["seconds"] for run in runs),
            "versions": runs[0]["versions"],
        }

    def __str__(self) -> str:
        """Return Markdown tables: mean, least and greatest of each cell, in percent."""
        return markdown(self.recipe, self.seeds)


def run_experiment(
    recipe: Recipe,
    seeds: Sequence[int],
    out: Path,
    stage: Stage,
    *,
    command: str,
    overwrite: bool = False,
) -> Experiment:
    """Perform a recipe for each seed and write `NAME.json`, `NAME.md` and `NAME.html`.

    Args:
        recipe: what to perform; its own seed does not matter.
        seeds: at least one.
        out: each seed has a directory `seed-N` in it, as `run_study` writes it, with one for each
            variant where the recipe has variants.
        stage: where it is performed.
        command: what was typed, for the file.
        overwrite: replace also what another recipe gave, or seeds that are not asked for now.

    Raises:
        ConfigurationError: if no seed is given, or as `run_study` does.
        DataError: as `run_study` does.
    """
    if not seeds:
        raise ConfigurationError("an experiment without seeds has no numbers", "give at least one")
    if not overwrite:
        _refuse_to_lose_seeds(out, recipe.name, set(seeds))
    planned = sorted(set(seeds))
    for seed in planned:  # refused before any work
        for one, directory in _studies_of(recipe, seed, out).values():
            check_place(directory, one, overwrite=overwrite)
    done = {seed: _perform(recipe, seed, out, stage, overwrite=overwrite) for seed in planned}
    experiment = Experiment(recipe.name, command, done)
    for suffix in SUFFIXES:
        _write(experiment, out / f"{recipe.name}{suffix}")
    stage.tell(f"Report: {out / recipe.name}.html")
    return experiment


def _perform(
    recipe: Recipe, seed: int, out: Path, stage: Stage, *, overwrite: bool = False
) -> Study:
    """Perform a seed of a recipe, or read what it gave before; variants are joined."""
    performed = {}
    for name, (one, directory) in _studies_of(recipe, seed, out).items():
        if _is_finished(directory, one):
            stage.tell(f"Seed {seed}: finished before, {directory}")
        else:
            stage.tell(f"Seed {seed}: {directory}")
            run_study(one, directory, stage, overwrite=overwrite)
        performed[name] = json.loads((directory / COMPARISON).read_text())
    return join_variants(performed)


def _studies_of(recipe: Recipe, seed: int, out: Path) -> dict[str, tuple[Recipe, Path]]:
    """Return the studies of a seed with their directories, by variant; "" where there is none."""
    directory, of_seed = out / f"seed-{seed}", {"seed": seed}
    return {
        name: (recipe.variant(name).model_copy(update=of_seed), directory / name.replace(" ", "-"))
        for name in recipe.variants
    } or {"": (recipe.model_copy(update=of_seed), directory)}


def _is_finished(directory: Path, recipe: Recipe) -> bool:
    """Whether this recipe was performed here to the end, on the same images and versions."""
    if not (directory / COMPARISON).is_file():
        return False
    performed = renamed(json.loads((directory / RECIPE).read_text()))
    return performed == describe_study(recipe, split(recipe))


def _write(experiment: Experiment, path: Path, beside: Mapping[str, Any] | None = None) -> None:
    """Write an experiment as the path's suffix says: its numbers, its tables, or a page of these.

    Args:
        beside: what else the numbers' file is to hold.
    """
    if path.suffix == ".html":
        seeds = ", ".join(str(seed) for seed in experiment.seeds)
        write_experiment_report(
            path,
            tuple(tables(experiment.seeds).values()),
            title=f"{experiment.recipe}: galleries move to a new model",
            introduction=INTRODUCTION,
            facts={"command": experiment.command, "seeds": seeds},
        )
        return
    text = str(experiment)
    if path.suffix == ".json":
        numbers = {**(beside or {}), **experiment.to_json()}
        text = json.dumps(numbers, indent=1, allow_nan=False)
    with write_aside(path) as aside:
        aside.write_text(f"{text}\n")


def _refuse_to_lose_seeds(out: Path, name: str, seeds: set[int]) -> None:
    """Refuse to replace results of seeds that are not asked for, or files that are no results."""
    results = [out / f"{name}{suffix}" for suffix in SUFFIXES]
    if not any(path.exists() for path in results):
        return
    try:
        before = json.loads(results[0].read_bytes())
        kept = before["recipe"] == name and {int(seed) for seed in before["seeds"]} <= seeds
    except MALFORMED:
        kept = False
    if not kept:
        raise ConfigurationError(
            f"{out} holds {name}.json, .md or .html with other results than those of these seeds",
            "they were left as they are. Give their seeds too, another directory, out=..., or "
            "replace them: overwrite=True",
        )


def merge_arms(
    recipe: Recipe, seeds: Sequence[int], file: Path, stage: Stage, *, command: str
) -> Experiment:
    """Perform a recipe's `only` arms, and add or renew their rows in an experiment's JSON.

    Means and differences are computed again. The Markdown and the page of the same name beside the
    file are renewed where there are any. Of each seed, `renewed` says by which command, on what
    versions and in what time. The file is read again before it is written, so that rows which were
    joined meanwhile are kept.

    Args:
        recipe: with `only`.
        seeds: those of the file whose rows are added or renewed; all of it for an arm that it
            lacks.
        file: the `NAME.json` that `run_experiment` wrote.
        stage: where it is performed.
        command: what was typed, for the file.

    Raises:
        ConfigurationError: if the recipe names no arms, the file holds no experiment of this recipe
            or lacks a seed, the images or the models are not those of the file, or rows would be
            there for some seeds alone. The file is as it was.
        DataError: as `run_study` does.
    """
    if not recipe.only:
        raise ConfigurationError(
            f"the rows of some arms are joined to {file}, and none is named", "name them: arm=..."
        )
    asked = sorted(set(seeds))
    _check_file(_seeds(_read(file, recipe)), recipe, asked, file)
    performed: dict[int, Study] = {}
    with tempfile.TemporaryDirectory(prefix="onward-") as place:
        for seed in asked:
            performed[seed] = _perform(recipe, seed, Path(place), stage)
            written = _read(file, recipe)
            merged = _seeds(written)
            for one, study in performed.items():
                where = f"{file}, seed {one}"
                merged[one] = _merge_seed(merged[one], study, recipe, command, where)
    _check_rows(merged, file)
    others = ", ".join(str(seed) for seed in merged if seed not in performed)
    if others:
        stage.tell(f"Rows of other seeds ({others}) stay as they were")
    experiment = Experiment(written["recipe"], written["command"], merged)
    for path in map(file.with_suffix, SUFFIXES):
        if path == file or path.is_file():
            _write(experiment, path, written)
    stage.tell(f"Merged: {file}")
    return experiment


def _read(file: Path, recipe: Recipe) -> dict[str, Any]:
    """Read an experiment's JSON, of this recipe; everything that is read of it later is there."""
    try:
        written: dict[str, Any] = json.loads(file.read_bytes())
        experiment = Experiment(written["recipe"], written["command"], _seeds(written))
        _ = json.dumps(experiment.to_json(), allow_nan=False), str(experiment)
        for seed in experiment.seeds.values():
            for study in split_variants(seed).values():
                _ = [_at(study, path).keys() for path in TABLES], study["versions"].items()
                _ = [run["arms"] for run in study.get("renewed", ())], study["arms"]
                _ = [study["cells"][cell] for cell in (OLD, NEW)]
    except MALFORMED as error:
        raise ConfigurationError(
            f"{file} is not an experiment's JSON that rows could join",
            "give a NAME.json that an experiment wrote",
        ) from error
    if written["recipe"] != recipe.name:
        raise ConfigurationError(
            f"{file} is of the recipe {written['recipe']!r}, and {recipe.name!r} is to be "
            "performed",
            "give that recipe, or the file of this one",
        )
    return written


def _seeds(written: Mapping[str, Any]) -> dict[int, Study]:
    return {int(seed): {**study} for seed, study in written["seeds"].items()}


def _check_file(seeds: Mapping[int, Study], recipe: Recipe, asked: list[int], file: Path) -> None:
    """Refuse before any work what could not be joined after it."""
    there = ", ".join(map(str, seeds))
    if missing := [seed for seed in asked if seed not in seeds]:
        raise ConfigurationError(
            f"{file} has the seeds {there}, and rows of seed {missing[0]} are to join it",
            "give some of those, or perform the whole recipe for more seeds",
        )
    if not asked:
        raise ConfigurationError("no seed is given", f"give some of those of {file}: {there}")
    for seed, study in seeds.items():
        variants = split_variants(study)
        if set(variants) != (set(recipe.variants) or {""}):
            raise ConfigurationError(
                f"{file} has the variants {sorted(variants)}, the recipe has "
                f"{sorted(recipe.variants)}",
                "perform the whole recipe",
            )
        if not all(of.get(OF_DISTANCE) for of in variants.values()):
            raise ConfigurationError(
                f"the rows of {file} were searched by one distance, and new ones count by the "
                "better of two",
                "perform the whole recipe",
            )
        new = {arm for of in variants.values() for arm in recipe.only if arm not in of["arms"]}
        if new and seed not in asked:
            raise ConfigurationError(
                f"{file} has no row {min(new)!r}, and a row needs every seed of the table",
                f"give all of them: {there}",
            )
        for name, (one, _) in _studies_of(recipe, seed, file.parent).items():
            data = variants[name].get("data")  # older files do not say
            if seed in asked and data is not None and data != split(one).digests:
                raise ConfigurationError(
                    f"{file} is of other images than {one.data.source}: their digests differ",
                    "name those that it was made with, data.source=PATH, or perform the whole "
                    "recipe",
                )


def _merge_seed(
    before: Study, performed: Study, recipe: Recipe, command: str, where: str
) -> dict[str, Any]:
    """Return what a file has of a seed, with the rows of the performed arms."""
    variants = split_variants(before)
    for name, now in split_variants(performed).items():
        _check_models(variants[name], now, where + (f", {name}" if name else ""))
        variants[name] = _merge_study(variants[name], now, recipe, command)
    return join_variants(variants)


def _check_models(before: Study, now: Study, where: str) -> None:
    """Refuse rows of other models: what the models give by themselves has to be the same."""
    for part, cell in itertools.product(PARTS, (OLD, NEW, "middle/middle")):
        rows = [study.get(part, {}).get(cell) for study in (before, now)]
        for metric in (*METRICS, "queries", "skipped") if all(rows) else ():
            was, became = (math.nan if row[metric] is None else row[metric] for row in rows)
            if not (abs(was - became) <= SAME or (math.isnan(was) and math.isnan(became))):
                raise ConfigurationError(
                    f"{where}: {cell} has the {metric} {was:.6g} there and {became:.6g} now "
                    f"({PARTS[part]}), more than {SAME} apart, so "
                    "models or images are others, and rows of both cannot stand in one table. "
                    f"Versions there: {_versions(before)}; here: {_versions(now)}. The file was "
                    "left as it is; perform the whole recipe, or these arms by themselves"
                )


def _versions(study: Study) -> str:
    return ", ".join(f"{name} {number}" for name, number in study["versions"].items())


def _merge_study(before: Study, now: Study, recipe: Recipe, command: str) -> dict[str, Any]:
    merged = copy.deepcopy(dict(before))
    order = [*BEFORE_ARMS, *_with_fused(arm.name for arm in recipe.arms)]
    renewed = _with_fused(recipe.only)
    for path in TABLES:
        *outer, name = path
        rows, place = _renew(_at(before, path), _at(now, path), renewed, order), merged
        if rows or _at(before, path):
            for key in outer:
                place = place.setdefault(key, {})
            place[name] = rows
            if not rows:
                del place[name]
    if UPGRADED in recipe.only:
        merged |= {name: now[name] for name in OF_UPGRADED if name in now}
    earlier = (
        {**run, "arms": [arm for arm in run["arms"] if arm not in recipe.only]}
        for run in before.get("renewed", ())
    )
    run = {"arms": list(recipe.only), "command": command} | {name: now[name] for name in OF_RUN}
    return merged | {"renewed": [*(each for each in earlier if each["arms"]), run]}


def _with_fused(arms: Iterable[str]) -> list[str]:
    """Return the names of the cells of arms: of each alone, and fused with the old vectors."""
    return [cell for arm in arms for cell in (arm, f"{arm}{WHEN_FUSED}")]


def _at(study: Study, path: Sequence[str]) -> Mapping[str, Any]:
    """Return the table that stands there; an empty one for none."""
    for key in path:
        study = {**study.get(key, {})}  # which raises where it is none
    return study


def _renew(
    before: Mapping[str, Any], now: Mapping[str, Any], arms: Sequence[str], order: Sequence[str]
) -> dict[str, Any]:
    """Return a table with the rows of some arms in place of those that they had.

    A row that is new stands behind the last one that comes before it in the recipe.
    """
    if not before:
        return dict(now)
    rows = [cell for cell in before if cell not in arms or cell in now]
    for arm in order:
        if arm in arms and arm in now and arm not in rows:
            ahead = [rows.index(cell) for cell in order[: order.index(arm)] if cell in rows]
            rows.insert(max(ahead, default=-1) + 1, arm)
    return {cell: (now if cell in arms else before)[cell] for cell in rows}


def _check_rows(seeds: Mapping[int, Study], file: Path) -> None:
    """Refuse a table whose seeds have not the same rows, of which there would be no mean."""
    first, *others = seeds
    for seed, path in itertools.product(others, TABLES):
        if differing := _at(seeds[first], path).keys() ^ _at(seeds[seed], path).keys():
            raise ConfigurationError(
                f"{file} would have the row {min(differing)!r} of one of the seeds {first} and "
                f"{seed} alone ({', '.join(path)})",
                "join all its seeds at once. It was left as it is",
            )


def join_variants(variants: Mapping[str, Study]) -> dict[str, Any]:
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


def split_variants(joined: Study) -> dict[str, dict[str, Any]]:
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


def tables(seeds: Mapping[int, Study]) -> dict[str, ExperimentTable]:
    """Return a table of each part that the studies have: their numbers, and the update gains."""
    first = next(iter(seeds.values()))
    return {
        part: ExperimentTable(
            PARTS[part], list(seeds), [_row(seeds, part, cell) for cell in first[part]]
        )
        for part in PARTS
        if first.get(part)
    }


def _row(seeds: Mapping[int, Study], part: str, cell: str) -> ExperimentRow:
    of_arms = [seed.get("arms", {}).get(cell.removesuffix(WHEN_FUSED)) for seed in seeds.values()]
    arm, distances = of_arms[0], _distances(seeds, part, cell)
    numbers = {
        metric: [_number(seed[part][cell][metric]) for seed in seeds.values()] for metric in METRICS
    }
    if arm is None:
        return ExperimentRow(cell, numbers, distances)
    for metric in ("cmc@1", "map"):
        numbers[f"gain {metric}"] = [_gain(of[part], cell, metric) for of in seeds.values()]
    # Older files have another name.
    macs = arm["side_macs"] if "side_macs" in arm else arm["side_multiply_adds"]
    extra = {BYTES: str(arm["side_bytes"]), MACS: f"{macs:,}"}
    extra |= {"method": str(arm["fit"].get("method", ""))}
    return ExperimentRow(cell, numbers, extra | _advised(cell, part, of_arms) | distances)


def _advised(cell: str, part: str, of_seeds: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return in how many seeds `fit` advises to serve a cell, where it advises anything."""
    gallery = "closed" if part == "cells" else "open"
    said = [arm.get("serving", {}).get(gallery, {}).get("advised") for arm in of_seeds]
    if not any(said):
        return {}
    count = said.count("fused" if cell.endswith(WHEN_FUSED) else "new")
    return {ADVISED: f"{count} of {len(said)}"}


def _distances(seeds: Mapping[int, Study], part: str, cell: str) -> dict[str, str]:
    """Return by which distance a cell is compared, and the means of cmc@1 and map by each.

    Nothing for older files, whose cells were searched by one.
    """
    of_seeds = [seed.get(f"{OF_PART[part]}{OF_DISTANCE}", {}).get(cell) for seed in seeds.values()]
    if not all(of_seeds):
        return {}
    by = [found[COMPARED_BY] for found in of_seeds]
    told = {COMPARED_BY: by[0] if len({*by}) == 1 else "either"}
    for distance in DISTANCES:
        known = [found[distance] for found in of_seeds if distance in found]
        means = [
            statistics.fmean(_number(each[metric]) for each in known) if known else math.nan
            for metric in ("cmc@1", "map")
        ]
        is_whole = len(known) == len(of_seeds) and not any(map(math.isnan, means))
        told[str(distance)] = " / ".join(map(_percent, means)) if is_whole else "-"
    return told


def means(seeds: Mapping[int, Study]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return the mean over the seeds, by part, cell and metric; None for what is not known."""
    return {
        part: {
            row.cell: {metric: _mean(row.numbers[metric]) for metric in METRICS}
            for row in table.rows
        }
        for part, table in tables(seeds).items()
    }


def differences(seeds: Mapping[int, Study]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return each cell less new/old, seed by seed, with its interval; by part, cell and metric.

    Nothing for a single seed, which shows no spread.
    """
    paired: dict[str, dict[str, dict[str, Any]]] = {}
    for part, table in tables(seeds).items() if len(seeds) > 1 else ():
        numbers = {row.cell: row.numbers for row in table.rows}
        for cell in numbers:
            base = reference(cell, UPGRADED)
            if cell != base and base in numbers:
                paired.setdefault(part, {})[cell] = {
                    metric: over_seeds(
                        dict(zip(seeds, numbers[cell][metric], strict=True)),
                        baseline=dict(zip(seeds, numbers[base][metric], strict=True)),
                    ).to_json()
                    for metric in METRICS
                }
    return paired


def markdown(name: str, seeds: Mapping[int, Study]) -> str:
    """Return a table for each part: mean, least and greatest of each cell, in percent.

    Each cell counts by its better distance, "compared by"; what l2 and cosine give, the means of
    cmc@1 / map, stand behind. A gain is that of the seeds in which full backfill gains something.
    Where `fit` says what to serve, "advised" is in how many seeds it says this row, of the arm's
    two and doing nothing. Where arms say how unsure they are, tables of their backfill follow: the
    mean over evenly spaced shares re-embedded, by order, between both ends of the curve.
    """
    count = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}, percent"
    written = []
    for part, table in tables(seeds).items():
        further = [
            head
            for head in (ADVISED, COMPARED_BY, *DISTANCES)
            if any(head in row.extra for row in table.rows)
        ]
        of_arm = ("gain cmc@1", "gain map", "flips", "bytes", "MACs")
        rows = []
        for row in table.rows:
            numbers = [mean_and_range(row.numbers[metric]) for metric in METRICS]
            told = [""] * len(of_arm)
            if MACS in row.extra:
                flipped = (seed.get(f"{OF_PART[part]}{FLIPS}", {}) for seed in seeds.values())
                flips = [_number(by_cell.get(row.cell)) for by_cell in flipped]
                gains = [row.known(gain) for gain in of_arm[:2]]
                told = [*map(mean_and_range, (*gains, flips)), row.extra[BYTES], row.extra[MACS]]
            others = [row.extra.get(head, "") for head in further]
            rows.append([row.cell, *numbers, *told, *others])
        heads = [f"{name}, {table.name}, {count}", *METRICS, *of_arm, *further]
        written.append(_lines(heads, rows))
    return "\n\n".join([*written, *_backfill_tables(name, seeds, count)])


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    first, *rest = (f"| {' | '.join(row)} |" for row in (head, *rows))
    return "\n".join([first, "| --- " * len(head) + "|", *rest])


def _backfill_tables(name: str, seeds: Mapping[int, Study], count: str) -> list[str]:
    """Return the AUC of each arm and order, for the parts of which there are curves."""
    curves = [seed.get("backfill", {}) for seed in seeds.values()]
    written = []
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
        written.append(_lines(head, rows))
    return written


def reference(cell: str, which: str) -> str:
    """Return the cell of the same variant that is called so."""
    variant, colon, _ = cell.rpartition(": ")
    return f"{variant}{colon}{which}"


def mean_and_range(given: Sequence[float]) -> str:
    """Return mean, least and greatest in percent; a single value alone, - for what is unknown."""
    if not given or any(math.isnan(value) for value in given):
        return "-"
    mean = _percent(statistics.mean(given))
    if len(given) == 1:
        return mean
    return f"{mean} ({_percent(min(given))} to {_percent(max(given))})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


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
