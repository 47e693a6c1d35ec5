"""Open a source of items by its name or path: the digits, folders, Parquet, lines of JSON.

How a source is read is stated by its owner or follows from names and contents that leave no
choice; whatever leaves one is refused, with the option that settles it. `describe_data` and the
`reading` of the items say what was understood.
"""

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from onward.data.folders import IMAGE_SUFFIXES, LAYOUT, Folder, ImageFolder, summarise
from onward.data.items import Items, PassedOver, split_by_id
from onward.data.parts import (
    STATE_PARTS,
    Found,
    Part,
    Role,
    Source,
    Stated,
    names_of,
    role_of,
    state,
)
from onward.data.payloads import (
    OPENERS,
    describe_payload,
    find_fault,
    lines_suffix,
    read_digits,
    read_payload_lines,
)
from onward.errors import ConfigurationError, DataError
from onward.labels import is_text
from onward.plain import Plain, fields_of

DIGITS = "digits"
CORPORA = tuple(f"corpus{suffix}" for suffix in OPENERS)
BESIDE_ITEMS = "files beside the items"
TEXT_KINDS = ("BEIR folder", "list of texts", "text Parquet")
"""What sources of texts are called."""
NAMED = 5
"""Number of classes that are named in a message; more are counted."""


@dataclass(frozen=True)
class PartDescription(Plain):
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
    """What a source of items was understood to be.

    Attributes:
        source: where it is.
        kind: such as "image folder", "text Parquet", "BEIR folder" or "list of texts".
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
    columns: Plain | None
    parts: tuple[PartDescription, ...]
    items: int
    class_names: dict[int, str]
    named: bool
    split: str
    passed_over: tuple[PassedOver, ...]
    left_out: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def holds(self) -> Literal["images", "texts"]:
        """What the items are; of a list of both, what the first one is."""
        return "texts" if self.kind in TEXT_KINDS else "images"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        names = {str(label): name for label, name in self.class_names.items()}
        return {**fields_of(self), "class_names": names}

    def __str__(self) -> str:
        first = sorted(self.class_names.items())[: 2 * NAMED]
        names = [name if name == str(label) else f"{label} {name}" for label, name in first]
        more = len(self.class_names) - len(names)
        config = f", configuration {self.config}" if self.config else ""
        classes = f" of {len(self.class_names):,} classes: {', '.join(names)}" if names else ""
        classes += f", ... ({more:,} more)" if more else ""
        lines = [
            f"{self.source}: {self.kind}{config}",
            f"  {self.items:,} items{classes}",
            *([] if self.columns is None else [f"  {self.columns}"]),
            *(f"  part {part}" for part in self.parts),
            f"  split: {self.split}",
            *(f"  passed over: {one}" for one in self.passed_over),
            *(f"  left out: {one}" for one in self.left_out),
            *(f"  {remark}" for remark in self.remarks),
        ]
        return "\n".join(lines)


def open_items(source: str | Path, stated: Stated | None = None, **options: Any) -> Items:
    """List the items of a source, of all its parts. No image is decoded unless `skip_bad`.

    Texts come from the `corpus.jsonl` of a BEIR folder, from lines of JSON and from
    Parquet. A file of lines is read by itself too: the `queries.jsonl` of a BEIR folder, say.

    Args:
        source: "digits" (bundled), an image folder with one sub-folder a class, a Parquet file, a
            folder of Parquet shards, a BEIR folder, or lines of JSON (`.jsonl`, also with `.gz` or
            `.xz` behind it), each with an `id` or `_id` and a `text` or what else a payload has.
        stated: what is known of it. Of parts that are stated, only these are listed.
        options: the same one by one, as `Stated` has them, such as `label_column="kind"`.

    Raises:
        DataError: if the source is not there, has another layout or one that could be meant in two
            ways, or holds something that cannot be used; the message names the file and the row.
        GalleryError: if a line is not JSON with an id, or is the second one for an item.
        ConfigurationError: if columns are named for a source that has none, or an option makes no
            sense.
    """
    found = _find(source, stated, options)
    parts = found.named_parts or found.parts
    items = found.open(parts)
    told = f"parts {names_of(parts)}" if parts[0].name else ""
    return replace(items, reading=_reading(found, items, told))


def open_splits(
    source: str | Path, stated: Stated | None = None, **options: Any
) -> tuple[Items, Items]:
    """Return the items to train with and the items to test with.

    A source says itself which is which, by the names of its shards or folders: `train`, `Training`,
    `train2017` and so on; `test`, `Testing` and so on, for want of which validation items (`val`,
    `valid`, `dev`) are used. Other parts are not opened. In a source that is not divided, or has a
    training part alone, a quarter of each class is for testing, chosen by a digest of the id.

    Arguments, ids and errors are those of `open_items`. What was left out is noted in the items to
    train with.

    Raises:
        DataError: also if there is not one choice of the two parts, or the test part has a class
            that the training part lacks and it is not stated that it may (`open_set`).
    """
    found = _find(source, stated, options)
    parts = found.choose()
    train, test = _split(found, found.open(parts), parts)
    reading = _reading(found, train, _tell_split(found, parts))
    return replace(train, reading=reading), replace(test, reading=reading)


def describe_data(source: str | Path, stated: Stated | None = None) -> DataDescription:
    """Say what a source is understood to be, opening what `open_items` would.

    What `open_splits` alone would refuse is told in `split`.

    Raises:
        DataError: as `open_items` does.
        ConfigurationError: likewise.
    """
    found = _find(source, stated, {})
    parts = found.named_parts or found.parts
    items = found.open(parts)
    try:
        chosen = found.choose()
        _split(found, items if {*chosen} <= {*parts} else found.open(chosen), chosen)
        split = _tell_split(found, chosen)
    except DataError as error:
        split = f"refused: {error}"
    of_part = {part: items.of_part(part.name) for part in parts if part.name}
    return DataDescription(
        source=str(found.path),
        kind=found.kind,
        config=found.config,
        columns=items.columns,
        parts=tuple(
            PartDescription(part.name, part.role, len(its), len(its.classes))
            for part, its in of_part.items()
        ),
        items=len(items),
        class_names=dict(sorted(items.class_names.items())),
        named=items.named,
        split=split,
        passed_over=items.passed_over,
        left_out=tuple(map(str, items.left_out)),
        remarks=tuple(_remarks(found, items)),
    )


class _Listed(Source):
    """Lines of JSON, each a payload with its id; the items have no classes."""

    kind = "list of images"

    def open(self, parts: Sequence[Part]) -> Items:
        lines = read_payload_lines(self.path).items()
        _, first = next(iter(lines), ("", {}))
        self.kind = "list of texts" if "text" in first else "list of images"
        return self.collect((self._find_item(*one, parts[0]) for one in lines), {}, ())

    def _find_item(self, item: str, line: Mapping[str, Any], part: Part) -> Found:
        if "text" not in line:
            return Found(item, -1, line, describe_payload(line), part, None)
        payload = {name: line[name] for name in ("title", "text") if line.get(name)}
        payload.setdefault("text", "")
        fault = find_fault(payload)
        return Found(item, -1, payload, f"item {item!r} of {self.path}", part, fault)


class _Beir(Source):
    """A folder as BEIR has it: the lines of `corpus.jsonl` are the items; queries are not."""

    kind = "BEIR folder"

    def __init__(self, folder: Folder, corpus: Path, stated: Stated) -> None:
        super().__init__(folder.path, stated, [Part("")])
        self.corpus = corpus
        inside = (file for one in folder.below() for file in one.files if file != corpus)
        self.passed_over = summarise(((BESIDE_ITEMS, file) for file in inside), folder.path)

    def open(self, parts: Sequence[Part]) -> Items:
        listed = _Listed(self.corpus, self.stated, self.parts).open(parts)
        return replace(listed, source=str(self.path), passed_over=self.passed_over)


class _Digits(Source):
    kind = "the bundled digits"

    def open(self, parts: Sequence[Part]) -> Items:
        found = (
            Found(f"{DIGITS}/{row:04}", label, {DIGITS: row}, f"digits, row {row}", parts[0], None)
            for row, label in enumerate(read_digits()[1].tolist())
        )
        return self.collect(found, {label: str(label) for label in range(10)}, ())


def _find(source: str | Path, stated: Stated | None, options: dict[str, Any]) -> Source:
    stated, path = state(stated, options), Path(source)
    if source == DIGITS or (str(source) == DIGITS and not _is_there(path)):
        if stated.read_as != "auto":
            raise ConfigurationError("the bundled digits are read in one way", "leave out read_as")
        _refuse_columns(source, stated)
        return _Digits(path, stated, [Part("")])
    if not _is_there(path):
        raise DataError(
            f"there is no {source}",
            "give 'digits', a folder of Parquet shards, a Parquet file, lines of JSON (.jsonl), a "
            f"BEIR folder with a corpus.jsonl, or an image folder: {LAYOUT}",
        )
    folder = Folder(path, path)
    corpus = _find_corpus(folder) if path.is_dir() and stated.read_as == "auto" else None
    if corpus or (path.is_file() and lines_suffix(path)):
        _refuse_columns(source, stated)
        if corpus:
            return _Beir(folder, corpus, stated)
        if stated.read_as == "auto":
            return _Listed(path, stated, [Part("")])
    if stated.read_as in ("auto", "parquet"):
        from onward.data.parquet import ImageParquet, find_shards

        shards = find_shards(folder)
        inside = (file for one in folder.below() for file in one.files if file.parent != path)
        image = next((file for file in inside if file.suffix.lower() in IMAGE_SUFFIXES), None)
        if shards and (image is None or stated.read_as == "parquet"):
            return ImageParquet(folder, stated)
        if shards:
            raise DataError(
                f"{source} holds Parquet files ({shards[0].name}) and images in folders "
                f"({image}). Say which are meant: read_as='parquet', or 'classes' or 'parts' "
                "for the images"
            )
        if stated.read_as == "parquet":
            raise DataError(f"{source} has no Parquet file", "leave out read_as='parquet'")
    elif path.is_file():
        raise ConfigurationError(
            f"{source} is a file", f"read_as = {stated.read_as!r} is for image folders"
        )
    _refuse_columns(source, stated)
    return ImageFolder(folder, stated)


def _find_corpus(folder: Folder) -> Path | None:
    """Return the `corpus.jsonl` of a BEIR folder, compressed or not; None where there is none.

    Raises:
        DataError: if there are two, or images or Parquet files as well.
    """
    inside = [file for one in folder.below() for file in one.files]
    found = [file for file in inside if file.parent == folder.path and file.name in CORPORA]
    items = (".parquet", *IMAGE_SUFFIXES)
    others = [file for file in inside if file.suffix.lower() in items]
    if found and len(found + others) > 1:
        raise DataError(
            f"{folder.path} holds texts ({found[0].name}) and other items ("
            f"{(found + others)[1].relative_to(folder.path)})",
            f"give the file {found[0]} for the texts, or say what else is meant: read_as='classes'"
            ", 'parts' or 'parquet'",
        )
    return found[0] if found else None


def _is_there(path: Path) -> bool:
    """Say whether there is a file or a folder at a path.

    Raises:
        DataError: if there is anything else, or what cannot be read or stand in a payload.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a NUL in its name
        return False
    except OSError as error:  # such as links in a ring, or no right to look
        raise DataError(
            f"{path} cannot be read: {error.strerror}. Give a folder or file that can be"
        ) from error
    if not is_text(str(path.absolute())):
        raise DataError(f"the path {str(path)!r} is not UTF-8, and payloads are text", "rename it")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{path} is neither a file nor a folder", "give one with images")
    return True


def _refuse_columns(source: str | Path, stated: Stated) -> None:
    named = (stated.image_column, stated.text_column, stated.label_column, stated.id_column)
    if any(named):
        raise ConfigurationError(
            f"{source} has no columns",
            "image_column, text_column, label_column and id_column are for Parquet",
        )
    if stated.config is not None:
        raise ConfigurationError(f"{source} has no configurations", "config is for Parquet")


def _split(found: Source, items: Items, parts: Sequence[Part]) -> tuple[Items, Items]:
    """Return the items of the parts to train and to test with; a quarter where there is one part.

    Refuses a test part that judges nothing, or that has classes that no model could know.
    """
    if len(parts) == 1:
        whole = items.of_part(parts[0].name)
        if not whole.classes:
            raise DataError(
                f"none of the items of {found.path} has a label, and a split takes a quarter of "
                "each class for testing",
                "open all of them",
            )
        return split_by_id(whole)
    train, test = (items.of_part(part.name) for part in parts)
    if not len(train):
        raise DataError(f"the part {parts[0].name} of {found.path} has no item")
    if not test.classes:
        raise DataError(
            f"none of the items in the part {parts[1].name} of {found.path} has a label, so they "
            "judge nothing",
            f"name a part with labels: {STATE_PARTS}",
        )
    lacking = [label for label in test.classes if label not in train.classes]
    if lacking and not found.stated.open_set:
        names = ", ".join(repr(test.class_names[label]) for label in lacking[:NAMED])
        more = f" and {len(lacking) - NAMED:,} more" if len(lacking) > NAMED else ""
        raise DataError(
            f"the part {parts[1].name} of {found.path} has classes that {parts[0].name} lacks: "
            f"{names}{more}. Give both parts the same names of classes, or name other parts: "
            f"{STATE_PARTS}. If the classes to test with are to be others, say so: "
            "open_set=True"
        )
    return train, replace(test, left_out=())


def _tell_split(found: Source, parts: Sequence[Part]) -> str:
    if len(parts) == 1:
        whose = f" of {parts[0].name}" if parts[0].name else ""
        return f"a quarter of each class{whose}, chosen by a digest of the id, is for testing"
    others = [part for part in found.parts if part not in parts]
    unread = f"; not read: {names_of(others)}" if others else ""
    return f"train with {parts[0].name}, test with {parts[1].name}{unread}"


def _reading(found: Source, items: Items, told: str) -> str:
    """Return how a source was read, in one line."""
    passed = ", ".join(map(str, items.passed_over))
    names = [items.class_names[label] for label in items.classes[:NAMED]] if items.named else []
    more = ", ..." if len(items.classes) > NAMED else ""
    said = [
        found.kind,
        f"configuration {found.config}" if found.config else "",
        f"classes {', '.join(names)}{more}" if names else "",
        "classes without names" if items.classes and not names else "",
        str(items.columns or ""),
        told,
        f"passed over: {passed}" if passed else "",
    ]
    return "; ".join(filter(None, [*said, *_remarks(found, items)]))


def _remarks(found: Source, items: Items) -> list[str]:
    """Return what a person should know of the items."""
    unknown = int((items.labels < 0).sum())
    remarks = [f"the class of {unknown:,} items is not known"] if unknown else []
    if unknown == len(items):
        remarks = ["their classes are not known"]
    alike: dict[str, list[str]] = {}
    for name in items.class_names.values():
        alike.setdefault(name.casefold(), []).append(name)
    if twice := [names for names in alike.values() if len(names) > 1]:
        remarks.append(f"{' and '.join(twice[0])} are classes of their own, though alike")
    if isinstance(found, ImageFolder):
        divided = bool(found.parts[0].name)
        deep = [item for item in items.ids if item.count("/") > 1 + divided]
        taken = [name for name in items.class_names.values() if role_of(name)]
        if taken and not divided:
            remarks.append(f"{taken[0]} is taken for a class, not for a part (train_part=...)")
        if deep:
            remarks.append(
                f"{len(deep):,} items lie in folders below their class folder ({deep[0]})"
            )
    return remarks
