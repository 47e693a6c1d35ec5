"""Backbones: networks that turn a batch of images into embeddings and tell what their stages said.

A `BackboneSpec` says which, `build_backbone` builds it: a small residual network, or any timm
model, CNN or transformer, with an embedding size of one's choice. Nothing here knows how a backbone
is trained, nor where images come from.
"""

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onward.errors import MissingExtraError, ModelError
from onward.nn.specs import SMALL_RESNET, TIMM, BackboneSpec

__all__ = ["Backbone", "BackboneSpec", "SmallResNet", "build_backbone", "normalise"]

Images = Float[Tensor, "item channel height width"]
Vectors = Float[Tensor, "item dim"]
StageMap = Float[Tensor, "item _ _ _"]  # channel, height and width differ from stage to stage

SMALLEST_MAP = 4  # pixels a side below which a small ResNet does not stride
MOST_STAGES = 6  # a model with more (a transformer tells each block's output) is read four times


class Backbone(nn.Module, ABC):
    """A network with an embedding and stages.

    Attributes:
        dim: dimensions of the embedding.
        stage_channels: channels of each stage's map, in the order in which `stages` gives them.
    """

    dim: int
    stage_channels: tuple[int, ...]

    @abstractmethod
    def forward(self, images: Images) -> Vectors:
        """Return the embedding of each image."""

    @abstractmethod
    def stages(self, images: Images) -> tuple[Vectors, list[StageMap]]:
        """Return the embeddings, the same as `forward` gives, and the output of each stage."""


def build_backbone(spec: BackboneSpec) -> Backbone:
    """Build a backbone with fresh weights, or with pretrained ones where the spec says so.

    Fresh weights come from torch's global generator: seed it to get the same ones again.

    Raises:
        ModelError: if there is no such backbone, it cannot take images of this size, or its
            pretrained weights cannot be had.
        MissingExtraError: if timm is needed and not installed.
    """
    if spec.name == SMALL_RESNET:
        assert spec.dim is not None  # noqa: S101  # the spec has seen to it
        return SmallResNet(spec.dim, spec.size, spec.channels, spec.width, spec.blocks)
    if spec.name.startswith(TIMM):
        return TimmBackbone(spec)
    raise ModelError(
        f"there is no backbone {spec.name!r}",
        f"give {SMALL_RESNET!r}, or {TIMM!r} and the name of "
        f"a timm model, such as '{TIMM}resnet50'",
    )


class SmallResNet(Backbone):
    """A residual network for images of 8 to 32 pixels: four stages, ReLU before global pooling.

    The stages are `width`, 2, 3 and 4 times `width` channels wide. All but the first halve the
    map, as long as at least 4 x 4 pixels are left: 32 px images end at 4 x 4, 8 px images too.
    A 1 x 1 convolution, BatchNorm and ReLU bring the last map to `dim` channels; their mean over
    the map is the embedding. At width 32, 1 block and dim 128 it has 0.51 M parameters.
    """

    def __init__(self, dim: int, size: int, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.dim = dim
        self.stage_channels = tuple(width * factor for factor in (1, 2, 3, 4))
        self.stem = _convolution(channels, width, kernel=3)
        self.residual_stages = nn.ModuleList([_stage(width, width, blocks, stride=1)])
        side = size
        for before, after in pairwise(self.stage_channels):
            halved = math.ceil(side / 2)
            stride = 2 if halved >= SMALLEST_MAP else 1
            side = halved if stride == 2 else side
            self.residual_stages.append(_stage(before, after, blocks, stride))
        self.projection = _projection(self.stage_channels[-1], dim)

    def forward(self, images: Images) -> Vectors:
        """Return the embedding of each image."""
        return self.stages(images)[0]

    def stages(self, images: Images) -> tuple[Vectors, list[StageMap]]:
        """Return the embeddings and the output of each of the four stages."""
        x = self.stem(images)
        maps = []
        for stage in self.residual_stages:
            x = stage(x)
            maps.append(x)
        return self.projection(x), maps


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a skip connection, ReLU after their sum (He et al., 2016).

    Weights of stored models have the name `short_cut` of it.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_convolution(before, after, kernel=3, stride=stride),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.short_cut = (
            nn.Identity()
            if before == after and stride == 1
            else nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )
        )

    def forward(self, x: StageMap) -> StageMap:
        """Return the next map."""
        return torch.relu(self.convolutions(x) + self.short_cut(x))


def normalise(images: Images, mean: Sequence[float], std: Sequence[float]) -> Images:
    """Return images of [0, 1] as backbones take them: less the mean, over the deviation."""
    shape = (1, len(mean), 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def _projection(channels: int, dim: int) -> nn.Sequential:
    """Return 1 x 1 convolution, BatchNorm, ReLU and global average pooling: a map to vectors."""
    return nn.Sequential(
        *_convolution(channels, dim, kernel=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def _stage(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
    first = ResidualBlock(before, after, stride)
    return nn.Sequential(first, *(ResidualBlock(after, after, 1) for _ in range(blocks - 1)))


def _convolution(before: int, after: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class TimmBackbone(Backbone):
    """A timm model without its classifier.

    Where the model ends in a map (most CNNs), 1 x 1 convolution, BatchNorm and ReLU bring it to
    `dim` channels before global pooling. Where it ends in tokens (transformers), the model's own
    pooling gives one vector, and a linear layer brings it to `dim`. Without a `dim` the embedding
    is the model's own pooled output.
    The stages are those of a CNN, or the token grids after each quarter of a transformer's blocks.

    Raises:
        ModelError: if timm has no such model or tag, the model does not tell its stages, gives
            several maps for one image or cannot take images of this size, or its pretrained weights
            cannot be had.
        MissingExtraError: if timm is not installed.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.model = _create(spec)
        self.indices = _stage_indices(len(self.model.feature_info))
        last, pooled, maps = _try_out(self.model, self.indices, spec)
        self.stage_channels = tuple(int(stage.shape[1]) for stage in maps)
        self.ends_in_map = last.ndim == 4 and getattr(self.model, "output_fmt", "NCHW") == "NCHW"
        if spec.dim is None:
            self.dim, self.ends_in_map = int(pooled.shape[1]), False
            self.projection: nn.Module = nn.Identity()
        elif self.ends_in_map:
            self.dim = spec.dim
            self.projection = _projection(last.shape[1], spec.dim)
        else:
            self.dim = spec.dim
            self.projection = nn.Linear(pooled.shape[1], spec.dim)

    def forward(self, images: Images) -> Vectors:
        """Return the embedding of each image."""
        return self._embedding(self.model.forward_features(images))

    def stages(self, images: Images) -> tuple[Vectors, list[StageMap]]:
        """Return the embeddings and the output of each stage."""
        last, maps = self.model.forward_intermediates(images, indices=self.indices)
        return self._embedding(last), maps

    def _embedding(self, last: Tensor) -> Vectors:
        pooled = last if self.ends_in_map else self.model.forward_head(last, pre_logits=True)
        vectors: Vectors = self.projection(pooled)
        return vectors


def timm_normalisation(spec: BackboneSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the deviation, a channel, that the model's pretrained weights expect.

    Grey images get the means over the colours, as timm sums the colours' filters for them.

    Raises:
        ModelError: if timm has no such model or tag.
        MissingExtraError: if timm is not installed.
    """
    _, known = _timm_with(spec)
    mean, std = (known.mean, known.std) if known else ((0.5,) * 3, (0.5,) * 3)
    if spec.channels == len(mean):
        return tuple(mean), tuple(std)
    return (fmean(mean),) * spec.channels, (fmean(std),) * spec.channels


def _timm_with(spec: BackboneSpec) -> tuple[Any, Any]:
    """Return timm, once it is sure that it has the model, and what it says of the weights."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtraError("timm", "vision") from error
    name = spec.name.removeprefix(TIMM)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        offer = f"did you mean {', '.join(TIMM + other for other in near)}?" if near else ""
        raise ModelError(
            f"timm has no model {name!r}", f"{offer or 'timm.list_models() lists what it has'}"
        )
    try:
        return timm, timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        model, _, tag = name.partition(".")
        known = [one.partition(".")[2] for one in timm.list_pretrained(f"{model}.*")]
        near = difflib.get_close_matches(tag, known, n=3, cutoff=0) or ["none"]
        raise ModelError(
            f"timm {timm.__version__} has no weights {tag!r} of its model {model!r}",
            f"of the "
            f"{len(known)} that it has, the nearest: {', '.join(near)}. Give one of them, or "
            f"{TIMM + model!r} alone",
        ) from error


def _create(spec: BackboneSpec) -> Any:
    timm, known = _timm_with(spec)
    name, settings = spec.name.removeprefix(TIMM), dict[str, Any]()
    settings |= {"num_classes": 0, "in_chans": spec.channels}
    if known is not None and known.fixed_input_size:  # transformers; others take any size
        settings["img_size"] = spec.size
    try:
        model = timm.create_model(name, pretrained=spec.pretrained, **settings)
    except Exception as error:  # timm and the hub's client raise what they like
        reason = f"{type(error).__name__}: {error}"
        if spec.pretrained:
            raise ModelError(
                f"the pretrained weights of {spec.name} cannot be had ({reason}). They are "
                "fetched from huggingface.co: connect to it once, or set pretrained = false"
            ) from error
        raise _unfit(spec, reason) from error
    if not hasattr(model, "forward_intermediates"):
        raise ModelError(
            f"the outputs of {spec.name}'s stages cannot be read (no forward_intermediates in "
            f"timm {timm.__version__})",
            f"take another model, such as {TIMM}resnet50",
        )
    return model


def _stage_indices(count: int) -> list[int]:
    if count <= MOST_STAGES:
        return list(range(count))
    return [count * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]


def _try_out(
    model: Any, indices: list[int], spec: BackboneSpec
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Run one empty image, so that shapes are known and what does not fit shows now."""
    empty = torch.zeros(1, spec.channels, spec.size, spec.size)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            last, maps = model.forward_intermediates(empty, indices=indices)
            if not isinstance(last, Tensor) or not isinstance(
                model.forward_features(empty), Tensor
            ):
                raise ModelError(
                    f"{spec.name} gives several maps for one image, and a backbone needs one",
                    f"take another model, such as {TIMM}resnet50",
                )
            pooled = model.forward_head(last, pre_logits=True)
    except ModelError:
        raise
    except Exception as error:  # timm's models raise whatever the size leads them to
        raise _unfit(spec, f"{type(error).__name__}: {error}".removesuffix(": ")) from error
    model.train(was_training)
    return last, pooled, maps


def _unfit(spec: BackboneSpec, reason: str) -> ModelError:
    return ModelError(
        f"{spec.name} cannot take images of {spec.size} x {spec.size} pixels and {spec.channels} "
        f"channels ({reason})",
        "give another size or another model",
    )
