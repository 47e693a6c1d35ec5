"""Look into the folders of a data set: what is there, in which order, and what is passed over.

Passed over is what nobody put there as an item: hidden names, and what systems, file servers and
file managers leave behind, thumbnails of the images among it. It is counted and told, never read.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onward.errors import DataError
from onward.leftovers import is_left_behind

NaturalKey = tuple[tuple[tuple[int, str], ...], str]

IMAGE_SUFFIXES = frozenset(
    [
        ".avif", ".bmp", ".gif", ".j2k", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
        ".ppm", ".tif", ".tiff", ".webp",
    ]
)  # fmt: skip

HIDDEN = "hidden"
SYSTEMS = "left behind by a system, file server or file manager"
BESIDE = "files beside the class folders"
TEXTS = "texts and tables beside images"
BACK = "links that lead back into the data set"
IMAGELESS = "folders without an image"
NOT_PARQUET = "files that are not Parquet"


@dataclass(frozen=True)
class PassedOver:
    """What is in a data set and is no item, of one kind.

    Attributes:
        why: what kind it is.
        count: how many files and folders; what is in such a folder is not counted.
        example: the first of them, within the data set.
    """

    why: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.why}: {self.count:,} ({self.example}{', ...' if self.count > 1 else ''})"

    def to_json(self) -> dict[str, str | int]:
        """Return the fields as plain values."""
        return {"why": self.why, "count": self.count, "example": self.example}


@dataclass(frozen=True)
class Contents:
    """What a folder holds, each in natural order.

    Attributes:
        folders: and links to folders, also links that lead nowhere and look like no file.
        files: all else.
        passed_over: with why.
    """

    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    passed_over: tuple[tuple[str, Path], ...]


def natural_key(name: str) -> NaturalKey:
    """Return what to sort a name by: runs of digits count as numbers, case does not count.

    Names that are equal in this sense (such as "a1" and "a01") are ordered by their characters.
    """
    parts = re.split(r"([0-9]+)", name.lower())
    key = tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)
    return key, name


def look_into(folder: Path) -> Contents:
    """Return what a folder holds.

    Raises:
        DataError: if it cannot be read, naming it.
    """
    folders, files, passed = list[Path](), list[Path](), list[tuple[str, Path]]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path, why = folder / entry.name, _why_passed_over(entry.name)
                if why:
                    passed.append((why, path))
                elif _is_folder(entry, path):
                    folders.append(path)
                else:
                    files.append(path)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read: {error.strerror}. Give yourself the right to read it, or "
            "give another folder"
        ) from error
    in_order = [
        sorted(paths, key=lambda path: natural_key(path.name)) for paths in (folders, files)
    ]
    passed.sort(key=lambda one: natural_key(one[1].name))
    return Contents(tuple(in_order[0]), tuple(in_order[1]), tuple(passed))


def walk(
    top: Path, root: Path, unreadable: Callable[[DataError], None] | None = None
) -> Iterator[Contents]:
    """Yield what a folder and the folders below it hold, each folder once, in natural order.

    A link to a folder is followed, but not one that leads back to somewhere in the data set, which
    would give an image another class or twice the same: it is passed over.

    Args:
        top: where to begin; may be a link itself.
        root: the data set's own folder.
        unreadable: called with the error of a folder that cannot be read, instead of raising it.

    Raises:
        DataError: if a folder cannot be read, naming it.
    """
    waiting, seen = [top], {os.path.realpath(top)}
    while waiting:
        try:
            found = look_into(waiting.pop())
        except DataError as error:
            if unreadable is None:
                raise
            unreadable(error)
            continue
        kept, passed = list[Path](), list(found.passed_over)
        for folder in found.folders:
            real = os.path.realpath(folder)
            if real in seen or is_link_back(folder, root):
                passed.append((BACK, folder))
            else:
                seen.add(real)
                kept.append(folder)
        yield Contents(tuple(kept), found.files, tuple(passed))
        waiting += reversed(kept)


def is_link_back(path: Path, root: Path) -> bool:
    """Say whether a link leads to somewhere in a data set's folder, or above it."""
    if not path.is_symlink() or not path.exists():
        return False
    real, inside = os.path.realpath(path), os.path.realpath(root)
    return os.path.commonpath([real, inside]) in (real, inside)


class Tally:
    """Counts what was passed over, by kind; holds one example of each, not all paths."""

    def __init__(self) -> None:
        self._first: dict[str, Path] = {}
        self._counts: Counter[str] = Counter()

    def add(self, why: str, path: Path) -> None:
        """Count one file or folder."""
        self._first.setdefault(why, path)
        self._counts[why] += 1

    def passed_over(self, root: Path) -> tuple[PassedOver, ...]:
        """Return what was counted, the examples within the data set."""
        return tuple(
            PassedOver(why, self._counts[why], as_text(first.relative_to(root)))
            for why, first in self._first.items()
        )


def as_text(path: Path) -> str:
    """Return a path that can be written, with forward slashes; a name need not be UTF-8."""
    return os.fsencode(path.as_posix()).decode(errors="replace")


def _why_passed_over(name: str) -> str | None:
    if is_left_behind(name):
        return SYSTEMS
    return HIDDEN if name.startswith(".") else None


def _is_folder(entry: os.DirEntry[str], path: Path) -> bool:
    try:
        if entry.is_dir():
            return True
        leads_nowhere = entry.is_symlink() and not os.path.exists(path)  # noqa: PTH110
    except OSError:  # such as links in a ring
        leads_nowhere = True
    return leads_nowhere and not path.suffix
