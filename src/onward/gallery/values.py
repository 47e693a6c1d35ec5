"""What a gallery gives back: batches of rows, and a description of itself.

Nothing here knows how a gallery is stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from onward.labels import ClassNames
from onward.plain import Plain, fields_of, plain
from onward.spaces import Ids, Origin, Space, Vectors

Revisions = Int64[np.ndarray, " item"]
"""Of each row: changes whenever the item's given content does, and is never used again."""

JournalEntry = Mapping[str, Any]
"""`number`, `time` (UTC, ISO 8601), `event`, and what belongs to the event: plain JSON values."""


@dataclass(frozen=True)
class Control(Plain):
    """What those who fill a space obey, before every batch, while they run.

    Attributes:
        paused: whether they wait.
        rows_per_second: how many rows they may write, all together; None for as many as they can.
    """

    paused: bool = False
    rows_per_second: float | None = None

    def __str__(self) -> str:
        rate = self.rows_per_second
        limit = "as fast as it can" if rate is None else f"at most {rate:,g} rows a second"
        return f"paused, then {limit}" if self.paused else limit


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of a gallery, as they were at one moment.

    Attributes:
        ids: identity of each item.
        revisions: to be given back with what is written, so that rows changed since are left alone.
        labels: class of each item, None where it has none.
        vectors: one row an item, for each space that was asked for.
        origins: how each of these vectors came to be.
        uncertainties: what was stored with each of these vectors; NaN where nothing was.
    """

    ids: Ids
    revisions: Revisions
    labels: tuple[int | None, ...]
    vectors: Mapping[Space, Vectors]
    origins: Mapping[Space, tuple[Origin, ...]]
    uncertainties: Mapping[Space, Float32[np.ndarray, " item"]]

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> "Batch":
        """Return the rows from `start` to before `stop`."""
        rows = slice(start, stop)
        return Batch(
            self.ids[rows],
            self.revisions[rows],
            self.labels[rows],
            {space: vectors[rows] for space, vectors in self.vectors.items()},
            {space: origins[rows] for space, origins in self.origins.items()},
            {space: unsure[rows] for space, unsure in self.uncertainties.items()},
        )


@dataclass(frozen=True)
class FieldCounts:
    """How many rows have a vector in one space, and how these came to be.

    Attributes:
        embedded: vectors that a model made.
        upgraded: vectors that a transformation made.
    """

    embedded: int
    upgraded: int

    @property
    def filled(self) -> int:
        """How many rows have a vector in this space."""
        return self.embedded + self.upgraded

    def to_json(self) -> dict[str, int]:
        """Return the counts as plain values."""
        return {"filled": self.filled, "embedded": self.embedded, "upgraded": self.upgraded}


@dataclass(frozen=True)
class Served(Plain):
    """What answers queries.

    Attributes:
        space: the one space that is searched.
        query_model: fingerprint of the model that embeds the queries, if it is known.
        since: when this space was cut over to (UTC, ISO 8601); None for the gallery's first.
    """

    space: Space
    query_model: str | None
    since: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RecordedTransformation(Plain):
    """What a gallery records of one transformation.

    Attributes:
        digest: of the transformation.
        old: the space of the vectors that it reads.
        side: the space of the side-information that it reads, if any.
    """

    digest: str
    old: Space
    side: Space | None

    @property
    def reads(self) -> tuple[Space, ...]:
        """The spaces that it reads."""
        return (self.old,) if self.side is None else (self.old, self.side)

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "RecordedTransformation":
        """Return what `to_json` wrote."""
        side = None if written["side"] is None else Space.from_json(written["side"])
        return cls(str(written["digest"]), Space.from_json(written["old"]), side)


@dataclass(frozen=True)
class RecordedRoutes:
    """What a gallery records of what fills a space.

    Attributes:
        digest: of all transformations in their order; of one alone, that one's digest.
        new: the space.
        transformations: in the order in which they are tried; empty where that was not said.
    """

    digest: str
    new: Space
    transformations: tuple[RecordedTransformation, ...] = ()

    @property
    def digests(self) -> list[str]:
        """The digest of each transformation."""
        return [one.digest for one in self.transformations] or [self.digest]

    @property
    def reads(self) -> frozenset[Space]:
        """The spaces that the transformations read."""
        return frozenset(space for one in self.transformations for space in one.reads)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values; the first transformation stands beside the others."""
        if not self.transformations:
            return {"digest": self.digest}
        first, *others = self.transformations
        recorded = {**first.to_json(), "new": self.new.to_json(), "digest": self.digest}
        if others:
            recorded["first"] = first.digest
            recorded["also"] = [one.to_json() for one in others]
        return recorded

    @classmethod
    def from_json(cls, written: Mapping[str, Any], new: Space) -> "RecordedRoutes":
        """Return what `to_json` wrote of what fills a space."""
        digest = str(written["digest"])
        if "old" not in written:
            return cls(digest, new)
        first = {**written, "digest": written.get("first", digest)}
        every = (first, *written.get("also", ()))
        return cls(digest, new, tuple(RecordedTransformation.from_json(one) for one in every))


@dataclass(frozen=True, eq=False)
class GalleryDescription:
    """What a gallery holds and which space answers queries.

    Attributes:
        url: where the gallery is.
        rows: number of items.
        spaces: for each space, how many rows have a vector in it.
        serving: the space that answers queries.
        query_model: fingerprint of the model that embeds the queries, if it is known.
        since: when the space that answers queries was cut over to (UTC, ISO 8601), if it was.
        previous: what rolling back returns to, if anything.
        transformations: for each space that an upgrade fills, by which transformations.
        class_names: what each label is called; None where nothing says so.
    """

    url: str
    rows: int
    spaces: Mapping[Space, FieldCounts]
    serving: Space
    query_model: str | None
    since: str | None
    previous: Served | None
    transformations: Mapping[Space, RecordedRoutes]
    class_names: ClassNames | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "url": self.url,
            "rows": self.rows,
            "spaces": [
                {
                    **space.to_json(),
                    "format": space.format,
                    "bytes": space.bytes,
                    **counts.to_json(),
                    "serving": space == self.serving,
                    "transformation": plain(self.transformations.get(space)),
                }
                for space, counts in self.spaces.items()
            ],
            **fields_of(self, without=("url", "rows", "spaces", "transformations", "class_names")),
            "named_classes": None if self.class_names is None else len(self.class_names),
        }

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("space", "dim", "metric", "format", "bytes", "filled", "embedded", "upgraded", "")
        ]
        notes = {} if self.previous is None else {self.previous.space: "rolling back returns here"}
        notes[self.serving] = "serving"
        for space, counts in self.spaces.items():
            numbers = (f"{n:,}" for n in (counts.filled, counts.embedded, counts.upgraded))
            stored = (str(space.dim), space.metric, space.format, f"{space.bytes:,}")
            rows.append((space.name, *stored, *numbers, notes.get(space, "")))
        model = "not recorded" if self.query_model is None else self.query_model
        head = f"gallery {self.url}: {self.rows:,} rows, queries embedded by model {model}"
        if self.class_names is not None:
            head += f", labels of {len(self.class_names):,} named classes"
        return "\n".join([head, *aligned(rows)])


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [row[c].rjust(widths[c]) if c < last else row[c] for c in range(1, len(row))]
        lines.append("  ".join(cells).rstrip())
    return lines
