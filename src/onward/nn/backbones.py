"""Backbones: networks that turn a batch of images into embeddings and tell what their stages said.

A `BackboneSpec` says which, `build_backbone` builds it. Nothing here knows how a backbone is
trained, nor where images come from.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onward.errors import ModelError
from onward.nn.specs import SMALL_RESNET, TIMM, BackboneSpec

__all__ = ["Backbone", "BackboneSpec", "SmallResNet", "build_backbone", "normalise", "projection"]

Images = Float[Tensor, "item channel height width"]
Vectors = Float[Tensor, "item dim"]
StageMap = Float[Tensor, "item _ _ _"]  # channel, height and width differ from stage to stage

SMALLEST_MAP = 4  # pixels a side below which a small ResNet does not stride


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
        from onward.nn.timm_backbones import TimmBackbone

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
        self.projection = projection(self.stage_channels[-1], dim)

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


def projection(channels: int, dim: int) -> nn.Sequential:
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
