"""What a model wants its images to be: size, channels, normalisation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from onward.errors import ModelError
from onward.nn.specs import TIMM, BackboneSpec

Pixels = UInt8[np.ndarray, "item channel height width"]
Images = Float32[np.ndarray, "item channel height width"]


@dataclass(frozen=True)
class InputSpec:
    """What a model wants its images to be.

    Attributes:
        size: height and width in pixels; images are resized and cropped to it.
        channels: 1 for grey, 3 for colour.
        mean: subtracted from each channel, whose values are in [0, 1].
        std: what is left is divided by it.

    Raises:
        ModelError: if these do not fit together.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if self.size < 1 or self.channels not in (1, 3):
            raise ModelError(
                f"a model cannot take images of {self.size} px and {self.channels} channels; "
                "give at least 1 px and 1 (grey) or 3 (colour) channels"
            )
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ModelError(
                f"mean {self.mean} and std {self.std} do not normalise {self.channels} channels; "
                "give one number a channel, std above 0"
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
                f"the model was given pixels of shape {pixels.shape}; "
                f"it needs (images, {', '.join(map(str, wanted))})"
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
