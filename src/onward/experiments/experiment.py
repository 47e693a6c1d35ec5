"""A recipe over several seeds: one study each, then one file of numbers and one table.

A seed that is finished is not performed again, so an experiment that was interrupted goes on.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onward.artifacts import write_aside
from onward.compatibility import METRICS
from onward.errors import ConfigurationError
from onward.experiments.learning import Stage
from onward.experiments.recipe import Recipe
from onward.experiments.study import COMPARISON, RECIPE, run_study


@dataclass(frozen=True, eq=False)
class Experiment:
    """What a recipe gave over several seeds.

    Attributes:
        recipe: the recipe's name.
        command: what to type to perform it again.
        seeds: what each seed's `comparison.json` holds, by seed.
    """

    recipe: str
    command: str
    seeds: Mapping[int, Mapping[str, Any]]

    @property
    def mean(self) -> dict[str, dict[str, float]]:
        """The mean over the seeds, by cell and metric."""
        return {
            cell: {metric: statistics.mean(self._values(cell, metric)) for metric in METRICS}
            for cell in self._cells
        }

    def to_json(self) -> dict[str, Any]:
        """Return recipe, command, seeds, mean, seconds and versions as plain values."""
        runs = list(self.seeds.values())
        return {
            "recipe": self.recipe,
            "command": self.command,
            "seeds": {str(seed): dict(run) for seed, run in self.seeds.items()},
            "mean": self.mean,
            "seconds": sum(run["seconds"] for run in runs),
            "versions": runs[0]["versions"],
        }

    def __str__(self) -> str:
        """Return a Markdown table: mean, least and greatest of each cell, in percent."""
        count = len(self.seeds)
        lines = [
            f"| {self.recipe}, {count} seed{'s' if count > 1 else ''}, percent | "
            + " | ".join(METRICS)
            + " |",
            "| --- " * (1 + len(METRICS)) + "|",
        ]
        for cell in self._cells:
            shown = [_mean_and_range(self._values(cell, metric)) for metric in METRICS]
            lines.append(f"| {cell} | " + " | ".join(shown) + " |")
        return "\n".join(lines)

    @property
    def _cells(self) -> list[str]:
        return list(next(iter(self.seeds.values()))["cells"])

    def _values(self, cell: str, metric: str) -> list[float]:
        return [float(run["cells"][cell][metric]) for run in self.seeds.values()]


def run_experiment(
    recipe: Recipe, seeds: Sequence[int], out: Path, stage: Stage, *, command: str
) -> Experiment:
    """Perform a recipe for each seed and write `NAME.json` and `NAME.md`.

    Args:
        recipe: what to perform; its own seed does not matter.
        seeds: at least one.
        out: each seed has a directory `seed-N` in it, as `run_study` writes it.
        stage: where it is performed.
        command: what was typed, for the file.

    Raises:
        ConfigurationError: if no seed is given, or as `run_study` does.
        DataError: as `run_study` does.
    """
    if not seeds:
        raise ConfigurationError("an experiment without seeds has no numbers; give at least one")
    done = {}
    for seed in sorted(set(seeds)):
        directory = out / f"seed-{seed}"
        seeded = recipe.model_copy(update={"seed": seed})
        if _is_finished(directory, seeded):
            stage.tell(f"Seed {seed}: finished before, {directory}")
        else:
            stage.tell(f"Seed {seed}")
            run_study(seeded, directory, stage)
        done[seed] = json.loads((directory / COMPARISON).read_text())
    experiment = Experiment(recipe.name, command, done)
    with write_aside(out / f"{recipe.name}.json") as aside:
        aside.write_text(json.dumps(experiment.to_json(), indent=1, allow_nan=False) + "\n")
    with write_aside(out / f"{recipe.name}.md") as aside:
        aside.write_text(f"{experiment}\n")
    return experiment


def _is_finished(directory: Path, recipe: Recipe) -> bool:
    if not (directory / COMPARISON).is_file():
        return False
    performed = json.loads((directory / RECIPE).read_text())["recipe"]
    return bool(performed == recipe.model_dump(mode="json"))


def _mean_and_range(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"
