"""Side-information for nothing: what the old model's own stages say, projected by PCA.

While a model embeds an item, the output of each of its stages is averaged over the cells of a grid.
A principal component analysis of that, fitted once on old data, gives the side-information in the
same forward pass: no second model, no training. Nothing here knows how the stages are computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from jaxtyping import Float64

from onward.data import Items
from onward.errors import ConfigurationError, DataError
from onward.models import EmbeddingModel, LayersReadout
from onward.models.layers import PooledStages, choose_stages, columns_of
from onward.progress import Progress, silent
from onward.quantisation import fit_quantisation
from onward.spaces import Format
from onward.training.images import describe_items

Square = Float64[np.ndarray, "total total"]
PerValue = Float64[np.ndarray, " total"]

BLOCK_ITEMS = 4096  # whose rows are multiplied at once
EXACT_UP_TO = 4096  # values; beyond, the components are found by iteration
ITERATIONS, SPARE = 12, 32
CONSTANT = 1e-6  # a deviation below this share of the largest one is no information


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and covariance of rows.

    Attributes:
        covariance: over the count, not over one less.
    """

    count: int
    mean: PerValue
    covariance: Square


def add_layers_side_information(
    model: EmbeddingModel,
    items: Items,
    *,
    dim: int,
    grid: int | None = None,
    format: Format = "int8",
    stages: tuple[int, ...] | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> EmbeddingModel:
    """Return the same model that reads side-information from its stages as well.

    Nothing is drawn at random; the model's embeddings and their space stay what they are.

    Args:
        model: the old model, with a torch backbone or a text encoder.
        items: the old data; at least as many items as there are dimensions.
        dim: dimensions of the side-information.
        grid: each stage's output is averaged over grid x grid cells; 2 x 2 if not given. That of a
            text encoder's block is averaged over the tokens of a text.
        format: number format in which the side-information is stored: 4, 2 or 1 bytes a dimension.
            What is not float32 takes a second pass over the items, to fit the scales.
        stages: numbers of the stages that are read, from 0, the one nearest to the item; all where
            left out.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        progress: told after each batch, in items.

    Raises:
        ConfigurationError: if the stages do not hold so many dimensions, or the format is unknown.
        DataError: if there are too few items, or one cannot be opened.
        ModelError: if the model's stages cannot be read, or it does not have one of them.
    """
    if format not in get_args(Format):
        raise ConfigurationError(
            f"side-information cannot be stored as {format!r}",
            f"choose one of {', '.join(get_args(Format))}",
        )
    passes = 1 if format == "float32" else 2
    channels, grid = model.stage_channels, grid or model.engine.cells
    chosen = choose_stages(channels, stages) if channels else None
    columns = columns_of(channels, chosen, grid)
    _check_dim(dim, model, len(columns), grid, len(items))
    pooled = model.stages(
        items, grid=grid, device=device, progress=lambda done, of: progress(done, passes * of)
    )
    moments = measure(pooled if chosen is None else (rows[:, columns] for rows in pooled))
    readout = _fit_readout(moments, channels, chosen, dim, grid)
    made_by = {
        "recipe": "layers",
        "dim": dim,
        "grid": grid,
        "format": format,
        "stages": None if chosen is None else list(chosen),
        "data": dict(describe_items(items)),
    }
    projecting = model.with_layers(readout, made_by=made_by)
    if format == "float32":
        return projecting
    _, side = projecting.embed_with_side(
        items, device=device, progress=lambda done, of: progress(of + done, passes * of)
    )
    quantised = replace(readout, quantisation=fit_quantisation(side, format))
    return model.with_layers(quantised, made_by=made_by)


def _check_dim(dim: int, model: EmbeddingModel, total: int, grid: int, items: int) -> None:
    if total and not 1 <= dim <= total:
        raise ConfigurationError(
            f"side-information of {dim} dimensions was asked for",
            f"the stages of "
            f"{model.space.name} hold {total} values on a {grid} x {grid} grid. Give a dim from 1 "
            f"to {total}, or a larger grid",
        )
    if items < dim + 1:
        raise DataError(
            f"{items} items are too few for side-information of {dim} dimensions",
            f"give at least {dim + 1}, or a smaller dim",
        )


def _fit_readout(
    moments: Moments,
    channels: tuple[int, ...],
    chosen: tuple[int, ...] | None,
    dim: int,
    grid: int,
) -> LayersReadout:
    deviation = np.sqrt(np.diag(moments.covariance))
    varies = deviation > CONSTANT * max(deviation.max(), 1e-30)
    scale = np.where(varies, deviation, 1.0)
    correlation = moments.covariance / np.outer(scale, scale) * np.outer(varies, varies)
    return LayersReadout(
        grid=grid,
        stages=channels,
        mean=moments.mean.astype(np.float32),
        scale=scale.astype(np.float32),
        components=principal_components(correlation, dim).astype(np.float32),
        chosen=chosen,
    )


def measure(batches: Iterator[PooledStages]) -> Moments:
    """Return the moments of rows that come in batches, in float64 and in one pass.

    Batches are merged by Chan, Golub and LeVeque's formula, so a large mean costs no digits.

    Raises:
        DataError: if there are no rows.
    """
    merged: Moments | None = None
    for block in _blocks(batches):
        rows = block.astype(np.float64)
        mean = rows.mean(axis=0)
        rows -= mean
        one = Moments(len(rows), mean, rows.T @ rows / len(rows))
        merged = one if merged is None else _merge(merged, one)
    if merged is None:
        raise DataError("there are no items to measure the stages on", "give at least one")
    return merged


def _blocks(batches: Iterator[PooledStages]) -> Iterator[PooledStages]:
    """Join batches, so that a large covariance is not merged for each of them."""
    waiting: list[PooledStages] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= BLOCK_ITEMS:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def principal_components(covariance: Square, dim: int) -> Float64[np.ndarray, "dim total"]:
    """Return the directions of largest variance, largest first, one row each.

    Rows are orthonormal, and the largest value of each (the first of equals) is positive. Large
    covariances are treated by subspace iteration, which finds what varies much precisely and what
    hardly varies roughly.
    """
    total = len(covariance)
    if total <= EXACT_UP_TO:
        _, vectors = np.linalg.eigh(covariance)
        rows = vectors[:, ::-1][:, :dim].T
    else:
        start = np.random.default_rng(0).normal(size=(total, min(dim + SPARE, total)))
        basis, _ = np.linalg.qr(start)
        for _ in range(ITERATIONS):
            basis, _ = np.linalg.qr(covariance @ basis)
        _, inner = np.linalg.eigh(basis.T @ covariance @ basis)
        rows = (basis @ inner[:, ::-1][:, :dim]).T
    largest = rows[np.arange(dim), np.abs(rows).argmax(axis=1)]
    components: np.ndarray = rows * np.sign(largest)[:, None]
    return components


def _merge(first: Moments, second: Moments) -> Moments:
    count = first.count + second.count
    apart = second.mean - first.mean
    share = second.count / count
    between = np.outer(apart, apart) * (share * (1 - share))
    covariance = first.covariance * (1 - share) + second.covariance * share + between
    return Moments(count, first.mean + apart * share, covariance)
