"""Networks of dense layers as plain arrays: what a transformation is made of.

A `Step` takes an old vector, and side-information where it uses any, and gives a new one. Here it
is checked, named, stored as arrays, and computed in NumPy as the reference for every faster way.
Nothing here knows of spaces, ids or onnxruntime.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from onward.arrays import as_weights
from onward.errors import TransformationError

Rows64 = Float64[np.ndarray, "item _"]

UNCERTAINTY = ("uncertainty.weight", "uncertainty.bias", "uncertainty.middle")
NEAREST = 1e-12
"""No squared distance from the middle counts as less: its logarithm is to be finite."""


@dataclass(frozen=True, eq=False)
class Dense:
    """A layer `weight @ x + bias`, then ReLU where `relu` is true; BatchNorm is folded into it.

    Weight is (out, in), bias (out,); both are copied and read-only.

    Raises:
        TransformationError: if weight and bias do not fit together.
    """

    weight: Float32[np.ndarray, "out in"]
    bias: Float32[np.ndarray, " bias"]
    relu: bool

    def __post_init__(self) -> None:
        for name in ("weight", "bias"):
            what = f"{name} of a transformation"
            values = as_weights(getattr(self, name), what, TransformationError)
            object.__setattr__(self, name, values)
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise TransformationError(
                f"a dense layer has a weight of shape {self.weight.shape} and a bias of shape "
                f"{self.bias.shape}; give a weight of (out, in) and a bias of (out,)"
            )


@dataclass(frozen=True, eq=False)
class Residual:
    """What its inner layers give, added to what they are fed: `x + inner(x)`.

    Raises:
        TransformationError: if there are no inner layers.
    """

    inner: tuple[Dense, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", tuple(self.inner))
        if not self.inner:
            raise TransformationError("a residual has no inner layers; give at least one")


Layer = Dense | Residual


@dataclass(frozen=True, eq=False)
class Step:
    """One network from two vectors to one: `mixer(concatenate(old_branch, side_branch))`.

    With a short cut, `short_cut(concatenate(old, side))` is added to that.

    Attributes:
        old_branch: layers on the vector that is to be carried over; none means as it is.
        side_branch: layers on the side-information. Where the step uses no side-information they
            are fed the old vector, and where there are none of them either, nothing is
            concatenated.
        mixer: layers on what the branches give.
        uses_side: whether the step reads side-information.
        short_cut: a layer from what the step is fed, the vector and the side-information that it
            uses, to what it gives.
    """

    old_branch: tuple[Layer, ...]
    side_branch: tuple[Layer, ...]
    mixer: tuple[Layer, ...]
    uses_side: bool
    short_cut: Dense | None = None

    @property
    def branches(self) -> dict[str, tuple[Layer, ...]]:
        """The three chains of layers by name, in the order in which they run."""
        return {"old": self.old_branch, "side": self.side_branch, "mixer": self.mixer}

    @property
    def concatenates(self) -> bool:
        """Whether the mixer is fed what both branches give, not the first one's alone."""
        return self.uses_side or bool(self.side_branch)


def layers_of(steps: Sequence[Step]) -> Iterator[tuple[str, Dense]]:
    """Give every dense layer with its name, in the order in which they run.

    A name is such as `steps.0.old.1`, `steps.0.mixer.1.inner.0` within a residual, or
    `steps.0.short_cut`.
    """
    for number, step in enumerate(steps):
        for branch, layers in step.branches.items():
            yield from _named(f"steps.{number}.{branch}", layers)
        if step.short_cut is not None:
            yield f"steps.{number}.short_cut", step.short_cut


def check_steps(steps: Sequence[Step], old_dim: int, side_dim: int | None) -> int:
    """Return how many numbers the steps give, or refuse steps that cannot be run.

    Args:
        steps: run one after the other; all that use side-information are fed the same.
        old_dim: how many numbers the first step is fed.
        side_dim: how many numbers the side-information has; None if there is none.

    Raises:
        TransformationError: naming the layer that does not fit the one before it, or that holds
            NaN or infinite values.
    """
    if not steps:
        raise TransformationError("a transformation has no steps; give at least one")
    if any(step.uses_side for step in steps) != (side_dim is not None):
        has, does = ("no ", "one does") if side_dim is None else ("a ", "none does")
        raise TransformationError(
            f"there is {has}space for side-information, but of the steps {does} use it; "
            "give a side space exactly where a step has uses_side=True"
        )
    for name, layer in layers_of(steps):
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            raise TransformationError(
                f"layer {name} holds NaN or infinite values, so the fit went astray; fit again "
                "with a smaller learning rate, or look for wild values in the embeddings"
            )
    dim = old_dim
    for number, step in enumerate(steps):
        second = side_dim if step.uses_side and side_dim is not None else dim
        mixed = _chained(f"steps.{number}.old", step.old_branch, dim)
        if step.concatenates:
            mixed += _chained(f"steps.{number}.side", step.side_branch, second)
        given = _chained(f"steps.{number}.mixer", step.mixer, mixed)
        if step.short_cut is not None:
            wanted = dim + second if step.uses_side else dim
            _check_short_cut(f"steps.{number}.short_cut", step.short_cut, wanted, given)
        dim = given
    return dim


def run_steps(steps: Sequence[Step], old: Rows64, side: Rows64 | None) -> Rows64:
    """Return what the steps give, computed in float64: the reference."""
    current = old
    for step in steps:
        mixed = _run_layers(step.old_branch, current)
        if step.concatenates:
            second = side if step.uses_side and side is not None else current
            mixed = np.concatenate([mixed, _run_layers(step.side_branch, second)], axis=1)
        given = _run_layers(step.mixer, mixed)
        if step.short_cut is not None:
            fed = [current, side] if step.uses_side and side is not None else [current]
            given = given + _run_layers((step.short_cut,), np.concatenate(fed, axis=1))
        current = given
    return current


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """How unsure a transformation is of a new vector that it gave, as one number.

    The logarithm of the squared error that it expects, `s = w^T z + b` as FastFill learns it, less
    that of the vector's squared distance from the middle of all new embeddings. An error turns a
    vector that lies near the middle, and so near to many others, farther round: by s alone,
    embedding the most uncertain items again hardly helped (lab/LOG.md).

    Attributes:
        layer: from a new vector to s.
        middle: the mean of the new embeddings that the transformation was fitted on.

    References:
        Jaeckle et al., FastFill: Efficient Compatible Model Update, ICLR 2023, arXiv 2303.04766.

    Raises:
        TransformationError: if they do not fit together or hold NaN or infinite values.
    """

    layer: Dense
    middle: Float32[np.ndarray, " new"]

    def __post_init__(self) -> None:
        middle = as_weights(self.middle, "middle of a transformation", TransformationError)
        object.__setattr__(self, "middle", middle)
        check_uncertainty(self, len(middle))

    def of(self, vectors: Float32[np.ndarray, "item new"]) -> Float32[np.ndarray, " item"]:
        """Return the number of each vector, computed in float64.

        A row's number is the same whatever rows stand beside it. It may be infinite.
        """
        rows = vectors.astype(np.float64)
        error = (rows * self.layer.weight[0]).sum(axis=1) + self.layer.bias[0]
        distance = ((rows - self.middle) ** 2).sum(axis=1)
        with np.errstate(over="ignore"):
            found: np.ndarray = (error - np.log(np.maximum(distance, NEAREST))).astype(np.float32)
        return found

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Weight, bias and middle by the names under which they are stored."""
        stored = self.layer.weight, self.layer.bias, self.middle
        return dict(zip(UNCERTAINTY, stored, strict=True))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Uncertainty":
        """Return what `arrays` gave.

        Raises:
            KeyError: if one is missing.
        """
        weight, bias, middle = (arrays[name] for name in UNCERTAINTY)
        return cls(Dense(weight, bias, relu=False), middle)


def check_uncertainty(uncertainty: Uncertainty, dim: int) -> None:
    """Refuse one that does not lead from new vectors of a dimension to one number.

    Raises:
        TransformationError: if so, or if it holds NaN or infinite values.
    """
    layer, middle = uncertainty.layer, uncertainty.middle
    if layer.weight.shape != (1, dim) or layer.relu or middle.shape != (dim,):
        raise TransformationError(
            f"the uncertainty has a weight of shape {layer.weight.shape}, a middle of shape "
            f"{middle.shape}, and relu is {layer.relu}; give a weight of (1, {dim}), from a new "
            f"vector to one number, a middle of ({dim},), and no relu"
        )
    if not all(np.isfinite(array).all() for array in (layer.weight, layer.bias, middle)):
        raise TransformationError(
            "the uncertainty holds NaN or infinite values, so the fit went astray; fit again with "
            "a smaller learning rate"
        )


def arrays_of(
    steps: Sequence[Step], uncertainty: Uncertainty | None = None
) -> dict[str, np.ndarray]:
    """Return all weights and biases by name, such as `steps.0.old.1.weight`."""
    arrays: dict[str, np.ndarray] = {}
    for name, layer in layers_of(steps):
        arrays |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
    if uncertainty is not None:
        arrays |= uncertainty.arrays
    return arrays


def describe_steps(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return what `arrays_of` leaves out, as plain values: how the layers are put together."""
    return [
        {"uses_side": step.uses_side}
        | {branch: _describe(layers) for branch, layers in step.branches.items()}
        | ({} if step.short_cut is None else {"short_cut": _describe((step.short_cut,))[0]})
        for step in steps
    ]


def rebuild_steps(
    described: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> tuple[Step, ...]:
    """Return the steps that `describe_steps` and `arrays_of` wrote.

    Raises:
        KeyError: if a part is missing.
    """

    def dense(name: str, layer: Mapping[str, Any]) -> Dense:
        return Dense(arrays[f"{name}.weight"], arrays[f"{name}.bias"], bool(layer["relu"]))

    def rebuilt(name: str, layer: Mapping[str, Any]) -> Layer:
        if "residual" not in layer:
            return dense(name, layer)
        inner = enumerate(layer["residual"])
        return Residual(tuple(dense(f"{name}.inner.{i}", each) for i, each in inner))

    def branch(number: int, which: str) -> tuple[Layer, ...]:
        name = f"steps.{number}.{which}"
        return tuple(rebuilt(f"{name}.{i}", of) for i, of in enumerate(described[number][which]))

    def short_cut(number: int) -> Dense | None:
        layer = described[number].get("short_cut")
        return None if layer is None else dense(f"steps.{number}.short_cut", layer)

    return tuple(
        Step(
            branch(i, "old"),
            branch(i, "side"),
            branch(i, "mixer"),
            bool(step["uses_side"]),
            short_cut(i),
        )
        for i, step in enumerate(described)
    )


def _named(name: str, layers: Sequence[Layer]) -> Iterator[tuple[str, Dense]]:
    for i, layer in enumerate(layers):
        if isinstance(layer, Residual):
            yield from _named(f"{name}.{i}.inner", layer.inner)
        else:
            yield f"{name}.{i}", layer


def _describe(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    return [
        {"residual": _describe(layer.inner)}
        if isinstance(layer, Residual)
        else {"in": layer.weight.shape[1], "out": layer.weight.shape[0], "relu": layer.relu}
        for layer in layers
    ]


def _chained(name: str, layers: Sequence[Layer], dim: int) -> int:
    for number, layer in enumerate(layers):
        if isinstance(layer, Residual):
            given = _chained(f"{name}.{number}.inner", layer.inner, dim)
            if given != dim:
                raise TransformationError(
                    f"residual {name}.{number} is fed {dim} numbers, and its inner layers give "
                    f"{given}; give the last of them as many rows as the residual is fed"
                )
            continue
        if layer.weight.shape[1] != dim:
            raise TransformationError(
                f"layer {name}.{number} takes {layer.weight.shape[1]} numbers, but is fed {dim}; "
                "give it a weight of as many columns as it is fed"
            )
        dim = layer.weight.shape[0]
    return dim


def _check_short_cut(name: str, layer: Dense, fed: int, given: int) -> None:
    out, into = layer.weight.shape
    if (into, out) != (fed, given):
        raise TransformationError(
            f"the short cut {name} takes {into} numbers and gives {out}, where the step is fed "
            f"{fed} and its mixer gives {given}; give it a weight of ({given}, {fed})"
        )


def _run_layers(layers: Sequence[Layer], values: Rows64) -> Rows64:
    for layer in layers:
        if isinstance(layer, Residual):
            values = values + _run_layers(layer.inner, values)
            continue
        values = values @ layer.weight.T.astype(np.float64) + layer.bias
        values = np.maximum(values, 0) if layer.relu else values
    return values
