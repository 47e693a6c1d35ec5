"""Make what `tests/test_stored.py` reads: small things stored by an older Onward.

Run by that Onward, in its own checkout, whose names these are:

    git worktree add ../older be6a8af
    export PYTHONPATH=../older/src OMP_NUM_THREADS=1
    python tests/stored/make.py tests/stored/be6a8af.tar.xz

The archive holds galleries at every step of an upgrade, transformations, models and embeddings, and
what that Onward said of them: `said.json`, and the numbers in `numbers.safetensors`.
"""

import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onward.training.embedding_models import train_embedding_model
from safetensors.numpy import save_file

from onward import EmbeddingModel, Embeddings, Space, Transformation, Upgrade, compose, fit
from onward.data.sources import open_items
from onward.gallery import create_gallery, open_gallery
from onward.models import InputSpec
from onward.nn.specs import BackboneSpec
from onward.quantisation import fit_quantisation
from onward.training.layers import add_layers_side_information
from onward.training.settings import FitSettings, TrainingSettings
from onward.upgrading import Budget, Requirement, Routes, backfill, embeddings_given, predict

OLD, SIDE = Space("old@1", 16), Space("side@1", 8)
NEW, THIRD = Space("new@2", 16), Space("third@3", 16, "cosine")
ROWS, WITH_SIDE, LABELLED, TRAINING = 40, 34, 36, 80
NUMBERS = "numbers.safetensors"
SMALL = {"inner": 8, "epochs": 60, "lr": 1e-2, "least_steps": 20, "batch_items": 32}


def world():
    """Items whose meaning all models see a part of: embeddings by space, first the gallery's."""
    random = np.random.default_rng(0)
    labels = np.arange(ROWS + TRAINING) % 8
    meaning = random.normal(size=(8, 12))[labels] + 0.5 * random.normal(size=(len(labels), 12))
    ids = tuple(f"item-{row:03}" for row in range(len(labels)))
    found = {}
    for space, seen in ((OLD, 7), (SIDE, 12), (NEW, 12), (THIRD, 12)):
        vectors = np.tanh(meaning[:, :seen] @ random.normal(size=(seen, space.dim)) / 2)
        found[space] = Embeddings(ids, vectors.astype(np.float32), space, labels)
    return found


def transformations(of):
    """One of every kind, by name."""
    old, side, new, third = (of[one] for one in (OLD, SIDE, NEW, THIRD))
    codes = fit_quantisation(side, "int8")
    int8 = codes.apply(side)

    def one(method, aside, to=new, **settings):
        return fit(old, aside, to, settings=FitSettings(method=method, **SMALL | settings), seed=1)

    made = {
        "ridge": one("ridge", None),
        "ridge-side": one("ridge", side),
        "mlp": one("mlp", None),
        "mlp-side": one("mlp", side, uncertainty=True),
        "mlp-int8-side": one("mlp", int8),
        "ensemble": one("ensemble", None),
        "ensemble-side": one("ensemble", side),
        "two-networks": one("mlp", side, networks=2),
        "residual": one("mlp", side, residual=True),
        "bottleneck": one("rbt", None),
        "to-third": one("ridge", side, third),
    }
    further = fit(new, None, third, settings=FitSettings(method="ridge"), seed=1)
    made["composed"] = compose(made["mlp-side"], further)
    return made, codes


def onnx_model(path):
    """A graph with one product of the flattened image."""
    weight = np.random.default_rng(3).normal(size=(64, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["vectors"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def models(numbers):
    """A trained model that reads side-information from its layers, and one from an ONNX file."""
    digits = open_items("digits").select(range(ROWS))
    spec = BackboneSpec(dim=16, size=8, channels=1, width=2)
    settings = TrainingSettings(epochs=2, flip=False, batch_items=16)
    trained = train_embedding_model(digits, spec, name="small", settings=settings, seed=1)
    trained = add_layers_side_information(trained, digits, dim=8, format="int8")
    trained.save("models/trained")
    onnx_model("graph.onnx")
    made = EmbeddingModel.from_onnx(
        "graph.onnx", name="graph", input=InputSpec(8, 1, (0.5,), (0.5,))
    )
    made.save("models/onnx")
    embeddings, side = trained.embed_with_side(digits)
    embeddings.save("embeddings/digits.parquet")
    side.save("embeddings/digits-int8.parquet")
    numbers["models/onnx"] = made.embed(digits).vectors
    return {name: str(EmbeddingModel.load(f"models/{name}").space) for name in ("trained", "onnx")}


def galleries(of, made):
    """Make a gallery at each step of an upgrade; return the transformations of each."""
    rows = {space: each.select(range(ROWS)) for space, each in of.items()}
    h, other, third = (made[name] for name in ("mlp-side", "ridge", "to-third"))
    labels = np.where(np.arange(ROWS) < LABELLED, rows[OLD].labels, -1)
    old = Embeddings(rows[OLD].ids, rows[OLD].vectors, OLD, labels)
    payloads = [{"path": f"images/{item}.png"} for item in old.ids]
    gallery = create_gallery("galleries/before", OLD, SIDE, query_model="old")
    whole = old.select(range(WITH_SIDE)), rows[SIDE].select(range(WITH_SIDE))
    gallery.add(*whole, payloads=payloads[:WITH_SIDE])
    gallery.add(old.select(range(WITH_SIDE, ROWS)), payloads=payloads[WITH_SIDE:])

    def copy(name, of):
        shutil.copytree(f"galleries/{of}", f"galleries/{name}")
        return Upgrade(open_gallery(f"galleries/{name}"), h, other)

    upgrade = copy("half", "before")
    predicted = predict(upgrade.gallery, upgrade.routes, rows[NEW].select(range(30)))
    assert upgrade.start(prediction=predicted).gate.met
    looks = iter((False, False, True))
    assert upgrade.run(batch_rows=8, stop=lambda: next(looks)).stopped
    upgrade.pause()
    upgrade.limit(1e6)
    upgrade = copy("verified", "before")
    wanted = Requirement.parse("map >= 0.99")
    assert not upgrade.start(prediction=predicted, require=wanted, force=True).gate.met
    assert upgrade.run().remaining == 0
    assert upgrade.verify().passed
    copy("cut-over", "verified").cut_over(query_model="new")
    copy("rolled-back", "cut-over").roll_back()
    copy("completed", "cut-over").complete(now=True)
    upgrade = copy("backfilled", "cut-over")
    done = backfill(upgrade.gallery, NEW, embeddings_given(rows[NEW]), budget=Budget(rows=8))
    assert done.done == 8
    copy("second", "completed")
    upgrade = Upgrade(open_gallery("galleries/second"), third)
    predicted = predict(upgrade.gallery, Routes((third,)), rows[THIRD].select(range(9)))
    assert not upgrade.start(prediction=predicted).gate.judged
    looks = iter((False, False, True))
    assert upgrade.run(batch_rows=8, stop=lambda: next(looks)).stopped
    names = ("before", "half", "verified", "cut-over", "rolled-back", "completed", "backfilled")
    return {**dict.fromkeys(names, ("mlp-side", "ridge")), "second": ("to-third",)}


def say(name, of, made, queries, numbers):
    """Return what is said of a gallery, and keep its numbers."""
    gallery = open_gallery(f"galleries/{name}")
    now = gallery.describe()
    for space in now.spaces():
        numbers[f"{name}/{space.name}"] = gallery.read(space).vectors
    found = gallery.search(queries[now.serving], 5)
    numbers[f"{name}/distances"] = found.distances
    return {
        "transformations": of,
        "described": now.to_json(),
        "status": Upgrade(gallery, *(made[one] for one in of)).status().to_json(),
        "state": gallery.state(),
        "journal": gallery.journal(),
        "ids": {space.name: list(gallery.ids([space])) for space in now.spaces()},
        "found": [found.ids_of(row) for row in range(len(found))],
    }


def finish(name, of, made, numbers):
    """Let a copy of the gallery be upgraded to its end, and keep the vectors that this makes."""
    shutil.copytree(f"galleries/{name}", "copy")
    upgrade = Upgrade(open_gallery("copy"), *(made[one] for one in of))
    upgrade.start()
    upgrade.resume()
    assert upgrade.run().remaining == 0
    numbers[f"{name}/finished"] = upgrade.gallery.read(upgrade.transformation.new).vectors
    shutil.rmtree("copy")


def main():
    archive = Path(sys.argv[1]).absolute()
    directory = Path(tempfile.mkdtemp())
    os.chdir(directory)
    for name in ("galleries", "transformations", "models", "embeddings"):
        Path(name).mkdir()
    of, numbers = world(), {}
    training = {space: each.select(range(ROWS, ROWS + TRAINING)) for space, each in of.items()}
    made, codes = transformations(training)
    rows = {space: each.select(range(ROWS)) for space, each in of.items()}
    int8 = codes.apply(rows[SIDE])
    aside = {None: None, SIDE: rows[SIDE], int8.space: int8}
    int8.save("embeddings/int8.parquet")
    for space in (OLD, SIDE, NEW, THIRD):
        rows[space].save(f"embeddings/{space.name}.parquet")
    said = {"digests": {}, "galleries": {}, "models": models(numbers)}
    for name, each in made.items():
        each.save(f"transformations/{name}")
        made[name] = Transformation.load(f"transformations/{name}")
        numbers[f"transformations/{name}"] = each.apply(rows[OLD], aside[each.side]).vectors
        said["digests"][name] = each.digest
    numbers["uncertainties"] = made["mlp-side"].uncertainties(rows[OLD], rows[SIDE])
    for name, routes in galleries(of, made).items():
        finish(name, routes, made, numbers)
        said["galleries"][name] = say(name, routes, made, rows, numbers)
    Path("said.json").write_text(json.dumps(said, indent=1, sort_keys=True))
    save_file({name: np.ascontiguousarray(one) for name, one in numbers.items()}, NUMBERS)
    Path("graph.onnx").unlink()
    with tarfile.open(archive, "w:xz") as packed:
        for path in sorted(directory.iterdir()):
            packed.add(path, path.name)


if __name__ == "__main__":
    main()
