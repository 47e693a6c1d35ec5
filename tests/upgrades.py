"""Small spaces, transformations and galleries for the tests of upgrades."""

import json

import numpy as np

from onward.gallery import create_gallery
from onward.spaces import Space
from onward.testing.contract import OLD, SIDE, embed, numbered
from onward.transformation import linear
from onward.upgrading import Upgrade

SECOND, THIRD = Space("second@2", 6), Space("third@3", 5)


def make_transformation(old, side, new, seed=0):
    rng = np.random.default_rng(seed)
    width = old.dim + (0 if side is None else side.dim)
    weight = rng.standard_normal((new.dim, width)).astype(np.float32)
    return linear(old, side, new, weight, np.ones(new.dim, np.float32), made_by={})


TO_SECOND = make_transformation(OLD, SIDE, SECOND, seed=1)
TO_THIRD = make_transformation(OLD, SIDE, THIRD, seed=2)
SECOND_TO_THIRD = make_transformation(SECOND, None, THIRD, seed=3)


def make_gallery(url, rows, labels=None):
    """Items with an old vector and side-information; queries come from the model `first`."""
    ids = numbered(rows)
    items = embed(OLD, ids, labels=labels), embed(SIDE, ids)
    return create_gallery(url, OLD, SIDE, query_model="first", items=items)


def start_upgrade(gallery, *transformations):
    upgrade = Upgrade(gallery, *transformations)
    upgrade.start()
    return upgrade


def run_upgrade(gallery, *transformations, **how):
    upgrade = start_upgrade(gallery, *transformations)
    upgrade.run(**how)
    return upgrade


def carry_out(gallery, *transformations, leave_out=False):
    """Upgrade whole galleries, up to cutting over to a query model named like the new space."""
    upgrade = start_upgrade(gallery, *transformations)
    assert upgrade.run(batch_rows=5).remaining == 0
    assert upgrade.verify(sample_rows=None, leave_out=leave_out).passed
    upgrade.cut_over(query_model=upgrade.transformation.new.name.partition("@")[0])
    return upgrade


def steps_of(value):
    """Return what is to be done next, as JSON says it: the names of steps, each with a reason."""
    steps = json.loads(json.dumps(value.to_json()))["next_steps"]
    assert all(list(one) == ["step", "why"] and one["why"] for one in steps)
    return [one["step"] for one in steps]
