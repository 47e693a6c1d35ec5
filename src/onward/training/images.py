"""Images on their way into a training: decoded, batched, augmented, normalised, or embedded.

A transformation is fitted on several augmented views of each item, embedded once. The paper embeds
augmented images again in each epoch; a few views embedded once are many times cheaper.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from onward.data import Items
from onward.data.augmentation import supervised_augmentation
from onward.data.images import Box, Boxes, central_box, load_views, random_box
from onward.data.images import Pixels as PixelArray
from onward.models import EmbeddingModel, InputSpec
from onward.models.running import read_ahead
from onward.nn.backbones import normalise
from onward.progress import Progress, silent
from onward.spaces import Embeddings, Space
from onward.training.devices import seeded
from onward.training.loop import Batches, Rows

Pixels = UInt8[Tensor, "item channel height width"]
Images = Float[Tensor, "item channel height width"]

BATCH_SIZE = 256  # embedded at once
READ_AHEAD = 8  # batches of all views, at most, each decoded in a thread


class ImageBatches(Batches):
    """Items as pixels and, for each, the position of its class among the items' classes.

    Images are decoded once where they all fit; otherwise, and for random crops of the whole image,
    again for each batch, ahead and in threads, one a core.

    Args:
        items: what to decode.
        input_spec: size, channels and crop of the pixels.
        image_bytes: hold the decoded images if they take at most this.
        views: of each image; the pixels are all first views, then all second views.
        least_crop: least share of the whole image's area that a random crop has, each view and each
            epoch another; without it all views are the image as it is embedded.
        seed: decides the random crops.

    Raises:
        DataError: if an image cannot be opened.
    """

    def __init__(
        self,
        items: Items,
        input_spec: InputSpec,
        *,
        image_bytes: int,
        views: int = 1,
        least_crop: float | None = None,
        seed: int = 0,
    ) -> None:
        self._items, self._input_spec = items, input_spec
        self._views, self._least_crop, self._seed = views, least_crop, seed
        self._classes = torch.from_numpy(np.searchsorted(items.classes, items.labels))
        fits = len(items) * input_spec.channels * input_spec.size**2 <= image_bytes
        fits = fits and least_crop is None
        self._held = self._decode(np.arange(len(items))) if fits else None
        self.digest = items.digest
        self.ahead = 0 if fits else (os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self._items)

    def read(self, rows: Rows, epoch: int = 0) -> tuple[Tensor, ...]:
        """Return pixels and classes."""
        if self._least_crop is not None:
            draw = random_crops(self._least_crop, self._views, self._seed, epoch)
            size, channels = self._input_spec.size, self._input_spec.channels
            crops = load_views(self._items, size, channels, rows, draw, views=self._views)
            return torch.from_numpy(crops).flatten(0, 1), self._classes[rows]
        pixels = self._decode(rows) if self._held is None else self._held[rows]
        return torch.cat([pixels] * self._views), self._classes[rows]

    def _decode(self, rows: Rows) -> Pixels:
        return torch.from_numpy(self._input_spec.load(self._items, rows))


def random_crops(least: float, views: int, *seed: int) -> Boxes:
    """Return what draws crops of a whole image, decided by the seed and the item's position."""

    def draw(row: int, width: int, height: int) -> list[Box]:
        random = np.random.default_rng([*seed, row])
        return [random_box(width, height, least, random) for _ in range(views)]

    return draw


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
    least_crop: float | None = None,
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
        least_crop: as in the settings of that training.
        seed: decides the augmented views, whatever model looks at them.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        progress: told after each batch, in items.

    Returns:
        Embeddings by space, aligned with each other: first all items as they are, then all items'
        second views, and so on. Ids of several views are `<id>#<view>`, counted from 0.

    Raises:
        DataError: if an image cannot be opened.
    """
    input_spec, spaces = model.image_input, [space for space in (model.space, model.side) if space]
    vectors = {space: np.empty((views, len(items), space.dim), np.float32) for space in spaces}
    run = model.pixel_embedder(device=device, with_side=model.side is not None)
    cropped = least_crop is not None
    augmentation = supervised_augmentation(input_spec.size, flip, cropped=cropped)

    def look(rows: Rows) -> Sequence[PixelArray]:
        return _shown(items, input_spec, rows, views=views, least_crop=least_crop, seed=seed)

    batches = (
        np.arange(start, min(start + BATCH_SIZE, len(items)))
        for start in range(0, len(items), BATCH_SIZE)
    )
    for rows, given in read_ahead(batches, look, min(READ_AHEAD, os.cpu_count() or 1)):
        for view, shown in enumerate(given):
            pixels = shown
            if view:
                with seeded(seed, "view", view, int(rows[0])):
                    pixels = _augment(shown, augmentation)
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


def _shown(
    items: Items,
    input_spec: InputSpec,
    rows: Rows,
    *,
    views: int,
    least_crop: float | None,
    seed: int,
) -> Sequence[PixelArray]:
    """Return what each view shows before it is augmented: the images, or random crops of them."""
    if least_crop is None:
        return [input_spec.load(items, rows)] * views
    draw = random_crops(least_crop, views - 1, seed)

    def boxes(row: int, width: int, height: int) -> list[Box]:
        first = central_box(width, height, input_spec.crop_share)
        return [first, *draw(row, width, height)]

    size, channels = input_spec.size, input_spec.channels
    return [*load_views(items, size, channels, rows, boxes, views=views)]


def _augment(plain: PixelArray, augmentation: nn.Module) -> PixelArray:
    with torch.inference_mode():
        images = augmentation(torch.tensor(plain).float() / 255)
        pixels: PixelArray = (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return pixels
