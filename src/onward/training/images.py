"""Images on their way into a training: decoded, batched, augmented, normalised."""

import os

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from onward.data import Items, load_images
from onward.errors import ConfigurationError
from onward.models import InputSpec
from onward.nn.backbones import BackboneSpec, normalise
from onward.training.loop import Batches
from onward.training.timetable import Rows

Pixels = UInt8[Tensor, "item channel height width"]
Images = Float[Tensor, "item channel height width"]


class ImageBatches(Batches):
    """Items as pixels and, for each, the position of its class among the items' classes.

    Images are decoded once where they all fit; otherwise again for each batch, ahead and in
    threads.

    Args:
        items: what to decode.
        taken: size and channels of the pixels.
        image_bytes: hold the decoded images if they take at most this.

    Raises:
        DataError: if an image cannot be opened.
    """

    def __init__(self, items: Items, taken: InputSpec, *, image_bytes: int) -> None:
        self._items, self._taken = items, taken
        self._classes = torch.from_numpy(np.searchsorted(items.classes, items.labels))
        fits = len(items) * taken.channels * taken.size**2 <= image_bytes
        self._held = self._decode(np.arange(len(items))) if fits else None

    @property
    def digest(self) -> str:
        """Changes whenever the items do."""
        return self._items.digest

    @property
    def ahead(self) -> int:
        """A batch for each core where images are decoded again, none where they are held."""
        return 0 if self._held is not None else (os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self._items)

    def read(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return pixels and classes."""
        pixels = self._decode(rows) if self._held is None else self._held[rows]
        return pixels, self._classes[rows]

    def _decode(self, rows: Rows) -> Pixels:
        taken = self._taken
        return torch.from_numpy(load_images(self._items, taken.size, taken.channels, rows))


class Preparation(nn.Module):
    """From pixels to what a backbone takes: floats, augmented where asked for, normalised.

    Augmentation is done in float32 and learns nothing.
    """

    def __init__(self, taken: InputSpec, augmentation: nn.Module | None) -> None:
        super().__init__()
        self.taken = taken
        self.augmentation = augmentation

    @torch.no_grad()
    def forward(self, pixels: Pixels) -> Images:
        """Return the images."""
        with torch.autocast(pixels.device.type, enabled=False):
            images = pixels.float() / 255
            if self.augmentation is not None:
                images = self.augmentation(images)
            images = normalise(images, self.taken.mean, self.taken.std)
            return images.contiguous(memory_format=torch.channels_last)


def input_of(backbone: BackboneSpec, given: InputSpec | None) -> InputSpec:
    """Return what the images of a training are to be.

    Raises:
        ConfigurationError: if what is given does not fit the backbone.
    """
    taken = InputSpec.of_spec(backbone) if given is None else given
    if (taken.size, taken.channels) != (backbone.size, backbone.channels):
        raise ConfigurationError(
            f"the input is {taken.size} px and {taken.channels} channels, the backbone takes "
            f"{backbone.size} px and {backbone.channels} channels; make them the same"
        )
    return taken
