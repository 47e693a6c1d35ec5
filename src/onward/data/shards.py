"""The files of a data set that is divided into Parquet shards, and what their names tell.

```
data/train-00000-of-00003.parquet     part train
default/validation/0000.parquet       part validation
cifar10-test.parquet                  part test
clean/train.parquet  noisy/train.parquet      configurations clean and noisy, each with a train part
```
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from onward.data.listing import (
    IMAGE_SUFFIXES,
    NOT_PARQUET,
    PassedOver,
    Tally,
    natural_key,
    walk,
)
from onward.data.parts import Part, split_name
from onward.errors import DataError

SUFFIX = ".parquet"
SHARD = re.compile(r"(.*)-([0-9]+)-of-([0-9]+)(-[0-9a-f]{16})?")
NUMBER = re.compile(r"[-_.]?(?<![0-9])(?!(?:19|20)[0-9]{2}$)[0-9]+$")  # but no year
EVERY = "*"


@dataclass(frozen=True)
class Shard:
    """A Parquet file of a data set.

    Attributes:
        path: where it is.
        part: the part that its path within the data set names.
        config: what else its path names, if it names a part: the hub's configuration, "" without.
    """

    path: Path
    part: Part
    config: str


@dataclass(frozen=True)
class Found:
    """The Parquet files in and below a folder.

    Attributes:
        shards: in natural order.
        image: the first image file below the folder, which may make it an image folder instead.
        passed_over: all other files, hidden ones and the like.
    """

    shards: tuple[Path, ...]
    image: Path | None
    passed_over: tuple[PassedOver, ...]


def find_shards(folder: Path) -> Found:
    """Look for Parquet files in and below a folder.

    Raises:
        DataError: if there are some, and a folder cannot be read that may hold others.
    """
    shards, images, tally = list[Path](), list[Path](), Tally()
    errors: list[DataError] = []
    for contents in walk(folder, folder, errors.append):
        for why, path in contents.passed_over:
            tally.add(why, path)
        for file in contents.files:
            suffix = file.suffix.lower()
            if suffix == SUFFIX:
                shards.append(file)
                continue
            tally.add(NOT_PARQUET, file)
            if not images and suffix in IMAGE_SUFFIXES and file.parent != folder:
                images.append(file)
    if shards and errors:
        raise errors[0]
    shards.sort(key=lambda path: natural_key(path.relative_to(folder).as_posix()))
    return Found(tuple(shards), next(iter(images), None), tally.passed_over(folder))


def read_name(path: Path, folder: Path) -> Shard:
    """Return what the path of a shard within its data set tells.

    Raises:
        DataError: if it names two parts, such as `train/test.parquet`.
    """
    *above, stem = path.relative_to(folder).with_suffix("").parts
    numbered = SHARD.fullmatch(stem)
    words = [split_name(name.removeprefix("split=")) for name in above]  # so Spark writes it
    word, role, rest = split_name(NUMBER.sub("", numbered[1] if numbered else stem))
    words.append((word, role, rest if role else ""))  # a stem without a part is any name
    parts = [Part(word, role) for word, role, _ in words if role]
    if len({part.role for part in parts}) > 1:
        raise DataError(
            f"{path} names two parts, {parts[0].name!r} and {parts[-1].name!r}",
            "rename the file or its folder after the one that it belongs to",
        )
    config = "/".join(rest for _, _, rest in words if rest)
    return Shard(path, parts[-1] if parts else Part(""), config)


def of_config(shards: Sequence[Shard], config: str | None, source: object) -> list[Shard]:
    """Return the shards of one configuration, in their order.

    Args:
        shards: of the data set.
        config: its name or the last part of it; `EVERY` for all; None where there is only one.
        source: for messages.

    Raises:
        DataError: if there are several and none is named, or there is none of this name.
    """
    names = sorted({shard.config for shard in shards}, key=natural_key)
    if config == EVERY or (config is None and len(names) == 1):
        return list(shards)
    exact = [name for name in names if name == config]
    chosen = exact or [name for name in names if config and PurePath(name).name == config]
    if len(chosen) != 1:
        there = ", ".join(repr(name) for name in names)
        raise DataError(
            f"{source} holds {len(names)} configurations, and images may stand in each of them: "
            f"{there}. Name one: --config NAME (config=...); all of them are --config '*'"
            if config is None
            else f"{source} has no configuration {config!r}; it has {there}"
        )
    return [shard for shard in shards if shard.config == chosen[0]]


def check_all_shards(shards: Sequence[Path]) -> None:
    """Refuse a data set of which a shard is missing, or that was written twice.

    Names like `train-00000-of-00003` tell it.

    Raises:
        DataError: naming the first shard that is missing, or two that are the same one.
    """
    there: dict[tuple[Path, str], dict[int, Path]] = {}
    for shard in shards:
        if named := SHARD.fullmatch(shard.stem):
            numbers = there.setdefault((shard.parent, named[1]), {})
            first = next(iter(numbers.values()), shard)
            same = numbers.setdefault(int(named[2]), shard)
            if same != shard or _count(first) != _count(shard):
                raise DataError(
                    f"{first} and {shard.name} are shards of one part that was written twice",
                    "remove the older files, or give one file",
                )
    for numbers in there.values():
        for number in range(_count(next(iter(numbers.values())))):
            if number not in numbers:
                shard = next(iter(numbers.values()))
                raise DataError(
                    f"{_numbered(shard, number)} is missing, though {shard.name} is there",
                    "fetch it too, or give the one file instead of its folder",
                )


def _count(shard: Path) -> int:
    named = SHARD.fullmatch(shard.stem)
    return int(named[3]) if named else 0


def _numbered(shard: Path, number: int) -> Path:
    """Return the path of another shard of the same part."""
    return shard.with_name(
        re.sub(
            r"-([0-9]+)-of-([0-9]+).*",
            lambda found: f"-{number:0{len(found[1])}}-of-{found[2]}{SUFFIX}",
            shard.name,
        )
    )
