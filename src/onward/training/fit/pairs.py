"""What a transformation is fitted on: pairs of embeddings, checked and joined, and a classifier.

Pairs may be a sample of the gallery itself: which of its items the new model is to embed is chosen
here too. At random is the rule to beat; uncertainty asks where a first transformation knows least.
Only stored vectors are read, and only what is needed of them stands in memory.
"""

import heapq
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int64

from onward.artifacts import digest, digest_arrays
from onward.errors import (
    ConfigurationError,
    DataError,
    ModelError,
    TransformationError,
)
from onward.evaluation.relevance import label_alike
from onward.gallery import Gallery
from onward.labels import ClassNames, Labels, renumber
from onward.spaces import Embeddings, Ids, Space
from onward.transformation import Transformation

if TYPE_CHECKING:
    from onward.models import EmbeddingModel

Rows = Int64[np.ndarray, " row"]

LEARNED = 0.8
"""The share of a sample that is learned from; a plan judges by the rest."""

KEPT = 20
"""Least number of items of a sample to keep: by fewer a plan judges nothing."""
LEAST_ITEMS = 20
SAMPLE_ITEM = 10
"""A sample of the gallery itself says more of it than training items: on CIFAR-100, ridge gains
about a point of open cmc@1 by this and loses nothing on the closed set."""
_VIEW = re.compile(r"(.*)#(\d+)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The same items, in the same order, in the old space and in the new one.

    Several views of an item count as one item; their ids are `<id>#<view>`, as
    `onward.training.images.embed_views` gives them.

    Attributes:
        old: what goes in.
        side: side-information that goes in with it, if any.
        new: what is to come out.

    Raises:
        TransformationError: if ids or their order differ, or the spaces cannot be mapped.
        DataError: if there are none.
    """

    old: Embeddings
    side: Embeddings | None
    new: Embeddings

    def __post_init__(self) -> None:
        if self.old.space == self.new.space:
            raise TransformationError(
                f"old and new embeddings are both in {self.old.space}: there is nothing to fit. "
                "Give the new model's embeddings as the new ones"
            )
        if self.side is not None:
            _check_same_items(self.old, self.side, "side-information")
        _check_same_items(self.old, self.new, "new")
        made = self.new.count_origins().get("upgraded", 0)
        if made:
            raise TransformationError(
                f"{made:,} of the {len(self.new):,} new embeddings were upgraded by a "
                "transformation, as their origin says",
                "there is nothing to learn from what another "
                "h has made. Give what the new model itself embeds, or leave these items out",
            )
        if not len(self.old):
            raise DataError("there are no pairs", "embed some items with both models")

    def __len__(self) -> int:
        return len(self.old)

    @cached_property
    def item_of(self) -> Rows:
        """The item that each pair is of, as a number from 0 on."""
        names, numbers = _views(self.old.ids)
        position: dict[str, int] = {}
        items = np.array([position.setdefault(name, len(position)) for name in names], np.int64)
        seen = np.bincount(items)
        whole = len(position) > 1 and (seen == numbers.max(initial=-1) + 1).all()
        return items if whole else np.arange(len(names), dtype=np.int64)

    @cached_property
    def item_ids(self) -> Ids:
        """Id of each item; that of its first view without the view, where there are several."""
        if self.items == len(self):
            return self.old.ids
        names, _ = _views(self.old.ids)
        return tuple(names[row] for row in self.first_rows)

    @cached_property
    def first_rows(self) -> Rows:
        """The first pair of each item."""
        _, first = np.unique(self.item_of, return_index=True)
        return first

    @property
    def items(self) -> int:
        """Number of items."""
        return int(self.item_of.max(initial=-1)) + 1

    @cached_property
    def targets(self) -> Float32[np.ndarray, "pair new"]:
        """What is to come out: the new vectors, of length 1 where only their direction counts."""
        vectors: np.ndarray = self.new.vectors
        if self.new.space.metric == "cosine":
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    @property
    def labels(self) -> Labels | None:
        """Class of each pair, where either embeddings know it; negative where they do not."""
        return self._labelled.labels

    @property
    def class_names(self) -> ClassNames | None:
        """What each label is called; None where nothing says so."""
        return self._labelled.class_names

    @cached_property
    def _labelled(self) -> Embeddings:
        """The old embeddings, or the new ones where these know more classes; with all known."""
        named = {"the old embeddings": self.old, "the new embeddings": self.new}
        alike = label_alike(list(named.values()), list(named))
        return alike[int(count_labels(self.new) > count_labels(self.old))]

    @cached_property
    def length(self) -> float:
        """What the targets were divided by, on average: 1 where they are the new vectors."""
        if self.new.space.metric != "cosine":
            return 1.0
        return float(np.linalg.norm(self.new.vectors, axis=1).mean())

    def without(self, items: Collection[str]) -> Rows:
        """Return the pairs of all items but these, which are given by their ids."""
        kept = np.array([item not in items for item in self.item_ids], bool)
        rows: Rows = np.flatnonzero(kept[self.item_of])
        return rows

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What goes in, by name: "old", and "side" where there is side-information."""
        given = {"old": self.old.vectors}
        return given if self.side is None else given | {"side": self.side.vectors}

    @cached_property
    def digest(self) -> str:
        """Changes when an id or a vector does."""
        arrays = digest_arrays({**self.inputs, "new": self.new.vectors})
        return digest(arrays.encode(), *(item.encode() for item in self.old.ids))


@dataclass(frozen=True, eq=False)
class Examples:
    """What a transformation is learned from: rows of training pairs, of a gallery sample, or both.

    Attributes:
        old: the space of what goes in.
        side: the space of the side-information that goes in with it, if any.
        new: the space of what is to come out.
        inputs: what goes in, by name: "old", and "side" where there is side-information.
        targets: what is to come out.
        labels: class of each row; -1 where it is not known, and for the whole sample.
        weights: how much each row counts; 1 on average.
        length: the new embeddings' mean length where the targets have length 1, else 1.
        digest: changes whenever a row or its weight does.
    """

    old: Space
    side: Space | None
    new: Space
    inputs: Mapping[str, np.ndarray]
    targets: Float32[np.ndarray, "row new"]
    labels: Int64[np.ndarray, " row"]
    weights: Float64[np.ndarray, " row"]
    length: float
    digest: str

    def __len__(self) -> int:
        return len(self.targets)

    @classmethod
    def of(
        cls,
        pairs: Pairs,
        rows: Rows | None = None,
        sample: Pairs | None = None,
        sample_rows: Int64[np.ndarray, " chosen"] | None = None,
        sample_weight: float | None = None,
    ) -> "Examples":
        """Return some rows of training pairs and of a sample; all of them where none are named.

        Args:
            sample_weight: share of all the weight that the sample has; without it an item of it
                counts as 10 training items, unless that gives the sample more than half.
        """
        rows = np.arange(len(pairs)) if rows is None else rows
        parts = [(pairs, rows)]
        weights = [np.ones(len(rows))]
        labels = [np.full(len(rows), -1) if pairs.labels is None else pairs.labels[rows]]
        if sample is not None:
            chosen = np.arange(len(sample)) if sample_rows is None else sample_rows
            parts.append((sample, chosen))
            labels.append(np.full(len(chosen), -1))
            both = len(rows) + len(chosen)
            share = _share_of(sample, pairs) if sample_weight is None else sample_weight
            weights = [
                np.full(len(rows), (1 - share) * both / len(rows)),
                np.full(len(chosen), share * both / len(chosen)),
            ]
        return cls(
            pairs.old.space,
            None if pairs.side is None else pairs.side.space,
            pairs.new.space,
            {
                name: np.concatenate([part.inputs[name][some] for part, some in parts])
                for name in pairs.inputs
            },
            np.concatenate([part.targets[some] for part, some in parts]),
            np.concatenate(labels).astype(np.int64),
            np.concatenate(weights),
            pairs.length,
            digest(
                *(part.digest.encode() for part, _ in parts),
                *(some.astype(np.int64).tobytes() for _, some in parts),
                repr(sample_weight).encode(),
            ),
        )


def _share_of(sample: Pairs, pairs: Pairs) -> float:
    """Return the share of the weight that a sample has where none is asked for."""
    plain = sample.items / (sample.items + pairs.items)
    heavy = SAMPLE_ITEM * sample.items
    return max(plain, min(0.5, heavy / (heavy + pairs.items)))


@dataclass(frozen=True, eq=False)
class Scaling:
    """Where the targets lie: a vector is `mean + std * standardised`.

    Attributes:
        mean: of the targets.
        std: their standard deviation, one for all dimensions.
        length: what classifiers know vectors as long as: the mean length of the new embeddings
            where the targets were brought to length 1, else 1.
    """

    mean: Float32[np.ndarray, " new"]
    std: float
    length: float = 1.0

    @classmethod
    def of(cls, examples: Examples) -> "Scaling":
        """Return that of the examples, each counted by its weight."""
        share = examples.weights / examples.weights.sum()
        mean = (share @ examples.targets).astype(np.float32)
        square = share @ ((examples.targets - mean) ** 2).mean(axis=1)
        return cls(mean, float(np.sqrt(square)) or 1.0, examples.length)

    def standardise(
        self, vectors: Float32[np.ndarray, "item new"]
    ) -> Float32[np.ndarray, "item new"]:
        """Return vectors as the network knows them."""
        standardised: np.ndarray = (vectors - self.mean) / np.float32(self.std)
        return standardised


@dataclass(frozen=True, eq=False)
class Classifier:
    """A linear classifier without bias on the embeddings of one space.

    Attributes:
        weight: one row a class.
        classes: the label of each row.
        space: where the embeddings lie that it tells apart.
        class_names: what each label is called; None where nothing says so.

    Raises:
        ModelError: if these do not fit together.
    """

    weight: Float32[np.ndarray, "class dim"]
    classes: tuple[int, ...]
    space: Space
    class_names: ClassNames | None = None

    def __post_init__(self) -> None:
        if self.weight.shape != (len(self.classes), self.space.dim):
            raise ModelError(
                f"a classifier of shape {self.weight.shape} for {len(self.classes)} classes in "
                f"{self.space}",
                "give one row of the space's dimensions for each class",
            )

    @classmethod
    def of(cls, model: "EmbeddingModel") -> "Classifier":
        """Return a model's classifier.

        Raises:
            ConfigurationError: if the model has none.
        """
        if model.classifier is None or model.classes is None:
            raise ConfigurationError(
                f"{model.space.name} has no classifier",
                "every model that was trained on classes here has one. Give such a model, or no "
                "classifier",
            )
        return cls(model.classifier, model.classes, model.space, model.class_names)

    def numbered_as(self, class_names: ClassNames | None, *, same_labels: bool) -> "Classifier":
        """Return the classifier with the labels that its classes have in another source.

        Args:
            class_names: what that source calls its classes.
            same_labels: if only one of the two has class names, the numbers mean the same.

        Raises:
            LabelMismatchError: if only one of the two has class names, and `same_labels` is false.
        """
        given, names = np.array(self.classes, np.int64), (self.class_names, class_names)
        sources = ("the classifier", "the items")
        classes = renumber(given, *names, same_labels=same_labels, sources=sources)
        return replace(self, classes=tuple(classes.tolist()), class_names=class_names)

    def rows_of(self, labels: Labels) -> Labels:
        """Return the row of each label's class, or -1 where the classifier does not know it."""
        order = np.argsort(self.classes)
        known = np.asarray(self.classes, np.int64)[order]
        place = np.searchsorted(known, labels).clip(max=len(known) - 1)
        return np.where(known[place] == labels, order[place], -1).astype(np.int64)


def count_labels(embeddings: Embeddings) -> int:
    """Return how many labels are known, and one more where there are any labels."""
    return 0 if embeddings.labels is None else 1 + int((embeddings.labels >= 0).sum())


def _views(ids: Ids) -> tuple[list[str], np.ndarray]:
    """Return each id without its view, and the view; if an id names none, all are items."""
    matches = [_VIEW.fullmatch(item) for item in ids]
    if not all(matches):
        return list(ids), np.zeros(len(ids), np.int64)
    named = [match for match in matches if match]
    return [match[1] for match in named], np.array([int(match[2]) for match in named])


def _check_same_items(old: Embeddings, other: Embeddings, what: str) -> None:
    if old.ids == other.ids:
        return
    if len(old) != len(other):
        raise TransformationError(
            f"there are {len(old)} old embeddings and {len(other)} {what} embeddings",
            "keep the items that both have, in one order",
            needed="a fit needs both for the same items in the same order",
        )
    row = next(i for i, (a, b) in enumerate(zip(old.ids, other.ids, strict=True)) if a != b)
    same = set(old.ids) == set(other.ids)
    remedy = (
        "the same items in another order: bring them into one, by align(old.ids)"
        if same
        else "they are not the same items; embed the same ones with each model"
    )
    raise TransformationError(
        f"row {row} is item {old.ids[row]!r} in the old embeddings and {other.ids[row]!r} in the "
        f"{what} embeddings: {remedy}"
    )


def choose_from_gallery(
    gallery: Gallery,
    old: Space,
    side: Space | None = None,
    *,
    count: int,
    by: Literal["random", "uncertainty"] = "random",
    transformation: Transformation | None = None,
    seed: int = 0,
) -> Ids:
    """Return the ids of the gallery's items to embed with the new model.

    Of the items that have a vector in these spaces; by uncertainty, of those that have all that the
    transformation reads. At random, with the same seed, a larger sample holds a smaller one.

    Args:
        gallery: the gallery.
        old: the space of its old vectors.
        side: the space of the side-information that an item must have too, if any.
        count: how many to choose.
        by: "random", or "uncertainty": the least certain items.
        transformation: for "uncertainty": one that knows its own, fitted without the sample.
        seed: decides what is drawn at random.

    Returns:
        `count` ids, each once; by uncertainty the least certain first.

    Raises:
        ConfigurationError: if there are not so many items, or a transformation is needed.
        GalleryError: if the gallery lacks a space.
        TransformationError: if the transformation knows no uncertainties.
    """
    if by == "uncertainty":
        if transformation is None:
            raise ConfigurationError(
                "choosing by uncertainty needs a transformation that knows its own",
                "give one that was fitted with uncertainty=True (transformation=...), or choose at "
                "random",
            )
        old, side = transformation.old, transformation.side
    spaces = [old] if side is None else [old, side]
    there = gallery.count(spaces)
    if not 1 <= count <= there:
        raise ConfigurationError(
            f"a sample of {count} items was asked for, and {there} of gallery {gallery.url} have "
            f"a vector in {' and '.join(space.name for space in spaces)}",
            f"ask for 1 to {there}",
        )
    if by == "uncertainty" and transformation is not None:
        unsure = _uncertainties(gallery, transformation)
        return tuple(item for _, item in heapq.nsmallest(count, unsure))
    return tuple(sorted(gallery.sample(spaces, count, seed=seed)))


def learned_part(ids: Ids, share: float, *, kept: int = 0) -> Ids:
    """Return the ids that are learned from: about a share, by a digest of each id alone.

    The digest is not that of `split_by_id`: of a test split, too, a share is learned from.

    Args:
        ids: of the sample.
        share: above 0 and at most 1.
        kept: fewer are learned from if fewer than these would not be; none where there are no more.

    Raises:
        ConfigurationError: if the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ConfigurationError(
            f"a share of {share:g} of the sample cannot be learned from",
            f"give a fraction above 0 and at most 1, such as {LEARNED:g}",
        )
    drawn = {item: int(digest(b"learned", item.encode())[:8], 16) for item in ids}
    learned = sorted((item for item in ids if drawn[item] < share * 2**32), key=drawn.__getitem__)
    few = set(learned[: max(0, len(ids) - kept)])
    return tuple(item for item in ids if item in few)


def pairs_of_gallery(gallery: Gallery, old: Space, side: Space | None, new: Embeddings) -> Pairs:
    """Return the pairs of a gallery's stored vectors with true new embeddings of the same items.

    Items that are not in the gallery, or lack what is read of them, are left out.

    Args:
        gallery: the gallery.
        old: the space of the old vectors.
        side: the space of the side-information, if any.
        new: what the new model gives for some of its items.

    Raises:
        DataError: if no item is left.
        GalleryError: if the gallery lacks a space.
    """
    spaces = [old] if side is None else [old, side]
    there = {
        item for batch in gallery.scan((), with_spaces=spaces, ids=new.ids) for item in batch.ids
    }
    ids = tuple(item for item in new.ids if item in there)
    if not ids:
        raise DataError(
            f"none of the sample's {len(new)} items is in gallery {gallery.url} with a vector in "
            f"{' and '.join(space.name for space in spaces)}",
            "give embeddings of its own items, such as a sample of it",
            step="sample",
        )
    aside = None if side is None else gallery.read(side, ids)
    return Pairs(gallery.read(old, ids), aside, new.align(ids))


def _uncertainties(gallery: Gallery, transformation: Transformation) -> Iterator[tuple[float, str]]:
    """Give minus the uncertainty of every item that has what is read, and its id."""
    old, side = transformation.old, transformation.side
    for batch in gallery.scan([old] if side is None else [old, side]):
        aside = None if side is None else Embeddings(batch.ids, batch.vectors[side], side)
        unsure = transformation.uncertainties(Embeddings(batch.ids, batch.vectors[old], old), aside)
        yield from zip((-unsure).tolist(), batch.ids, strict=True)
