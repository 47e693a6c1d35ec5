"""The files of a data set that is divided into Parquet shards, and what their names tell."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from onward.data.ordering import natural_key
from onward.errors import DataError

PART = re.compile(r"(train|test|validation|valid|val)(?:$|[-_.])")
SHARD = re.compile(r"(.*)-([0-9]+)-of-([0-9]+)")


def find_shards(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder and up to two levels below, in natural order."""
    found = [path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}*.parquet")]
    shown = [path for path in found if not _is_hidden(path.relative_to(folder))]
    return sorted(shown, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def part_of(shard: PurePath) -> str:
    """Return the part that a shard's path within its folder names: "train", "test" ..., or "".

    `train-00000-of-00003.parquet`, `data/train.parquet` and `default/train/0000.parquet` all do.
    """
    for name in (shard.stem, *reversed(shard.parent.parts)):
        if found := PART.match(name):
            return found[1]
    return ""


def check_all_shards(shards: Sequence[Path]) -> None:
    """Refuse a data set of which a shard is missing, as names like `train-00000-of-00003` tell.

    Raises:
        DataError: naming the first shard that is missing.
    """
    there = set(shards)
    for shard in shards:
        if named := SHARD.fullmatch(shard.stem):
            stem, number, count = named.groups()
            for other in range(int(count)):
                needed = shard.with_name(f"{stem}-{other:0{len(number)}}-of-{count}.parquet")
                if needed not in there:
                    raise DataError(
                        f"{needed} is missing, though {shard.name} is there; fetch it too, or give "
                        "the one file instead of its folder"
                    )


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)
