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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from onward.artifacts import is_left_behind
from onward.data.decoding import RAW, UNKNOWN, is_image
from onward.data.items import PassedOver, natural_key, number_classes
from onward.data.parts import (
    ORDER,
    STATE_PARTS,
    Found,
    Opened,
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
    """

    folders: list[Path]
    files: list[Path]
    passed_over: list[Passed]


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


def look_into(folder: Path) -> Contents:
    """Return what a folder holds.

    Raises:
        DataError: if it cannot be read, naming it.
    """
    found = Contents([], [], [])
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: natural_key(entry.name)):
                path = folder / entry.name
                if is_left_behind(entry.name) or entry.name.startswith("."):
                    why = SYSTEMS if is_left_behind(entry.name) else HIDDEN
                    found.passed_over.append((why, path))
                else:
                    (found.folders if _is_folder(entry, path) else found.files).append(path)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read: {error.strerror}. Give yourself the right to read it, or "
            "give another folder"
        ) from error
    return found


def _is_folder(entry: os.DirEntry[str], path: Path) -> bool:
    try:
        if entry.is_dir():
            return True
        leads_nowhere = entry.is_symlink() and not os.path.exists(path)  # noqa: PTH110
    except OSError:  # such as links in a ring
        leads_nowhere = True
    return leads_nowhere and not path.suffix


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
        kept = list[Path]()
        for folder in found.folders:
            real = os.path.realpath(folder)
            if real in seen or _is_link_back(folder, root):
                found.passed_over.append((BACK, folder))
            else:
                seen.add(real)
                kept.append(folder)
        yield found._replace(folders=kept)
        waiting += reversed(kept)


def _is_link_back(path: Path, root: Path) -> bool:
    """Say whether a link leads to somewhere in a data set's folder, or above it."""
    if not path.is_symlink() or not path.exists():
        return False
    real, inside = os.path.realpath(path), os.path.realpath(root)
    return os.path.commonpath([real, inside]) in (real, inside)


def _refuse_link(folder: Path, child: Path, seen: dict[str, Path]) -> None:
    """Refuse a link to what is in the data set already, and two links to one folder."""
    real = os.path.realpath(child)
    if seen.setdefault(real, child) != child or _is_link_back(child, folder):
        raise DataError(
            f"{child} is a link that leads back to {real}, and images would count twice",
            "remove the link",
        )


def _holds_image(folder: Path, root: Path) -> bool:
    """Say whether there is anything in a folder, or below it, that may be an image.

    What cannot be read may: that is told where its images are listed.
    """
    errors: list[DataError] = []
    found = (file for one in walk(folder, root, errors.append) for file in one.files)
    return any(map(_may_be_image, found)) or bool(errors)


def _may_be_image(file: Path) -> bool:
    return file.suffix.lower() not in TEXT_SUFFIXES


@dataclass(frozen=True)
class FolderPart:
    """A part of an image folder, or all of it.

    Attributes:
        part: its name and role.
        path: the folder that holds its class folders.
        classes: these, in natural order; none where a list says the classes, or nothing does.
        listed: class by file name, from a list beside the images.
    """

    part: Part
    path: Path
    classes: tuple[Path, ...]
    listed: Mapping[str, str] = field(default_factory=dict)

    @property
    def class_names(self) -> set[str]:
        """The names of its classes, also of those without an image."""
        return {folder.name for folder in self.classes} | set(self.listed.values())

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
        names, option = {folder.name for folder in self.classes}, AS_CLASSES
        option = AS_PARTS if self.part.name else option
        if names and all(name.lower() in NO_CLASSES for name in names):
            raise DataError(
                f"the class folders of {self.path} are {', '.join(sorted(names))}, which name the "
                "kind of their files, not a class",
                f"if they are the classes, say so: {option}",
                needed=f"Onward needs {LAYOUT}",
            )
        inside: dict[str, set[tuple[str, ...]]] = {}
        for item in ids:
            name, *within = item.split("/")[bool(self.part.name) : -1]
            inside.setdefault(name, set()).add(tuple(within))
        for name, folders in inside.items():
            shared = takewhile(lambda level: len({*level}) == 1, zip(*folders, strict=False))
            depth = len([*shared])
            inner = sorted({folder[depth] for folder in folders if len(folder) > depth})
            hollow = all(len(folder) > depth for folder in folders)
            alike = {folder[0] for folder in folders if folder} & (names - {name})
            if hollow or alike or (len(inside) == 1 and len(inner) > 1):
                place = self.path.joinpath(name, *min(folders)[:depth])
                raise DataError(
                    f"in {self.path}, the class may be the upper or the lower folder of "
                    f"{', '.join(f'{name}/{one}' for one in (inner or sorted(alike))[:2])}",
                    f"if it is the upper one in all of {self.path}, say so: {option}. If it is the "
                    f"lower one, give the folder that holds the classes, such as {place}. If the "
                    f"upper folders are parts, name them: {STATE_PARTS}",
                )


class ImageFolder(Source):
    """A folder with a sub-folder for each class, or for each part and in it for each class."""

    kind = "image folder"

    def __init__(self, path: Path, stated: Stated) -> None:
        self.by_part = {one.part: one for one in _find_parts(path, stated)}
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

    def open(self, parts: Sequence[Part]) -> Opened:
        """List the items of some parts; ids are paths relative to it, with forward slashes.

        No image is decoded here, unless what is bad is to be left out: one that is truncated is an
        error when it is opened.

        Raises:
            DataError: if a class folder holds no image, a part has no labels, a file is empty or no
                image, or what is understood of the layout may be meant otherwise.
        """
        passed, chosen = list[Passed](), [self.by_part[part] for part in parts]
        names = {label: name for name, label in self.labels.items()}
        opened = self.collect(self._find_files(chosen, passed), names, ())
        passed_over = summarise(passed, self.path)
        opened = replace(opened, items=replace(opened.items, passed_over=passed_over))
        for one in chosen if self.stated.read_as == "auto" else ():
            ids = zip(opened.items.ids, opened.part_of, strict=True)
            one.check_layout([item for item, part in ids if part == one.part and one.classes])
        return opened

    def _find_files(self, parts: Sequence[FolderPart], passed: list[Passed]) -> Iterator[Found]:
        folder = self.path
        passed += _passed_beside(folder, parts)
        seen: dict[str, Path] = {}
        for one in parts:
            if not (one.classes or one.listed):
                raise DataError(
                    f"neither class folders nor a list ({one.part.name}_annotations.txt) say the "
                    f"classes of the images in {one.path}. Name the parts to read without it: "
                    f"{STATE_PARTS}; give the folder of another part alone; or, if that folder is "
                    f"a class, say so: {AS_PARTS}"
                )
            for class_folder in one.classes:
                _refuse_link(folder, class_folder, seen)
            files = (_look_through(folder, each, passed) for each in one.classes)
            looked = (file for each in files for file in each) if one.classes else _look_up(one)
            for file, name, fault in looked:
                item, payload = file.relative_to(folder).as_posix(), {"path": str(file.absolute())}
                yield Found(
                    item, self.labels.get(name, -1), payload, as_text(file), one.part, fault
                )


def _find_parts(folder: Path, stated: Stated) -> list[FolderPart]:
    """Return the parts of an image folder; one without a name where its folders are classes.

    Raises:
        DataError: if names and contents of its folders leave more than one reading.
    """
    children, named = look_into(folder).folders, stated.train_part or stated.test_part
    as_parts = stated.read_as == "parts" or named is not None
    if stated.read_as == "classes" or not (as_parts or _divided(folder, children)):
        return [FolderPart(Part(""), folder, tuple(children))]
    found = [
        FolderPart(Part(child.name, role_of(child.name)), child, tuple(look_into(child).folders))
        for child in children
        if role_of(child.name) or _holds_image(child, folder)
    ]
    seen: dict[str, Path] = {}
    for one in found:
        _refuse_link(folder, one.path, seen)
    found.sort(key=lambda one: ORDER.index(one.part.role))
    return found if stated.read_as == "parts" else [_read_list(one, found) for one in found]


def _divided(folder: Path, children: Sequence[Path]) -> bool:
    """Say whether the folders are parts, by names and contents; refuse where both may be."""
    named = [child for child in children if role_of(child.name)]
    with_folders = [child for child in named if look_into(child).folders]
    alike = _named_alike([child for child in children if child not in named])
    if not named and len({role == "train" for role in alike.values()}) < 2:
        return False
    others = [one for one in children if one not in named and _holds_image(one, folder)]
    if not others and with_folders:
        return True
    a_train = [child.name.lower() for child in named] == ["train"]  # among ships and aeroplanes
    if a_train and not with_folders and others and not alike:
        return False
    names = ", ".join(child.name for child in [*named, *alike])
    if not others:
        raise DataError(
            f"{folder} holds {names}: names of parts of a data set, but there are no class folders "
            f"in them. If they are the classes, say so: {AS_CLASSES}. If they are parts, Onward "
            f"needs {LAYOUT.replace('FOLDER', named[0].name)}"
        )
    beside = ", ".join(one.name for one in others if one not in alike)
    beside = beside if len(beside) <= 100 else f"{beside[:100]}..."
    raise DataError(
        f"{folder} holds {names}, which may be parts of a data set"
        f"{f', beside {beside}' if beside else ''}. Say which parts are meant: "
        f"{STATE_PARTS}, which leaves all others out",
        f"or that every folder is a class: {AS_CLASSES}",
    )


def _named_alike(children: Sequence[Path]) -> dict[Path, Role]:
    """Return folders in whose names one word tells a part, such as `seg_train`, with what it tells.

    Those without folders in them only if another is called likewise: `cars_train`, `cars_test`.
    """
    told = [(child, *split_name(child.name)[1:]) for child in children]
    return {
        child: role
        for child, role, rest in told
        if role
        and (
            any(other and other != role and name == rest for _, other, name in told)
            or look_into(child).folders
        )
    }


def _read_list(one: FolderPart, parts: Sequence[FolderPart]) -> FolderPart:
    """Return a part with its list of classes, if it has no class folders but such a list.

    Its images may lie in a folder of their own, beside the list; that is not a class then.
    """
    divided = [part for part in parts if len(part.classes) > 1]
    others = set[str]().union(*(part.class_names for part in divided if part != one))
    wrapper = len(one.classes) == 1 and len(others) > 1 and one.classes[0].name not in others
    if one.classes and not wrapper:
        return one
    lists = [file for file in look_into(one.path).files if file.name.endswith("annotations.txt")]
    place = one.classes[0] if wrapper else one.path
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


def _passed_beside(folder: Path, parts: Sequence[FolderPart]) -> Iterator[Passed]:
    """Yield what is passed over beside class folders and beside parts."""
    classes = {one.path: one.classes for one in parts}
    for place in dict.fromkeys([folder, *classes]):
        found = look_into(place)
        yield from found.passed_over
        if place == folder or classes[place]:
            yield from ((BESIDE, file) for file in found.files)
        for child in found.folders if place not in classes else ():
            if child not in classes and not _holds_image(child, folder):
                yield IMAGELESS, child


def _look_through(folder: Path, class_folder: Path, passed: list[Passed]) -> Iterator[Looked]:
    name, files = class_folder.name, list[Path]()
    try:
        for found in walk(class_folder, folder):
            files += found.files
            passed += found.passed_over
    except DataError as error:
        yield class_folder, name, f"cannot be used: {error}"
        return
    passed += [(TEXTS, file) for file in files if not _may_be_image(file)]
    files = [file for file in files if _may_be_image(file)]
    if not files:
        yield class_folder, name, "holds no image, as a class folder must"
    for file in sorted(files, key=lambda file: natural_key(str(file.relative_to(class_folder)))):
        yield file, name, _glance(file)


def _look_up(one: FolderPart) -> Iterator[Looked]:
    """Look for the files of a part that has a list of its classes."""
    there = {file.name: file for file in look_into(one.path).files if _may_be_image(file)}
    for name, label in one.listed.items():
        why = "is in the list of classes, but there is no such file"
        yield one.path / name, label, _glance(there[name]) if name in there else why
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
