"""Add or renew rows of an experiment that was written before: those of some arms, no others.

The arms are performed as any study of theirs is, and their numbers join those of the same seed in
the file. What the models give without a transformation, such as old/old and new/new, stays as it
was written, and has to be what it is now: rows of other models would not be comparable.
"""

import itertools
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from onward.compatibility import NEW, OLD, UPGRADED
from onward.errors import ConfigurationError
from onward.evaluation import METRICS
from onward.experiments.experiment import (
    Experiment,
    perform_seed,
    studies_of,
    write_numbers,
    write_page,
    write_tables,
)
from onward.experiments.learning import Stage
from onward.experiments.recipe import Recipe
from onward.experiments.settings import Baseline
from onward.experiments.splits import split
from onward.experiments.tables import (
    FLIPS,
    GAIN,
    OF_PART,
    PARTS,
    TITLES,
    join_variants,
    split_variants,
)

SAME = 0.001  # metrics of one and the same model differ by no more, on whatever machine
TABLES = (
    *((part,) for part in PARTS),
    *((f"{before}{field}",) for before in OF_PART.values() for field in (GAIN, FLIPS)),
    ("arms",),
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
Seeds = Mapping[int, Study]


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
            f"the rows of some arms are joined to {file}, and none is named; name them with --arm"
        )
    asked = sorted(set(seeds))
    _check_file(_read(file, recipe), recipe, asked, file)
    performed: dict[int, Study] = {}
    with tempfile.TemporaryDirectory(prefix="onward-") as place:
        for seed in asked:
            performed[seed] = perform_seed(recipe, seed, Path(place), stage)
            written = _read(file, recipe)
            merged = _merge(written, performed, recipe, file, command)
    _check_rows(merged.seeds, file)
    others = ", ".join(str(seed) for seed in merged.seeds if seed not in performed)
    if others:
        stage.tell(f"Rows of other seeds ({others}) stay as they were")
    write_numbers(file, {**written, **merged.to_json()})
    for suffix, write in ((".md", write_tables), (".html", write_page)):
        if file.with_suffix(suffix).is_file():
            write(file.with_suffix(suffix), merged)
    stage.tell(f"Merged: {file}")
    return merged


def _read(file: Path, recipe: Recipe) -> Mapping[str, Any]:
    """Read an experiment's JSON, of this recipe; everything that is read of it later is there."""
    try:
        written = _object(json.loads(file.read_bytes()))
        for seed in _seeds(written).values():
            for study in _by_variant(seed).values():
                _look_through(study)
        experiment = _experiment(written, _seeds(written))
        _ = json.dumps(experiment.to_json(), allow_nan=False), str(experiment)
    except MALFORMED as error:
        raise ConfigurationError(
            f"{file} is not an experiment's JSON that rows could join; give a NAME.json that "
            "`onward experiment` wrote"
        ) from error
    if written["recipe"] != recipe.name:
        raise ConfigurationError(
            f"{file} is of the recipe {written['recipe']!r}, and {recipe.name!r} is to be "
            "performed; give that recipe, or the file of this one"
        )
    return written


def _look_through(study: Study) -> None:
    """Read all that is read of a study later; what is not there or of another kind raises."""
    _ = [study["cells"][cell] for cell in (OLD, NEW)], study["arms"].keys()
    _ = [run["arms"] for run in study.get("renewed", ())], _versions(study)
    _ = [_at(study, path) for path in TABLES]
    rows = itertools.chain(*(_at(study, (part,)).values() for part in PARTS))
    _ = [(_object(row)[metric] or 0) + 0.0 for row in rows for metric in METRICS]


def _seeds(written: Mapping[str, Any]) -> dict[int, Study]:
    return {int(seed): _object(study) for seed, study in _object(written["seeds"]).items()}


def _object(value: Any) -> Mapping[str, Any]:
    """Return an object of a JSON file as it is; refuse what is none, such as a list."""
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} where an object belongs")
    return value


def _experiment(written: Mapping[str, Any], seeds: Seeds) -> Experiment:
    return Experiment(written["recipe"], written["command"], seeds)


def _by_variant(study: Study) -> dict[str, dict[str, Any]]:
    if "variants" not in study:
        return {"": dict(study)}
    _ = [_object(rest) for rest in _object(study["variants"]).values()]
    return split_variants(study)


def _check_file(written: Mapping[str, Any], recipe: Recipe, asked: list[int], file: Path) -> None:
    """Refuse before any work what could not be joined after it."""
    seeds = _seeds(written)
    there = ", ".join(map(str, seeds))
    if missing := [seed for seed in asked if seed not in seeds]:
        raise ConfigurationError(
            f"{file} has the seeds {there}, and rows of seed {missing[0]} are to join it; give "
            "some of those, or perform the whole recipe for more seeds, without --merge"
        )
    if not asked:
        raise ConfigurationError(f"no seed is given; give some of those of {file}: {there}")
    for seed, study in seeds.items():
        variants = _by_variant(study)
        if set(variants) != (set(recipe.variants) or {""}):
            raise ConfigurationError(
                f"{file} has the variants {sorted(variants)}, the recipe has "
                f"{sorted(recipe.variants)}; perform the whole recipe, without --merge"
            )
        new = {arm for of in variants.values() for arm in recipe.only if arm not in of["arms"]}
        if new and seed not in asked:
            raise ConfigurationError(
                f"{file} has no row {min(new)!r}, and a row needs every seed of the table; give "
                f"--seeds {there.replace(' ', '')}"
            )
    for seed in asked:
        _check_data(_by_variant(seeds[seed]), recipe, seed, file)


def _check_data(variants: Mapping[str, Study], recipe: Recipe, seed: int, file: Path) -> None:
    """Refuse other images, where the file says which they were."""
    for name, (one, _) in studies_of(recipe, seed, file.parent).items():
        data = variants[name if recipe.variants else ""].get("data")
        if data is not None and data != split(one).digests:
            raise ConfigurationError(
                f"{file} is of other images than {one.data.source}: their digests differ; name "
                "those that it was made with, --set data.source=PATH, or perform the whole recipe, "
                "without --merge"
            )


def _merge(
    written: Mapping[str, Any], performed: Seeds, recipe: Recipe, file: Path, command: str
) -> Experiment:
    seeds = _seeds(written)
    for seed, now in performed.items():
        before, came = _by_variant(seeds[seed]), _by_variant(now)
        for variant, study in came.items():
            where = f"{file}, seed {seed}" + (f", {variant}" if variant else "")
            _check_models(before[variant], study, where)
            before[variant] = _merge_study(before[variant], study, recipe, command)
        seeds[seed] = join_variants(before) if recipe.variants else before[""]
    return _experiment(written, seeds)


def _check_models(before: Study, now: Study, where: str) -> None:
    """Refuse rows of other models: what the models give by themselves has to be the same."""
    for part, cell in itertools.product(PARTS, (OLD, NEW, "middle/middle")):
        rows = [study.get(part, {}).get(cell) for study in (before, now)]
        for metric in (*METRICS, "queries", "skipped") if all(rows) else ():
            was, became = (math.nan if row[metric] is None else row[metric] for row in rows)
            if not (abs(was - became) <= SAME or (math.isnan(was) and math.isnan(became))):
                raise ConfigurationError(
                    f"{where}: {cell} has the {metric} {was:.6g} there and {became:.6g} now "
                    f"({TITLES[part]}), more than {SAME} apart, so "
                    "models or images are others, and rows of both cannot stand in one table. "
                    f"Versions there: {_versions(before)}; here: {_versions(now)}. The file was "
                    "left as it is; perform the whole recipe, without --arm, or these arms by "
                    "themselves, without --merge"
                )


def _versions(study: Study) -> str:
    return ", ".join(f"{name} {number}" for name, number in study["versions"].items())


def _merge_study(before: Study, now: Study, recipe: Recipe, command: str) -> dict[str, Any]:
    merged = dict(before)
    order = [*BEFORE_ARMS, *(arm.name for arm in recipe.arms)]
    for path in TABLES:
        _put(merged, path, _renew(_at(before, path), _at(now, path), recipe.only, order))
    if UPGRADED in recipe.only:
        merged |= {name: now[name] for name in OF_UPGRADED if name in now}
    earlier = (
        {**run, "arms": [arm for arm in run["arms"] if arm not in recipe.only]}
        for run in before.get("renewed", ())
    )
    run = {"arms": list(recipe.only), "command": command} | {name: now[name] for name in OF_RUN}
    return merged | {"renewed": [*(each for each in earlier if each["arms"]), run]}


def _at(study: Study, path: Sequence[str]) -> Mapping[str, Any]:
    """Return the table that stands there; an empty one for none."""
    for key in path:
        study = _object(study.get(key, {}))
    return study


def _put(study: dict[str, Any], path: Sequence[str], rows: Mapping[str, Any]) -> None:
    """Put a table there, with copies of what it stands in; one without rows is left out."""
    if not rows and not _at(study, path):
        return
    *outer, name = path
    for key in outer:
        study[key] = study = dict(study.get(key, {}))
    if rows:
        study[name] = rows
    else:
        study.pop(name, None)


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


def _check_rows(seeds: Seeds, file: Path) -> None:
    """Refuse a table whose seeds have not the same rows, of which there would be no mean."""
    first, *others = seeds
    for seed in others:
        for path in TABLES:
            if differing := _at(seeds[first], path).keys() ^ _at(seeds[seed], path).keys():
                raise ConfigurationError(
                    f"{file} would have the row {min(differing)!r} of one of the seeds {first} and "
                    f"{seed} alone ({', '.join(path)}); join all its seeds at once. It was left as "
                    "it is"
                )
