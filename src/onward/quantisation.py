"""Store side-information in fewer bytes: float16, or int8 with one scale a dimension.

What a format loses is small against what an image differs from another, so side-information of
twice or four times the dimensions fits into the same bytes. A quantisation is fitted once, on
embeddings of old data, and applied to every item's embedding before it is stored. Transformations
are fitted on what is stored. Nothing here knows of models, galleries or images.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float32

from onward.arrays import as_weights
from onward.artifacts import digest
from onward.errors import EmbeddingsError, SpaceMismatchError
from onward.spaces import LARGEST_CODE, Embeddings, Space, Vectors

DIGITS = 8  # of the digest, in a space's name
ROOM = 5.0
"""An int8 scale reaches at least so many times the root mean square of its dimension: images that
were not fitted on lie farther out."""
LEAST_CODES = 2.0
"""Least number of int8 codes that make up the root mean square of a dimension."""
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


@dataclass(frozen=True, eq=False)
class Quantisation:
    """How the vectors of one space are brought into a smaller number format.

    In float16, a vector becomes the nearest one that float16 holds. In int8, each number becomes
    the code `round(x / scale)`, from -127 to 127, with one scale a dimension. The codes are used as
    they are: a transformation is fitted on them, and its first layer absorbs the scales. What
    lies beyond the format is clipped.

    Attributes:
        of: the space of the vectors that come in, in float32.
        format: "float16" or "int8".
        scale: of int8, what each dimension is divided by, above 0; None for float16.

    Raises:
        EmbeddingsError: if these do not fit together.
    """

    of: Space
    format: Literal["float16", "int8"]
    scale: Float32[np.ndarray, " dim"] | None = None

    def __post_init__(self) -> None:
        if self.of.format != "float32":
            raise EmbeddingsError(
                f"{self.of} is quantised already",
                "quantise the float32 embeddings it was made from",
            )
        if self.format not in ("float16", "int8"):
            raise EmbeddingsError(
                f"embeddings cannot be quantised to {self.format!r}",
                "choose 'float16' or 'int8', or leave them as they are in float32",
            )
        shape = None if self.scale is None else np.shape(self.scale)
        if shape != (None if self.format == "float16" else (self.of.dim,)):
            raise EmbeddingsError(
                f"a scale of shape {shape} does not quantise {self.of} to {self.format}",
                needed=f"int8 needs one of shape ({self.of.dim},), float16 needs None",
            )
        if self.scale is not None:
            kept = as_weights(self.scale, "scale of a quantisation", EmbeddingsError)
            if not (np.isfinite(kept) & (kept > 0)).all():
                raise EmbeddingsError(
                    "int8 needs finite scales above 0",
                    "give dimensions that are always 0 the scale 1",
                )
            object.__setattr__(self, "scale", kept)

    @cached_property
    def space(self) -> Space:
        """The space of the quantised vectors: another scale is another space."""
        scales = b"" if self.scale is None else self.scale.astype("<f4").tobytes()
        minted = digest(self.of.name.encode(), self.format.encode(), scales)[:DIGITS]
        given = self.of.name.rpartition("@")[0] or self.of.name
        name = f"{given}-{self.format}@{minted}"
        return Space(name, self.of.dim, self.of.metric, self.format)

    def apply(self, embeddings: Embeddings) -> Embeddings:
        """Return the quantised embeddings in `space`; ids and labels are kept.

        Raises:
            SpaceMismatchError: if the embeddings are in another space than `of`.
        """
        if embeddings.space != self.of:
            raise SpaceMismatchError(
                f"the embeddings are in {embeddings.space}, but the quantisation was fitted on "
                f"{self.of}",
                "its scales mean nothing elsewhere. Give embeddings in that space, or "
                "fit a quantisation on old data in theirs",
            )
        quantised = self.apply_array(embeddings.vectors)
        made: Embeddings = replace(embeddings, vectors=quantised, space=self.space)
        return made

    def apply_array(self, vectors: Vectors) -> Vectors:
        """Return the quantised vectors, as float32; the caller vouches for the space.

        What is NaN or infinite stays so, for `Embeddings` to refuse it.
        """
        if self.scale is None:
            held = np.clip(vectors, -LARGEST_FLOAT16, LARGEST_FLOAT16).astype(np.float16)
        else:
            with np.errstate(over="ignore"):  # what overflows is clipped
                codes = np.clip(np.rint(vectors / self.scale), -LARGEST_CODE, LARGEST_CODE)
            held = codes + 0  # -0 becomes 0
        kept: Vectors = np.where(np.isfinite(vectors), held, vectors).astype(np.float32)
        return kept


def fit_quantisation(embeddings: Embeddings, format: Literal["float16", "int8"]) -> Quantisation:
    """Return the quantisation of a space, fitted on embeddings of old data.

    In int8 no value seen is clipped, nor any up to `ROOM` times the root mean square of its
    dimension. All dimensions have the scale of the widest one, so that codes keep the proportions
    of the vectors, which networks learn from; but narrow dimensions, in which that scale would
    leave fewer than `LEAST_CODES` codes a root mean square, have finer ones.

    Args:
        embeddings: of old data, in float32; the more items, the better the scales.
        format: "float16" takes half the bytes of float32, "int8" a quarter.

    Raises:
        EmbeddingsError: if there are no embeddings, they are quantised already, the format is
            unknown, or float16 does not hold their values.
    """
    if not len(embeddings):
        raise EmbeddingsError(
            f"a quantisation of {embeddings.space} cannot be fitted on no embeddings",
            "give some of old data",
        )
    if format != "int8":
        fitted = Quantisation(embeddings.space, format)
        largest = float(np.abs(embeddings.vectors).max())
        if largest > LARGEST_FLOAT16:
            raise EmbeddingsError(
                f"float16 holds numbers up to {LARGEST_FLOAT16:g}, {embeddings.space} has "
                f"{largest:g}",
                "choose 'int8', whose scales are fitted",
            )
        return fitted
    values = embeddings.vectors.astype(np.float64)
    deviation = np.sqrt((values**2).mean(axis=0))
    finest = np.maximum(np.abs(values).max(axis=0), ROOM * deviation) / LARGEST_CODE
    scale = np.clip(deviation / LEAST_CODES, finest, finest.max()).astype(np.float32)
    usable = scale > np.finfo(np.float32).tiny
    return Quantisation(embeddings.space, "int8", np.where(usable, scale, np.float32(1)))
