"""Fit, apply and upgrade on inputs with fixed seeds; print digests of all that comes out.

Usage: python lab/same_bytes.py OUT [--against OTHER]; OUT is a directory that is not there yet.

To see whether a change of the code has changed a result, run it on the commit before, by PYTHONPATH
on another checkout's `src`, and on the one after, on the same machine. Digests are of vectors,
weights and graphs, not of times, versions or names of files. Ridge and a single network are to give
the same bytes, unless `fit` chooses another penalty: a transformation's config.json in OUT says
which it tried. What is summed of several networks (two networks, an ensemble) may be summed in
another order: its vectors are kept in OUT, and are to be within 1e-6 of each vector's length, with
the same rankings but for ties within that.

It calls `onward fit`, whose name of the network it tries, and names of the library that are in
README.md.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from safetensors.numpy import load_file

import onward
from onward import Embeddings, Space, Transformation, Upgrade, create_gallery

COMMAND = (sys.executable, "-m", "onward", "fit")
CODE = str(Path(onward.__file__).resolve().parents[1])
OLD, SIDE, NEW = Space("old@1", 32), Space("side@1", 16), Space("new@2", 32)
MANY, FEW = 3000, 120
"""Pairs for ridge, whose penalty is then clear, and for what a network learns from."""
ROWS, WITH_SIDE, QUERIES, CLASSES = 10_500, 10_000, 200, 12
TOLERANCE = 1e-6
NETWORK = ("mlp", "network")
LEARN, WITH = ("--method", NETWORK, "--epochs", "4"), ("--side", f"side-{FEW}.parquet")
FITS = {
    "ridge": ("--method", "ridge"),
    "ridge with side": ("--method", "ridge", "--side", f"side-{MANY}.parquet"),
    "network": LEARN,
    "network with side": (*LEARN, *WITH),
    "network, unsure": (*LEARN, *WITH, "--uncertainty"),
}
SUMS = {
    "two networks": (*LEARN, "--networks", "2"),
    "ensemble": ("--method", "ensemble", "--epochs", "4", *WITH),
}


def main() -> None:
    out, against = Path(sys.argv[1]).absolute(), None
    if sys.argv[2:3] == ["--against"]:
        against = Path(sys.argv[3]).absolute()
    out.mkdir(parents=True)
    os.chdir(out)
    gallery, digests, sums = save_inputs(), {}, {}
    for name, options in (FITS | SUMS).items():
        h = fit(name, options)
        vectors = h.apply(gallery[OLD], None if h.side is None else gallery[SIDE]).vectors
        if name in SUMS:
            sums[name.replace(" ", "_")] = vectors
            continue
        digests |= {f"{name}: {what}": one for what, one in digests_of(Path(name)).items()}
        digests[f"{name}: applied"] = digest(vectors)
        if h.uncertainty is not None:
            unsure = h.uncertainties(gallery[OLD], gallery[SIDE])
            digests[f"{name}: uncertainties"] = digest(unsure)
    digests |= upgrade(gallery)
    Path("digests.json").write_text(json.dumps(digests, indent=1) + "\n")
    np.savez("sums.npz", **sums)
    for name, one in digests.items():
        print(f"{one}  {name}")
    for name, vectors in sums.items():
        print(f"{digest(vectors)}  {name}: applied (compared by values)")
    if against is not None and not compare(against, digests, sums):
        sys.exit(1)


def save_inputs() -> dict[Space, Embeddings]:
    """Save training pairs as files; return the gallery's items by space."""
    random = np.random.default_rng(0)
    items = MANY + ROWS
    labels = np.arange(items) % CLASSES
    meaning = random.normal(size=(CLASSES, 24))[labels] + random.normal(size=(items, 24))
    ids = tuple(f"item-{row:05}" for row in range(items))
    whole = {}
    for space, seen in ((OLD, 12), (SIDE, 24), (NEW, 24)):
        vectors = np.tanh(meaning[:, :seen] @ random.normal(size=(seen, space.dim)) / 4)
        whole[space] = Embeddings(ids, vectors.astype(np.float32), space, labels)
    for space, name in ((OLD, "old"), (SIDE, "side"), (NEW, "new")):
        for pairs in (MANY, FEW):
            whole[space].select(range(pairs)).save(f"{name}-{pairs}.parquet")
    return {space: one.select(range(MANY, items)) for space, one in whole.items()}


def fit(name: str, options: tuple[str | tuple[str, ...], ...]) -> Transformation:
    """Return what `onward fit` makes; of an option with several names, the first it knows."""
    for known in range(len(NETWORK)):
        chosen = [one if isinstance(one, str) else one[known] for one in options]
        pairs = MANY if "ridge" in options else FEW
        given = (f"old-{pairs}.parquet", f"new-{pairs}.parquet", name)
        done = subprocess.run(
            [*COMMAND, *given, *chosen, "--seed", "1", "--device", "cpu"],
            env=os.environ | {"PYTHONPATH": CODE},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return Transformation.load(name)
    sys.exit(f"{name}: {done.stderr}")


def digests_of(artifact: Path) -> dict[str, str]:
    """Return the digests of a transformation's weights, by name, and of its graph."""
    arrays = load_file(artifact / "model.safetensors")
    named = [one for name in sorted(arrays) for one in (name.encode(), digest(arrays[name]))]
    whole = hashlib.sha256(
        b"".join(one if isinstance(one, bytes) else one.encode() for one in named)
    )
    graph = hashlib.sha256((artifact / "model.onnx").read_bytes())
    return {"weights": whole.hexdigest()[:16], "graph": graph.hexdigest()[:16]}


def digest(array: np.ndarray) -> str:
    """Return a digest of type, shape and values."""
    described = f"{array.dtype} {array.shape}".encode()
    return hashlib.sha256(described + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def upgrade(gallery: dict[Space, Embeddings]) -> dict[str, str]:
    """Upgrade a LanceDB gallery whose last rows have no side-information, and roll back."""
    made = create_gallery("gallery.lance", OLD, SIDE, query_model="old")
    made.add(*(gallery[space].select(range(WITH_SIDE)) for space in (OLD, SIDE)))
    made.add(gallery[OLD].select(range(WITH_SIDE, ROWS)))
    queries = {space: gallery[space].select(range(QUERIES)) for space in (OLD, NEW)}
    found = {"upgrade: searched before": searched(made, queries[OLD])}
    whole = Upgrade(made, *(Transformation.load(one) for one in ("network, unsure", "ridge")))
    whole.start()
    assert whole.run().remaining == 0
    assert whole.verify().passed
    whole.cut_over(query_model="new")
    found["upgrade: searched after"] = searched(made, queries[NEW])
    for space in (OLD, SIDE, NEW):
        read = made.read(space)
        found[f"upgrade: {space.name}"] = digest(read.vectors)
        found[f"upgrade: ids in {space.name}"] = digest(np.array(read.ids))
    unsure = {}
    for batch in made.scan([NEW]):
        unsure |= dict(zip(batch.ids, batch.uncertainties[NEW].tolist(), strict=True))
    found["upgrade: uncertainties"] = digest(np.array([unsure[one] for one in sorted(unsure)]))
    whole.roll_back()
    found["upgrade: searched after rolling back"] = searched(made, queries[OLD])
    whole.cut_over(query_model="new")
    whole.complete(now=True)
    events = [entry["event"] for entry in made.journal()]
    found["upgrade: events"] = hashlib.sha256(" ".join(events).encode()).hexdigest()[:16]
    return found


def searched(gallery, queries: Embeddings) -> str:
    """Return a digest of the ten nearest items and their distances."""
    ranking = gallery.search(queries, 10)
    ids = [one for row in range(len(ranking)) for one in ranking.ids_of(row)]
    return digest(np.array([f"{one}" for one in (*ids, digest(ranking.distances))]))


def compare(against: Path, digests: dict[str, str], sums: dict[str, np.ndarray]) -> bool:
    """Print what differs from another run; say whether that is within what may."""
    before = json.loads((against / "digests.json").read_text())
    other = [name for name in digests if before.get(name) != digests[name]]
    print(f"same bytes: {len(digests) - len(other)} of {len(digests)}", *other, sep="\n  differs: ")
    sound = not other and set(before) == set(digests)
    for name, vectors in np.load(against / "sums.npz").items():
        apart = np.linalg.norm(sums[name].astype(float) - vectors, axis=1)
        most = float((apart / np.linalg.norm(vectors, axis=1)).max())
        rankings = same_rankings(vectors.astype(float), sums[name].astype(float))
        print(f"{name}: at most {most:.1e} apart, {'the same' if rankings else 'OTHER'} rankings")
        sound = sound and most <= TOLERANCE and rankings
    return sound


def same_rankings(before: np.ndarray, after: np.ndarray) -> bool:
    """Say whether the first vectors find all others in the same order, but for ties."""
    far = [
        np.linalg.norm(each[:QUERIES, None] - each[None, QUERIES : 10 * QUERIES], axis=2)
        for each in (before, after)
    ]
    orders = [each.argsort(axis=1, kind="stable") for each in far]
    one, other = (np.take_along_axis(far[0], order, axis=1) for order in orders)
    lengths = np.linalg.norm(before, axis=1).max()
    return bool((np.abs(one - other) <= 4 * TOLERANCE * lengths).all())


if __name__ == "__main__":
    main()
