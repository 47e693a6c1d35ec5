"""What runs a model, from images or texts to vectors, and what it wants these to be."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from onward.arrays import as_numbers
from onward.artifacts import canonical_json, digest, digest_arrays
from onward.data import Items, load_images, open_payload, open_text
from onward.data.images import Pixels, central_box, to_pixels
from onward.data.payloads import Payload
from onward.errors import ModelError
from onward.models.layers import PooledStages
from onward.nn.specs import TIMM, BackboneSpec
from onward.plain import Plain, fields_of

Images = Float32[np.ndarray, "item channel height width"]
Vectors = Float32[np.ndarray, "item dim"]
Forward = Callable[[Any], tuple[Vectors, PooledStages | None]]
"""From pixels, or from texts, to vectors, and to the pooled stages where they were asked for."""
Precision = Literal["32-true", "bf16-mixed"]
Content = tuple[Mapping[str, np.ndarray], Mapping[str, bytes]]
"""What is saved of a model: arrays and files, by name."""

LARGEST_SIZE = 16_384  # a single image of float32 takes 3 GB then


@dataclass(frozen=True)
class InputSpec(Plain):
    """What a model wants its images to be.

    Images become what it says in one way, `onward.data.images.to_pixels`. All of it is part of the
    name of a model's space.

    Attributes:
        size: height and width in pixels; images are resized and cropped to it.
        channels: 1 for grey, 3 for colour.
        mean: subtracted from each channel, whose values are in [0, 1].
        std: what is left is divided by it; above 0.
        crop_share: side of the central square that is looked at, over the image's shorter side;
            above 0, and 1 at most. What is meant by "resize the shorter side to 256 pixels and crop
            the central 224" is size 224 and a share of 224 / 256 = 0.875.
        noun: what one of its items is called.

    Raises:
        ModelError: if a value is not what it should be, or they do not fit together.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_share: float = 1.0
    noun: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        size, channels = self.size, self.channels
        whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in (size, channels))
        if not whole or not 1 <= size <= LARGEST_SIZE or channels not in (1, 3):
            raise ModelError(
                f"a model cannot take images of {size!r} px and {channels!r} channels",
                "give one whole number for the height and width of a square, 1 to "
                f"{LARGEST_SIZE} px, and 1 (grey) or 3 (colour) channels. Export the model for "
                "square images if it takes others",
            )
        wrong = f"mean {self.mean!r} and std {self.std!r} do not normalise {channels} channels"
        do = "give one finite number a channel, such as (0.5, 0.5, 0.5), std above 0"
        for name, value in (("size", int(size)), ("channels", int(channels))):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "crop_share", _as_share(self.crop_share))
        for name in ("mean", "std"):
            given = getattr(self, name)
            numbers = as_numbers(given, np.float64, ModelError, wrong, do)
            fits = np.shape(given) == (channels,) and np.asarray(given).dtype != bool
            if not fits or not np.isfinite(numbers).all() or (name == "std" and min(numbers) <= 0):
                raise ModelError(wrong, do)
            object.__setattr__(self, name, tuple(numbers.tolist()))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            black_white = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
            extremes = self.normalise(black_white.repeat(self.channels, axis=1))
        if not np.isfinite(extremes).all():
            raise ModelError(
                f"mean {self.mean} and std {self.std} bring pixels beyond what float32 holds",
                "give the mean and the deviation of values in [0, 1]",
            )

    @classmethod
    def of_spec(cls, spec: BackboneSpec, given: "InputSpec | None" = None) -> "InputSpec":
        """Return what was given for a backbone, or what it wants.

        That is timm's own normalisation, or [-1, 1] for a small ResNet, of the largest central
        square.

        Raises:
            ModelError: if what was given does not fit the backbone.
        """
        if given is not None:
            if (given.size, given.channels) != (spec.size, spec.channels):
                raise ModelError(
                    f"the input is {given.size} px and {given.channels} channels, the backbone "
                    f"takes {spec.size} px and {spec.channels} channels",
                    "make them the same",
                )
            return given
        if spec.name.startswith(TIMM):
            from onward.nn.backbones import timm_normalisation

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

    def load(self, items: Items, rows: Sequence[int] | np.ndarray) -> Pixels:
        """Return the pixels of some items.

        Raises:
            DataError: if an image cannot be read.
        """
        return load_images(items, self.size, self.channels, rows, crop_share=self.crop_share)

    def open(self, payload: Payload, max_pixels: int) -> UInt8[np.ndarray, "channel height width"]:
        """Return the pixels of one payload.

        Raises:
            DataError: if the image cannot be read.
        """
        image = open_payload(payload, max_pixels)
        box = central_box(image.width, image.height, self.crop_share)
        return to_pixels(image, self.size, self.channels, box)

    def join(self, opened: Sequence[np.ndarray]) -> Pixels:
        """Return what was opened as one batch."""
        return np.stack(opened)

    def check(self, pixels: Any) -> None:
        """Refuse pixels of another size, and what is not pixels.

        Raises:
            ModelError: if size or channels differ.
        """
        wanted, shape = (self.channels, self.size, self.size), np.shape(pixels)
        if len(shape) != 4 or shape[1:] != wanted:
            raise ModelError(
                f"the model was given pixels of shape {shape}",
                needed=f"it needs (images, {', '.join(map(str, wanted))})",
            )

    @property
    def words(self) -> str:
        """What it says, for a person."""
        crop = f", {self.crop_share:.4g} of the shorter side" if self.crop_share != 1 else ""
        return f"{'grey' if self.channels == 1 else 'colour'} images of {self.size} px{crop}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values; the crop is left out where it is the whole square.

        So models that look at that, as all did once, keep the names of their spaces.
        """
        return fields_of(self, without=("crop_share",) if self.crop_share == 1 else ())

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "InputSpec":
        """Return what `to_json` wrote."""
        mean, std = tuple(fields["mean"]), tuple(fields["std"])
        return cls(fields["size"], fields["channels"], mean, std, fields.get("crop_share", 1.0))


def _as_share(given: Any) -> float:
    """Return the share of the shorter side that is looked at.

    Raises:
        ModelError: if it is none.
    """
    wrong = f"a model cannot look at {given!r} of an image's shorter side"
    do = "give a number above 0 and 1 at most, such as 224 / 256, or leave it out for all of it"
    share = as_numbers(given, np.float64, ModelError, wrong, do)
    if np.shape(given) or isinstance(given, bool) or not 0 < share.item() <= 1:
        raise ModelError(wrong, do)
    return float(share.item())


@dataclass(frozen=True)
class TextSpec(Plain):
    """What a model wants its texts to be. It is part of the name of a model's space.

    Attributes:
        max_tokens: so many tokens of a text are read, those that begin and end it among them.
        noun: what one of its items is called.
    """

    max_tokens: int
    noun: ClassVar[str] = "text"

    def load(self, items: Items, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Return some items' texts.

        Raises:
            DataError: if one cannot be read, or is an image.
        """
        return [items.text(int(row)) for row in rows]

    def open(self, payload: Payload, max_pixels: int) -> str:  # noqa: ARG002  # a text has none
        """Return the text of one payload.

        Raises:
            DataError: if it cannot be read, or is an image.
        """
        return open_text(payload)

    def join(self, opened: Sequence[str]) -> list[str]:
        """Return what was opened as one batch."""
        return list(opened)

    def check(self, texts: Any) -> None:
        """Refuse what is not a sequence of texts.

        Raises:
            ModelError: if it is something else.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ModelError(
                f"the model was given a {type(texts).__name__} that is not a list of texts",
                needed="it needs a list of strings",
            )

    @property
    def words(self) -> str:
        """What it says, for a person."""
        return f"texts of up to {self.max_tokens} tokens"


Spec = InputSpec | TextSpec


def read_spec(fields: dict[str, Any]) -> Spec:
    """Return what the `to_json` of a spec wrote."""
    return TextSpec(**fields) if "max_tokens" in fields else InputSpec.from_json(fields)


class Engine(ABC):
    """What runs a model. It never changes once it is made.

    Attributes:
        dim: dimensions of the embedding.
        stage_channels: channels of each stage that can be read; empty where none can.
        cells: along each side of the grid that stages are averaged over, unless another is asked
            for; 1 where there is no grid.
    """

    dim: int
    stage_channels: tuple[int, ...] = ()
    cells: int = 2

    def forward(self, input_spec: Spec, device: str, grid: int | None) -> Forward:
        """Return a function that embeds batches on a device, stages pooled to a grid if asked for.

        Raises:
            ModelError: if the device cannot be used, or there are no stages to read. The function
                raises it for pixels of another size, and for what is not one vector an image.
        """
        if grid is not None and not self.stage_channels:
            raise ModelError(
                "the outputs of the model's stages cannot be read",
                "use a side-information model, such as one trained by SimCLR",
                needed="side-information of kind layers needs a torch backbone",
            )
        run = self.start(input_spec, device, grid)

        def forward(batch: Any) -> tuple[Vectors, PooledStages | None]:
            input_spec.check(batch)
            output, pooled = run(batch)
            return self.check(output, len(batch), input_spec.noun), pooled

        return forward

    @abstractmethod
    def start(
        self, input_spec: Any, device: str, grid: int | None
    ) -> Callable[[Any], tuple[Any, PooledStages | None]]:
        """Return the function that `forward` checks, for items as the spec says.

        Raises:
            ModelError: if the device cannot be used.
        """

    def check(self, output: Any, count: int, noun: str) -> Vectors:
        """Return what the model gave as one float32 row an item, which a noun names.

        Raises:
            ModelError: if it is of another shape or no array; the message says what is needed.
        """
        given = f"the model was given {count} {noun}s and returned"
        shape = (count, self.dim)
        needed = f"it must return one row of {self.dim} numbers for each {noun}, shape {shape}"
        wrong = f"{given} a {type(output).__name__} that is not an array of numbers"
        vectors: Vectors = as_numbers(output, np.float32, ModelError, wrong, needed)
        if vectors.shape != shape:
            raise ModelError(f"{given} shape {vectors.shape}", needed)
        return vectors

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return `kind` and what else is needed, beside arrays and files, to make it again."""

    @abstractmethod
    def content(self) -> Content:
        """Return the weights to be saved, as arrays and as files.

        Raises:
            ModelError: if it cannot be saved.
        """

    @property
    def is_known(self) -> bool:
        """Whether all that makes the vectors is in `fingerprint`."""
        return True

    def fingerprint(self, input_spec: Spec) -> str:
        """Return a digest of all that makes the vectors: weights, architecture, normalisation.

        It is computed once for each input, for an engine never changes.
        """
        settings = canonical_json({"engine": self.to_json(), "input": input_spec.to_json()})
        if settings not in self._fingerprints:
            self._fingerprints[settings] = digest(settings, *self._said())
        return self._fingerprints[settings]

    @cached_property
    def _fingerprints(self) -> dict[bytes, str]:
        return {}

    def _said(self) -> Iterable[bytes]:
        """Return what of the engine makes the vectors, beside what `to_json` says."""
        arrays, files = self.content()
        return (digest_arrays(arrays).encode(), *files.values())


@dataclass(frozen=True, eq=False)
class CallableEngine(Engine):
    """A function of the user's, from pixels (uint8, B x C x H x W) to one vector an image.

    Attributes:
        declared: what the user says that tells it from every other function, such as a digest of
            its weights; None where its name alone does.
    """

    function: Callable[[Pixels], Any]
    dim: int
    declared: str | None = None

    def start(
        self,
        input_spec: InputSpec,  # noqa: ARG002
        device: str,  # noqa: ARG002  # a function of the user's computes where it wants to
        grid: int | None,  # noqa: ARG002
    ) -> Callable[[Pixels], tuple[Any, None]]:
        """Return the function."""
        return lambda pixels: (self.function(pixels), None)

    def to_json(self) -> dict[str, Any]:
        """Return its kind, and what was declared of it."""
        declared = {} if self.declared is None else {"digest": self.declared}
        return {"kind": "callable", **declared}

    @property
    def is_known(self) -> bool:
        """Whether a digest was declared."""
        return self.declared is not None

    def _said(self) -> Iterable[bytes]:
        return ()

    def content(self) -> Content:
        """Refuse: code cannot be saved without pickling it."""
        raise ModelError(
            "a model made from a callable cannot be saved, for code would have to be pickled",
            "export it to ONNX (torch.onnx.export) and use EmbeddingModel.from_onnx, or make it "
            "from the callable again in each program",
        )
