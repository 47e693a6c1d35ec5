"""How a gallery's rows lie in Arrow tables: a few columns of the item, three for every field.

And the conditions, in SQL, that choose rows by their fields or their ids.

Only `onward.gallery.lance.store` imports this. Nothing here reads or writes a database.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from onward.errors import GalleryError
from onward.gallery.checks import name_ids
from onward.gallery.record import Field, Record
from onward.gallery.store import Batch, JournalEntry, Rows, Share, Writing
from onward.spaces import Ids, Origin, Vectors

IDS_A_QUERY = 4096
ORIGIN = "__origin"

ITEM_COLUMNS = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("label", pa.int64()),
    pa.field("payload", pa.string()),
    pa.field("revision", pa.int64(), nullable=False),
    pa.field("change", pa.int64(), nullable=False),
)
"""`revision` changes with what is given, `change` with anything: so whole rows are rewritten only
where nobody else has written meanwhile."""


RECORD_SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("revision", pa.int64(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
    ]
)
"""Row 0 is the record, row n the n-th entry of the journal."""


def names_of(column: str) -> tuple[str, str, str]:
    """Return the names of a field's columns: vector, origin, uncertainty."""
    return column, column + ORIGIN, f"{column}__uncertainty"


def origin_column(of: Field) -> str:
    """Return the column that says how the vectors came to be; null where there is none."""
    return names_of(of.column)[1]


def field_columns(of: Field) -> tuple[pa.Field, ...]:
    """Return the columns of a field: vector, origin, uncertainty."""
    vector = pa.list_(pa.from_numpy_dtype(of.space.dtype), of.space.dim)
    types = (vector, pa.string(), pa.float32())
    vector_column, origin, uncertainty = map(pa.field, names_of(of.column), types)
    return vector_column, origin, uncertainty


def items_schema(fields: Sequence[Field]) -> pa.Schema:
    """Return the schema of the table of items."""
    return pa.schema([*ITEM_COLUMNS, *(column for of in fields for column in field_columns(of))])


def check_columns(url: str, schema: pa.Schema, fields: Sequence[Field]) -> None:
    """Refuse to write rows into a table that lacks columns for what is given.

    Raises:
        GalleryError: naming a column that is not there or is of another type.
    """
    for column in items_schema(fields):
        found = schema.field(column.name).type if column.name in schema.names else None
        if found != column.type:
            has = "none of that name" if found is None else f"one of the type {found}"
            raise GalleryError(
                f"nothing was written to gallery {url}: its table of items needs the column "
                f"{column.name} of the type {column.type} and has {has}. If its space was not "
                "dropped just now, another program has changed the table: restore it from a copy"
            )


def check_insertable(url: str, schema: pa.Schema) -> None:
    """Refuse to insert rows into a table with a column of somebody else that must be filled.

    Raises:
        GalleryError: naming the column.
    """
    own = {column.name for column in ITEM_COLUMNS}
    for column in schema:
        if not column.nullable and column.name not in own:
            raise GalleryError(
                f"nothing was added to gallery {url}: the column {column.name} of its table of "
                "items, which is not Onward's, may not be empty, and nothing is known to put into "
                "it. Let it be empty (LanceDB: alter_columns with nullable=True), or drop it"
            )


def record_table(record: Record, entry: JournalEntry) -> pa.Table:
    """Return the rows of a record and of the journal's entry that goes with it."""
    contents = [json.dumps(record.to_json()), json.dumps(dict(entry))]
    revisions = [record.revision] * 2
    return pa.table([[0, record.revision], revisions, contents], schema=RECORD_SCHEMA)


def given_rows(rows: Rows, schema: pa.Schema, token: int) -> pa.Table:
    """Return a table of new rows; columns that nothing is given for are null."""
    given = _given_columns(rows) | {
        "id": pa.array(rows.ids, pa.string()),
        "revision": pa.array(np.full(len(rows.ids), token)),
        "change": pa.array(np.full(len(rows.ids), token)),
    }
    count = len(rows.ids)
    return pa.table(
        [given.get(column.name, pa.nulls(count, column.type)) for column in schema], schema=schema
    )


def with_given(stored: pa.Table, rows: Rows, token: int, step: int) -> pa.Table:
    """Return stored rows with the new values given; every field that is not given becomes null.

    Columns that are not Onward's stay as they are.
    """
    order = pa.array(np.arange(len(rows.ids))[_positions(stored, rows.ids)])
    given = {name: array.take(order) for name, array in _given_columns(rows).items()}
    given["revision"] = pa.array(np.full(len(stored), token))
    given["change"] = pc.add(stored["change"], step)
    origins = (name for name in stored.schema.names if name.endswith(ORIGIN))
    for name in (one for at in origins for one in names_of(at.removesuffix(ORIGIN))):
        given.setdefault(name, pa.nulls(len(stored), stored.schema.field(name).type))
    return _with_columns(stored, given)


def with_vectors(stored: pa.Table, writing: Writing, step: int) -> pa.Table:
    """Return those of the stored rows that may get a vector, with it.

    These are the rows that have the revision from which the vector was made, and no vector of
    origin "embedded" in the field.
    """
    positions = _positions(stored, writing.embeddings.ids)
    same = stored["revision"].to_numpy() == writing.revisions[positions]
    origins = stored[origin_column(writing.to)]
    embedded = pc.fill_null(pc.equal(origins, "embedded"), False).to_numpy()
    free = same & ~embedded
    if not free.all():
        positions = np.arange(len(writing.revisions))[positions][free]
        stored = stored.filter(pa.array(free))
    given = written_columns(writing, positions) | {"change": pc.add(stored["change"], step)}
    if writing.origin == "embedded":
        given |= _cleared(stored, writing)
    return _with_columns(stored, given)


def written_columns(
    writing: Writing, positions: Int64[np.ndarray, " row"] | slice = slice(None)
) -> dict[str, pa.Array]:
    """Return the columns of what is written: of all its vectors, or of those at some positions."""
    vector, origin, uncertainty = field_columns(writing.to)
    vectors = writing.embeddings.vectors[positions]
    unsure = pa.nulls(len(vectors), pa.float32())
    if writing.uncertainty is not None:
        unsure = pa.array(writing.uncertainty[positions])
    return {
        vector.name: vector_array(vectors, writing.to),
        origin.name: pa.repeat(pa.scalar(writing.origin, pa.string()), len(vectors)),
        uncertainty.name: unsure,
    }


def without_changes(stored: pa.Table, changes: Mapping[str, int]) -> pa.Table:
    """Return the stored rows without those whose column `change` is what is given."""
    if not changes:
        return stored
    rows = zip(stored["id"].to_pylist(), stored["change"].to_pylist(), strict=True)
    return stored.filter(pa.array([changes.get(item) != at for item, at in rows], pa.bool_()))


def batch_columns(wanted: Sequence[Field]) -> list[str]:
    """Return the columns that `read_batch` reads."""
    columns = [column.name for of in wanted for column in field_columns(of)]
    return ["id", "revision", "label", *columns]


def read_batch(table: pa.Table, wanted: Sequence[Field]) -> Batch:
    """Return the rows of a table as a batch."""
    return Batch(
        ids=tuple(table["id"].to_pylist()),
        revisions=table["revision"].to_numpy(),
        labels=tuple(
            label if label is not None and label >= 0 else None
            for label in table["label"].to_pylist()
        ),
        vectors={of.space: vectors_of(table, of) for of in wanted},
        origins={of.space: tuple(table[origin_column(of)].to_pylist()) for of in wanted},
        uncertainties={
            of.space: table[field_columns(of)[2].name].to_numpy().astype(np.float32)
            for of in wanted
        },
    )


def vectors_of(table: pa.Table, of: Field) -> Vectors:
    """Return the vectors of a field that is filled in every row, as float32."""
    dim, column = of.space.dim, table[of.column]
    if column.null_count:
        emptied = pc.filter(table["id"], pc.is_null(column)).to_pylist()
        raise GalleryError(
            f"{len(emptied)} items have an origin but no vector in {of.space}: "
            f"{name_ids(emptied)}. Another program has emptied the column {of.column}",
            "give these items to update(), or restore the gallery from a copy",
        )
    chunks = column.chunks
    parts = [part.values.slice(part.offset * dim, len(part) * dim).to_numpy() for part in chunks]
    flat = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, of.space.dtype), *parts])
    vectors: Vectors = flat.reshape(-1, dim).astype(np.float32, copy=False)
    return vectors


def vector_array(vectors: Vectors, of: Field) -> pa.FixedSizeListArray:
    """Return vectors as an Arrow array of lists, in the format in which the field stores them."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=of.space.dtype).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, of.space.dim)


def rows_where(filled: Sequence[Field], empty: Sequence[Field], origin: Origin | None) -> str:
    """Return the condition that some fields are filled, of that origin if given, others not."""
    filled_if = "IS NOT NULL" if origin is None else f"= '{origin}'"
    conditions = [f"{origin_column(of)} {filled_if}" for of in filled]
    conditions += [f"{origin_column(of)} IS NULL" for of in empty]
    return " AND ".join(conditions)


def where_kept(writing: Writing, schema: pa.Schema) -> str:
    """Return the further condition of a merge that it takes no vector from another field.

    A field may have been filled since the rows were read, and their column `change` is the same.
    """
    free = {origin_column(of) for of in (writing.to, *writing.derived)}
    origins = [name for name in schema.names if name.endswith(ORIGIN) and name not in free]
    kept = (f"(target.{name} IS NULL OR source.{name} IS NOT NULL)" for name in origins)
    return "".join(f" AND {one}" for one in kept)


def rows_in(share: Share, also: str) -> str:
    """Return the condition that rows belong to a share, and another one."""
    low, high = share.bounds
    bounds = [] if share.is_everything else [f"md5(id) >= '{low}'"]
    bounds += [] if high is None else [f"md5(id) < '{high}'"]
    return " AND ".join([*([also] if also else []), *bounds])


def rows_of(ids: Ids, also: str = "") -> Iterator[str]:
    """Give conditions that together choose these ids, some thousands in each."""
    for start in range(0, len(ids), IDS_A_QUERY):
        quoted = (item.replace("'", "''") for item in ids[start : start + IDS_A_QUERY])
        chosen = "id IN ('" + "','".join(quoted) + "')"
        yield f"{chosen} AND {also}" if also else chosen


def _with_columns(stored: pa.Table, given: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """Return a table with other values in some of its columns."""
    names = stored.schema.names
    return pa.table([given.get(name, stored[name]) for name in names], schema=stored.schema)


def _given_columns(rows: Rows) -> dict[str, pa.Array]:
    given: dict[str, pa.Array] = {}
    if rows.labels is not None:
        given["label"] = pa.array(rows.labels, pa.int64(), mask=rows.labels < 0)
    if rows.payloads is not None:
        given["payload"] = pa.array(rows.payloads, pa.string())
    for of, vectors in rows.vectors.items():
        given[of.column] = vector_array(vectors, of)
        given[origin_column(of)] = pa.array(["embedded"] * len(vectors), pa.string())
    return given


def _cleared(stored: pa.Table, writing: Writing) -> dict[str, pa.ChunkedArray]:
    """Return the columns of derived fields, null where what they were made from is replaced."""
    cleared: dict[str, pa.ChunkedArray] = {}
    replaced = pc.is_valid(stored[origin_column(writing.to)])
    for of in writing.derived:
        if of.column not in stored.column_names:
            continue  # it was added meanwhile: nothing is in it
        made = pc.fill_null(pc.equal(stored[origin_column(of)], "upgraded"), False)
        rows = pa.array(np.arange(len(stored)), mask=pc.and_(replaced, made).to_numpy())
        for column in field_columns(of):
            cleared[column.name] = stored[column.name].take(rows)
    return cleared


def _positions(stored: pa.Table, ids: Ids) -> Int64[np.ndarray, " row"] | slice:
    """Return where the stored rows stand among these ids; a slice if they are the same."""
    found = stored["id"].to_pylist()
    if tuple(found) == ids:
        return slice(None)
    at = {item: position for position, item in enumerate(ids)}
    return np.array([at[item] for item in found], np.int64)
