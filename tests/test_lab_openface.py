"""OpenFace's network in the lab is the published one: its sizes, its pooling, what it is shown."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

LAB = Path(__file__).parent.parent / "lab"
SHAPES = {
    "3a": (192, {3: (96, 128), 5: (16, 32)}, (32, 64)),
    "3b": (256, {3: (96, 128), 5: (32, 64)}, (64, 64)),
    "3c": (320, {3: (128, 256), 5: (32, 64)}, ()),
    "4a": (640, {3: (96, 192), 5: (32, 64)}, (128, 256)),
    "4e": (640, {3: (160, 256), 5: (64, 128)}, ()),
    "5a": (1024, {3: (96, 384)}, (96, 256)),
    "5b": (736, {3: (96, 384)}, (96, 256)),
}
"""Of each block: channels in, those of its convolutions, those of pooling and of 1 x 1."""
PUBLISHED = 3_733_968
"""The number of parameters that OpenFace gives for nn4.small2."""


@pytest.fixture
def openface(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(LAB))
    yield importlib.import_module("openface")
    del sys.modules["openface"]


def random_weights():
    random, weights = np.random.default_rng(0), {}

    def add(conv, norm, size, channels, filters):
        draw = random.normal(0, (size * size * channels) ** -0.5, (size, size, channels, filters))
        weights[conv] = {"kernel": draw.astype(np.float32), "bias": np.zeros(filters, np.float32)}
        ones, zeros = np.ones(filters, np.float32), np.zeros(filters, np.float32)
        weights[norm] = {"gamma": ones, "beta": zeros}
        weights[norm] |= {"moving_mean": zeros, "moving_variance": ones}

    add("conv1", "bn1", 7, 3, 64)
    add("conv2", "bn2", 1, 64, 64)
    add("conv3", "bn3", 3, 64, 192)
    for block, (channels, towers, single) in SHAPES.items():
        for size, (reduced, filters) in towers.items():
            name = f"inception_{block}_{size}x{size}"
            add(f"{name}_conv1", f"{name}_bn1", 1, channels, reduced)
            add(f"{name}_conv2", f"{name}_bn2", size, reduced, filters)
        for kind, filters in zip(("pool", "1x1"), single, strict=False):
            name = f"inception_{block}_{kind}"
            add(f"{name}_conv", f"{name}_bn", 1, channels, filters)
    dense = random.normal(0, 736**-0.5, (736, 128)).astype(np.float32)
    weights["dense"] = {"kernel": dense, "bias": np.zeros(128, np.float32)}
    return weights


def test_openface_has_as_many_parameters_as_published_and_gives_unit_vectors(openface):
    network = openface.OpenFace(random_weights())
    assert sum(each.numel() for each in network.parameters()) == PUBLISHED
    faces = np.random.default_rng(1).integers(0, 256, (2, 96, 96))
    vectors, stages = network.embed(faces)
    assert vectors.shape == (2, 128)
    assert stages.shape == (2, 4 * (640 + 1024 + 736))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    coloured, _ = network.embed(np.repeat(faces[..., None], 3, axis=3))
    np.testing.assert_allclose(coloured, vectors, atol=1e-5)


def test_openface_refuses_weights_that_it_does_not_use_or_lacks(openface):
    weights = random_weights()
    with pytest.raises(ValueError, match="the network has no layers inception_4b_1x1_conv"):
        openface.OpenFace(weights | {"inception_4b_1x1_conv": weights["conv2"]})
    del weights["inception_5b_pool_bn"]
    with pytest.raises(ValueError, match="the layer inception_5b_pool_bn are not there"):
        openface.OpenFace(weights)


def test_openface_pools_by_the_root_of_the_sum_of_squares_and_the_package_by_the_mean(openface):
    published, packaged = (
        openface.OpenFace(random_weights(), as_packaged=each).blocks[1] for each in (False, True)
    )
    ones = torch.full((1, 1, 3, 3), 2.0)
    assert published.pool(ones).item() == pytest.approx(6)
    assert packaged.pool(ones).item() == pytest.approx(2)


def test_what_is_pooled_is_put_in_the_middle_and_odd_zeros_come_last(openface):
    made = openface.centred(torch.ones(1, 1, 2, 2), 5)[0, 0]
    assert made.nonzero().unique().tolist() == [1, 2]


def test_an_aligned_face_has_its_eyes_and_nose_in_their_places(openface):
    picture = np.zeros((200, 160), np.uint8)
    points = {36: (50, 80), 45: (110, 70), 33: (82, 120)}
    for x, y in points.values():
        picture[y - 3 : y + 4, x - 3 : x + 4] = 255
    every = [points.get(number, (0, 0)) for number in range(68)]
    face = openface.aligned(Image.fromarray(picture), every)
    assert face.shape == (96, 96)
    for right, down in openface.LANDMARKS.values():
        assert face[round(96 * down), round(96 * right)] == 255
    assert face.mean() < 30


def test_a_face_with_a_border_is_cut_off_where_the_picture_ends(openface):
    picture = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (100, 1)))
    face = openface.with_border(picture, (100, 40, 150, 60))  # from 80 to 170
    assert face.shape == (96, 96)
    assert face[0, 0] in (80, 81)
    assert face[0, -1] in (168, 169)
    whole = openface.with_border(picture, (0, 0, 200, 100))
    assert (whole[0, 0], whole[0, -1]) == (1, 198)  # two columns are one
