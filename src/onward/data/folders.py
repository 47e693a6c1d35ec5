"""Image folders: one sub-folder a class, as torchvision's ImageFolder has it.

```
photos/cat/1.jpg              photos/train/cat/1.jpg        tiny/train/cat/images/1.jpg
photos/cat/beach/2.jpg        photos/test/cat/2.jpg         tiny/val/images/2.jpg
photos/dog/1.jpg              photos/test/dog/1.jpg         tiny/val/val_annotations.txt
```

The last is Tiny-ImageNet's: a part without class folders, and a list of file and class a line. A
layout that could be meant in two ways is refused, with the option that settles it. Passed over is
what nobody put there as an item: hidden names, and what systems, file servers and file managers
leave behind, thumbnails of the images among it. It is counted and told, never read.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from onward.artifacts import is_left_behind
from onward.data.images import RAW, UNKNOWN, is_image
from onward.data.items import Items, PassedOver, natural_key, number_classes
from onward.data.parts import (
    ORDER,
    STATE_PARTS,
    Found,
    Part,
    Role,
    Source,
    Stated,
    role_of,
    split_name,
)
from onward.errors import DataError
from onward.labels import is_text

IMAGE_SUFFIXES = frozenset(
    [
        ".avif", ".bmp", ".gif", ".j2k", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
        ".ppm", ".tif", ".tiff", ".webp",
    ]
)  # fmt: skip
TEXT_SUFFIXES = frozenset(
    [
        ".aae", ".csv", ".html", ".json", ".jsonl", ".md", ".tsv", ".txt", ".xml", ".xmp", ".yaml",
        ".yml",
    ]
)  # fmt: skip
RAW_SUFFIXES = frozenset([".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".rw2", ".srw"])
LAYOUT = "one sub-folder a class with its images in it: FOLDER/cat/1.jpg, FOLDER/dog/1.jpg"
AS_CLASSES = "read_as='classes'"
AS_PARTS = "read_as='parts'"
NO_CLASSES = frozenset(
    [
        "annotations", "image", "images", "img", "imgs", "jpeg", "jpegimages", "jpg", "labels",
        "mask", "masks", "png", "segmentation", "segmentations", "trimaps",
    ]
)  # fmt: skip
"""What folders are called after the files in them; a class among others may be called so too."""

HIDDEN = "hidden"
SYSTEMS = "left behind by a system, file server or file manager"
BESIDE = "files beside the class folders"
TEXTS = "texts and tables beside images"
BACK = "links that lead back into the data set"
IMAGELESS = "folders without an image"

Passed = tuple[str, Path]
"""Why something is passed over, and what."""
Looked = tuple[Path, str, str | None]
"""A file, its class and, as far as it shows without decoding, why it cannot be used."""


class Contents(NamedTuple):
    """What a folder holds, each in natural order.

    Attributes:
        folders: and links to folders, also links that lead nowhere and look like no file.
        files: all else.
        passed_over: with why.
        error: why it cannot be read; then it holds nothing.
    """

    folders: tuple["Folder", ...] = ()
    files: tuple[Path, ...] = ()
    passed_over: tuple[Passed, ...] = ()
    error: DataError | None = None

    @property
    def images(self) -> list[Path]:
        """The files that may be images."""
        return [file for file in self.files if file.suffix.lower() not in TEXT_SUFFIXES]


@dataclass(frozen=True)
class Folder:
    """A folder in a data set, and the data set's own, `root`. Each is read once, when asked for."""

    path: Path
    root: Path

    @cached_property
    def contents(self) -> Contents:
        """What it holds."""
        folders, files, passed = list[Folder](), list[Path](), list[Passed]()
        try:
            with os.scandir(self.path) as entries:
                for entry in sorted(entries, key=lambda entry: natural_key(entry.name)):
                    path = self.path / entry.name
                    if is_left_behind(entry.name) or entry.name.startswith("."):
                        passed.append((SYSTEMS if is_left_behind(entry.name) else HIDDEN, path))
                    elif _is_folder(entry, path):
                        folders.append(Folder(path, self.root))
                    else:
                        files.append(path)
        except OSError as error:
            refusal = DataError(
                f"{self.path} cannot be read: {error.strerror}. Give yourself the right to read "
                "it, or give another folder"
            )
            return Contents(error=refusal)
        return Contents(tuple(folders), tuple(files), tuple(passed))

    @property
    def folders(self) -> tuple["Folder", ...]:
        """The folders in it.

        Raises:
            DataError: if it cannot be read, naming it.
        """
        if self.contents.error is not None:
            raise self.contents.error
        return self.contents.folders

    @property
    def leads_back(self) -> bool:
        """Whether it is a link to somewhere in the data set, or above it."""
        if not self.path.is_symlink() or not self.path.exists():
            return False
        real, inside = os.path.realpath(self.path), os.path.realpath(self.root)
        return os.path.commonpath([real, inside]) in (real, inside)

    @property
    def holds_image(self) -> bool:
        """Whether there is anything in it, or below it, that may be an image.

        What cannot be read may, and what leads back: that is told where images are listed.
        """
        return self.leads_back or any(one.images or one.error for one in self.below())

    def below(self) -> Iterator[Contents]:
        """Yield what it and the folders below it hold, each folder once, in natural order.

        A link to a folder is followed, but not one that leads back to somewhere in the data set,
        which would give an image another class or twice the same: it is passed over.
        """
        waiting, seen = [self], set[str]()
        while waiting:
            one = waiting.pop()
            real = os.path.realpath(one.path)
            if real in seen or (one is not self and one.leads_back):
                yield Contents(passed_over=((BACK, one.path),))
                continue
            seen.add(real)
            yield one.contents
            waiting += reversed(one.contents.folders)


def summarise(passed_over: Iterable[Passed], root: Path) -> tuple[PassedOver, ...]:
    """Return how much was passed over of each kind, and the first of it within the data set."""
    of_kind: dict[str, list[Path]] = {}
    for why, path in passed_over:
        of_kind.setdefault(why, []).append(path)
    return tuple(
        PassedOver(why, len(paths), as_text(paths[0].relative_to(root)))
        for why, paths in of_kind.items()
    )


def as_text(path: Path) -> str:
    """Return a path that can be written, with forward slashes; a name need not be UTF-8."""
    return os.fsencode(path.as_posix()).decode(errors="replace")


def _is_folder(entry: os.DirEntry[str], path: Path) -> bool:
    try:
        if entry.is_dir():
            return True
        leads_nowhere = entry.is_symlink() and not os.path.exists(path)  # noqa: PTH110
    except OSError:  # such as links in a ring
        leads_nowhere = True
    return leads_nowhere and not path.suffix


def _refuse_links(folders: Iterable[Folder]) -> None:
    """Refuse a link to what is in the data set already, and two links to one folder."""
    seen: dict[str, Folder] = {}
    for one in folders:
        real = os.path.realpath(one.path)
        if seen.setdefault(real, one) != one or one.leads_back:
            raise DataError(
                f"{one.path} is a link that leads back to {real}, and images would count twice",
                "remove the link",
            )


@dataclass(frozen=True)
class FolderPart:
    """A part of an image folder, or all of it.

    Attributes:
        part: its name and role.
        folder: holds its class folders, or its images.
        classes: the former, in natural order; none where a list says the classes, or nothing does.
        listed: class by file name, from a list beside the images.
    """

    part: Part
    folder: Folder
    classes: tuple[Folder, ...]
    listed: Mapping[str, str] = field(default_factory=dict)

    @property
    def class_names(self) -> set[str]:
        """The names of its classes, also of those without an image."""
        return {folder.path.name for folder in self.classes} | set(self.listed.values())

    def check_layout(self, ids: Sequence[str]) -> None:
        """Refuse folders that are hardly the classes, and folders in them that may be the classes.

        They may where a class folder has images in several folders alone, whatever single folder
        these are in; where it is the only one and has several folders; and where one of them is
        called like a class. A folder that holds all images of its class, such as `images`, may not.

        Args:
            ids: of its items.

        Raises:
            DataError: naming some of the folders.
        """
        path, names = self.folder.path, {folder.path.name for folder in self.classes}
        option = AS_PARTS if self.part.name else AS_CLASSES
        if names and all(name.lower() in NO_CLASSES for name in names):
            raise DataError(
                f"the class folders of {path} are {', '.join(sorted(names))}, which name the "
                "kind of their files, not a class",
                f"if they are the classes, say so: {option}",
                needed=f"Onward needs {LAYOUT}",
            )
        inside: dict[str, set[tuple[str, ...]]] = {}
        for item in ids:
            name, *within = item.split("/")[bool(self.part.name) : -1]
            inside.setdefault(name, set()).add(tuple(within))
        shared = {name: _shared(folders) for name, folders in inside.items()}
        told = {
            next((one for one in by if one.lower() not in NO_CLASSES), None)
            for by in shared.values()
        }
        crossed = None not in told and 1 < len(told) < len(inside)
        for name, folders in inside.items():
            depth = 0 if crossed else len(shared[name])
            inner = sorted({folder[depth] for folder in folders if len(folder) > depth})
            hollow = all(len(folder) > depth for folder in folders)
            alike = {folder[0] for folder in folders if folder} & (names - {name})
            if hollow or alike or (len(inside) == 1 and len(inner) > 1):
                place = path.joinpath(name, *min(folders)[:depth])
                raise DataError(
                    f"in {path}, the class may be the upper or the lower folder of "
                    f"{', '.join(f'{name}/{one}' for one in (inner or sorted(alike))[:2])}",
                    f"if it is the upper one in all of {path}, say so: {option}. If it is the "
                    f"lower one, give the folder that holds the classes, such as {place}. If the "
                    f"upper folders are parts, name them: {STATE_PARTS}",
                )


def _shared(folders: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the levels, from the upper one on, that all folders of a class share."""
    levels = zip(*folders, strict=False)
    return tuple(level[0] for level in takewhile(lambda level: len({*level}) == 1, levels))


class ImageFolder(Source):
    """A folder with a sub-folder for each class, or for each part and in it for each class."""

    kind = "image folder"

    def __init__(self, folder: Folder, stated: Stated) -> None:
        self.folder, path = folder, folder.path
        self.by_part = {one.part: one for one in _find_parts(folder, stated)}
        super().__init__(path, stated, [*self.by_part])
        names = set[str]().union(*(self.by_part[part].class_names for part in self.numbered))
        if not names:
            raise DataError(
                f"{path} has no class folders",
                "images without classes are "
                'listed instead, a line {"id": ..., "path": ...} an image in a .jsonl file, and '
                "embedded by that list",
                needed=f"Onward needs {LAYOUT}",
                step="embed",
            )
        self.labels = number_classes(names, f"the class folders of {path}")

    def open(self, parts: Sequence[Part]) -> Items:
        """List the items of some parts; ids are paths relative to it, with forward slashes.

        No image is decoded here, unless what is bad is to be left out: one that is truncated is an
        error when it is opened.

        Raises:
            DataError: if a class folder holds no image, a part has no labels, a file is empty or no
                image, or what is understood of the layout may be meant otherwise.
        """
        chosen = [self.by_part[part] for part in parts]
        names = {label: name for name, label in self.labels.items()}
        passed_over = summarise(self._passed_over(chosen), self.path)
        items = self.collect(self._find_files(chosen), names, passed_over)
        for one in chosen if self.stated.read_as == "auto" else ():
            if one.classes:
                one.check_layout(items.of_part(one.part.name).ids)
        return items

    def _find_files(self, parts: Sequence[FolderPart]) -> Iterator[Found]:
        for one in parts:
            if not (one.classes or one.listed):
                raise DataError(
                    f"neither class folders nor a list ({one.part.name}_annotations.txt) say the "
                    f"classes of the images in {one.folder.path}. Name the parts to read without "
                    f"it: {STATE_PARTS}; give the folder of another part alone; or, if that folder "
                    f"is a class, say so: {AS_PARTS}"
                )
        _refuse_links(folder for one in parts for folder in one.classes)
        for one in parts:
            for file, name, fault in _look_through(one.classes) if one.classes else _look_up(one):
                item, payload = (
                    file.relative_to(self.path).as_posix(),
                    {"path": str(file.absolute())},
                )
                label = self.labels.get(name, -1)
                yield Found(item, label, payload, as_text(file), one.part, fault)

    def _passed_over(self, parts: Sequence[FolderPart]) -> Iterator[Passed]:
        """Yield what is passed over beside parts, beside class folders and in these."""
        classes = {one.folder: one.classes for one in parts}
        for place in dict.fromkeys([self.folder, *classes]):
            found = place.contents
            yield from found.passed_over
            if place == self.folder or classes[place]:
                yield from ((BESIDE, file) for file in found.files)
            for child in found.folders if place not in classes else ():
                if child not in classes and not child.holds_image:
                    yield IMAGELESS, child.path
        for one in (one for each in classes.values() for folder in each for one in folder.below()):
            yield from one.passed_over
            texts = (file for file in one.files if file.suffix.lower() in TEXT_SUFFIXES)
            yield from ((TEXTS, file) for file in texts)


def _find_parts(folder: Folder, stated: Stated) -> list[FolderPart]:
    """Return the parts of an image folder; one without a name where its folders are classes.

    Raises:
        DataError: if names and contents of its folders leave more than one reading.
    """
    children, named = folder.folders, stated.train_part or stated.test_part
    as_parts = stated.read_as == "parts" or named is not None
    if stated.read_as == "classes" or not (as_parts or _divided(folder)):
        return [FolderPart(Part(""), folder, children)]
    chosen = [child for child in children if role_of(child.path.name) or child.holds_image]
    _refuse_links(chosen)
    found = [
        FolderPart(Part(child.path.name, role_of(child.path.name)), child, child.folders)
        for child in chosen
    ]
    found.sort(key=lambda one: ORDER.index(one.part.role))
    return found if stated.read_as == "parts" else [_read_list(one, found) for one in found]


def _divided(folder: Folder) -> bool:
    """Say whether the folders are parts, by names and contents; refuse where both may be."""
    named = [child for child in folder.folders if role_of(child.path.name)]
    with_folders = [child for child in named if child.folders]
    alike = _named_alike([child for child in folder.folders if child not in named])
    if not named and len({role == "train" for role in alike.values()}) < 2:
        return False
    others = [child for child in folder.folders if child not in named and child.holds_image]
    if not others and with_folders:
        return True
    a_train = [child.path.name.lower() for child in named] == ["train"]  # among ships
    if a_train and not with_folders and others and not alike:
        return False
    names = ", ".join(child.path.name for child in [*named, *alike])
    if not others:
        raise DataError(
            f"{folder.path} holds {names}: names of parts of a data set, but there are no class "
            f"folders in them. If they are the classes, say so: {AS_CLASSES}. If they are parts, "
            f"Onward needs {LAYOUT.replace('FOLDER', named[0].path.name)}"
        )
    beside = ", ".join(one.path.name for one in others if one not in alike)
    beside = beside if len(beside) <= 100 else f"{beside[:100]}..."
    raise DataError(
        f"{folder.path} holds {names}, which may be parts of a data set"
        f"{f', beside {beside}' if beside else ''}. Say which parts are meant: "
        f"{STATE_PARTS}, which leaves all others out",
        f"or that every folder is a class: {AS_CLASSES}",
    )


def _named_alike(children: Sequence[Folder]) -> dict[Folder, Role]:
    """Return folders in whose names one word tells a part, such as `seg_train`, with what it tells.

    Those without folders in them only if another is called likewise: `cars_train`, `cars_test`.
    """
    told = [(child, *split_name(child.path.name)[1:]) for child in children]
    return {
        child: role
        for child, role, rest in told
        if role
        and (
            any(other and other != role and name == rest for _, other, name in told)
            or child.folders
        )
    }


def _read_list(one: FolderPart, parts: Sequence[FolderPart]) -> FolderPart:
    """Return a part with its list of classes, if it has no class folders but such a list.

    Its images may lie in a folder of their own, beside the list; that is not a class then.
    """
    divided = [part for part in parts if len(part.classes) > 1]
    others = set[str]().union(*(part.class_names for part in divided if part != one))
    wrapper = len(one.classes) == 1 and len(others) > 1 and one.class_names.isdisjoint(others)
    if one.classes and not wrapper:
        return one
    place, files = one.classes[0] if wrapper else one.folder, one.folder.contents.files
    lists = [file for file in files if file.name.endswith("annotations.txt")]
    if len(lists) != 1:
        return FolderPart(one.part, place, ())
    listed: dict[str, str] = {}
    try:
        lines = lists[0].read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{lists[0]} cannot be read as text in UTF-8: {error}") from error
    for number, line in enumerate(lines, start=1):
        name, label, *_ = [*line.split("\t" if "\t" in line else None), "", ""]
        if not label or listed.get(name, label) != label or label not in others:
            raise DataError(
                f"line {number} of {lists[0]} is {line!r}",
                needed=(
                    "it should be the name of a file, a tab "
                    "and one of the classes of the other parts, and each file have one class"
                ),
            )
        listed[name] = label
    return FolderPart(one.part, place, (), listed)


def _look_through(classes: Iterable[Folder]) -> Iterator[Looked]:
    """Look for the images of class folders."""
    for folder in classes:
        name, below = folder.path.name, [*folder.below()]
        files = [file for one in below for file in one.images]
        fault = None if files else "holds no image, as a class folder must"
        fault = next((f"cannot be used: {one.error}" for one in below if one.error), fault)
        if fault:
            yield folder.path, name, fault
            continue
        for file in sorted(files, key=lambda file: natural_key(file.as_posix())):
            yield file, name, _glance(file)


def _look_up(one: FolderPart) -> Iterator[Looked]:
    """Look for the files of a part that has a list of its classes."""
    there = {file.name: file for file in one.folder.contents.images}
    for name, label in one.listed.items():
        why = "is in the list of classes, but there is no such file"
        yield one.folder.path / name, label, _glance(there[name]) if name in there else why
    for name, file in there.items():
        if name not in one.listed:
            yield file, "", "is not in the list that gives each image its class"


def _glance(file: Path) -> str | None:
    """Say what is wrong with a file as far as it shows without decoding."""
    if not is_text(str(file)):
        return "has a name that is not UTF-8, and ids are text; rename it"
    try:
        found = file.stat()
    except OSError as error:  # such as a link that leads nowhere
        return f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return "is not a file with an image in it"  # reading a pipe would wait for ever
    if found.st_size == 0:
        return "cannot be read as an image: it has 0 bytes"
    suffix = file.suffix.lower()
    if suffix in RAW_SUFFIXES:
        return RAW
    unread = suffix not in IMAGE_SUFFIXES and not is_image(str(file))
    return f"is not an image that is read: {UNKNOWN}" if unread else None
