"""Fit a transformation `h(old, side) -> new` on pairs of embeddings; no image is read.

Fitted on vectors, judged on retrieval: what was tried, and how it fared on held-out items beside
doing nothing and embedding everything anew, is kept with the result.

References:
    Ramanujan et al., Forward Compatible Training for Large-Scale Embedding Retrieval Systems,
    CVPR 2022, arXiv 2112.02805.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from onward.dense import Dense, Step
from onward.nn.transformations import FCTTransformation, ResidualBottleneck, fold
from onward.spaces import Embeddings
from onward.training.closed_forms import fit_closed_form
from onward.training.devices import device_of, seeded
from onward.training.loop import Batches, Objective, train
from onward.training.pairs import Pairs, split
from onward.training.provenance import made_by
from onward.training.selection import Judge, merit, numbers
from onward.training.settings import FitSettings, RunSettings
from onward.training.timetable import Rows
from onward.transformation import Transformation

Network = FCTTransformation | ResidualBottleneck


def fit(
    old: Embeddings,
    side: Embeddings | None,
    new: Embeddings,
    *,
    settings: FitSettings | None = None,
    seed: int = 0,
    run: RunSettings | None = None,
) -> Transformation:
    """Fit a transformation from the old space (with side-information) to the new one.

    The other way round, `fit(new, None, old)`, gives what brings new queries to an old gallery.

    Args:
        old: old embeddings of the new model's training items, of re-embedded items of a gallery,
            or of both; several views of an item have the ids `<id>#<view>`.
        side: side-information of the same items in the same order. Without any, the network's
            second branch is fed the old embedding, so that its capacity stays the same.
        new: new embeddings of the same items in the same order. Labels, here or in `old`, are only
            used to judge.
        settings: which method, and how it learns.
        seed: decides first weights, order, and which items are held out.
        run: on what machine; a checkpoint is that of the network.

    Returns:
        The transformation; its `made_by` says what was tried and how each fared on held-out items
        (of a network that was asked for by name, nothing: it is given all pairs to learn from).

    Raises:
        TransformationError: if the embeddings are not of the same items in the same order, are in
            one space, or cannot be mapped by the method.
        DataError: if there are fewer than 20 items.
        ConfigurationError: if settings do not fit together, or a checkpoint is another run's.
        ModelError: if the network's loss stops being finite.
    """
    settings, run = settings or FitSettings(), run or RunSettings()
    pairs = Pairs(old, side, new)
    if settings.method in ("mlp", "rbt"):
        best = _fit_network(pairs, np.arange(len(pairs)), settings, seed, run)
        judged: dict[str, Any] = {"method": settings.method, "judged on": 0}
    else:
        best, judged = _choose(pairs, settings, seed, run)
    described = made_by("fit", settings, seed=seed, run=run, device=device_of(run), **judged)
    facts = {"pairs": {"items": pairs.items, "pairs": len(pairs), "digest": pairs.digest}}
    return replace(best, made_by=described | facts)


def _choose(
    pairs: Pairs, settings: FitSettings, seed: int, run: RunSettings
) -> tuple[Transformation, dict[str, Any]]:
    """Fit what the method allows apart from held-out items, and return what fares best on them.

    The penalty of ridge is chosen so too; then what has a closed form is solved once more on all
    pairs, which costs nothing. The network stays as it was judged.
    """
    rows, held_out = split(pairs, share=settings.held_out, most=settings.most_held_out, seed=seed)
    judge = Judge.of(pairs, held_out)
    candidates = list(fit_closed_form(pairs, rows, settings))
    if settings.method == "auto":
        network = _fit_network(pairs, rows, settings, seed, run)
        candidates.append(({"method": "mlp", "inner": settings.inner}, network))
    results = [judge.new_old(candidate) for _, candidate in candidates]
    winner = int(np.argmax([merit(result) for result in results]))
    chosen, best = candidates[winner]
    if chosen["method"] != "mlp":
        penalties = (chosen["penalty"],) if "penalty" in chosen else settings.ridge_penalties
        again = settings.model_copy(update={"ridge_penalties": penalties})
        ((_, best),) = fit_closed_form(pairs, np.arange(len(pairs)), again)
    tried = [
        {**described, **numbers(result)}
        for (described, _), result in zip(candidates, results, strict=True)
    ]
    return best, {
        **chosen,
        "judged on": len(held_out),
        "judged by": "label" if judge.by_label else "identity",
        "tried": tried,
        "references": dict(judge.references()),
    }


class _Regression(Objective):
    """Mean squared error of the network's output, over batch and dimensions."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the loss of old vectors, side-information where there is any, and targets."""
        *given, targets = batch
        return mse_loss(self.network(*given), targets)


class _PairBatches(Batches):
    """Some pairs as tensors."""

    def __init__(self, pairs: Pairs, rows: Rows, targets: np.ndarray) -> None:
        self._tensors = [
            torch.from_numpy(array[rows]) for array in (*pairs.inputs.values(), targets)
        ]
        self._digest = f"{pairs.digest}/{len(rows)}"

    @property
    def digest(self) -> str:
        """Changes whenever the pairs do."""
        return self._digest

    @property
    def ahead(self) -> int:
        """None: reading is slicing."""
        return 0

    def __len__(self) -> int:
        return len(self._tensors[0])

    def read(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return old vectors, side-information where there is any, and targets."""
        return tuple(tensor[rows] for tensor in self._tensors)


def _fit_network(
    pairs: Pairs, rows: Rows, settings: FitSettings, seed: int, run: RunSettings
) -> Transformation:
    """Train a network; targets are centred and brought to unit variance for it, and back.

    One scale for all dimensions leaves what is least in the mean square what it was.
    """
    middle = pairs.targets[rows].mean(axis=0)
    spread = float((pairs.targets[rows] - middle).std()) or 1.0
    side = None if pairs.side is None else pairs.side.space
    with seeded(seed, "first weights"):
        objective = _Regression(_network(pairs, rows, settings))
    batches = _PairBatches(pairs, rows, (pairs.targets - middle) / np.float32(spread))
    batch_items = min(settings.batch_items, len(rows))
    steps_in_epoch = math.ceil(len(rows) / batch_items)
    epochs = max(settings.epochs, math.ceil(settings.least_steps / steps_in_epoch))
    learned = settings.model_copy(update={"epochs": epochs, "batch_items": batch_items})
    train(objective, batches, learned, seed=seed, what={"recipe": "fit"}, run=run)
    step = _scaled(fold(objective.network), spread, middle)
    return Transformation(pairs.old.space, side, pairs.new.space, (step,))


def _network(pairs: Pairs, rows: Rows, settings: FitSettings) -> Network:
    """Return the network that is to be trained; the RBT is told where its inputs lie."""
    new_dim = pairs.new.space.dim
    if settings.method != "rbt":
        side_dim = None if pairs.side is None else pairs.side.space.dim
        return FCTTransformation(pairs.old.space.dim, side_dim, new_dim, settings.inner)
    given = [array[rows] for array in pairs.inputs.values()]
    middle = np.concatenate([array.mean(axis=0) for array in given])
    spread = [np.full(a.shape[1], (a - a.mean(axis=0)).std() or 1, np.float32) for a in given]
    statistics = torch.from_numpy(middle), torch.from_numpy(np.concatenate(spread))
    return ResidualBottleneck(*statistics, new_dim, uses_side=pairs.side is not None)


def _scaled(step: Step, spread: float, middle: np.ndarray) -> Step:
    """Return a step whose output is multiplied and moved."""
    *mixer, last = step.mixer
    assert isinstance(last, Dense)  # noqa: S101  # both networks end in a linear layer
    scaled = Dense(
        (last.weight * np.float64(spread)).astype(np.float32),
        (last.bias * np.float64(spread) + middle).astype(np.float32),
        last.relu,
    )
    return replace(step, mixer=(*mixer, scaled))
