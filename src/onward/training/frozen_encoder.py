"""A backbone as it is, as an embedding model: nothing is trained.

For pretrained weights that serve as side-information, or as an old or a new model. A model from
elsewhere comes in by `EmbeddingModel.from_onnx`, one that was saved by `EmbeddingModel.load`.
"""

from onward.errors import ConfigurationError
from onward.models import EmbeddingModel, InputSpec
from onward.nn.backbones import BackboneSpec, build_backbone
from onward.spaces import Metric
from onward.training.devices import seeded
from onward.training.images import input_of
from onward.training.provenance import versions


def frozen_encoder(
    backbone: BackboneSpec,
    *,
    name: str,
    input: InputSpec | None = None,
    metric: Metric = "l2",
    seed: int = 0,
) -> EmbeddingModel:
    """Return the model of a backbone with pretrained weights, or with weights drawn at random.

    Random weights are there to compare with: what they are worth as side-information is what the
    mere size of a second vector is worth.

    Args:
        backbone: such as `BackboneSpec(name="timm:resnet50", size=224, dim=None, pretrained=True)`.
            Pretrained weights are fetched from the hub, once; with them `dim` is None, which gives
            the network's own pooled output, or is left out, which means the same here.
        name: what the model is called; the digest of its weights is added for its space.
        input: what its images are to be; what the backbone wants where left out.
        metric: the distance of its space.
        seed: decides random weights.

    Raises:
        ConfigurationError: if pretrained weights are to give another number of dimensions than
            they do, or the input does not fit the backbone.
        ModelError: if the backbone cannot be built, or its pretrained weights cannot be had.
        MissingExtraError: if timm is needed and not installed.
    """
    if backbone.pretrained and "dim" not in backbone.model_fields_set:
        backbone = backbone.model_copy(update={"dim": None})
    if backbone.pretrained and backbone.dim is not None:
        raise ConfigurationError(
            f"{backbone.name} with pretrained weights was asked for {backbone.dim} dimensions; the "
            "layer that brings it to them would be random. Leave dim out for its own output, or "
            "train it"
        )
    taken = input_of(backbone, input)
    with seeded(seed, "first weights"):
        network = build_backbone(backbone)
    described = backbone.model_dump(mode="json")
    made_by = {
        "recipe": "frozen encoder",
        "seed": seed,
        "backbone": described,
        "versions": versions(described),
    }
    return EmbeddingModel.of_backbone(
        network, backbone, name=name, input=taken, metric=metric, made_by=made_by
    )
