"""Whole batches of images as arrays of one size, ready for a model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from onward.data.items import Items
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL import Image

Pixels = UInt8[np.ndarray, "item channel height width"]
_MODES = {1: "L", 3: "RGB"}


def load_images(
    items: Items, size: int, channels: int, rows: Sequence[int] | np.ndarray | None = None
) -> Pixels:
    """Decode images into one array of size x size pixels, each as `to_pixels` makes it.

    Args:
        items: where the images are.
        size: height and width of what is returned, in pixels.
        channels: 1 for grey, 3 for colour.
        rows: positions of the items to open, in the order wanted; all where None.

    Raises:
        DataError: if an image cannot be read; the message names its file and row.
        ConfigurationError: if the size is below 1 or the channels are not 1 or 3.
    """
    _check(size, channels)
    wanted = np.arange(len(items)) if rows is None else np.asarray(rows, dtype=np.int64)
    pixels: Pixels = np.empty((len(wanted), channels, size, size), dtype=np.uint8)
    for place in np.argsort(wanted, kind="stable"):  # a table is read from top to bottom
        pixels[place] = to_pixels(items.open(int(wanted[place])), size, channels)
    return pixels


def to_pixels(
    image: "Image.Image", size: int, channels: int
) -> UInt8[np.ndarray, "channel height width"]:
    """Return the largest centred square of an image at size x size pixels.

    The same as resizing the shorter side and then cropping the centre, with antialiasing (bicubic);
    an image that has this size already is not resampled. Colour becomes grey by the luma of ITU-R
    601, grey becomes colour by three equal channels.

    Raises:
        ConfigurationError: if the size is below 1 or the channels are not 1 or 3.
    """
    from PIL import Image

    _check(size, channels)
    image = image.convert(_MODES[channels])
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if side != size:
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    else:
        image = image.crop((int(left), int(top), int(left) + side, int(top) + side))
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


def _check(size: int, channels: int) -> None:
    if size < 1:
        raise ConfigurationError(f"images of {size} pixels were asked for", "give at least 1")
    if channels not in _MODES:
        raise ConfigurationError(
            f"images of {channels} channels were asked for", "give 1 (grey) or 3 (colour)"
        )
