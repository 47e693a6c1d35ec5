"""Spaces and the embeddings that lie in them.

A vector means nothing without its space: two models of 384 dimensions are not compatible because
their dimensions agree. Whatever compares embeddings calls `check_same_space` first. Nothing here
knows of images, models or databases.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Bool, Float32, Int64

from onward.arrays import as_numbers
from onward.embedding_files import (
    CLASSES_KEY,
    ORIGINS,
    SPACE_KEY,
    VectorFile,
    check_ids_across,
    common_labels,
    common_origins,
    join,
    read_vector_files,
)
from onward.errors import EmbeddingsError, SpaceMismatchError
from onward.labels import ClassNames, Labels, as_class_names, as_labels, is_text

Metric = Literal["l2", "cosine", "ip"]
Format = Literal["float32", "float16", "int8"]
Origin = Literal["embedded", "upgraded"]
"""How a vector came to be: a model embedded the item, or a transformation made it."""
Ids = tuple[str, ...]
Origins = tuple[Origin | None, ...]
Vectors = Float32[np.ndarray, "item dim"]

SHORTEST, LONGEST = 2.0**-50, 2.0**60
"""Lengths whose squares float32 holds exactly enough, also their sums and differences."""
LENGTHS = f"lengths from {SHORTEST:.0e} to {LONGEST:.0e}, whose squares float32 holds"
LARGEST_CODE = 127  # of int8; -128 is not used, so that codes are symmetric


@dataclass(frozen=True)
class Space:
    """What makes vectors comparable: equal only to itself.

    Attributes:
        name: `<given name>@<digest of the weights>` where Onward trained the model, so that two
            trainings never share a space by accident; any unique name where the user brings one.
        dim: number of dimensions.
        metric: the distance of this space: "l2" (Euclidean), "cosine" (one minus the cosine) or
            "ip" (minus the inner product of the vectors as they are). Smaller is nearer, always;
            that of "ip" may be negative, and a vector need not be the nearest to itself.
        format: how its numbers are stored. Those of a "float16" space are what float16 holds, those
            of an "int8" space are whole numbers from -127 to 127; see `onward.quantisation`.
            Spaces that answer queries are in "float32".
    """

    name: str
    dim: int
    metric: Metric = "l2"
    format: Format = "float32"

    def __post_init__(self) -> None:
        name, dim = self.name, self.dim
        if not isinstance(name, str) or not name or not is_text(name):
            raise EmbeddingsError(
                f"the name of a space was given as {name!r}",
                "give text in UTF-8, such as 'resnet50@2f1c90ab'",
            )
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
            raise EmbeddingsError(
                f"space {name} has {dim!r} dimensions", needed="it needs a whole number, at least 1"
            )
        object.__setattr__(self, "name", str(name))
        object.__setattr__(self, "dim", int(dim))
        for what, known in (("metric", get_args(Metric)), ("format", get_args(Format))):
            given = getattr(self, what)
            if not isinstance(given, str) or given not in known:
                words = f"{what} {given!r}; choose {' or '.join(map(repr, known))}"
                raise EmbeddingsError(f"space {self.name} has the {words}")

    def __str__(self) -> str:
        stored = "" if self.format == "float32" else f", {self.format}"
        return f"{self.name} ({self.dim}, {self.metric}{stored})"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a number as it is stored."""
        return np.dtype(self.format)

    @property
    def bytes(self) -> int:
        """How many bytes one stored vector takes."""
        return self.dim * self.dtype.itemsize

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values; the format only if it is not float32."""
        fields = {"name": self.name, "dim": self.dim, "metric": self.metric}
        return fields if self.format == "float32" else {**fields, "format": self.format}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Space":
        """Return the space that `to_json` wrote."""
        name, dim, metric = fields["name"], fields["dim"], fields["metric"]
        return cls(name, dim, metric, fields.get("format", "float32"))


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of items in one space, with the items' ids.

    Checked once, here: ids are unique strings, one a row; vectors are finite, of the space's
    dimension, not zero where the metric is the cosine, and what the space's format holds. The
    arrays are read-only.

    Attributes:
        ids: identity of each item.
        vectors: one row an item; float32 here, whatever the format in which they are stored.
        space: where the vectors lie.
        labels: class of each item, where it is known; a negative label means that it is not.
        class_names: what each label is called; None where nothing says so, and without labels.
        origins: how each vector came to be, None where nothing says so; None if nothing says it of
            any of them.

    Raises:
        EmbeddingsError: if any of this does not hold; the message names the row.
    """

    ids: Ids
    vectors: Vectors
    space: Space
    labels: Labels | None = None
    class_names: ClassNames | None = None
    origins: Origins | None = None

    def __post_init__(self) -> None:
        vectors = _as_vectors(self.vectors)
        object.__setattr__(self, "ids", tuple(self.ids))
        object.__setattr__(self, "vectors", _read_only(vectors))
        if vectors.ndim != 2 or vectors.shape[1] != self.space.dim:
            raise EmbeddingsError(
                f"vectors of shape {vectors.shape} do not lie in {self.space}",
                f"give one row of {self.space.dim} numbers an item",
            )
        if len(self.ids) != len(vectors):
            raise EmbeddingsError(
                f"{len(self.ids)} ids for {len(vectors)} vectors", "give one id a vector"
            )
        check_unique(self.ids)
        wild = ~np.isfinite(vectors).all(axis=1)
        wrong = "has NaN or infinite values"
        do = "leave these items out or mend the model that made them"
        _refuse_rows(self.ids, wild, wrong, do)
        if self.space.format != "float32":
            _check_format(self.ids, vectors, self.space)
        if self.space.metric == "cosine":
            zero = ~np.any(vectors != 0, axis=1)
            wrong = f"is zero and has no direction, which {self.space} needs"
            _refuse_rows(self.ids, zero, wrong, "leave these items out or use the l2 metric")
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels, len(self.ids)))
        names = self.class_names
        if self.labels is None or not names:
            object.__setattr__(self, "class_names", None)
        else:
            object.__setattr__(self, "class_names", as_class_names(names, self.labels))
        if self.origins is not None:
            object.__setattr__(self, "origins", _as_origins(self.origins, len(self.ids)))

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return f"{len(self):,} embeddings in {self.space}"

    def count_origins(self) -> dict[str, int]:
        """Return how many vectors are "embedded", "upgraded", and "unknown"; none that is 0."""
        known = Counter(self.origins or ())
        counts = {origin: known[origin] for origin in get_args(Origin)}
        counts["unknown"] = len(self) - sum(counts.values())
        return {origin: count for origin, count in counts.items() if count}

    def select(self, rows: Sequence[int] | np.ndarray) -> "Embeddings":
        """Return the embeddings of some rows (positions or a mask), in that order."""
        wanted = np.asarray(rows)
        chosen = np.arange(len(self))[wanted if wanted.size else wanted.astype(np.int64)]
        labels = None if self.labels is None else self.labels[chosen]
        ids = tuple(self.ids[row] for row in chosen)
        origins = None if self.origins is None else tuple(self.origins[row] for row in chosen)
        vectors = self.vectors[chosen]
        return Embeddings(ids, vectors, self.space, labels, self.class_names, origins)

    def align(self, ids: Iterable[str]) -> "Embeddings":
        """Return the embeddings of these ids, in their order.

        Raises:
            EmbeddingsError: if an id has no embedding here.
        """
        wanted = tuple(ids)
        rows = places(wanted, self.ids)
        if missing := [item for item, row in zip(wanted, rows, strict=True) if row < 0]:
            raise EmbeddingsError(
                f"{len(missing)} of {len(wanted)} ids have no embedding in {self.space}, "
                f"the first {missing[0]!r}",
                "embed these items or leave them out",
            )
        return self.select(rows)

    def save(self, path: Path | str) -> None:
        """Write a Parquet file: `id`, `vector`, `label`, `origin`, and the space in the metadata.

        The file is written aside, synced and renamed, so that a reader sees all of it or nothing.

        Raises:
            EmbeddingsError: if the path does not end in `.parquet`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from onward.artifacts import write_aside

        target = check_suffix(path)
        flat = pa.array(self.vectors.reshape(-1).astype(self.space.dtype))
        columns = {
            "id": pa.array(self.ids, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, self.space.dim),
        }
        if self.labels is not None:
            columns["label"] = pa.array(self.labels)
        if self.origins is not None:
            columns["origin"] = pa.array(self.origins, pa.string())
        metadata = {SPACE_KEY: json.dumps(self.space.to_json()).encode()}
        if self.class_names is not None:
            metadata[CLASSES_KEY] = json.dumps(self.class_names).encode()
        table = pa.table(columns).replace_schema_metadata(metadata)
        with write_aside(target) as aside, aside.open("wb") as file:  # of any name
            pq.write_table(table, file)

    @classmethod
    def load(
        cls, path: Path | str, *, ids: Iterable[str] | None = None, space: Space | None = None
    ) -> "Embeddings":
        """Read what `save` wrote, or a `.npy` array whose ids and space are given.

        The files of a folder must be of one space, with ids that stand once in all of them. Labels
        that are text are the names of classes, and so is `cat` in a folder `label=cat`.

        Args:
            path: a `.parquet` file, a folder of them, or a `.npy` file.
            ids: the ids of a `.npy` array's rows.
            space: the space of the vectors; needed where a file does not name it. Every file that
                names one is compared with it.

        Raises:
            EmbeddingsError: if a file is missing or unreadable, has no `id` and `vector`, or
                nothing says which space its vectors are in; the message names the file.
            SpaceMismatchError: if a file is in another space than the others, or than was stated.
            LabelMismatchError: if some files name their classes and some do not.
        """
        target = Path(path)
        if not target.exists():
            raise EmbeddingsError(
                f"there is no file {target}",
                "make it by embedding items with a model",
                step="embed",
            )
        if target.suffix == ".npy" and not target.is_dir():
            if ids is None or space is None:
                raise EmbeddingsError(
                    f"{target} holds numbers only",
                    "give its ids and its space: "
                    "Embeddings.load(PATH, ids=IDS, space=Space(NAME, DIM)). Commands read what "
                    "its save() writes",
                )
            return cls(tuple(ids), _load_array(target), space)
        if ids is not None:
            raise EmbeddingsError(
                f"ids were given for {target}, which is not a .npy file (numpy.save)",
                "a Parquet "
                "file has ids of its own: pick some of them by Embeddings.load(PATH).align(IDS)",
            )
        return _load_parquet(target, space)


def places(wanted: Iterable[str], ids: Ids) -> Int64[np.ndarray, " wanted"]:
    """Return where each wanted id stands among ids; -1 where it does not."""
    row_of = {item: row for row, item in enumerate(ids)}
    return np.array([row_of.get(item, -1) for item in wanted], dtype=np.int64)


def check_same_space(query: Space, gallery: Space) -> None:
    """Refuse to compare vectors of different spaces.

    Raises:
        SpaceMismatchError: if the spaces differ; it says which upgrade is missing.
    """
    if query != gallery:
        raise SpaceMismatchError(
            f"the queries are in {query}, the gallery in {gallery}",
            f"distances between them mean nothing. Upgrade the gallery from {gallery.name} to "
            f"{query.name} first, or embed the queries with the old model",
            step="upgrade",
        )


def has_length(vectors: Vectors, space: Space) -> Bool[np.ndarray, " item"]:
    """Say which vectors have a length with which stores can compute in float32.

    A square above its range is infinite there, and one below it is zero: then there is no cosine,
    and an item is never found. Short vectors matter to the cosine alone.
    """
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    fits: Bool[np.ndarray, " item"] = squares <= LONGEST**2
    if space.metric == "cosine":
        fits &= squares >= SHORTEST**2
    return fits


def check_suffix(path: Path | str) -> Path:
    """Return the path of a file that embeddings can be saved to.

    Raises:
        EmbeddingsError: if it does not end in `.parquet`.
    """
    target = Path(path)
    if target.suffix != ".parquet":
        raise EmbeddingsError("embeddings are saved as Parquet", f"{target} must end in .parquet")
    return target


def check_unique(ids: Ids) -> None:
    """Refuse ids that are empty, not strings, not UTF-8 or not unique.

    Raises:
        EmbeddingsError: naming the first bad id and its rows.
    """
    every = {item for item in ids if type(item) is str}
    if len(every) == len(ids) and "" not in every and is_text("".join(every)):
        return  # quick where all is well; what is not is found one by one
    seen: dict[str, int] = {}
    for row, item in enumerate(ids):
        if not isinstance(item, str) or not item or not is_text(item):
            raise EmbeddingsError(
                f"the id in row {row} is {item!r}",
                needed="ids are strings in UTF-8 that are not empty",
            )
        first = seen.setdefault(item, row)
        if first != row:
            raise EmbeddingsError(
                f"id {item!r} stands in rows {first} and {row}",
                needed="every item needs an id of its own",
            )


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _as_vectors(values: Any) -> np.ndarray:
    wrong, do = "the vectors are not numbers", "give one row of float32 an item"
    return as_numbers(values, np.float32, EmbeddingsError, wrong, do)  # overflow becomes infinite


def _checked_labels(given: Labels, items: int) -> Labels:
    """Return labels if there is one an item.

    Raises:
        EmbeddingsError: if not.
    """
    labels = as_labels(given)
    if labels.shape != (items,):
        raise EmbeddingsError(
            f"labels of shape {labels.shape} for {items} items", "give one an item"
        )
    return _read_only(labels)


def _as_origins(given: Origins, items: int) -> Origins | None:
    """Return origins if there is one an item; None if they say nothing.

    Raises:
        EmbeddingsError: if they are of another number, or one is none.
    """
    origins = tuple(given)
    if len(origins) != items:
        raise EmbeddingsError(f"{len(origins)} origins for {items} items", "give one an item")
    strange = [one for one in origins if one not in ORIGINS]
    if strange:
        raise EmbeddingsError(
            f"an origin is {strange[0]!r}",
            needed="it is 'embedded', 'upgraded', or None where it is not known",
        )
    return origins if any(origins) else None


def _check_format(ids: Ids, vectors: np.ndarray, space: Space) -> None:
    wanted = "numbers that float16 holds exactly"
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not held
        held = (vectors.astype(space.dtype) == vectors).all(axis=1)
    if space.format == "int8":
        held &= (np.abs(vectors) <= LARGEST_CODE).all(axis=1)
        wanted = f"whole numbers from -{LARGEST_CODE} to {LARGEST_CODE}"
    wrong = f"does not lie in {space}, whose vectors are {wanted}"
    _refuse_rows(ids, ~held, wrong, "make them with the quantisation that made the space")


def _refuse_rows(ids: Ids, bad: Bool[np.ndarray, " item"], wrong: str, do: str) -> None:
    """Raise an EmbeddingsError that names the first item whose vector is bad, if there is one."""
    if bad.any():
        row = int(np.argmax(bad))
        raise EmbeddingsError(
            f"the vector of item {ids[row]!r} (row {row}) {wrong}",
            f"{do} ({int(bad.sum())} of {len(ids)} vectors)",
        )


def _load_parquet(path: Path, space: Space | None) -> Embeddings:
    files = read_vector_files(path)
    found = _common_space(files, space)
    check_ids_across(files)
    parts = [_as_vectors(one.vectors(found.dim, str(found))) for one in files]
    labels, names = common_labels(files)
    ids = tuple(item for one in files for item in one.ids)
    origins = cast("Origins | None", common_origins(files))  # checked by what is made here
    return Embeddings(ids, join(parts), found, labels, names, origins)


def _common_space(files: Sequence[VectorFile], space: Space | None) -> Space:
    """Return the one space that the files say their vectors are in, or that was stated for them."""
    said = {one.path: _read_space(one.space, one.path) for one in files if one.space is not None}
    silent = [one.path for one in files if one.space is None]
    if silent and space is None:
        raise EmbeddingsError(
            f"{silent[0]} does not say which space its vectors are in",
            "give one: Embeddings.load(PATH, space=Space(NAME, DIM)), and save() to keep it",
        )
    whose, wanted = ("what was asked for", space) if space else next(iter(said.items()))
    for path, found in said.items():
        if found != wanted:
            raise SpaceMismatchError(
                f"{path} holds vectors in {found}, but {whose} is in {wanted}",
                "distances between them mean nothing. Keep the files of each space in a folder of "
                "their own",
            )
    return wanted


def _load_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise EmbeddingsError(f"{path} is not a readable array of numbers: {error}") from error
    return _as_vectors(array)


def _read_space(stored: bytes, path: Path) -> Space:
    try:
        return Space.from_json(json.loads(stored))
    except (ValueError, TypeError, KeyError, EmbeddingsError) as error:
        raise EmbeddingsError(
            f"{path} says {stored!r} of the space of its vectors",
            "write the file again",
            needed="that is not a space in JSON, such as "
            f"{json.dumps(Space('resnet50@2f1c90ab', 128).to_json())}",
        ) from error
