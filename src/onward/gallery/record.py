"""The record of a gallery: its spaces, which of them answers queries, and what that was before.

It is a value; `onward.gallery.changes` makes the next one. Nothing here reads or writes a store.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from onward.gallery.values import Control, Served
from onward.labels import ClassNames
from onward.spaces import Space

FORMAT = 2
"""Of the record: the oldest that may hold it and its journal; a newer one is refused.

The first had no class names, and a gate of two answers."""


RESERVED = frozenset({"id", "label", "payload", "revision", "change", "query_index"})
"""Columns that every row has besides those of its fields, and what LanceDB adds to its answers."""


@dataclass(frozen=True)
class Field:
    """Where a store keeps the vectors of one space.

    Attributes:
        space: the space.
        column: letters, digits and underscores; unique in a gallery.
    """

    space: Space
    column: str


@dataclass(frozen=True, eq=False)
class Record:
    """What a gallery says of itself, kept in the store and replaced as a whole.

    Attributes:
        revision: one more with every change; also the number of the journal's newest entry.
        fields: the spaces, in the order in which they were added.
        serving: what answers queries.
        previous: what rolling back returns to.
        made_by: for a column that an upgrade fills, what was recorded of its transformation.
        controls: for a column that is being filled, what those who fill it obey.
        retired: columns that were dropped. They are never used again, so that a process which is
            late cannot write into a space that came later.
        class_names: what each label is called; empty where the labels have no names; None where it
            is not recorded that any row has a label.
    """

    revision: int
    fields: tuple[Field, ...]
    serving: Served
    previous: Served | None = None
    made_by: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    controls: Mapping[str, Control] = field(default_factory=dict)
    retired: tuple[str, ...] = ()
    class_names: ClassNames | None = None

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The spaces, in the order in which they were added."""
        return tuple(one.space for one in self.fields)

    @property
    def transformations(self) -> dict[Space, Mapping[str, Any]]:
        """What was recorded of the transformation that fills a space, where one does."""
        made_by = {one.space: self.made_by.get(one.column) for one in self.fields}
        return {space: made for space, made in made_by.items() if made is not None}

    def find(self, space: Space) -> Field | None:
        """Return where the vectors of a space are, if the gallery has that space."""
        return next((one for one in self.fields if one.space == space), None)

    def made_from(self, of: Field) -> tuple[Field, ...]:
        """Return the fields whose transformations read a field, or what was made from it."""
        found = {of.space}
        for _ in self.fields:  # a chain is no longer than that
            found |= {new for new, made in self.transformations.items() if _reads(made) & found}
        return tuple(one for one in self.fields if one.space in found and one != of)

    def control_of(self, at: Field) -> Control:
        """Return what those who fill a field obey."""
        return self.controls.get(at.column, Control())

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "format": FORMAT,
            "revision": self.revision,
            "fields": [{**one.space.to_json(), "column": one.column} for one in self.fields],
            "serving": self.serving.to_json(),
            "previous": None if self.previous is None else self.previous.to_json(),
            "made_by": {column: dict(made_by) for column, made_by in self.made_by.items()},
            "controls": {column: one.to_json() for column, one in self.controls.items()},
            "retired": list(self.retired),
            "class_names": None if self.class_names is None else dict(self.class_names),
        }

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Record":
        """Return the record that `to_json` wrote."""
        fields = tuple(Field(Space.from_json(one), str(one["column"])) for one in written["fields"])
        previous = None if written["previous"] is None else _served(written["previous"])
        controls = {
            column: Control(one["paused"], one["rows_per_second"])
            for column, one in written.get("controls", {}).items()
        }
        names = written.get("class_names")
        return cls(
            int(written["revision"]),
            fields,
            _served(written["serving"]),
            previous,
            dict(written["made_by"]),
            controls,
            tuple(written.get("retired", ())),
            None if names is None else {int(label): name for label, name in names.items()},
        )


def column_names(space: Space) -> Iterator[str]:
    """Give names for the column of a space, the best one first, without end.

    Letters, digits and underscores of the space's name, at most 40; a name that would differ from
    the space's only in what was left out carries a digest.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", space.name.lower()).strip("_")[:40].strip("_")
    name = f"space_{plain}" if not plain or plain[0].isdigit() else plain
    if name in RESERVED:
        name = f"space_{name}"
    yield name
    marked = f"{name}_{hashlib.sha256(str(space).encode()).hexdigest()[:6]}"
    yield marked
    for number in itertools.count(2):
        yield f"{marked}_{number}"


def _reads(made_by: Mapping[str, Any]) -> set[Space]:
    """Return the spaces that recorded transformations read, as far as that is recorded."""
    transformations = (made_by, *made_by.get("also", ()))
    read = (one.get(role) for one in transformations for role in ("old", "side"))
    return {Space.from_json(space) for space in read if space is not None}


def _served(written: Mapping[str, Any]) -> Served:
    space = Space.from_json(written["space"])
    return Served(space, written["query_model"], written.get("since"))
