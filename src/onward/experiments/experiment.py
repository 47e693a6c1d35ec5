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
from onward.experiments.study import COMPARISON, RECIPE, describe_study, run_study
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
    recipe: Recipe, seeds: Sequence[int], out: Path, stage: Stage, *, command: str
) -> Experiment:
    """Perform a recipe for each seed and write `NAME.json`, `NAME.md` and `NAME.html`.

    Args:
        recipe: what to perform; its own seed does not matter.
        seeds: at least one.
        out: each seed has a directory `seed-N` in it, as `run_study` writes it, with one for each
            variant where the recipe has variants.
        stage: where it is performed.
        command: what was typed, for the file.

    Raises:
        ConfigurationError: if no seed is given, or as `run_study` does.
        DataError: as `run_study` does.
    """
    if not seeds:
        raise ConfigurationError("an experiment without seeds has no numbers; give at least one")
    done: dict[int, Mapping[str, Any]] = {}
    variants = {name: recipe.variant(name) for name in recipe.variants}  # refused before any work
    for seed in sorted(set(seeds)):
        directory = out / f"seed-{seed}"
        if not variants:
            done[seed] = _perform(_with_seed(recipe, seed), directory, stage)
            continue
        performed = {
            name: _perform(_with_seed(variant, seed), directory / name.replace(" ", "-"), stage)
            for name, variant in variants.items()
        }
        done[seed] = join_variants(performed)
    experiment = Experiment(recipe.name, command, done)
    with write_aside(out / f"{recipe.name}.json") as aside:
        aside.write_text(json.dumps(experiment.to_json(), indent=1, allow_nan=False) + "\n")
    with write_aside(out / f"{recipe.name}.md") as aside:
        aside.write_text(f"{experiment}\n")
    page = out / f"{recipe.name}.html"
    write_experiment_report(
        page,
        report_tables(done),
        title=f"{recipe.name}: galleries move to a new model",
        introduction=INTRODUCTION,
        facts={"command": command, "seeds": ", ".join(str(seed) for seed in done)},
    )
    stage.tell(f"Report: {page}")
    return experiment


def _perform(recipe: Recipe, directory: Path, stage: Stage) -> Mapping[str, Any]:
    """Perform one study, or read what it gave when it was performed before."""
    if _is_finished(directory, recipe):
        stage.tell(f"Seed {recipe.seed}: finished before, {directory}")
    else:
        stage.tell(f"Seed {recipe.seed}: {directory}")
        run_study(recipe, directory, stage)
    performed: Mapping[str, Any] = json.loads((directory / COMPARISON).read_text())
    return performed


def _is_finished(directory: Path, recipe: Recipe) -> bool:
    """Whether this recipe was performed here to the end, on the same images and versions."""
    if not (directory / COMPARISON).is_file():
        return False
    performed = json.loads((directory / RECIPE).read_text())
    return bool(performed == describe_study(recipe, split(recipe)))


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"seed": seed})
