import numpy as np
import pytest
from sklearn.cluster import KMeans

from onward.errors import ConfigurationError, SpaceMismatchError, TransformationError
from onward.spaces import Embeddings, Space
from onward.training.samples import choose_sample
from onward.transformation import Dense, Transformation, Uncertainty, linear

OLD, SIDE, NEW = Space("old@1", 3), Space("side@1", 2), Space("new@1", 3)
FAR = np.full(3, 1e6, np.float32)  # the middle: the layer alone decides
IDS = tuple(f"i{n:04}" for n in range(600))


def gallery(seed=0):
    """600 items in 12 clusters, the first of which holds every second item."""
    rng = np.random.default_rng(seed)
    cluster = np.where(np.arange(600) % 2 == 0, 0, 1 + np.arange(600) // 2 % 11)
    centres = np.random.default_rng(7).normal(size=(12, 5)) * 10
    whole = centres[cluster] + rng.normal(size=(600, 5))
    old, side = whole[:, :3].astype(np.float32), whole[:, 3:].astype(np.float32)
    return Embeddings(IDS, old, OLD), Embeddings(IDS, side, SIDE), cluster


def rows_of(ids):
    return np.array([IDS.index(item) for item in ids])


def spread(sample):
    """Mean distance of an item from the nearest one that was chosen, standardised."""
    old, side, _ = gallery()
    whole = np.concatenate([old.vectors, side.vectors], axis=1)
    whole = (whole - whole.mean(axis=0)) / whole.std(axis=0)
    chosen = whole[rows_of(sample)]
    return np.linalg.norm(whole[:, None] - chosen[None], axis=2).min(axis=1).mean()


@pytest.mark.parametrize("by", ["random", "k-means"])
@pytest.mark.parametrize("count", [1, 12, 90, 600])
def test_as_many_items_as_asked_for_are_chosen_once_each(by, count):
    old, side, _ = gallery()
    sample = choose_sample(old, side, count=count, by=by)
    assert len(set(sample)) == len(sample) == count
    assert set(sample) <= set(IDS)
    assert sample == choose_sample(old, side, count=count, by=by)
    if count < 600:
        assert sample != choose_sample(old, side, count=count, by=by, seed=1)


@pytest.mark.parametrize("seed", range(5))
def test_k_means_takes_one_item_of_every_cluster_where_chance_misses_some(seed):
    old, side, cluster = gallery()
    chosen = choose_sample(old, side, count=12, by="k-means", seed=seed)
    drawn = choose_sample(old, side, count=12, seed=seed)
    clusters = [len(set(cluster[rows_of(sample)])) for sample in (chosen, drawn)]
    assert clusters[0] >= 11 > clusters[1]
    assert spread(chosen) < spread(drawn)


def test_k_means_spreads_about_as_well_as_scikit_learn_s():
    old, side, _ = gallery()
    whole = np.concatenate([old.vectors, side.vectors], axis=1)
    whole = (whole - whole.mean(axis=0)) / whole.std(axis=0)
    best = KMeans(40, n_init=1, random_state=0).fit(whole)
    nearest = np.linalg.norm(whole[:, None] - best.cluster_centers_[None], axis=2).argmin(axis=0)
    theirs = spread(tuple(IDS[row] for row in set(nearest)))
    ours = spread(choose_sample(old, side, count=40, by="k-means"))
    assert ours < 1.1 * theirs


def test_more_items_than_centres_come_from_every_cluster_by_its_share(monkeypatch):
    monkeypatch.setattr("onward.training.samples.MOST_CENTRES", 12)
    old, side, cluster = gallery()
    counts = np.bincount(cluster[rows_of(choose_sample(old, side, count=120, by="k-means"))])
    assert counts[0] == pytest.approx(60, abs=6)
    assert counts[1:].min() >= 3


def test_items_that_are_all_alike_can_be_chosen_from():
    old = Embeddings(IDS, np.ones((600, 3), np.float32), OLD)
    assert len(set(choose_sample(old, count=20, by="k-means"))) == 20


def test_the_most_uncertain_items_come_first():
    old, _, _ = gallery()
    h = linear(OLD, None, NEW, np.eye(3), np.zeros(3), made_by={})
    first = Dense(np.array([[1, 0, 0]], np.float32), np.zeros(1, np.float32), relu=False)
    h = Transformation(h.old, None, h.new, h.steps, {}, Uncertainty(first, FAR))
    expected = np.argsort(-old.vectors[:, 0])[:10]
    sample = choose_sample(old, count=10, by="uncertainty", transformation=h)
    assert sample == tuple(IDS[row] for row in expected)


def test_what_cannot_be_chosen_is_said():
    old, side, _ = gallery()
    with pytest.raises(ConfigurationError, match="601 items was asked for, of 600; ask for 1 to"):
        choose_sample(old, count=601)
    with pytest.raises(ConfigurationError, match="sample of 0 items"):
        choose_sample(old, count=0)
    with pytest.raises(ConfigurationError, match=r"needs a transformation .*uncertainty=True"):
        choose_sample(old, count=3, by="uncertainty")
    h = linear(OLD, None, NEW, np.eye(3), np.zeros(3), made_by={})
    with pytest.raises(TransformationError, match="fitted without uncertainties"):
        choose_sample(old, count=3, by="uncertainty", transformation=h)
    with pytest.raises(SpaceMismatchError, match="side@1"):
        choose_sample(side, count=3, by="uncertainty", transformation=_unsure(h))
    with pytest.raises(TransformationError, match=r"not of the same items .* side\.align"):
        choose_sample(old, side.select(np.arange(599, -1, -1)), count=3)


def _unsure(h):
    layer = Dense(np.ones((1, 3), np.float32), np.zeros(1, np.float32), relu=False)
    return Transformation(h.old, None, h.new, h.steps, {}, Uncertainty(layer, FAR))
