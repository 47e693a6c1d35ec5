"""A sample of a gallery: which items to embed with the new model, and the pairs that they make.

At random is the rule to beat; uncertainty asks where a first transformation knows least. Only
stored vectors are read, and only what is needed of them stands in memory.
"""

import heapq
from collections.abc import Iterator
from typing import Literal

from onward.artifacts import digest
from onward.errors import ConfigurationError, DataError
from onward.gallery import Gallery
from onward.spaces import Embeddings, Ids, Space
from onward.training.fit.pairs import Pairs
from onward.transformation import Transformation

LEARNED = 0.8
"""The share of a sample that is learned from; a plan judges by the rest."""

KEPT = 20
"""Least number of items of a sample to keep: by fewer a plan judges nothing."""


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
