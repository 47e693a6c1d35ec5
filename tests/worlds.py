"""Small galleries whose truth is known, with true new embeddings: what predictions are held to."""

import itertools
from dataclasses import replace

import numpy as np

from onward.fusion import Fusion, Scale, Serving
from onward.gallery import create_gallery
from onward.spaces import Embeddings, Space
from onward.transformation import linear
from onward.transformation.networks import Dense, Uncertainty

LINE_OLD, LINE_NEW = Space("line@1", 1), Space("line@2", 1)
OLD, SIDE, NEW = Space("old@1", 6), Space("side@1", 4), Space("new@2", 8)
PAIRS = tuple(f"{pair}{one}" for pair in range(10) for one in "ab")

FAR = 1e6  # from such a middle all vectors are as far away, and the weights alone decide

numbers = itertools.count()


def scaled(factor, old=LINE_OLD, new=LINE_NEW):
    weight = factor * np.eye(new.dim, old.dim, dtype=np.float32)
    return linear(old, None, new, weight, np.zeros(new.dim, np.float32), made_by={})


def line(space, *, crossed, labels=True):
    """Ten pairs far from each other; of the first two, the second ones have changed places."""
    places = np.array([100 * int(item[0]) + (item[1] == "b") for item in PAIRS], np.float32)
    if crossed:
        places[[1, 3]] = places[[3, 1]]
    known = np.array([int(item[0]) for item in PAIRS]) if labels else None
    return Embeddings(PAIRS, places[:, None], space, known)


def line_gallery(*, crossed=True, labels=True):
    old = line(LINE_OLD, crossed=crossed, labels=labels)
    return create_gallery(f"memory:p{next(numbers)}", LINE_OLD, items=[old])


def world(items=200, seed=0, *, spoil=0.0, seen=1.0, made_by=None):
    """A gallery whose old vectors see a part of the meaning, the sample, and two transformations.

    Returns gallery, true new embeddings, and h with side-information, spoilt by noise on its map.
    Of what tells classes apart the old vectors have a share, `seen`.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(items) % 20
    centres = rng.normal(size=(20, 10)) * np.repeat([seen, 1.0], [6, 4])
    meaning = centres[labels] + 0.9 * rng.normal(size=(items, 10))
    to_new = rng.normal(size=(10, 8))
    ids = tuple(f"i{number:04}" for number in range(items))
    old = Embeddings(ids, meaning[:, :6].astype(np.float32), OLD, labels)
    side = Embeddings(ids, meaning[:, 6:].astype(np.float32), SIDE)
    new = Embeddings(ids, (meaning @ to_new).astype(np.float32), NEW)
    gallery = create_gallery(f"memory:p{next(numbers)}", OLD, SIDE, items=[old, side])
    weight = (to_new + spoil * rng.normal(size=to_new.shape)).T
    h = linear(OLD, SIDE, NEW, weight, np.zeros(8, np.float32), made_by=made_by or {})
    return gallery, new, h


def paired(h, weight=0.5, old_scale=10.0, new_scale=60.0, advised="fused"):
    """It, with a pair of its spaces that can be served."""
    scales = Scale(old_scale, 0.5), Scale(new_scale, 0.5)
    return replace(h, serving=Serving(advised, Fusion(h.old, h.new, weight, *scales)))


def unsure(h, seed=0):
    """It with an uncertainty of its own."""
    weights = np.random.default_rng(seed).normal(size=h.new.dim)
    return unsure_by(h, weights, middle=0)


def unsure_by(h, weights, middle=FAR):
    """It, as unsure of what it makes as these weights say of that."""
    layer = Dense(np.array([weights], np.float32), np.zeros(1, np.float32), relu=False)
    return replace(h, uncertainty=Uncertainty(layer, np.full(h.new.dim, middle, np.float32)))


def unlabelled(gallery):
    """The same items, none with a label."""
    given = [gallery.read(space) for space in gallery.spaces()]
    bare = [Embeddings(one.ids, one.vectors, one.space) for one in given if len(one)]
    return create_gallery(f"memory:p{next(numbers)}", *gallery.spaces(), items=bare)


def save_shop(folder, ids, old, new, weight):
    """Save items of three classes by an old model, upgraded, and by a new one; and `h` between."""
    vectors = np.random.default_rng(0).normal(size=(len(ids), old.dim)).astype(np.float32)
    labels = np.arange(len(ids)) % 3
    given = Embeddings(tuple(ids), vectors, old, labels)
    h = linear(old, None, new, weight, np.zeros(new.dim), made_by={})
    upgraded = h.apply(given)
    given.save(folder / "old.parquet")
    upgraded.save(folder / "upgraded.parquet")
    Embeddings(tuple(ids), upgraded.vectors, new, labels).save(folder / "new.parquet")
    h.save(folder / "h")
