"""A fused pair of spaces, the old one and the new one, that answer a query together.

The query is embedded by both models, and the distance of an item is the weighted sum of its
distances in the two spaces, each divided by its scale: score fusion, CombSUM in the field's words.
Nothing here knows of galleries, rankings or transformations.

References:
    Fox and Shaw, Combination of Multiple Searches, TREC-2, 1994: CombSUM.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

from onward.errors import ConfigurationError, EmbeddingsError, SpaceMismatchError
from onward.labels import ClassNames, Labels
from onward.spaces import Embeddings, Ids, Metric, Origins, Space, check_same_space, places

Distances = Float32[np.ndarray, "query item"]
Serve = Literal["old", "new", "fused"]
NEAREST = 10
"""The number of nearest items by which gaps are measured; a third of the items if that is less."""
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Scale:
    """What the distances of one space are divided by, and what stands for a distance in the other.

    Distances of the metric l2 are squared.

    Attributes:
        std: the standard deviation of the distances of queries from items, above 0.
        gap: of the items that are nearest by this space, how much farther away they are in the
            other one, each distance divided by its own space's deviation. What lacks a vector
            there is taken to be that much farther away in it.

    Raises:
        ConfigurationError: if one of them is not a finite number, or the deviation is not above 0.
    """

    std: float
    gap: float

    def __post_init__(self) -> None:
        for name in ("std", "gap"):
            object.__setattr__(self, name, float(getattr(self, name)))  # NumPy's are not JSON
        if not (np.isfinite(self.std) and np.isfinite(self.gap) and self.std > 0):
            raise ConfigurationError(
                f"the distances of a space have the standard deviation {self.std!r}, with the gap "
                f"{self.gap!r} to the other, by which nothing can be fused",
                "measure them on pairs of items that are not all alike",
            )

    def to_json(self) -> dict[str, float]:
        """Return both as plain values."""
        return {"std": self.std, "gap": self.gap}


@dataclass(frozen=True)
class Fusion:
    """What a fused distance is made of: `w d_old / s_old + (1 - w) d_new / s_new`.

    Distances of the metric l2 are squared in it, so that for l2 and the cosine it is a squared
    distance of the two vectors put side by side. Of an item that has one vector only, the other
    distance is taken to be that one and the gap between the two spaces; see `Scale`.

    Attributes:
        old: the space of the old vectors.
        new: the space of the new ones.
        weight: that of the old space, between 0 and 1; of either alone no pair is made.
        old_scale: of distances in the old space.
        new_scale: of distances in the new one.

    Raises:
        ConfigurationError: if the weight is not between 0 and 1, or both spaces are one.
    """

    old: Space
    new: Space
    weight: float
    old_scale: Scale
    new_scale: Scale

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", float(self.weight))  # NumPy's are not JSON
        if not 0 < self.weight < 1:
            raise ConfigurationError(
                f"the weight of the old space in a fused pair is {self.weight!r}",
                "give a number between 0 and 1, such as 0.5; to serve one space, name that space",
            )
        if self.old.name == self.new.name:
            raise ConfigurationError(
                f"{self.old} cannot be fused with {self.new}: they have one name",
                "give the spaces of two models",
            )

    def __str__(self) -> str:
        return f"fused {self.old} and {self.new}, {self.weight:g} of the old"

    def combine(self, old: Distances, new: Distances) -> Distances:
        """Return the fused distances of pairs: float32, finite, and never -0.0.

        They grow with each of the two, so that bounds on these bound them.

        Args:
            old: the distance in the old space of each pair, as `onward.evaluation.retrieval` has
                it; NaN where the item has no vector there.
            new: the same in the new space; NaN at most where the old one is not.
        """
        of_old = _summed(old, self.old.metric) / self.old_scale.std
        of_new = _summed(new, self.new.metric) / self.new_scale.std
        fused = self.weight * of_old + (1 - self.weight) * of_new
        lacks = np.isnan(fused)
        if lacks.any():
            old_alone = of_old + (1 - self.weight) * self.old_scale.gap
            new_alone = of_new + self.weight * self.new_scale.gap
            fused = np.where(lacks, np.where(np.isnan(of_old), new_alone, old_alone), fused)
        rounded: Distances = np.clip(fused, -LARGEST, LARGEST).astype(np.float32)
        return rounded + np.float32(0)  # -0.0 becomes 0.0

    @classmethod
    def measure(
        cls, old: Space, new: Space, weight: float, found: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> "Fusion":
        """Return a pair with the scales that distances have.

        Args:
            old: the old space.
            new: the new one.
            weight: that of the old space.
            found: the distances of queries from items, in some galleries: in the old space, and of
                the same queries and items in the new one; NaN where an item is the query itself.

        Raises:
            ConfigurationError: if the distances of a space are all alike, or there are none.
        """
        spaces = old, new
        summed = [
            [_summed(one, space.metric) for one, space in zip(both, spaces, strict=True)]
            for both in found
        ]
        stds = [_deviation(each) for each in zip(*summed, strict=True)]
        for space, std in zip(spaces, stds, strict=True):
            if not std > 0:
                raise ConfigurationError(
                    f"the distances in {space} are all alike, or there are none",
                    "measure them on pairs of items that are not all alike",
                )
        scaled = [[one / std for one, std in zip(both, stds, strict=True)] for both in summed]
        scales = []
        for at, std in enumerate(stds):
            gaps = np.concatenate([_gaps(both[at], both[1 - at]) for both in scaled])
            scales.append(Scale(std, float(gaps.mean()) if len(gaps) else np.nan))
        return cls(old, new, weight, *scales)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "old": self.old.to_json(),
            "new": self.new.to_json(),
            "weight": self.weight,
            "old_scale": self.old_scale.to_json(),
            "new_scale": self.new_scale.to_json(),
        }

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Fusion":
        """Return what `to_json` wrote."""
        return cls(
            Space.from_json(written["old"]),
            Space.from_json(written["new"]),
            float(written["weight"]),
            Scale(**written["old_scale"]),
            Scale(**written["new_scale"]),
        )


@dataclass(frozen=True)
class Serving:
    """What to serve after an upgrade: the old space, the new one, or both as a pair.

    Attributes:
        advised: "old" (doing nothing), "new" (the upgrade alone) or "fused".
        fusion: the pair, with the weight that was found best, whether it is advised or not.
    """

    advised: Serve
    fusion: Fusion

    def to_json(self) -> dict[str, Any]:
        """Return both as plain values."""
        return {"advised": self.advised, "fusion": self.fusion.to_json()}

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Serving":
        """Return what `to_json` wrote."""
        return cls(written["advised"], Fusion.from_json(written["fusion"]))


@dataclass(frozen=True, eq=False)
class FusedEmbeddings:
    """Vectors of the same items in both spaces of a fused pair; an item may lack one of the two.

    It is ranked as embeddings in one space are. Queries lack nothing.

    Attributes:
        space: the pair.
        old: vectors in the old space.
        new: vectors in the new space.

    Raises:
        EmbeddingsError: if these are in other spaces.
    """

    space: Fusion
    old: Embeddings
    new: Embeddings

    def __post_init__(self) -> None:
        for role, given, wanted in (
            ("old", self.old.space, self.space.old),
            ("new", self.new.space, self.space.new),
        ):
            if given != wanted:
                raise EmbeddingsError(
                    f"the {role} vectors of a fused pair are in {given}, not in {wanted}",
                    "embed the items by the model of that space",
                )

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return f"{len(self):,} embeddings, {self.space}"

    @cached_property
    def ids(self) -> Ids:
        """Identity of each item: those with a new vector in their order, then the others."""
        known = frozenset(self.new.ids)
        return (*self.new.ids, *(item for item in self.old.ids if item not in known))

    @cached_property
    def old_rows(self) -> Int64[np.ndarray, " item"]:
        """Where each item stands among the old vectors; -1 where it has none."""
        return places(self.ids, self.old.ids)

    @cached_property
    def new_rows(self) -> Int64[np.ndarray, " item"]:
        """Where each item stands among the new vectors; -1 where it has none."""
        rows = np.arange(len(self))
        rows[len(self.new) :] = -1
        return rows

    @property
    def labels(self) -> Labels | None:
        """Class of each item, by the new embeddings or else by the old ones; negative if unknown.

        Both number classes alike.
        """
        if self.old.labels is None and self.new.labels is None:
            return None
        labels = np.full(len(self), -1, np.int64)
        for rows, given in ((self.old_rows, self.old.labels), (self.new_rows, self.new.labels)):
            there = rows >= 0
            if given is not None:
                labels[there] = np.where(given[rows[there]] >= 0, given[rows[there]], labels[there])
        return labels

    @property
    def class_names(self) -> ClassNames | None:
        """What each label is called; None where nothing says so."""
        return self.new.class_names or self.old.class_names

    @property
    def origins(self) -> Origins | None:
        """How each new vector came to be; None where there is none, or nothing says so."""
        if self.new.origins is None:
            return None
        return (*self.new.origins, *(None for _ in range(len(self) - len(self.new))))

    def select(self, rows: Sequence[int] | np.ndarray) -> "FusedEmbeddings":
        """Return the items of some rows (positions or a mask); what lacks a new vector is last."""
        wanted = np.asarray(rows)
        chosen = np.arange(len(self))[wanted if wanted.size else wanted.astype(np.int64)]
        old, new = self.old_rows[chosen], self.new_rows[chosen]
        return replace(self, old=self.old.select(old[old >= 0]), new=self.new.select(new[new >= 0]))

    def align(self, ids: Iterable[str]) -> "FusedEmbeddings":
        """Return the items of these ids, in their order; each has both vectors.

        Raises:
            EmbeddingsError: if an id has no embedding in one of the spaces.
        """
        wanted = tuple(ids)
        return replace(self, old=self.old.align(wanted), new=self.new.align(wanted))


Searchable = Embeddings | FusedEmbeddings
"""What is asked, or searched: vectors in one space, or in a fused pair of two."""


def joined(one: Searchable, other: Searchable) -> Searchable:
    """Return the vectors of different items together, without what else is known of them."""
    if isinstance(one, FusedEmbeddings) and isinstance(other, FusedEmbeddings):
        return FusedEmbeddings(one.space, _joined(one.old, other.old), _joined(one.new, other.new))
    assert isinstance(one, Embeddings)  # noqa: S101  # their spaces were compared
    assert isinstance(other, Embeddings)  # noqa: S101  # likewise
    return _joined(one, other)


def check_comparable(queries: Searchable, gallery: Searchable) -> None:
    """Refuse to compare vectors of different spaces, or of one space with those of a pair.

    Raises:
        SpaceMismatchError: saying what is given, and what is missing.
    """
    asked, there = queries.space, gallery.space
    if isinstance(asked, Space) and isinstance(there, Space):
        check_same_space(asked, there)
    elif asked != there:
        raise SpaceMismatchError(
            f"the queries are in {asked}, the gallery is searched in {there}",
            "ask a fused pair by the same queries of both models, and one space by one model's",
        )


def fuse(fusion: Fusion, old: Embeddings, new: Embeddings, what: str) -> FusedEmbeddings:
    """Return embeddings of the same items by both models, in the order of the new ones.

    Args:
        fusion: the pair.
        old: by the old model.
        new: by the new model, of the same items in any order.
        what: what they are, for messages: "queries".

    Raises:
        EmbeddingsError: if they are in other spaces, or an item is embedded by one model only.
    """
    check_same_items(old, new, what)
    return FusedEmbeddings(fusion, old.align(new.ids), new)


def check_same_items(
    one: Embeddings, other: Embeddings, what: str, models: tuple[str, str] = ("old", "new")
) -> None:
    """Refuse items that are embedded by only one of two models.

    Args:
        one: by the first model.
        other: by the second.
        what: what they are, for messages: "queries".
        models: what the two are called.

    Raises:
        EmbeddingsError: naming the first of them.
    """
    alone = sorted(set(one.ids) ^ set(other.ids))
    if alone:
        raise EmbeddingsError(
            f"{len(one):,} {what} by the {models[0]} model and {len(other):,} by the {models[1]} "
            f"one were given, and {len(alone):,} are in only one of the two, the first "
            f"{alone[0]!r}",
            f"embed the same {what} by both models",
        )


def _joined(one: Embeddings, other: Embeddings) -> Embeddings:
    vectors = np.concatenate([one.vectors, other.vectors])
    return Embeddings(one.ids + other.ids, vectors, one.space)


def _deviation(distances: Sequence[np.ndarray]) -> float:
    """Return the standard deviation of all that are known; NaN if none is."""
    every = np.concatenate([one.ravel() for one in distances])
    known = every[~np.isnan(every)]
    return float(known.std()) if len(known) else float("nan")


def _gaps(
    near: Float64[np.ndarray, "query item"], other: Float64[np.ndarray, "query item"]
) -> Float64[np.ndarray, " near"]:
    """Return how much farther in the other space the items are that are nearest to each query."""
    count = min(NEAREST, near.shape[1] // 3)
    first = np.argsort(near, axis=1, kind="stable")[:, :count]  # NaN is last
    differences = np.take_along_axis(other - near, first, axis=1)
    found: np.ndarray = differences[~np.isnan(differences)]
    return found


def _summed(distances: Float32[np.ndarray, "..."], metric: Metric) -> Float64[np.ndarray, "..."]:
    """Return distances as they are summed: squared for l2."""
    values = distances.astype(np.float64)
    return values**2 if metric == "l2" else values
