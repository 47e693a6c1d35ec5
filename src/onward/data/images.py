"""Images: from the bytes of a file to grey or colour pixels, upright, and to arrays of one size.

Every image that Onward opens comes through `decode`, so that a test that makes `decode` fail proves
that no image is read. What of it is looked at is a box; all boxes become arrays in one way. Nothing
here knows of folders, tables or labels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from onward.errors import ConfigurationError, DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

    from onward.data.items import Items

Pixels = UInt8[np.ndarray, "item channel height width"]
Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge of what is looked at, in pixels of the whole image."""
Boxes = Callable[[int, int, int], Sequence[Box]]
"""The boxes that are looked at, given an item's position and its image's width and height."""

ASPECTS = (3 / 4, 4 / 3)
"""Width over height of a random crop, at least and at most."""
TRIES = 10  # at a random crop that fits into the image

MODES = {1: "L", 3: "RGB"}
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
REPAIR = "replace it, or leave out what cannot be read: skip_bad=True"
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, as Pillow names them; no other reader of Pillow's is let loose on a
file. PPM stands for PBM, PGM and PNM too."""

MAX_PIXELS = 178_956_970
"""The most pixels that an image may have unless more are asked for: 179 megapixels."""

CONVERT = "convert it, such as to PNG"
UNKNOWN = f"no image format was recognised of those that are read, {', '.join(FORMATS)}; {CONVERT}"
RAW = f"is a raw photo, and only its small preview could be read; {CONVERT}"
DNG_VERSION, SUBFILE_TYPE = 50706, 254  # tags of TIFF: a raw photo; what a picture in it is
REDUCED = 1  # bit of the latter: a smaller copy of another picture

_raising = Lock()


def decode(
    content: bytes | UInt8[np.ndarray, "height width"], where: str, max_pixels: int = MAX_PIXELS
) -> "Image.Image":
    """Return an image as grey ("L") or colour ("RGB") pixels, upright.

    The orientation that the camera noted (EXIF) is applied. Of an animation the first picture
    counts. What shows through a transparent image is white. Grey images of 16 bits are scaled to 8.

    Args:
        content: the bytes of an image file in one of `FORMATS`, or grey values.
        where: what to call the image in an error, such as its path.
        max_pixels: the most pixels it may have; more are not unpacked.

    Raises:
        DataError: if the image is empty, truncated, too large, no image or of another format, or
            has floating-point values.
        MissingExtraError: if Pillow is not installed.
    """
    _require_pillow()
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    try:
        if not content:
            raise ValueError("it has 0 bytes")
        with _allowing(max_pixels), Image.open(BytesIO(content), formats=_formats()) as opened:
            if opened.width * opened.height > max_pixels:
                raise Image.DecompressionBombError
            tags = getattr(opened, "tag_v2", {})
            if DNG_VERSION in tags or int(tags.get(SUBFILE_TYPE, 0)) & REDUCED:
                raise ValueError(f"it {RAW}")
            opened.load()
            return _to_grey_or_rgb(ImageOps.exif_transpose(opened))
    except Exception as error:  # Pillow's readers raise whatever the damage leads them to
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = UNKNOWN
        if isinstance(error, Image.DecompressionBombError):
            reason = (
                f"it has more than {max_pixels:,} pixels, and a damaged or malicious file could "
                "fill the memory. If it is right, raise the limit: max_pixels=..."
            )
        raise DataError(f"{where} cannot be read as an image: {reason}", REPAIR) from error


def is_image(path: str) -> bool:
    """Say whether a file begins like an image, without decoding its pixels."""
    _require_pillow()
    from PIL import Image

    try:
        with Image.open(path, formats=_formats()):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # as above
        return False


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401  # whether it is there is the question
    except ImportError as error:
        raise MissingExtraError("pillow", "vision") from error


def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _allowing(max_pixels: int) -> Iterator[None]:
    """Let Pillow open larger images than it would: its own limit is one for the whole process."""
    from PIL import Image

    if max_pixels <= MAX_PIXELS:
        yield
        return
    with _raising:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _to_grey_or_rgb(image: "Image.Image") -> "Image.Image":
    """Return the pixels as they are seen on white."""
    from PIL import Image

    if image.mode in SIXTEEN_BIT:
        return _scale_sixteen_bit(image)
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        grey, layered = image.mode in ("L", "LA", "La", "1"), image.convert("RGBA")
        ground = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(ground, layered).convert("L" if grey else "RGB")
    if image.mode in ("L", "RGB"):
        return image.copy()
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "F":
        raise ValueError("its values are floating-point and nothing says their range")
    return image.convert("RGB")


def _scale_sixteen_bit(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"its values go from {values.min()} to {values.max()}, not 0 to 65535")
    scaled = np.rint(values / 257).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):
        scaled[values == clear] = 255  # on white
    return Image.fromarray(scaled)


def load_images(
    items: "Items",
    size: int,
    channels: int,
    rows: Sequence[int] | np.ndarray | None = None,
    *,
    crop_share: float = 1.0,
) -> Pixels:
    """Decode images into one array of size x size pixels, each as `to_pixels` makes it.

    Args:
        items: where the images are.
        size: height and width of what is returned, in pixels.
        channels: 1 for grey, 3 for colour.
        rows: positions of the items to open, in the order wanted; all where None.
        crop_share: see `central_box`.

    Raises:
        DataError: if an image cannot be read; the message names its file and row.
        ConfigurationError: if the size is below 1 or the channels are not 1 or 3.
    """
    wanted = np.arange(len(items)) if rows is None else np.asarray(rows, dtype=np.int64)

    def central(row: int, width: int, height: int) -> Sequence[Box]:  # noqa: ARG001
        return [central_box(width, height, crop_share)]

    pixels: Pixels = load_views(items, size, channels, wanted, central, views=1)[0]
    return pixels


def load_views(
    items: "Items",
    size: int,
    channels: int,
    rows: Sequence[int] | np.ndarray,
    boxes: Boxes,
    *,
    views: int,
) -> UInt8[np.ndarray, "view item channel height width"]:
    """Decode images once each, into several arrays of size x size pixels, one a box.

    Args:
        rows: positions of the items to open, in the order wanted.
        boxes: gives one box a view.
        views: how many.

    Raises:
        DataError: if an image cannot be read; the message names its file and row.
        ConfigurationError: if the size is below 1 or the channels are not 1 or 3.
    """
    _check(size, channels)
    wanted = np.asarray(rows, dtype=np.int64)
    pixels = np.empty((views, len(wanted), channels, size, size), dtype=np.uint8)
    for place in np.argsort(wanted, kind="stable"):  # a table is read from top to bottom
        row = int(wanted[place])
        image = items.open(row)
        for view, box in enumerate(boxes(row, image.width, image.height)):
            pixels[view, place] = to_pixels(image, size, channels, box)
    return pixels


def central_box(width: int, height: int, crop_share: float = 1.0) -> Box:
    """Return the centred square whose side is a share of the image's shorter side.

    A share of 0.875 is what resizing the shorter side to 256 pixels and cropping the central 224
    leaves.
    """
    side = crop_share * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, least: float, random: np.random.Generator) -> Box:
    """Return a random crop of the whole image, of random area and shape.

    Its share of the image's area is uniform between `least` and 1, the logarithm of its width over
    height uniform within `ASPECTS`. If none of `TRIES` fits into the image, it is the largest
    centred box whose shape is as near the image's as `ASPECTS` allow.

    References:
        Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6.
    """
    narrowest, widest = ASPECTS
    for _ in range(TRIES):
        area = width * height * random.uniform(least, 1)
        aspect = math.exp(random.uniform(math.log(narrowest), math.log(widest)))
        across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if across <= width and down <= height:
            left, top = random.uniform(0, width - across), random.uniform(0, height - down)
            return left, top, left + across, top + down
    across, down = min(width, height * widest), min(height, width / narrowest)
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def to_pixels(
    image: "Image.Image", size: int, channels: int, box: Box | None = None
) -> UInt8[np.ndarray, "channel height width"]:
    """Return what is in a box of an image at size x size pixels.

    Without a box that is the largest centred square, the same as resizing the shorter side and then
    cropping the centre. Resampling is bicubic, with antialiasing; what has this size already is not
    resampled. Colour becomes grey by the luma of ITU-R 601, grey becomes colour by three equal
    channels.

    Raises:
        ConfigurationError: if the size is below 1 or the channels are not 1 or 3.
    """
    from PIL import Image

    _check(size, channels)
    image = image.convert(MODES[channels])
    left, top, right, bottom = box or central_box(*image.size)
    if right - left == bottom - top == size:
        image = image.crop((int(left), int(top), int(left) + size, int(top) + size))
    else:
        exactly = (
            left,
            top,
            min(right, image.width),
            min(bottom, image.height),
        )  # but for rounding
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=exactly)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


def _check(size: int, channels: int) -> None:
    if size < 1:
        raise ConfigurationError(f"images of {size} pixels were asked for", "give at least 1")
    if channels not in MODES:
        raise ConfigurationError(
            f"images of {channels} channels were asked for", "give 1 (grey) or 3 (colour)"
        )
