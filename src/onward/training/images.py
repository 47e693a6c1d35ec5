"""Images on their way into a training: decoded, batched, augmented, normalised, or embedded.

A transformation is fitted on several augmented views of each item, embedded once. The paper embeds
augmented images again in each epoch; a few views embedded once are many times cheaper.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from onward.data import Items, load_images
from onward.data.augmentation import supervised_augmentation
from onward.data.images import Pixels as PixelArray
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import normalise
from onward.progress import Progress, silent
from onward.spaces import Embeddings, Space
from onward.training.devices import seeded
from onward.training.loop import Batches, Rows

Pixels = UInt8[Tensor, "item channel height width"]
Images = Float[Tensor, "item channel height width"]

BATCH_SIZE = 256  # embedded at once


class ImageBatches(Batches):
    """Items as pixels and, for each, the position of its class among the items' classes.

    Images are decoded once where they all fit; otherwise again for each batch, ahead and in
    threads, one a core.

    Args:
        items: what to decode.
        input_spec: size and channels of the pixels.
        image_bytes: hold the decoded images if they take at most this.

    Raises:
        DataError: if an image cannot be opened.
    """

    def __init__(self, items: Items, input_spec: InputSpec, *, image_bytes: int) -> None:
        self._items, self._input_spec = items, input_spec
        self._classes = torch.from_numpy(np.searchsorted(items.classes, items.labels))
        fits = len(items) * input_spec.channels * input_spec.size**2 <= image_bytes
        self._held = self._decode(np.arange(len(items))) if fits else None
        self.digest = items.digest
        self.ahead = 0 if fits else (os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self._items)

    def read(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return pixels and classes."""
        pixels = self._decode(rows) if self._held is None else self._held[rows]
        return pixels, self._classes[rows]

    def _decode(self, rows: Rows) -> Pixels:
        input_spec = self._input_spec
        return torch.from_numpy(
            load_images(self._items, input_spec.size, input_spec.channels, rows)
        )


class Preparation(nn.Module):
    """From pixels to what a backbone takes: floats, augmented where asked for, normalised.

    Augmentation is done in float32 and learns nothing.
    """

    def __init__(self, input_spec: InputSpec, augmentation: nn.Module | None) -> None:
        super().__init__()
        self.input_spec = input_spec
        self.augmentation = augmentation

    @torch.no_grad()
    def forward(self, pixels: Pixels) -> Images:
        """Return the images."""
        with torch.autocast(pixels.device.type, enabled=False):
            images = pixels.float() / 255
            if self.augmentation is not None:
                images = self.augmentation(images)
            images = normalise(images, self.input_spec.mean, self.input_spec.std)
            return images.contiguous(memory_format=torch.channels_last)


def describe_items(items: Items) -> Mapping[str, Any]:
    """Return what a result says of the items it was made from."""
    return {
        "source": items.source,
        "items": len(items),
        "classes": len(items.classes),
        "digest": items.digest,
    }


def embed_views(
    model: EmbeddingModel,
    items: Items,
    *,
    views: int,
    flip: bool = True,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[Space, Embeddings]:
    """Return the embeddings of several views of items in the space of a model.

    A model that reads side-information from its layers gives that too, in its own space and in the
    same forward pass: nothing is embedded twice.

    Args:
        items: what to embed; each image is decoded once.
        views: how many of each item; the first is the image as it is, the others are augmented as
            in a training with labels.
        flip: mirror half of the augmented ones.
        seed: decides the augmented views, whatever model looks at them.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        progress: told after each batch, in items.

    Returns:
        Embeddings by space, aligned with each other: first all items as they are, then all items'
        second views, and so on. Ids of several views are `<id>#<view>`, counted from 0.

    Raises:
        DataError: if an image cannot be opened.
    """
    input_spec, spaces = model.input, [space for space in (model.space, model.side) if space]
    vectors = {space: np.empty((views, len(items), space.dim), np.float32) for space in spaces}
    run = model.pixel_embedder(device=device, with_side=model.side is not None)
    augmentation = supervised_augmentation(input_spec.size, flip)
    for start in range(0, len(items), BATCH_SIZE):
        rows = np.arange(start, min(start + BATCH_SIZE, len(items)))
        plain = load_images(items, input_spec.size, input_spec.channels, rows)
        for view in range(views):
            pixels = plain
            if view:
                with seeded(seed, "view", view, start):
                    pixels = _augment(plain, augmentation)
            for space, array in zip(spaces, run(pixels), strict=False):
                if array is not None:
                    vectors[space][view, rows] = array
        progress(int(rows[-1]) + 1, len(items))
    several = tuple(f"{item}#{view}" for view in range(views) for item in items.ids)
    ids, labels = items.ids if views == 1 else several, np.tile(items.labels, views)
    return {
        space: Embeddings(ids, array.reshape(-1, space.dim), space, labels, items.known_names)
        for space, array in vectors.items()
    }


def _augment(plain: PixelArray, augmentation: nn.Module) -> PixelArray:
    with torch.inference_mode():
        images = augmentation(torch.tensor(plain).float() / 255)
        pixels: PixelArray = (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return pixels
