"""Embed several augmented views of each item, once, to fit a transformation on.

The paper embeds augmented images anew in each epoch; a few views embedded once are many times
cheaper. Every model is given the same pixels, or the pairs would not be pairs.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from onward.data import Items, load_images
from onward.errors import ConfigurationError
from onward.models import EmbeddingModel
from onward.models.inputs import Pixels
from onward.progress import Progress, silent
from onward.spaces import Embeddings, Space
from onward.training.devices import seeded

BATCH_ITEMS = 256


def embed_views(
    models: Sequence[EmbeddingModel],
    items: Items,
    *,
    augmentation: nn.Module | None,
    views: int,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[Space, Embeddings]:
    """Return the embeddings of several views of items in the space of each model.

    A model that reads side-information from its layers gives that too, in its own space and in the
    same forward pass: nothing is embedded twice.

    Args:
        models: they take images of the same size and channels; their normalisation may differ.
        items: what to embed; each image is decoded once.
        augmentation: takes and gives float images in [0, 1]; not needed for one view.
        views: how many of each item; the first is the image as it is.
        seed: decides the augmented views, whatever models look at them.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        progress: told after each batch, in items.

    Returns:
        Embeddings by space, aligned with each other: first all items as they are, then all items'
        second views, and so on. Ids are `<id>#<view>`, counted from 0.

    Raises:
        ConfigurationError: if the models take different images, or there are views and no
            augmentation.
        DataError: if an image cannot be opened.
    """
    _check(models, augmentation, views)
    taken = models[0].input
    spaces = [space for model in models for space in (model.space, model.side) if space]
    vectors = {space: np.empty((views, len(items), space.dim), np.float32) for space in spaces}
    run = [
        model.pixel_embedder(device=device, with_side=model.side is not None) for model in models
    ]
    for start in range(0, len(items), BATCH_ITEMS):
        rows = np.arange(start, min(start + BATCH_ITEMS, len(items)))
        plain = load_images(items, taken.size, taken.channels, rows)
        for view in range(views):
            pixels = plain
            if view and augmentation is not None:
                with seeded(seed, "view", view, start):
                    pixels = _augment(plain, augmentation)
            for model, embed in zip(models, run, strict=True):
                for space, array in zip((model.space, model.side), embed(pixels), strict=True):
                    if space is not None and array is not None:
                        vectors[space][view, rows] = array
        progress(int(rows[-1]) + 1, len(items))
    ids = tuple(f"{item}#{view}" for view in range(views) for item in items.ids)
    labels = np.tile(items.labels, views)
    names = items.known_names
    return {
        space: Embeddings(ids, array.reshape(-1, space.dim), space, labels, names)
        for space, array in vectors.items()
    }


def _augment(plain: Pixels, augmentation: nn.Module) -> Pixels:
    with torch.inference_mode():
        images = augmentation(torch.tensor(plain).float() / 255)
        pixels: np.ndarray = (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return pixels


def _check(models: Sequence[EmbeddingModel], augmentation: nn.Module | None, views: int) -> None:
    if not models:
        raise ConfigurationError("there is no model to embed views with; give at least one")
    if views < 1 or (views > 1 and augmentation is None):
        raise ConfigurationError(
            f"{views} views were asked for, augmentation: {augmentation is not None}; give at "
            "least 1 view, and an augmentation for more than 1"
        )
    first = models[0]
    for model in models[1:]:
        here, there = ((each.input.size, each.input.channels) for each in (first, model))
        if here != there:
            raise ConfigurationError(
                f"{first.space.name} takes images of {here[0]} px and {here[1]} channels, "
                f"{model.space.name} of {there[0]} px and {there[1]} channels; the same pixels "
                "must go to all. Embed one view each with EmbeddingModel.embed instead"
            )
