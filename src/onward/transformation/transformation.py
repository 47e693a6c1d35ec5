"""The transformation `h(old, side) -> new` that carries stored vectors into a new space.

A transformation is frozen: sums of parallel networks of dense layers, between named spaces.
onnxruntime applies it, the same rows for any batching; a NumPy reference says what it should give.
Nothing here knows how it was fitted, and nothing reads an image.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64

from onward.arrays import as_weights
from onward.artifacts import (
    Artifact,
    canonical_json,
    digest,
    digest_arrays,
    read_artifact,
    write_artifact,
)
from onward.errors import ArtifactError, OnwardError, SpaceMismatchError, TransformationError
from onward.fusion import Serving
from onward.spaces import LENGTHS, Embeddings, Origin, Space, has_length
from onward.transformation.networks import (
    BLOCK_ROWS,
    ONNX_OPSET,
    Dense,
    Network,
    Step,
    Uncertainty,
    arrays_of,
    check_steps,
    describe_steps,
    layers_of,
    open_session,
    rebuild_steps,
    run_in_blocks,
    run_steps,
    write_graph,
)

KIND = "transformation"
ONNX_FILE = "model.onnx"
OUT_OF_FOLD, SERVING = "out_of_fold", "serving"

NOT_FINITE = "the transformation gives NaN or infinite numbers"
NO_DIRECTION = "the transformation gives the zero vector, which has no direction"
NO_LENGTH = (
    "the transformation gives a vector that is too long, or too short for the cosine; a gallery "
    f"needs {LENGTHS}"
)
"""Why an item gets no vector in the new space."""

CARD = """# Transformation {direction}

Carries stored vectors into a new embedding space. It reads no image.

| | |
| --- | --- |
| old space (goes in) | `{of.old}` |
| side-information (goes in) | {side} |
| new space (comes out) | `{of.new}` |
| parameters | {of.parameters:,} |
| bytes | {size:,} |
| multiply-adds an item | {of.macs:,} |
| digest | `{of.digest}` |

A whole gallery: `onward upgrade GALLERY TRANSFORMATION`. Some embeddings, in Python:

```python
from onward.spaces import Embeddings
from onward.transformation import Transformation

h = Transformation.load("TRANSFORMATION")  # this directory
new = h.apply(Embeddings.load("old.parquet"){load_side})
```

Elsewhere: `{file}` (opset {opset}) takes {inputs} as float32, one row an item, and gives
{outputs}.

Made by:

```json
{made_by}
```
"""
"""What is said of one to people, with places for what is particular."""


@dataclass(frozen=True, eq=False)
class Carried:
    """What a transformation makes of some items.

    Attributes:
        embeddings: in the new space, of the items that get a vector, in the order given.
        rows: where these stand among the items given.
        left: of the others, by id: why they get none.
    """

    embeddings: Embeddings
    rows: Int64[np.ndarray, " carried"]
    left: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Transformation:
    """A map of vectors from the old space, with side-information or without, to the new space.

    Attributes:
        old: the space of the vectors that go in.
        side: the space of the side-information that goes in with them, if any.
        new: the space of the vectors that come out.
        steps: applied one after the other; more than one where transformations were composed.
        made_by: recipe, seed, versions, digest of the data: plain JSON values.
        uncertainty: from a new vector to how unsure it is, one number, if that was fitted.
        out_of_fold: of items that it was fitted on and that a gallery may hold: what was made of
            each by a transformation that had not seen it. They stand for what it would give if it
            were as unknown with them as with the rest of the gallery; the digest is not theirs.
        serving: what to serve once a gallery is carried over, if that was measured; the digest is
            not of it.

    Raises:
        TransformationError: if the layers do not chain from old (and side) to new, or hold values
            that are not finite; the message names the layer.
    """

    old: Space
    side: Space | None
    new: Space
    steps: tuple[Step, ...]
    made_by: Mapping[str, Any] = field(default_factory=dict)
    uncertainty: Uncertainty | None = None
    out_of_fold: Embeddings | None = None
    serving: Serving | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "made_by", _plain(self.made_by))
        dim = check_steps(self.steps, self.old.dim, None if self.side is None else self.side.dim)
        if dim != self.new.dim:
            raise TransformationError(
                f"the layers give {dim} numbers, but {self.new} has {self.new.dim} dimensions",
                needed="the last layer needs as many rows as the new space has dimensions",
            )
        if self.uncertainty is not None and len(self.uncertainty.middle) != dim:
            raise TransformationError(
                f"the uncertainty is of vectors of {len(self.uncertainty.middle)} numbers, and "
                f"{self.new} has {dim} dimensions",
                "fit it on what the transformation gives",
            )
        if self.out_of_fold is not None and self.out_of_fold.space != self.new:
            raise SpaceMismatchError(
                f"the out-of-fold vectors are in {self.out_of_fold.space}, the transformation "
                f"leads to {self.new}",
                "give what it makes, in the space that it leads to",
            )
        pair = None if self.serving is None else self.serving.fusion
        if pair is not None and (pair.old, pair.new) != (self.old, self.new):
            raise SpaceMismatchError(
                f"{pair} is not a pair to serve after the transformation {_direction(self)}",
                "give the pair of the space that it starts from and the one that it leads to",
            )

    @cached_property
    def digest(self) -> str:
        """Digest of the spaces and the layers: equal for equal maps, whatever made them."""
        described = canonical_json(_config(self))
        return digest(described, digest_arrays(arrays_of(self.steps, self.uncertainty)).encode())

    @property
    def parameters(self) -> int:
        """How many numbers the layers hold, four bytes each."""
        return sum(array.size for array in arrays_of(self.steps, self.uncertainty).values())

    @property
    def macs(self) -> int:
        """How many multiplications, each with an addition, one item costs."""
        return sum(layer.weight.size for _, layer in layers_of(self.steps))

    def apply(self, old: Embeddings, side: Embeddings | None = None) -> Embeddings:
        """Return the embeddings in the new space, by onnxruntime; ids and labels are kept.

        Args:
            old: what is to be carried over.
            side: the side-information of the same items in the same order.

        Raises:
            SpaceMismatchError: if vectors are not in the transformation's spaces.
            TransformationError: if side-information is missing or not wanted, or the ids of `old`
                and `side` differ.
            EmbeddingsError: if an item's vector comes out NaN or infinite, or zero where the metric
                is the cosine; `carry` leaves such items out.
        """
        vectors = self._run(old, side)
        origin: Origin = "upgraded"
        origins = (origin,) * len(old)
        return Embeddings(old.ids, vectors, self.new, old.labels, old.class_names, origins)

    def carry(self, old: Embeddings, side: Embeddings | None = None) -> Carried:
        """Return what `apply` does of the items that get a vector, and why the others get none.

        An item gets none if its vector comes out NaN, infinite, or so long that no index takes it,
        or, where the metric of the new space is the cosine, zero or too short. The others are as
        `apply` makes them, bit for bit.

        Args:
            old: what is to be carried over.
            side: the side-information of the same items in the same order.

        Raises:
            SpaceMismatchError: as `apply` does.
            TransformationError: as `apply` does.
        """
        made = self._run(old, side)
        sound = has_length(made, self.new)  # false of what is NaN or infinite
        rows, whole = np.flatnonzero(sound), bool(sound.all())
        kept, vectors = (old, made) if whole else (old.select(rows), made[rows])
        left = {old.ids[row]: _why_left(made[row]) for row in np.flatnonzero(~sound).tolist()}
        embeddings = Embeddings(kept.ids, vectors, self.new, kept.labels, kept.class_names)
        return Carried(embeddings, rows, left)

    def uncertainties(
        self, old: Embeddings, side: Embeddings | None = None
    ) -> Float32[np.ndarray, " item"]:
        """Return how unsure the transformation is of each item: larger is less sure.

        The logarithm of the error it expects, as a share of the new vector's distance from the
        middle, up to a constant (see `Uncertainty`): only the order means anything.
        Infinite where an item gets no vector; see `carry`.

        Raises:
            SpaceMismatchError: as `carry` does.
            TransformationError: as `carry` does, and if no uncertainty was fitted.
        """
        if self.uncertainty is None:
            raise TransformationError(
                f"the transformation {_direction(self)} was fitted without uncertainties",
                "fit it again with uncertainty=True",
            )
        carried, unsure = self.carry(old, side), np.full(len(old), np.inf, np.float32)
        unsure[carried.rows] = self.uncertainty.of(carried.embeddings.vectors)
        return unsure

    def apply_reference(self, old: Embeddings, side: Embeddings | None = None) -> Embeddings:
        """Return what `apply` should: the layers in NumPy, computed in float64."""
        _check_inputs(self, old, side)
        vectors = np.empty((len(old), self.new.dim), np.float32)
        for start in range(0, len(old), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            aside = None if side is None else side.vectors[rows].astype(np.float64)
            with np.errstate(over="ignore"):  # what overflows is refused as infinite
                vectors[rows] = run_steps(self.steps, old.vectors[rows].astype(np.float64), aside)
        return Embeddings(old.ids, vectors, self.new, old.labels, old.class_names)

    def to_onnx(self) -> bytes:
        """Return the ONNX graph: inputs "old" (and "side"), output "new", any number of rows.

        With an uncertainty it is a second output, "uncertainty", one number a row.
        """
        inputs = {"old": self.old} | ({} if self.side is None else {"side": self.side})
        return write_graph(self.steps, inputs, self.new, self.digest, self.uncertainty)

    def save(self, directory: Path | str) -> None:
        """Write `config.json`, `model.safetensors`, `model.onnx` and a card.

        Equal transformations give equal bytes.

        Raises:
            ArtifactError: if something else stands in the way.
        """
        config = {**_config(self), "digest": self.digest, "onnx_opset": ONNX_OPSET}
        arrays, files = arrays_of(self.steps, self.uncertainty), {ONNX_FILE: self.to_onnx()}
        if self.out_of_fold is not None:
            config |= {OUT_OF_FOLD: list(self.out_of_fold.ids)}
            arrays |= {OUT_OF_FOLD: self.out_of_fold.vectors}
        if self.serving is not None:
            config |= {SERVING: self.serving.to_json()}
        oldest = 1 if all(step.is_format_1 for step in self.steps) else 2
        held = Artifact(KIND, config, arrays, self.made_by, _card(self), files, oldest)
        write_artifact(directory, held)

    @classmethod
    def load(cls, directory: Path | str) -> "Transformation":
        """Read what `save` wrote.

        Raises:
            ArtifactError: if it is missing, damaged or holds something else.
        """
        artifact = read_artifact(directory, KIND)
        config = artifact.config
        try:
            old, new = Space.from_json(config["old"]), Space.from_json(config["new"])
            side = None if config["side"] is None else Space.from_json(config["side"])
            steps = rebuild_steps(config["steps"], artifact.arrays)
            knows = bool(config.get("uncertainty"))
            unsure = Uncertainty.from_arrays(artifact.arrays) if knows else None
            unseen = None
            if OUT_OF_FOLD in config:
                ids = tuple(config[OUT_OF_FOLD])
                unseen = Embeddings(ids, artifact.arrays[OUT_OF_FOLD], new)
            serving = Serving.from_json(config[SERVING]) if SERVING in config else None
            loaded = cls(old, side, new, steps, artifact.made_by, unsure, unseen, serving)
            stated = config["digest"]
        except (KeyError, TypeError, OnwardError) as error:
            raise ArtifactError(
                f"{directory} holds no whole transformation: {error}", "fit it again"
            ) from error
        if loaded.digest != stated:
            raise ArtifactError(
                f"{directory} states the digest {stated[:8]}, but holds {loaded.digest[:8]}",
                "restore it from a copy or fit it again",
            )
        return loaded

    def to_json(self) -> dict[str, Any]:
        """Return what it maps, its size and what made it, as plain values."""
        return {
            **_config(self),
            "digest": self.digest,
            "parameters": self.parameters,
            "bytes": 4 * self.parameters,
            "macs": self.macs,
            "made_by": dict(self.made_by),
        }

    def __str__(self) -> str:
        side = "no side-information" if self.side is None else f"side-information in {self.side}"
        return (
            f"transformation {self.digest[:8]}: {self.old} -> {self.new}, {side}; "
            f"{self.parameters:,} parameters, {4 * self.parameters:,} bytes, "
            f"{self.macs:,} MACs an item"
        )

    @cached_property
    def _session(self) -> Any:
        return open_session(self.to_onnx())

    def _run(self, old: Embeddings, side: Embeddings | None) -> Float32[np.ndarray, "item new"]:
        """Return the new vector of each item, whatever it holds; the same in any batch."""
        _check_inputs(self, old, side)
        inputs = {"old": old.vectors} | ({} if side is None else {"side": side.vectors})
        return run_in_blocks(self._session, inputs, self.new.dim)


def compose(first: Transformation, second: Transformation) -> Transformation:
    """Return the transformation that applies `first` and then `second`.

    A direct fit from the first space to the last is better wherever old embeddings are still
    stored: every link of a chain loses a little.

    Raises:
        SpaceMismatchError: if `second` does not start where `first` ends, or needs other
            side-information than `first`.
    """
    if first.new != second.old:
        raise SpaceMismatchError(
            f"the first transformation ends in {first.new}, the second starts from {second.old}",
            "give them in the order in which they are applied, the second from where the first "
            "ends",
        )
    if first.side is not None and second.side is not None and first.side != second.side:
        raise SpaceMismatchError(
            f"the first transformation uses side-information in {first.side}, the second in "
            f"{second.side}",
            f"a composed one takes one only. Apply them one after the other, or fit "
            f"{first.old.name} -> {second.new.name} directly",
        )
    parts = [
        {"direction": _direction(part), "digest": part.digest, "made_by": dict(part.made_by)}
        for part in (first, second)
    ]
    side = second.side if first.side is None else first.side
    made_by = {"recipe": "compose", "parts": parts}
    steps = first.steps + second.steps
    return Transformation(first.old, side, second.new, steps, made_by, second.uncertainty)


def linear(
    old: Space,
    side: Space | None,
    new: Space,
    weight: Float[np.ndarray, "new old_and_side"],
    bias: Float[np.ndarray, " new"],
    *,
    made_by: Mapping[str, Any],
) -> Transformation:
    """Return the transformation `weight @ concatenate(old, side) + bias`, such as ridge gives."""
    whole, shift = (
        as_weights(values, f"{name} of a transformation", TransformationError)
        for name, values in (("weight", weight), ("bias", bias))
    )
    layer = Dense(whole, shift, relu=False)
    step = Step((Network((), (), (layer,), uses_side=side is not None),))
    return Transformation(old, side, new, (step,), made_by)


def mean(transformations: Sequence[Transformation]) -> Transformation:
    """Return the mean of what several transformations give, as the sum of all their parts.

    Each errs in its own way, so their mean errs less than they do: a network bends towards what it
    has learned from, a linear map cannot bend at all. How unsure the mean is remains to be fitted.

    Raises:
        SpaceMismatchError: if they are not all between the same spaces.
        TransformationError: if there are none, or one was composed, or ends in another layer than
            a linear one, so that it has no weights to divide.
    """
    if not transformations:
        raise TransformationError(
            "the mean of no transformations was asked for", "give at least one"
        )
    first, parts = transformations[0], list[Network]()
    for other in transformations:
        if (other.old, other.side, other.new) != (first.old, first.side, first.new):
            raise SpaceMismatchError(
                f"a mean was asked for of {_direction(first)} and {_direction(other)} (with "
                f"side-information {first.side} and {other.side})",
                "give transformations between the same spaces",
            )
        for part in other.steps[0].parts:
            last = part.mixer[-1] if part.mixer else None
            if len(other.steps) > 1 or not isinstance(last, Dense) or last.relu:
                raise TransformationError(
                    f"the mean divides the last layer of each part, and {_direction(other)} has "
                    "several steps, or a part that does not end in a linear layer",
                    "give what fit makes, such as ridge and mlp",
                )
            share = np.float32(len(transformations))
            divided = Dense(last.weight / share, last.bias / share, relu=False)
            parts.append(replace(part, mixer=(*part.mixer[:-1], divided)))
    return Transformation(first.old, first.side, first.new, (Step(tuple(parts)),))


def without_ids(made_by: Any) -> Any:
    """Return what made it without lists of ids: `config.json` has them, a page has no room."""
    if not isinstance(made_by, dict):
        return made_by
    return {name: without_ids(value) for name, value in made_by.items() if name != "ids"}


def _why_left(made: np.ndarray) -> str:
    if not np.isfinite(made).all():
        return NOT_FINITE
    return NO_LENGTH if made.any() else NO_DIRECTION


def _direction(of: Transformation) -> str:
    return f"{of.old.name} -> {of.new.name}"


def _config(of: Transformation) -> dict[str, Any]:
    """What it maps and how, as plain values, without the arrays.

    What is not there is not named, so that digests stay what they were before it could be.
    """
    return {
        "direction": _direction(of),
        "old": of.old.to_json(),
        "side": None if of.side is None else of.side.to_json(),
        "new": of.new.to_json(),
        "steps": describe_steps(of.steps),
    } | ({} if of.uncertainty is None else {"uncertainty": True})


def _plain(made_by: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(canonical_json(dict(made_by))))
    except (TypeError, ValueError) as error:
        raise TransformationError(
            f"made_by cannot be written as JSON: {error}",
            "give strings, finite numbers, lists and mappings only",
        ) from error


def _check_inputs(of: Transformation, old: Embeddings, side: Embeddings | None) -> None:
    if old.space != of.old:
        raise SpaceMismatchError(
            f"the old embeddings are in {old.space}, but the transformation goes from {of.old} to "
            f"{of.new}",
            "it was probably given the wrong way round; embeddings that are upgraded already need "
            "nothing"
            if old.space == of.new
            else f"give embeddings in {of.old.name} first, and side-information second",
        )
    given, wanted = None if side is None else side.space, of.side
    if given != wanted:
        error = TransformationError if given is None or wanted is None else SpaceMismatchError
        fitted = "without any" if wanted is None else f"with side-information in {wanted}"
        raise error(
            "side-information " + ("is missing" if given is None else f"was given in {given}"),
            "leave it out"
            if wanted is None
            else "give the embeddings of the same items that are stored in that space",
            needed=f"the transformation {_direction(of)} was fitted {fitted}",
        )
    if side is not None and old.ids != side.ids:
        pairs = zip_longest(map(repr, old.ids), map(repr, side.ids), fillvalue="nothing")
        row, (here, there) = next((row, pair) for row, pair in enumerate(pairs) if len({*pair}) > 1)
        raise TransformationError(
            f"row {row} is item {here} in the old embeddings and {there} in the side-information, "
            f"which are of {len(old)} and {len(side)} items",
            "give both for the same items in the same order: side.align(old.ids)",
        )


def _card(of: Transformation) -> str:
    return CARD.format(
        direction=_direction(of),
        of=of,
        side="none" if of.side is None else f"`{of.side}`",
        load_side="" if of.side is None else ', Embeddings.load("side.parquet")',
        size=4 * of.parameters,
        file=ONNX_FILE,
        opset=ONNX_OPSET,
        inputs='"old"' if of.side is None else '"old" and "side"',
        outputs='"new"' if of.uncertainty is None else '"new" and "uncertainty"',
        made_by=canonical_json(without_ids(dict(of.made_by))).decode(),
    )
