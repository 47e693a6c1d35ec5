"""The record of a gallery: its spaces, which of them answers queries, and what that was before.

It is a value, and every change makes the next one: so a store needs one operation only, which
replaces the record if nobody else has. Nothing here reads or writes a store.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from onward.errors import GalleryError
from onward.fusion import Fusion
from onward.labels import ClassNames, Labels, into, renumber
from onward.plain import Plain, fields_of
from onward.spaces import Embeddings, Space

FORMAT = 3
"""Of the record: the newest that is read; one that is newer still is refused.

The first had no class names, and a gate of two answers; the second no fused pair. A record is
written in the oldest that holds all that it says."""
WITHOUT_PAIR = 2
"""The format of a record without a fused pair."""


RESERVED = frozenset({"id", "label", "payload", "revision", "change", "query_index"})
"""Columns that every row has besides those of its fields, and what LanceDB adds to its answers."""


def moment() -> str:
    """Return what time it is: UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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


@dataclass(frozen=True)
class Served:
    """What answers queries.

    Attributes:
        space: the one space that is searched; of a fused pair the new one.
        query_model: fingerprint of the model that embeds the queries, if it is known; of a fused
            pair the one that embeds them in the new space.
        since: when this was cut over to (UTC, ISO 8601); None for the gallery's first.
        fusion: the pair that answers together; None where one space answers.
        old_query_model: fingerprint of the model that embeds queries in the old space of a pair, if
            it is known.

    Raises:
        GalleryError: if the pair is of another new space.
    """

    space: Space
    query_model: str | None
    since: str | None = field(default=None, compare=False)
    fusion: Fusion | None = None
    old_query_model: str | None = None

    def __post_init__(self) -> None:
        if self.fusion is not None and self.fusion.new != self.space:
            raise GalleryError(
                f"{self.fusion} cannot answer for {self.space}", "serve the pair's new space"
            )

    def __str__(self) -> str:
        return str(self.space if self.fusion is None else self.fusion)

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The spaces that are searched: one, or the old and the new one of a pair."""
        return (self.space,) if self.fusion is None else (self.fusion.old, self.fusion.new)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values; of a pair nothing is named where there is none."""
        of_pair = () if self.fusion is not None else ("fusion", "old_query_model")
        return fields_of(self, without=of_pair)

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Served":
        """Return what `to_json` wrote."""
        pair = written.get("fusion")
        return cls(
            Space.from_json(written["space"]),
            written["query_model"],
            written.get("since"),
            None if pair is None else Fusion.from_json(pair),
            written.get("old_query_model"),
        )


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
        url: of the gallery, for messages; it is not stored.
        revision: one more with every change; also the number of the journal's newest entry.
        fields: the spaces, in the order in which they were added.
        serving: what answers queries.
        previous: what rolling back returns to.
        made_by: for a column that an upgrade fills, which transformations do so.
        controls: for a column that is being filled, what those who fill it obey.
        retired: columns that were dropped. They are never used again, so that a process which is
            late cannot write into a space that came later.
        class_names: what each label is called; empty where the labels have no names; None where it
            is not recorded that any row has a label.
    """

    url: str
    revision: int
    fields: tuple[Field, ...]
    serving: Served
    previous: Served | None = None
    made_by: Mapping[str, RecordedRoutes] = field(default_factory=dict)
    controls: Mapping[str, Control] = field(default_factory=dict)
    retired: tuple[str, ...] = ()
    class_names: ClassNames | None = None

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The spaces, in the order in which they were added."""
        return tuple(one.space for one in self.fields)

    @property
    def transformations(self) -> dict[Space, RecordedRoutes]:
        """For each space that transformations fill, which ones."""
        made_by = {one.space: self.made_by.get(one.column) for one in self.fields}
        return {space: made for space, made in made_by.items() if made is not None}

    def find(self, space: Space) -> Field | None:
        """Return where the vectors of a space are, if the gallery has that space.

        Raises:
            GalleryError: if it has a space of that name with other dimensions, metric or format.
        """
        for one in self.fields:
            if one.space == space:
                return one
            if one.space.name == space.name:
                has = one.space
                raise GalleryError(
                    f"gallery {self.url} knows the space {has.name} with {has.dim} dimensions, the "
                    f"metric {has.metric} and the format {has.format}",
                    f"these have {space.dim}, {space.metric} and {space.format}. One name is one "
                    "model: check which model made them",
                )
        return None

    def field_of(self, space: Space) -> Field:
        """Return where the vectors of a space are.

        Raises:
            GalleryError: if the gallery does not have it, or as `find` does.
        """
        found = self.find(space)
        if found is None:
            raise GalleryError(
                f"gallery {self.url} has no space {space}",
                "give embeddings in one of these, "
                "or add it with add_space and write vectors of items that are there",
                needed=f"it has {', '.join(str(one) for one in self.spaces)}",
                step="write",
            )
        return found

    def check_made_by(self, to: Field, digest: str | None) -> None:
        """Refuse to write what one transformation has made where another one fills the space.

        Raises:
            GalleryError: naming both.
        """
        stated = self.made_by.get(to.column)
        now = None if stated is None else stated.digest
        if digest is not None and now != digest:
            raise GalleryError(
                f"what the transformation {digest[:8]} has made was not written to {to.space} in "
                f"gallery {self.url}: the space is now filled by {str(now)[:8]}"
            )

    def made_from(self, of: Field) -> tuple[Field, ...]:
        """Return the fields whose transformations read a field, or what was made from it."""
        found = {of.space}
        for _ in self.fields:  # a chain is no longer than that
            found |= {new for new, made in self.transformations.items() if made.reads & found}
        return tuple(one for one in self.fields if one.space in found and one != of)

    def control_of(self, at: Field) -> Control:
        """Return what those who fill a field obey."""
        return self.controls.get(at.column, Control())

    def with_space(self, added: Field, made_by: RecordedRoutes | None) -> "Record | None":
        """Return the record with one more space, or with which transformations fill it.

        Args:
            added: the space; its column counts only if the record does not have the space yet.
            made_by: which transformations fill it, if any.

        Returns:
            None if it says all of that already.

        Raises:
            GalleryError: if it says that another transformation fills this space.
        """
        at = self.find(added.space) or added
        stated = self.made_by.get(at.column)
        if stated is not None and made_by is not None and stated.digest != made_by.digest:
            raise GalleryError(
                f"the vectors of {at.space} in gallery {self.url} are made by the transformation "
                f"{stated.digest[:8]}, not by {made_by.digest[:8]}",
                "go on with the first, or drop the space and start again",
            )
        fields = self.fields if at in self.fields else (*self.fields, at)
        said = self.made_by
        if stated is None and made_by is not None:
            said = {**said, at.column: made_by}
        is_known = fields == self.fields and said == self.made_by
        return None if is_known else replace(self, fields=fields, made_by=said)

    def without_space(self, space: Space) -> "Record | None":
        """Return the record without a space; None if it does not have it.

        Raises:
            GalleryError: if the space answers queries, or rolling back would return to it.
        """
        at = self.find(space)
        if at is None:
            return None
        if space in self.serving.spaces:
            raise GalleryError(
                f"{space} answers the queries of gallery {self.url} and cannot be dropped",
                "serve another space first",
            )
        if self.previous is not None and space in self.previous.spaces:
            raise GalleryError(
                f"{space} is what rolling back gallery {self.url} returns to and cannot be dropped",
                "complete the upgrade first",
            )
        return replace(
            self,
            fields=tuple(one for one in self.fields if one != at),
            made_by={column: made for column, made in self.made_by.items() if column != at.column},
            controls={column: one for column, one in self.controls.items() if column != at.column},
            retired=(*self.retired, at.column),
        )

    def with_control(self, at: Field, changed: Callable[[Control], Control]) -> "Record | None":
        """Return the record with what those who fill a field obey; None if it says so already.

        `changed` gives the next control from the present one.
        """
        was = self.control_of(at)
        now = changed(was)
        return None if now == was else replace(self, controls={**self.controls, at.column: now})

    def with_class_names(
        self,
        items: Embeddings,
        *,
        same_labels: bool,
        labels_there: Callable[[], Collection[int]],
    ) -> "Record | None":
        """Return the record that says what the classes of items to come are called.

        Names are never changed and labels never used again: what was translated by one record is
        right by the next.

        Args:
            items: labels and class names of the items.
            same_labels: if only the gallery or only the items have class names, the numbers of the
                others mean the same.
            labels_there: gives the labels that rows of the gallery have; read only where none of
                them has a name.

        Returns:
            None if it says so already.

        Raises:
            LabelMismatchError: as `onward.labels.into` does.
        """
        labels, given, known = items.labels, items.class_names, self.class_names
        if labels is None or (labels < 0).all():
            return None
        sources = ("the items", f"gallery {self.url}")
        if not known:
            if given is not None and (known is None or same_labels):
                there = set(labels_there())
                if not there or (same_labels and there <= set(given)):
                    return replace(self, class_names=given)
            renumber(labels, given, None, same_labels=same_labels, sources=sources)
            return None if known is not None else replace(self, class_names={})
        _, names = into(labels, given, known, same_labels=same_labels, sources=sources)
        return None if names == known else replace(self, class_names=names)

    def labels_of(self, items: Embeddings) -> Labels | None:
        """Return the labels of items whose classes the record names, in its numbering."""
        if items.labels is None:
            return None
        names, sources = (items.class_names, self.class_names or None), ("the items", self.url)
        return renumber(items.labels, *names, same_labels=True, sources=sources)

    def with_serving(self, now: Served) -> "Record | None":
        """Return the record with something else answering queries; None if it does so already.

        From one space to a pair with the same new space, and back, what rolling back returns to
        stays what it was: rolling back undoes the upgrade.
        """
        was = self.serving
        if was == now:
            return None
        if was.space == now.space:
            since = was.since if was.fusion == now.fusion else now.since
            return replace(self, serving=replace(now, since=since))
        return replace(self, serving=now, previous=was)

    def rolled_back(self, served: Space | None = None) -> "Record | None":
        """Return the record with what served before serving again.

        Args:
            served: what is to serve no longer; None for whatever serves now.

        Returns:
            None if the space `served` does not serve.

        Raises:
            GalleryError: if nothing has served before.
        """
        if served is not None and self.serving.space != served:
            return None
        if self.previous is None:
            raise GalleryError(
                f"gallery {self.url} has nothing to roll back to: no space has served before "
                f"{self.serving.space.name}, or the upgrade to it is complete"
            )
        return replace(self, serving=self.previous, previous=None)

    def completed(self, serving: Space, dropped: Sequence[Space]) -> "Record | None":
        """Return the record with nothing to roll back to, and without some spaces.

        Args:
            serving: the space that must answer queries.
            dropped: spaces to be forgotten; those that are not there are passed over.

        Returns:
            None if it says so already.

        Raises:
            GalleryError: if another space answers queries.
        """
        if self.serving.space != serving:
            raise GalleryError(
                f"gallery {self.url} answers from {self.serving.space}, not from {serving}: "
                "nothing was completed and nothing dropped",
                "cut over first",
            )
        if self.previous is None and not any(self.find(space) for space in dropped):
            return None
        record = replace(self, previous=None)
        for space in dropped:
            record = record.without_space(space) or record
        return record

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        served = (self.serving, *filter(None, [self.previous]))
        paired = any(one.fusion is not None for one in served)
        return {
            "format": FORMAT if paired else WITHOUT_PAIR,
            "revision": self.revision,
            "fields": [{**one.space.to_json(), "column": one.column} for one in self.fields],
            **fields_of(self, without=("url", "revision", "fields")),
        }

    @classmethod
    def from_json(cls, url: str, written: Mapping[str, Any]) -> "Record":
        """Return the record that `to_json` wrote of the gallery at `url`."""
        fields = tuple(Field(Space.from_json(one), str(one["column"])) for one in written["fields"])
        before = written["previous"]
        spaces = {one.column: one.space for one in fields}
        made_by = {
            column: RecordedRoutes.from_json(one, spaces[column])
            for column, one in written["made_by"].items()
        }
        controls = {
            column: Control(one["paused"], one["rows_per_second"])
            for column, one in written.get("controls", {}).items()
        }
        names = written.get("class_names")
        return cls(
            url,
            int(written["revision"]),
            fields,
            Served.from_json(written["serving"]),
            None if before is None else Served.from_json(before),
            made_by,
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
