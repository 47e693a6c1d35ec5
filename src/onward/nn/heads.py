"""What stands on an embedding while a model is trained, and is thrown away afterwards."""

import math

from torch import Tensor, nn

from onward.nn.backbones import Images, Vectors

SMALLEST_MAP = 4  # pixels a side that a decoder begins with, at most
MOST_TIMES_WIDER = 8


def projection_head(dim: int, projection_dim: int) -> nn.Sequential:
    """Return SimCLR's head: a hidden layer as wide as the embedding, and a linear one.

    References:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020.
    """
    return nn.Sequential(
        nn.Linear(dim, dim, bias=False),
        nn.BatchNorm1d(dim),
        nn.ReLU(),
        nn.Linear(dim, projection_dim),
    )


class Decoder(nn.Module):
    """Draws an image from an embedding: a small map, doubled until it is as large as the image.

    After each doubling stand a 3 x 3 convolution, BatchNorm and ReLU; the last convolution gives
    the channels of the image, unbounded, for images are normalised.

    Args:
        dim: dimensions of the embedding.
        size: height and width of the image, in pixels.
        channels: of the image.
        width: channels of the largest maps.
    """

    def __init__(self, dim: int, size: int, channels: int, width: int) -> None:
        super().__init__()
        sizes = [size]
        while sizes[-1] > SMALLEST_MAP:
            sizes.append(math.ceil(sizes[-1] / 2))
        widths = [width * min(2**halved, MOST_TIMES_WIDER) for halved in range(len(sizes))]
        smallest, widest = sizes.pop(), widths.pop()
        layers: list[nn.Module] = [
            nn.Linear(dim, widest * smallest**2),
            nn.Unflatten(1, (widest, smallest, smallest)),
        ]
        before = widest
        for larger, after in zip(reversed(sizes), reversed(widths), strict=True):
            layers += [
                nn.Upsample(size=(larger, larger)),
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, channels, 3, padding=1))

    def forward(self, embeddings: Vectors) -> Images:
        """Return the images."""
        images: Tensor = self.layers(embeddings)
        return images
