"""What a model wants its images to be: size, channels, normalisation."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from onward.errors import ModelError
from onward.nn.specs import TIMM, BackboneSpec

Pixels = UInt8[np.ndarray, "item channel height width"]
Images = Float32[np.ndarray, "item channel height width"]

LARGEST_SIZE = 16_384  # a single image of float32 takes 3 GB then


@dataclass(frozen=True)
class InputSpec:
    """What a model wants its images to be.

    Images become what it says in one way, `onward.data.images.to_pixels`. All of it is part of the
    name of a model's space.

    Attributes:
        size: height and width in pixels; images are resized and cropped to it.
        channels: 1 for grey, 3 for colour.
        mean: subtracted from each channel, whose values are in [0, 1].
        std: what is left is divided by it; above 0.

    Raises:
        ModelError: if a value is not what it should be, or they do not fit together.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_whole(
            "size",
            self.size,
            "the height and width of a square in pixels, such as 224. Export the model for square "
            "images if it takes others",
        )
        _check_whole("channels", self.channels, "1 for grey images or 3 for colour")
        object.__setattr__(self, "size", int(self.size))
        object.__setattr__(self, "channels", int(self.channels))
        if not 1 <= self.size <= LARGEST_SIZE or self.channels not in (1, 3):
            raise ModelError(
                f"a model cannot take images of {self.size} px and {self.channels} channels",
                f"give 1 to {LARGEST_SIZE} px and 1 (grey) or 3 (colour) channels",
            )
        object.__setattr__(self, "mean", _numbers("mean", self.mean))
        object.__setattr__(self, "std", _numbers("std", self.std))
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ModelError(
                f"mean {self.mean} and std {self.std} do not normalise {self.channels} channels",
                "give one number a channel, std above 0",
            )
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            black_white = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
            extremes = self.normalise(black_white.repeat(self.channels, axis=1))
        if not np.isfinite(extremes).all():
            raise ModelError(
                f"mean {self.mean} and std {self.std} bring pixels beyond what float32 holds",
                "give the mean and the deviation of values in [0, 1]",
            )

    @classmethod
    def of_spec(cls, spec: BackboneSpec) -> "InputSpec":
        """Return what a backbone wants: timm's own normalisation, or [-1, 1] for a small ResNet."""
        if spec.name.startswith(TIMM):
            from onward.nn.timm_backbones import timm_normalisation

            return cls(spec.size, spec.channels, *timm_normalisation(spec))
        half = (0.5,) * spec.channels
        return cls(spec.size, spec.channels, half, half)

    def normalise(self, pixels: Pixels) -> Images:
        """Return pixels of 0 to 255 as the model takes them."""
        shape = (1, self.channels, 1, 1)
        mean = np.array(self.mean, np.float32).reshape(shape)
        std = np.array(self.std, np.float32).reshape(shape)
        images: Images = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return images

    def check(self, pixels: Pixels) -> None:
        """Refuse pixels of another size.

        Raises:
            ModelError: if size or channels differ.
        """
        wanted = (self.channels, self.size, self.size)
        if pixels.ndim != 4 or pixels.shape[1:] != wanted:
            raise ModelError(
                f"the model was given pixels of shape {pixels.shape}",
                needed=f"it needs (images, {', '.join(map(str, wanted))})",
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "size": self.size,
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "InputSpec":
        """Return what `to_json` wrote."""
        return cls(fields["size"], fields["channels"], tuple(fields["mean"]), tuple(fields["std"]))


def _check_whole(name: str, value: Any, meaning: str) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ModelError(
            f"an InputSpec was given {name}={value!r}",
            needed=f"it needs one whole number, {meaning}",
        )


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    numbers: tuple[float, ...] = (math.nan,)
    given = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(given, Sequence) and all(
        isinstance(one, Real) and not isinstance(one, bool) for one in given
    ):
        with suppress(OverflowError):  # a whole number of hundreds of digits
            numbers = tuple(float(one) for one in given)
    if not np.isfinite(numbers).all():
        raise ModelError(
            f"an InputSpec was given {name}={values!r}",
            needed="it needs one finite number a channel, such as (0.5, 0.5, 0.5)",
        )
    return numbers
