import numpy as np
import pytest
import torch

from onward.data import load_images, open_items
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import BackboneSpec, build_backbone
from onward.training.devices import seeded
from onward.training.images import embed_views
from onward.training.layers import add_layers_side_information

SPEC = BackboneSpec(dim=4, size=8, channels=1, width=4)


@pytest.fixture(scope="module")
def items():
    return open_items("digits").select(np.arange(30))


def model(name, **changes):
    with seeded(0, name):
        spec = SPEC.model_copy(update=changes)
        return EmbeddingModel.of_backbone(build_backbone(spec), spec, name=name)


def pixels_seen(items, views, seed, std=0.5, least_crop=None):
    """The pixels that a model is given, a batch each."""
    seen = []

    def function(pixels):
        seen.append(pixels.copy())
        return pixels.reshape(len(pixels), -1)[:, :4].astype(np.float32) + 1

    input_spec = InputSpec(8, 1, (0.5,), (std,))
    spy = EmbeddingModel.from_callable(function, name="spy", dim=4, input=input_spec)
    embed_views(spy, items, flip=False, views=views, seed=seed, least_crop=least_crop)
    return seen


def test_the_first_view_is_the_image_as_it_is(items):
    old = model("old")
    views = embed_views(old, items, flip=False, views=3)[old.space]
    assert views.ids[:2] == (f"{items.ids[0]}#0", f"{items.ids[1]}#0")
    assert views.ids[30] == f"{items.ids[0]}#1"
    assert views.labels.tolist() == items.labels.tolist() * 3
    np.testing.assert_allclose(views.vectors[:30], old.embed(items).vectors, atol=1e-6)
    assert not np.allclose(views.vectors[30:60], views.vectors[:30])
    assert not np.allclose(views.vectors[30:60], views.vectors[60:])


def test_views_depend_on_the_seed_and_not_on_the_model_or_the_process(items):
    first = pixels_seen(items, 3, seed=2)
    assert len(first) == 3
    torch.rand(3)
    np.testing.assert_array_equal(first, pixels_seen(items, 3, seed=2, std=0.25))
    assert not np.array_equal(first, pixels_seen(items, 3, seed=1))


def test_random_crops_of_whole_images_are_each_items_own_and_begin_alike(items):
    plain, *crops = pixels_seen(items, 4, seed=2, least_crop=0.08)
    np.testing.assert_array_equal(plain, load_images(items, 8, 1))
    np.testing.assert_array_equal([plain, crops[0]], pixels_seen(items, 2, 2, least_crop=0.08))
    some = pixels_seen(items.select(range(10)), 4, seed=2, least_crop=0.08)
    np.testing.assert_array_equal(some[1:], [crop[:10] for crop in crops])
    assert not np.array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], pixels_seen(items, 2, seed=1, least_crop=0.08)[1])


def test_side_information_of_layers_comes_from_the_same_forward_pass(items):
    old = add_layers_side_information(model("old"), items, dim=5)
    views = embed_views(old, items, flip=False, views=2)
    assert set(views) == {old.space, old.side}
    embeddings, side = old.embed_with_side(items)
    np.testing.assert_allclose(views[old.side].vectors[:30], side.vectors, atol=1e-5)
    np.testing.assert_allclose(views[old.space].vectors[:30], embeddings.vectors, atol=1e-5)
    assert views[old.side].ids == views[old.space].ids


def test_a_single_view_has_the_ids_of_the_items_and_progress_is_told_in_them(items):
    told, old = [], model("old")
    views = embed_views(old, items, views=1, progress=lambda *said: told.append(said))
    assert (told, views[old.space].ids) == ([(30, 30)], items.ids)
