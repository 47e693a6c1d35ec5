"""A recipe over several seeds: one study each, then one file of numbers, one table, one page.

A seed that is finished is not performed again, so an experiment that was interrupted goes on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onward.artifacts import write_aside
from onward.errors import ConfigurationError
from onward.experiments.learning import Stage
from onward.experiments.recipe import Recipe
from onward.experiments.splits import split
from onward.experiments.study import COMPARISON, RECIPE, check_place, describe_study, run_study
from onward.experiments.tables import (
    differences,
    join_variants,
    markdown,
    means,
    report_tables,
)
from onward.report import write_experiment_report

INTRODUCTION = (
    "Galleries were filled by an old model. Then a new one came, trained as if there were no old "
    "one. Each row is one way to answer the new model's queries from the old gallery; old/old is "
    "doing nothing, new/new is embedding every image again. The update gain is the share of what "
    "embedding everything again gains."
)


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
    seeds: Mapping[int, Mapping[str, Any]]

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
        raise ConfigurationError("an experiment without seeds has no numbers; give at least one")
    if not overwrite:
        _refuse_to_lose_seeds(out, recipe.name, set(seeds))
    planned = sorted(set(seeds))
    for seed in planned:  # refused before any work
        for one, directory in studies_of(recipe, seed, out).values():
            check_place(directory, one, overwrite=overwrite)
    done = {seed: perform_seed(recipe, seed, out, stage, overwrite=overwrite) for seed in planned}
    experiment = Experiment(recipe.name, command, done)
    write_numbers(out / f"{recipe.name}.json", experiment.to_json())
    write_tables(out / f"{recipe.name}.md", experiment)
    page = out / f"{recipe.name}.html"
    write_page(page, experiment)
    stage.tell(f"Report: {page}")
    return experiment


def perform_seed(
    recipe: Recipe, seed: int, out: Path, stage: Stage, *, overwrite: bool = False
) -> Mapping[str, Any]:
    """Perform one seed of a recipe, or read what it gave before; variants are joined."""
    performed = {
        name: _perform(one, directory, stage, overwrite)
        for name, (one, directory) in studies_of(recipe, seed, out).items()
    }
    return join_variants(performed) if recipe.variants else performed[recipe.name]


def write_numbers(path: Path, numbers: Mapping[str, Any]) -> None:
    """Write what `Experiment.to_json` gives to a file."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n")


def write_tables(path: Path, experiment: Experiment) -> None:
    """Write an experiment's tables as Markdown."""
    with write_aside(path) as aside:
        aside.write_text(f"{experiment}\n")


def write_page(path: Path, experiment: Experiment) -> None:
    """Write an experiment's tables as a page."""
    write_experiment_report(
        path,
        report_tables(experiment.seeds),
        title=f"{experiment.recipe}: galleries move to a new model",
        introduction=INTRODUCTION,
        facts={
            "command": experiment.command,
            "seeds": ", ".join(str(seed) for seed in experiment.seeds),
        },
    )


def _refuse_to_lose_seeds(out: Path, name: str, seeds: set[int]) -> None:
    """Refuse to replace results of seeds that are not asked for, or files that are no results."""
    results = [out / f"{name}{suffix}" for suffix in (".json", ".md", ".html")]
    if not any(path.exists() for path in results):
        return
    try:
        before = json.loads(results[0].read_bytes())
        kept = before["recipe"] == name and {int(seed) for seed in before["seeds"]} <= seeds
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        kept = False
    if not kept:
        raise ConfigurationError(
            f"{out} holds {name}.json, .md or .html with other results than those of these seeds; "
            "they were left as they are. Give their seeds too, another directory with --out, or "
            "replace them with --overwrite"
        )


def _perform(recipe: Recipe, directory: Path, stage: Stage, overwrite: bool) -> Mapping[str, Any]:
    """Perform one study, or read what it gave when it was performed before."""
    if _is_finished(directory, recipe):
        stage.tell(f"Seed {recipe.seed}: finished before, {directory}")
    else:
        stage.tell(f"Seed {recipe.seed}: {directory}")
        run_study(recipe, directory, stage, overwrite=overwrite)
    performed: Mapping[str, Any] = json.loads((directory / COMPARISON).read_text())
    return performed


def _is_finished(directory: Path, recipe: Recipe) -> bool:
    """Whether this recipe was performed here to the end, on the same images and versions."""
    if not (directory / COMPARISON).is_file():
        return False
    performed = json.loads((directory / RECIPE).read_text())
    return bool(performed == describe_study(recipe, split(recipe)))


def studies_of(recipe: Recipe, seed: int, out: Path) -> dict[str, tuple[Recipe, Path]]:
    """Return the studies of a seed with their directories: of each variant, or of the recipe."""
    directory = out / f"seed-{seed}"
    variants = {
        name: (_with_seed(recipe.variant(name), seed), directory / name.replace(" ", "-"))
        for name in recipe.variants
    }
    return variants or {recipe.name: (_with_seed(recipe, seed), directory)}


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"seed": seed})
