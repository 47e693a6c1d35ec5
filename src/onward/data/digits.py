"""The digits that come with Onward: 1,797 real images of 8 x 8, the data that needs no download.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (1998), test set; the licence
stands in NOTICE. scikit-learn ships the same images.
"""

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from onward.labels import Labels

DIGITS_FILE = Path(__file__).with_name("digits.npz")
_LEVELS = 16


@cache
def digit_values() -> UInt8[np.ndarray, "item 8 8"]:
    """Return the ink of each cell as it was counted, 0 to 16; read-only."""
    with np.load(DIGITS_FILE, allow_pickle=False) as arrays:
        values: UInt8[np.ndarray, "item 8 8"] = arrays["images"]
    values.flags.writeable = False
    return values


@cache
def digit_labels() -> Labels:
    """Return the digit, 0 to 9, that each image shows; read-only."""
    with np.load(DIGITS_FILE, allow_pickle=False) as arrays:
        labels: Labels = arrays["labels"].astype(np.int64)
    labels.flags.writeable = False
    return labels


def digit_pixels(row: int) -> UInt8[np.ndarray, "8 8"]:
    """Return one image as grey values, 0 to 255: the ink times 255 / 16, rounded."""
    pixels: UInt8[np.ndarray, "8 8"] = np.rint(digit_values()[row] * (255 / _LEVELS)).astype(
        np.uint8
    )
    return pixels
