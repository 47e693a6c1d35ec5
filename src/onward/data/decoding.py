"""Turn the bytes of an image file into pixels, the same way wherever the bytes were kept.

Every image that Onward opens comes through `decode`, so that a test that makes `decode` fail proves
that no image is read. Nothing here knows of folders, tables or labels.
"""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from onward.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
REPAIR = ". Replace it, or leave out what cannot be read: --skip-bad (skip_bad=True)"
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def decode(content: bytes | UInt8[np.ndarray, "height width"], where: str) -> "Image.Image":
    """Return an image as grey ("L") or colour ("RGB") pixels, upright.

    The orientation that the camera noted (EXIF) is applied. Of an animation the first picture
    counts. What shows through a transparent image is white. Grey images of 16 bits are scaled to 8.

    Args:
        content: the bytes of an image file in any format that Pillow reads, or grey values.
        where: what to call the image in an error, such as its path.

    Raises:
        DataError: if the image is empty, truncated, no image, or has floating-point values.
        MissingExtraError: if Pillow is not installed.
    """
    _require_pillow()
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    if not content:
        raise DataError(_unreadable(where, "it has 0 bytes"))
    try:
        with Image.open(BytesIO(content)) as opened:
            opened.load()
            return _to_grey_or_rgb(ImageOps.exif_transpose(opened))
    except Exception as error:  # Pillow's readers raise whatever the damage leads them to
        reason = "no image format was recognised"
        if not isinstance(error, UnidentifiedImageError):
            reason = f"{error}" or type(error).__name__
        raise DataError(_unreadable(where, reason)) from error


def is_image(path: str) -> bool:
    """Say whether a file begins like an image, without decoding its pixels."""
    _require_pillow()
    from PIL import Image

    try:
        with Image.open(path):
            return True
    except Exception:  # as above
        return False


def _require_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401  # whether it is there is the question
    except ImportError as error:
        raise MissingExtraError("pillow", "vision") from error


def _unreadable(where: str, reason: str) -> str:
    return f"{where} cannot be read as an image: {reason}{REPAIR}"


def _to_grey_or_rgb(image: "Image.Image") -> "Image.Image":
    if image.mode in SIXTEEN_BIT:
        return _scale_sixteen_bit(image)
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        return _on_white(image)
    if image.mode in ("L", "RGB"):
        return image.copy()
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "F":
        raise ValueError("its values are floating-point and nothing says their range")
    return image.convert("RGB")


def _on_white(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    grey = image.mode in ("L", "LA", "La", "1")
    layered = image.convert("RGBA")
    ground = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(ground, layered).convert("L" if grey else "RGB")


def _scale_sixteen_bit(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"its values go from {values.min()} to {values.max()}, not 0 to 65535")
    scaled = np.rint(values / 257).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):
        scaled[values == clear] = 255  # on white
    return Image.fromarray(scaled)
