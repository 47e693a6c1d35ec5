"""Open a source of items by its name or path: the digits, an image folder, image Parquet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onward.data.digits import digit_labels
from onward.data.folders import LAYOUT, TEST, TRAIN, find_parts, label_classes, open_folder
from onward.data.image_parquet import open_parquet
from onward.data.items import Items
from onward.data.parquet_columns import WantedColumns
from onward.data.shards import check_all_shards, find_shards, part_of
from onward.data.splits import split_by_id
from onward.errors import ConfigurationError, DataError

DIGITS = "digits"


@dataclass(frozen=True)
class _Source:
    """The parts that a source names, and how to list the items of some of them."""

    parts: tuple[str, ...]
    open: Callable[[Sequence[str]], Items]


def open_items(
    source: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    skip_bad: bool = False,
) -> Items:
    """List the items of a source, of all its parts. No image is decoded unless `skip_bad`.

    Args:
        source: "digits" (bundled), an image folder with one sub-folder a class, a Parquet file, or
            a folder of Parquet shards.
        image_column: Parquet only: the struct column `{bytes, path}`; found by type and name.
        label_column: Parquet only: the integer column; `label`, `fine_label` or the only one.
        id_column: Parquet only: a column of unique strings or integers; otherwise file and row.
        skip_bad: leave out what cannot be used and note it in `left_out`, instead of stopping with
            an error. Decodes every image once to find out.

    Raises:
        DataError: if the source is not there, has another layout, or holds something that cannot
            be used; the message names the file and the row.
        ConfigurationError: if columns are named for a source that has none.
    """
    wanted = WantedColumns(image_column, label_column, id_column)
    found = _find(source, wanted, skip_bad)
    return _open(found, found.parts, source)


def open_splits(
    source: str | Path,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
    skip_bad: bool = False,
) -> tuple[Items, Items]:
    """Return the items to train with and the items to test with.

    A source says itself which is which: shards called `train-*` and `test-*`, or folders `train`
    and `test`; for want of test items, validation items (`val`, `valid`, `validation`) are used,
    and other parts are not opened. In a source that does not say, a quarter of each class
    is for testing, chosen by a digest of the id.

    Arguments, ids and errors are those of `open_items`.

    Raises:
        DataError: also if an id is in both parts.
    """
    wanted = WantedColumns(image_column, label_column, id_column)
    found = _find(source, wanted, skip_bad)
    named_train = [name for name in TRAIN if name in found.parts]
    named_test = [name for name in TEST if name in found.parts][:1]
    if not (named_train and named_test):
        return split_by_id(_open(found, found.parts, source))
    train, test = _open(found, named_train, source), _open(found, named_test, source)
    shared = set(train.ids) & set(test.ids)
    if shared:
        raise DataError(
            f"id {min(shared)!r} is in both the {named_train[0]} and the {named_test[0]} part of "
            f"{source}; every item needs an id of its own"
        )
    return train, test


def _open(found: _Source, parts: Sequence[str], source: str | Path) -> Items:
    items = found.open(parts)
    if not len(items):
        told = [
            f"; the first of {len(items.left_out)} left out is {left}" for left in items.left_out
        ]
        raise DataError(f"{source} has no item{''.join(told[:1])}")
    return items


def _find(source: str | Path, wanted: WantedColumns, skip_bad: bool) -> _Source:
    path = Path(source)
    if source == DIGITS or (str(source) == DIGITS and not path.exists()):
        _refuse_columns(source, wanted)
        return _Source((), lambda _: _list_digits())
    if not path.exists():
        raise DataError(
            f"there is no {source}; give 'digits', a folder of Parquet shards, a Parquet file, or "
            f"an image folder: {LAYOUT}"
        )
    shards = [path] if path.is_file() else find_shards(path)
    if shards:
        return _find_in_shards(path, shards, wanted, skip_bad)
    _refuse_columns(source, wanted)
    parts = find_parts(path)
    labels = label_classes(parts.values())
    return _Source(
        tuple(parts),
        lambda names: open_folder(path, [parts[n] for n in names], labels, skip_bad=skip_bad),
    )


def _find_in_shards(
    path: Path, shards: Sequence[Path], wanted: WantedColumns, skip_bad: bool
) -> _Source:
    folder = path.parent if path.is_file() else path
    parts = {shard: part_of(shard.relative_to(folder)) for shard in shards}

    def open_parts(names: Sequence[str]) -> Items:
        chosen = [shard for shard in shards if parts[shard] in names]
        if path.is_dir():
            check_all_shards(chosen)
        return open_parquet(folder, chosen, wanted, source=str(path), skip_bad=skip_bad)

    return _Source(tuple(dict.fromkeys(parts.values())), open_parts)


def _refuse_columns(source: str | Path, wanted: WantedColumns) -> None:
    if wanted != WantedColumns():
        raise ConfigurationError(
            f"{source} has no columns; image_column, label_column and id_column are for Parquet"
        )


def _list_digits() -> Items:
    rows = range(len(digit_labels()))
    return Items(
        ids=tuple(f"{DIGITS}/{row:04}" for row in rows),
        labels=digit_labels(),
        class_names={label: str(label) for label in range(10)},
        payloads=tuple({DIGITS: row} for row in rows),
        source=DIGITS,
    )
