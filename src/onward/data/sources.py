"""Open a source of items by its name or path: the digits, an image folder, image Parquet.

How a source is read is stated by its owner or follows from names and contents that leave no
choice; whatever leaves one is refused, with the option that settles it. `describe_data` and the
`reading` of the items say what was understood.
"""

import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from onward.data.decoding import MAX_PIXELS
from onward.data.digits import digit_labels
from onward.data.folders import (
    LAYOUT,
    ORDER,
    ReadAs,
    check_class_names,
    check_depth,
    check_inner_names,
    find_parts,
    label_classes,
    open_folder,
)
from onward.data.image_parquet import open_parquet
from onward.data.items import Items
from onward.data.listing import PassedOver
from onward.data.parquet_columns import Columns, WantedColumns, choose_columns, read_schema
from onward.data.parts import STATE_PARTS, Part, Role, choose_parts, find_part, names_of, role_of
from onward.data.shards import Shard, check_all_shards, find_shards, of_config, read_name
from onward.data.splits import split_by_id
from onward.errors import ConfigurationError, DataError
from onward.labels import is_text

DIGITS = "digits"
FOLDER = "image folder"
NAMED = 5
"""Number of classes that are named in a message; more are counted."""


@dataclass(frozen=True)
class Stated:
    """What its owner states of a source of images; what is not stated is found out.

    Attributes:
        image_column: Parquet: the struct column `{bytes, path}`.
        label_column: Parquet: the column of label numbers, or of class names.
        id_column: Parquet: a column of unique strings or integers; otherwise file and row.
        config: Parquet: the configuration, where a data set has several; "*" takes all.
        read_as: "classes": the folders in an image folder are classes, whatever they are called and
            hold; "parts": they are parts, and the folders in them classes; "parquet": the Parquet
            files count, whatever images lie beside them.
        train_part: name of the part to train with.
        test_part: name of the part to test with; where one of the two is stated, no other part
            is read.
        open_set: the test part may have classes that the training part lacks.
        skip_bad: leave out what cannot be used and note it in `left_out`, instead of stopping with
            an error. Decodes every image once to find out.
        max_pixels: the most pixels that an image may have.
    """

    image_column: str | None = None
    label_column: str | None = None
    id_column: str | None = None
    config: str | None = None
    read_as: ReadAs = "auto"
    train_part: str | None = None
    test_part: str | None = None
    open_set: bool = False
    skip_bad: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.read_as not in get_args(ReadAs):
            raise ConfigurationError(
                f"read_as is {self.read_as!r}", f"choose one of {', '.join(get_args(ReadAs))}"
            )
        if self.max_pixels < 1:
            raise ConfigurationError(
                f"max_pixels is {self.max_pixels}", "an image has at least one pixel"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that are stated."""
        return tuple(name for name in (self.train_part, self.test_part) if name is not None)


@dataclass(frozen=True)
class _Source:
    """What a source is, and how to list the items of some of its parts.

    `open` takes these parts and all that are used together with them; `columns` takes parts;
    `part_of` says of one of the items in which part it is.
    """

    source: str
    kind: str
    parts: tuple[Part, ...]
    open: Callable[[Sequence[Part], Sequence[Part]], Items]
    part_of: Callable[[Items, int], Part] = lambda *_: Part("")
    columns: Callable[[Sequence[Part]], Columns | None] = lambda _: None
    config: str = ""


@dataclass(frozen=True)
class PartDescription:
    """A part of a source: what it is called, what its name says, and what is in it."""

    name: str
    role: Role | None
    items: int
    classes: int

    def __str__(self) -> str:
        said = "" if self.role in (None, self.name) else f" ({self.role})"
        return f"{self.name}{said}: {self.items:,} items of {self.classes:,} classes"


@dataclass(frozen=True)
class DataDescription:
    """What a source of images was understood to be.

    Attributes:
        source: where it is.
        kind: "image folder", "image Parquet" or "the bundled digits".
        config: the configuration of a data set that has several.
        columns: of Parquet.
        parts: in which it is divided; none where it is not.
        items: in all parts.
        class_names: by label, of classes without items too.
        named: whether the source says what its classes are called.
        split: how `open_splits` divides it, or why it cannot.
        passed_over: what was not taken for an item.
        left_out: items that cannot be used, with why; only where that was asked for.
        remarks: what a person should know besides.
    """

    source: str
    kind: str
    config: str
    columns: Columns | None
    parts: tuple[PartDescription, ...]
    items: int
    class_names: dict[int, str]
    named: bool
    split: str
    passed_over: tuple[PassedOver, ...]
    left_out: tuple[str, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        columns = None if self.columns is None else self.columns.to_json()
        return {
            **vars(self),
            "columns": columns,
            "parts": [vars(part) for part in self.parts],
            "class_names": {str(label): name for label, name in self.class_names.items()},
            "passed_over": [one.to_json() for one in self.passed_over],
            "left_out": list(self.left_out),
            "remarks": list(self.remarks),
        }

    def __str__(self) -> str:
        names = [
            name if name == str(label) else f"{label} {name}" for label, name in self._first_names
        ]
        more = len(self.class_names) - len(names)
        config = f", configuration {self.config}" if self.config else ""
        lines = [
            f"{self.source}: {self.kind}{config}",
            f"  {self.items:,} items of {len(self.class_names):,} classes: {', '.join(names)}"
            f"{f', ... ({more:,} more)' if more else ''}",
            *([] if self.columns is None else [f"  {self.columns}"]),
            *(f"  part {part}" for part in self.parts),
            f"  split: {self.split}",
            *(f"  passed over: {one}" for one in self.passed_over),
            *(f"  left out: {one}" for one in self.left_out),
            *(f"  {remark}" for remark in self.remarks),
        ]
        return "\n".join(lines)

    @property
    def _first_names(self) -> list[tuple[int, str]]:
        return sorted(self.class_names.items())[: 2 * NAMED]


def open_items(
    source: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    config: str | None = None,
    read_as: ReadAs = "auto",
    train_part: str | None = None,
    test_part: str | None = None,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Items:
    """List the items of a source, of all its parts. No image is decoded unless `skip_bad`.

    Args:
        source: "digits" (bundled), an image folder with one sub-folder a class, a Parquet file, or
            a folder of Parquet shards.
        image_column: and all others: as `Stated` has them. Of parts that are stated, only these are
            listed.

    Raises:
        DataError: if the source is not there, has another layout or one that could be meant in two
            ways, or holds something that cannot be used; the message names the file and the row.
        ConfigurationError: if columns are named for a source that has none.
    """
    stated = Stated(
        image_column,
        label_column,
        id_column,
        config,
        read_as,
        train_part,
        test_part,
        skip_bad=skip_bad,
        max_pixels=max_pixels,
    )
    return read_items(source, stated)


def open_splits(
    source: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    config: str | None = None,
    read_as: ReadAs = "auto",
    train_part: str | None = None,
    test_part: str | None = None,
    open_set: bool = False,
    skip_bad: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Items, Items]:
    """Return the items to train with and the items to test with.

    A source says itself which is which, by the names of its shards or folders: `train`, `Training`,
    `train2017` and so on; `test`, `Testing` and so on, for want of which validation items (`val`,
    `valid`, `dev`) are used. Other parts are not opened. In a source that is not divided, or has a
    training part alone, a quarter of each class is for testing, chosen by a digest of the id.

    Arguments, ids and errors are those of `open_items`.

    Raises:
        DataError: also if there is not one choice of the two parts, an id is in both, or the test
            part has a class that the training part lacks and it is not stated that it may
            (`open_set`).
    """
    stated = Stated(
        image_column,
        label_column,
        id_column,
        config,
        read_as,
        train_part,
        test_part,
        open_set,
        skip_bad,
        max_pixels,
    )
    return read_splits(source, stated)


def read_items(source: str | Path, stated: Stated) -> Items:
    """Do what `open_items` does, with all that is stated in one value."""
    found = _find(source, stated)
    parts = _stated_or_all(found, stated)
    items = _open(found, parts, parts)
    told = f"parts {names_of(parts)}" if parts[0].name else ""
    return replace(items, reading=_reading(found, items, parts, told))


def read_splits(source: str | Path, stated: Stated) -> tuple[Items, Items]:
    """Do what `open_splits` does, with all that is stated in one value."""
    found = _find(source, stated)
    train_part, test_part = _choose(found, stated)
    told = _tell_split(found, train_part, test_part)
    if test_part is None:
        items = _open(found, [train_part], [train_part])
        reading = _reading(found, items, [train_part], told)
        return split_by_id(replace(items, reading=reading))
    both = [train_part, test_part]
    train, test = (_open(found, [part], both) for part in both)
    shared = set(train.ids) & set(test.ids)
    if shared:
        raise DataError(
            f"id {min(shared)!r} is in both the {train_part.name} and the {test_part.name} part of "
            f"{source}",
            needed="every item needs an id of its own",
        )
    _check_test(train, test, both, open_set=stated.open_set)
    reading = _reading(found, train, both, told)
    return replace(train, reading=reading), replace(test, reading=reading)


def describe_data(source: str | Path, stated: Stated | None = None) -> DataDescription:
    """Say what a source is understood to be, opening what `open_items` would.

    What `open_splits` alone would refuse is told in `split`.

    Raises:
        DataError: as `open_items` does.
        ConfigurationError: likewise.
    """
    stated = stated or Stated()
    found = _find(source, stated)
    parts = _stated_or_all(found, stated)
    items = _open(found, parts, parts)
    in_part = [found.part_of(items, row) for row in range(len(items))]
    opened = {
        part: items.select([row for row, its in enumerate(in_part) if its == part])
        for part in parts
    }
    return DataDescription(
        source=found.source,
        kind=found.kind,
        config=found.config,
        columns=found.columns(parts),
        parts=tuple(
            PartDescription(part.name, part.role, len(its), len(its.classes))
            for part, its in opened.items()
            if part.name
        ),
        items=len(items),
        class_names=dict(sorted(items.class_names.items())),
        named=items.named,
        split=_try_split(found, stated, opened),
        passed_over=items.passed_over,
        left_out=tuple(map(str, items.left_out)),
        remarks=tuple(_remarks(found, items)),
    )


def _find(source: str | Path, stated: Stated) -> _Source:
    path = Path(source)
    mode = _stat_mode(path)
    if source == DIGITS or (str(source) == DIGITS and mode is None):
        _refuse_columns(source, stated)
        if stated.read_as != "auto":
            raise ConfigurationError("the bundled digits are read in one way", "leave out read_as")
        return _Source(DIGITS, "the bundled digits", (Part(""),), lambda *_: _list_digits())
    if mode is None:
        raise DataError(
            f"there is no {source}",
            f"give 'digits', a folder of Parquet shards, a Parquet file, or "
            f"an image folder: {LAYOUT}",
        )
    if not is_text(str(path.absolute())):
        raise DataError(
            f"the path {str(source)!r} is not UTF-8, and payloads are text", "rename it"
        )
    if stat.S_ISREG(mode):
        if stated.read_as in ("classes", "parts"):
            raise ConfigurationError(
                f"{source} is a file", f"read_as = {stated.read_as!r} is for image folders"
            )
        return _find_in_shards(path, [Shard(path, Part(""), "")], (), stated)
    if not stat.S_ISDIR(mode):
        raise DataError(f"{source} is neither a file nor a folder", "give one with images")
    if stated.read_as in ("auto", "parquet"):
        files = find_shards(path)
        if files.shards and (files.image is None or stated.read_as == "parquet"):
            shards = [read_name(shard, path) for shard in files.shards]
            return _find_in_shards(path, shards, files.passed_over, stated)
        if files.shards:
            raise DataError(
                f"{source} holds Parquet files ({files.shards[0].name}) and images in folders "
                f"({files.image}). Say which are meant: --read-as parquet (read_as='parquet'), or "
                "--read-as classes or --read-as parts for the images"
            )
        if stated.read_as == "parquet":
            raise DataError(f"{source} has no Parquet file", "leave out --read-as parquet")
    _refuse_columns(source, stated)
    return _find_in_folder(path, stated)


def _stat_mode(path: Path) -> int | None:
    """Return what kind of thing stands at a path; None where nothing does."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a NUL in its name
        return None
    except OSError as error:  # such as links in a ring, or no right to look
        raise DataError(
            f"{path} cannot be read: {error.strerror}. Give a folder or file that can be"
        ) from error


def _find_in_folder(path: Path, stated: Stated) -> _Source:
    by_part = {one.part: one for one in find_parts(path, stated.read_as, stated.parts)}
    parts = tuple(by_part)
    labels = label_classes(path, [by_part[part] for part in _numbered(parts, stated, path)])

    def open_parts(wanted: Sequence[Part], _: Sequence[Part]) -> Items:
        chosen = [by_part[part] for part in wanted]
        if stated.read_as == "auto":
            for one in chosen:
                check_depth(path, one)
                check_class_names(one)
        items = open_folder(
            path, chosen, labels, skip_bad=stated.skip_bad, max_pixels=stated.max_pixels
        )
        if stated.read_as == "auto":
            for one in (each for each in chosen if each.classes):
                prefix = f"{one.part.name}/" if one.part.name else ""
                check_inner_names(one, [each for each in items.ids if each.startswith(prefix)])
        return items

    def part_of(items: Items, row: int) -> Part:
        return find_part(parts, items.ids[row].split("/")[0], path) if parts[0].name else parts[0]

    return _Source(str(path), FOLDER, parts, open_parts, part_of)


def _numbered(parts: Sequence[Part], stated: Stated, source: Path) -> Sequence[Part]:
    """Return the parts whose classes are numbered together, whichever of them are opened.

    Those that are stated, and those whose names tell a role; all where none is stated.
    """
    named = [find_part(parts, name, source) for name in stated.parts]
    return [part for part in parts if part in named or part.role] if named else parts


def _find_in_shards(
    path: Path, shards: Sequence[Shard], passed_over: tuple[PassedOver, ...], stated: Stated
) -> _Source:
    folder = path.parent if path.is_file() else path
    kept = of_config(shards, stated.config, path)
    there = {shard.part for shard in kept}
    parts = tuple(sorted(there, key=lambda part: (ORDER.index(part.role), part.name)))
    if len(parts) > 1 and Part("") in parts and not stated.parts:
        loose = next(shard.path.name for shard in kept if shard.part == Part(""))
        raise DataError(
            f"{path} holds the parts {names_of([part for part in parts if part.name])}, and files "
            f"of no part, such as {loose}. Say which parts are meant: {STATE_PARTS}"
        )

    numbered = _numbered(parts, stated, path)

    def choose(of: Sequence[Part]) -> Columns:
        first = next(shard.path for shard in kept if shard.part in of)
        wanted = WantedColumns(stated.image_column, stated.label_column, stated.id_column)
        return choose_columns(first, read_schema(first), wanted)

    def open_parts(wanted: Sequence[Part], together: Sequence[Part]) -> Items:
        chosen = [shard.path for shard in kept if shard.part in wanted]
        if path.is_dir():
            check_all_shards(chosen)
        items = open_parquet(
            folder,
            chosen,
            choose(together),
            among=[shard.path for shard in kept if shard.part in together],
            numbered=[shard.path for shard in kept if shard.part in numbered],
            source=str(path),
            skip_bad=stated.skip_bad,
            max_pixels=stated.max_pixels,
        )
        return replace(items, passed_over=passed_over)

    part_by_file = {str(shard.path.absolute()): shard.part for shard in kept}

    def part_of(items: Items, row: int) -> Part:
        return part_by_file[items.payloads[row]["file"]]

    config = kept[0].config if stated.config is not None else ""
    return _Source(str(path), "image Parquet", parts, open_parts, part_of, choose, config)


def _stated_or_all(found: _Source, stated: Stated) -> Sequence[Part]:
    named = [find_part(found.parts, name, found.source) for name in stated.parts]
    return list(dict.fromkeys(named)) or found.parts


def _choose(found: _Source, stated: Stated) -> tuple[Part, Part | None]:
    if found.parts == (Part(""),) and not stated.parts:
        return Part(""), None
    return choose_parts(found.parts, stated.train_part, stated.test_part, found.source)


def _open(found: _Source, parts: Sequence[Part], together: Sequence[Part]) -> Items:
    items = found.open(parts, together)
    if not len(items):
        told = [
            f"; the first of {len(items.left_out)} left out is {left}" for left in items.left_out
        ]
        raise DataError(f"{found.source} has no item{''.join(told[:1])}")
    return items


def _check_test(train: Items, test: Items, parts: Sequence[Part], *, open_set: bool) -> None:
    """Refuse a test part that judges nothing, or that has classes that no model could know."""
    if not test.classes:
        raise DataError(
            f"the part {parts[1].name} of {test.source} says of none of its items of which class "
            f"it is, and such items judge nothing",
            f"name a part with labels: {STATE_PARTS}",
        )
    if open_set:
        return
    lacking = [label for label in test.classes if label not in train.classes]
    if not lacking:
        return
    names = ", ".join(repr(test.class_names[label]) for label in lacking[:NAMED])
    more = f" and {len(lacking) - NAMED:,} more" if len(lacking) > NAMED else ""
    raise DataError(
        f"the part {parts[1].name} of {train.source} has classes that {parts[0].name} lacks: "
        f"{names}{more}. Give both parts the same names of classes, or name other parts: "
        f"{STATE_PARTS}. If the classes to test with are to be others, say so: "
        "open_set=True"
    )


def _try_split(found: _Source, stated: Stated, opened: Mapping[Part, Items]) -> str:
    """Say how `open_splits` divides a source, or why it does not."""
    try:
        train, test = _choose(found, stated)
        if test is not None:
            both = [train, test]
            learn, judge = (
                opened[part] if part in opened else _open(found, [part], both) for part in both
            )
            _check_test(learn, judge, both, open_set=stated.open_set)
    except DataError as error:
        return f"refused: {error}"
    return _tell_split(found, train, test)


def _tell_split(found: _Source, train: Part, test: Part | None) -> str:
    if test is None:
        whose = f" of {train.name}" if train.name else ""
        return f"a quarter of each class{whose}, chosen by a digest of the id, is for testing"
    others = [part for part in found.parts if part not in (train, test)]
    unread = f"; not read: {names_of(others)}" if others else ""
    return f"train with {train.name}, test with {test.name}{unread}"


def _reading(found: _Source, items: Items, parts: Sequence[Part], told: str) -> str:
    """Return how a source was read, in one line."""
    columns = found.columns(parts)
    passed = ", ".join(map(str, items.passed_over))
    config = f"configuration {found.config}" if found.config else ""
    names = [items.class_names[label] for label in items.classes[:NAMED]] if items.named else []
    more = ", ..." if len(items.classes) > NAMED else ""
    said = [
        found.kind,
        config,
        f"classes {', '.join(names)}{more}" if names else "classes without names",
        str(columns or ""),
        told,
        f"passed over: {passed}" if passed else "",
    ]
    return "; ".join(filter(None, [*said, *_remarks(found, items)]))


def _remarks(found: _Source, items: Items) -> list[str]:
    """Return what a person should know of the items."""
    unknown = int((items.labels < 0).sum())
    remarks = [f"the class of {unknown:,} items is not known"] if unknown else []
    alike: dict[str, list[str]] = {}
    for name in items.class_names.values():
        alike.setdefault(name.casefold(), []).append(name)
    if twice := [names for names in alike.values() if len(names) > 1]:
        remarks.append(f"{' and '.join(twice[0])} are classes of their own, though alike")
    if found.kind == FOLDER:
        above = 1 + bool(found.parts[0].name)
        deep = [item for item in items.ids if item.count("/") > above]
        taken = [name for name in items.class_names.values() if role_of(name)]
        if taken and not found.parts[0].name:
            remarks.append(f"{taken[0]} is taken for a class, not for a part (--train-part)")
        if deep:
            remarks.append(
                f"{len(deep):,} items lie in folders below their class folder ({deep[0]})"
            )
    return remarks


def _refuse_columns(source: str | Path, stated: Stated) -> None:
    if stated.image_column or stated.label_column or stated.id_column:
        raise ConfigurationError(
            f"{source} has no columns", "image_column, label_column and id_column are for Parquet"
        )
    if stated.config is not None:
        raise ConfigurationError(f"{source} has no configurations", "config is for Parquet")


def _list_digits() -> Items:
    rows = range(len(digit_labels()))
    return Items(
        ids=tuple(f"{DIGITS}/{row:04}" for row in rows),
        labels=digit_labels(),
        class_names={label: str(label) for label in range(10)},
        payloads=tuple({DIGITS: row} for row in rows),
        source=DIGITS,
    )
