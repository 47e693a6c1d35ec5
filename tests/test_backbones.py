import subprocess
import sys

import pydantic
import pytest
import torch

from onward.errors import ModelError
from onward.models import InputSpec
from onward.nn.backbones import BackboneSpec, build_backbone

SPECS = [
    pytest.param(BackboneSpec(size=8, channels=1, width=4, dim=12), id="small-resnet-8px"),
    pytest.param(BackboneSpec(size=32, width=4, dim=12), id="small-resnet-32px"),
    pytest.param(BackboneSpec(name="timm:resnet10t", size=32, dim=12), id="timm-cnn"),
    pytest.param(
        BackboneSpec(name="timm:vit_tiny_patch16_224", size=32, channels=1, dim=12), id="timm-vit"
    ),
    pytest.param(
        BackboneSpec(name="timm:swin_tiny_patch4_window7_224", size=32, dim=12),
        id="timm-tokens-in-a-map",
        marks=pytest.mark.slow,
    ),
]


def parameters(backbone):
    return sum(parameter.numel() for parameter in backbone.parameters())


@pytest.mark.parametrize("spec", SPECS)
def test_a_backbone_gives_one_vector_an_image_and_a_map_a_stage_and_learns_as_a_whole(spec):
    backbone = build_backbone(spec).eval()
    images = torch.rand(3, spec.channels, spec.size, spec.size)
    with torch.inference_mode():
        vectors, maps = backbone.stages(images)
        torch.testing.assert_close(backbone(images), vectors, rtol=0, atol=0)
        assert backbone(images[:1]).shape == (1, 12)
    assert (vectors.shape, backbone.dim) == ((3, 12), 12)
    assert tuple(stage.shape[1] for stage in maps) == backbone.stage_channels
    assert all(stage.ndim == 4 and len(stage) == 3 for stage in maps)
    assert 3 <= len(maps) <= 6
    backbone.train()(torch.rand(4, *images.shape[1:])).square().sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_the_same_seed_builds_the_same_weights():
    spec = BackboneSpec(width=4, dim=8)
    torch.manual_seed(3)
    first = build_backbone(spec).state_dict()
    torch.manual_seed(3)
    second = build_backbone(spec).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_default_small_resnet_has_half_a_million_parameters():
    assert parameters(build_backbone(BackboneSpec())) == pytest.approx(0.51e6, rel=0.01)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(8, [8, 4, 4, 4]), (16, [16, 8, 4, 4]), (28, [28, 14, 7, 4]), (32, [32, 16, 8, 4])],
)
def test_a_small_resnet_strides_while_four_pixels_are_left(size, expected):
    backbone = build_backbone(BackboneSpec(size=size, width=2, dim=4)).eval()
    _, maps = backbone.stages(torch.rand(1, 3, size, size))
    assert [stage.shape[-1] for stage in maps] == expected


def test_a_small_resnet_and_a_cnn_give_no_negative_values_for_relu_stands_before_pooling():
    for name in ("small-resnet", "timm:resnet10t"):
        backbone = build_backbone(BackboneSpec(name=name, width=4, dim=16)).eval()
        with torch.inference_mode():
            assert (backbone(torch.rand(2, 3, 32, 32)) >= 0).all()


def test_without_a_dim_a_timm_model_gives_its_own_pooled_output():
    backbone = build_backbone(BackboneSpec(name="timm:resnet10t", dim=None)).eval()
    images = torch.rand(2, 3, 32, 32)
    assert backbone.dim == 512
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images), backbone.model(images))


def test_building_a_timm_backbone_leaves_it_as_ready_to_train_as_any_module():
    assert build_backbone(BackboneSpec(name="timm:resnet10t")).model.training


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "timm:resnet5O"}, r"no model 'resnet5O'; did you mean .*timm:resnet50"),
        ({"name": "timm:zzzzqqqq"}, r"timm.list_models\(\) lists what it has"),
        ({"name": "resnet50"}, r"no backbone 'resnet50'; give 'small-resnet', or 'timm:'"),
        (
            {"name": "timm:vit_tiny_patch16_224", "size": 8},
            "cannot take images of 8 x 8 pixels and 3 channels",
        ),
    ],
)
def test_a_backbone_that_cannot_be_built_says_what_there_is(spec, words):
    with pytest.raises(ModelError, match=words):
        build_backbone(BackboneSpec(**spec))


@pytest.mark.parametrize("use", [build_backbone, InputSpec.of_spec], ids=["build", "input"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18.no_such_tag", "no weights 'no_such_tag' of its model 'resnet18'; of the "),
        ("resnet18.a1_in1l", r"the nearest: a1_in1k, .*or 'timm:resnet18' alone"),
        ("resnet18.", "no weights '' of its model 'resnet18'"),
        (
            "swin_large_patch4_window7_224.ms_in99k",
            "the nearest: ms_in22k, ms_in22k_ft_in1k. Give one of them, or",
        ),
    ],
)
def test_a_tag_that_timm_does_not_have_offers_those_that_it_has(use, name, words):
    with pytest.raises(ModelError, match=words):
        use(BackboneSpec(name=f"timm:{name}"))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("coat_tiny", 32),
        ("efficientvim_m1", 64),
        pytest.param("crossvit_tiny_240", 240, marks=pytest.mark.slow),
    ],
)
def test_a_model_that_gives_several_maps_is_refused(name, size):
    words = f"timm:{name} gives several maps for one image, and a backbone needs one; take another"
    with pytest.raises(ModelError, match=words):
        build_backbone(BackboneSpec(name=f"timm:{name}", size=size, dim=4))


@pytest.mark.parametrize(
    ("name", "size", "channels", "reason"),
    [
        ("efficientvit_m0", 8, 3, "ZeroDivisionError"),
        ("halonet26t", 64, 3, r"\(AssertionError\); give"),
        ("test_convnext", 8, 3, "RuntimeError"),
        ("csatv2", 64, 1, "is designed for 3-channel RGB input"),
    ],
)
def test_a_size_or_channels_that_a_model_cannot_take_are_named(name, size, channels, reason):
    words = rf"timm:{name} cannot take images of {size} x {size} pixels and {channels} channels"
    with pytest.raises(ModelError, match=words + rf" .*{reason}"):
        build_backbone(BackboneSpec(name=f"timm:{name}", size=size, channels=channels, dim=4))


def test_pretrained_weights_that_cannot_be_had_say_where_they_come_from(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(ModelError, match=r"cannot be had .*no route to host.*huggingface\.co"):
        build_backbone(BackboneSpec(name="timm:resnet10t", pretrained=True))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dim": None}, "small-resnet needs a dim"),
        ({"pretrained": True}, "small-resnet has no pretrained weights"),
        ({"dim": 0}, "greater than or equal to 1"),
        ({"widht": 3}, "Extra inputs are not permitted"),
    ],
)
def test_a_spec_that_does_not_fit_together_is_refused(settings, words):
    with pytest.raises(pydantic.ValidationError, match=words):
        BackboneSpec(**settings)


@pytest.mark.slow
def test_a_small_resnet_is_built_without_timm():
    code = (
        "import sys; from onward.nn.backbones import BackboneSpec, build_backbone;"
        "build_backbone(BackboneSpec(width=2)); sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
