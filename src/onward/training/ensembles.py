"""The mean of what several transformations give, as one transformation.

Each errs in its own way, so their mean errs less than they do.
"""

from dataclasses import replace

from onward.artifacts import digest
from onward.training.classifiers import Classifier
from onward.training.loop import part_of
from onward.training.networks import fit_network
from onward.training.pairs import Examples
from onward.training.settings import FitSettings, RunSettings
from onward.transformation import Transformation, mean


def fit_networks(
    examples: Examples,
    settings: FitSettings,
    *,
    classifier: Classifier | None = None,
    seed: int,
    run: RunSettings,
) -> Transformation:
    """Train as many networks as the settings say, and return the mean of what they give.

    The first learns as a single one does, each other with a seed and a checkpoint of its own. Of
    several, how unsure their mean is remains to be fitted.

    Raises:
        ConfigurationError: if a checkpoint is another run's.
        ModelError: if the loss stops being finite.
    """
    count = settings.networks
    runs = [one_of(run, number, count) for number in range(count)]
    learned = [
        fit_network(examples, settings, classifier=classifier, seed=_seed(seed, n), run=each)
        for n, each in enumerate(runs)
    ]
    return learned[0] if count == 1 else mean(learned)


def one_of(run: RunSettings, number: int, count: int) -> RunSettings:
    """Return how one of so many networks is trained; together they make up the progress."""

    def progress(done: int, steps: int) -> None:
        run.progress(number * steps + done, count * steps)

    checkpoint = run.checkpoint
    if checkpoint is not None and number:
        checkpoint = part_of(checkpoint, number)
    return replace(run, progress=progress, checkpoint=checkpoint)


def _seed(seed: int, number: int) -> int:
    """Return the seed of one of several networks; the first has that of the fit."""
    return int(digest(f"{seed}/network {number}".encode())[:8], 16) if number else seed


def ensemble(network: Transformation, ridge: Transformation) -> Transformation:
    """Return the mean of what a network and a linear map give, as one transformation.

    The network bends towards the classes that it has learned from, the linear map cannot bend at
    all. Their mean errs less than either, above all on unseen classes.
    """
    return mean([network, ridge])
