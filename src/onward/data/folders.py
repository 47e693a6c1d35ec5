"""Items of an image folder: one sub-folder a class, as torchvision's ImageFolder has it.

```
photos/cat/1.jpg              photos/train/cat/1.jpg        tiny/train/cat/images/1.jpg
photos/cat/beach/2.jpg        photos/test/cat/2.jpg         tiny/val/images/2.jpg
photos/dog/1.jpg              photos/test/dog/1.jpg         tiny/val/val_annotations.txt
```

The last is Tiny-ImageNet's: a part without class folders, and a list of file and class a line. A
layout that could be meant in two ways is refused, with the option that settles it; whatever is no
item is passed over and counted.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from onward.data.decoding import CONVERT, MAX_PIXELS, is_image, name_format
from onward.data.items import Items, LeftOut, number_classes
from onward.data.listing import (
    BESIDE,
    IMAGE_SUFFIXES,
    IMAGELESS,
    TEXTS,
    Tally,
    as_text,
    is_link_back,
    look_into,
    natural_key,
    walk,
)
from onward.data.parts import STATE_PARTS, Part, Role, role_of, split_name
from onward.data.payloads import find_fault
from onward.errors import DataError
from onward.labels import is_text

ReadAs = Literal["auto", "classes", "parts", "parquet"]

TEXT_SUFFIXES = frozenset(
    [
        ".aae", ".csv", ".html", ".json", ".jsonl", ".md", ".tsv", ".txt", ".xml", ".xmp", ".yaml",
        ".yml",
    ]
)  # fmt: skip
RAW_SUFFIXES = frozenset([".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".rw2", ".srw"])
LAYOUT = "one sub-folder a class with its images in it: FOLDER/cat/1.jpg, FOLDER/dog/1.jpg"
ORDER = ("train", "test", "validation", None)
AS_CLASSES = "--read-as classes (read_as='classes')"
AS_PARTS = "--read-as parts (read_as='parts')"
NO_CLASSES = frozenset(
    [
        "annotations", "image", "images", "img", "imgs", "jpeg", "jpegimages", "jpg", "labels",
        "mask", "masks", "png", "segmentation", "segmentations", "trimaps",
    ]
)  # fmt: skip
"""What folders are called after the files in them; a class among others may be called so too."""


@dataclass(frozen=True)
class FolderPart:
    """A part of an image folder, or all of it.

    Attributes:
        part: its name and role.
        path: the folder that holds its class folders.
        classes: these, in natural order; none where a list says the classes.
        listed: class by file name, from a list beside the images.
        unlabelled: whether nothing says the classes of its images.
    """

    part: Part
    path: Path
    classes: tuple[Path, ...]
    listed: Mapping[str, str] = field(default_factory=dict)
    unlabelled: bool = False

    @property
    def class_names(self) -> set[str]:
        """The names of its classes, also of those without an image."""
        return {folder.name for folder in self.classes} | set(self.listed.values())


def find_parts(folder: Path, read_as: ReadAs, stated: Sequence[str] = ()) -> list[FolderPart]:
    """Return the parts of an image folder; one without a name where its folders are classes.

    Args:
        folder: the image folder.
        read_as: "classes" or "parts" say what its folders are; "auto" goes by their names.
        stated: names of parts that the user gives: its folders are parts then.

    Raises:
        DataError: if names and contents of its folders leave more than one reading.
    """
    children = look_into(folder).folders
    if read_as == "classes" or not (read_as == "parts" or stated or _divided(folder, children)):
        return [FolderPart(Part(""), folder, children)]
    found = [
        FolderPart(Part(child.name, role_of(child.name)), child, look_into(child).folders)
        for child in children
        if role_of(child.name) or _holds_image(child, folder)
    ]
    seen: dict[str, Path] = {}
    for one in found:
        _refuse_link(folder, one.path, seen)
    found.sort(key=lambda one: ORDER.index(one.part.role))
    return found if read_as == "parts" else [_read_list(one, found) for one in found]


def label_classes(folder: Path, parts: Sequence[FolderPart]) -> dict[str, int]:
    """Return the label of each class, over all parts, so that no part shifts a label.

    Raises:
        DataError: if there is no class folder, or their names cannot be numbered.
    """
    names = set[str]().union(*(part.class_names for part in parts))
    if not names:
        raise DataError(
            f"{folder} has no class folders",
            "images without classes are "
            'listed instead, a line {"id": ..., "path": ...} an image in a .jsonl file, and '
            "embedded: onward embed MODEL LIST.jsonl OUT.parquet",
            needed=f"Onward needs {LAYOUT}",
        )
    return number_classes(names, f"the class folders of {folder}")


def check_depth(folder: Path, one: FolderPart) -> None:
    """Refuse a part whose class folders all hold folders of images only: those may be the classes.

    Raises:
        DataError: naming them.
    """
    nested: list[tuple[Path, list[Path]]] = []
    for class_folder in one.classes:
        place, holding = class_folder, [class_folder]
        while len(holding) == 1:
            place = holding[0]
            try:
                found = look_into(place)
            except DataError:  # which is told where its images are listed
                return
            if any(_may_be_image(file) for file in found.files):
                return  # an image directly in a class folder, or in the one folder in it
            holding = [child for child in found.folders if _holds_image(child, folder)]
        if holding:
            nested.append((place, holding))
    if not nested:
        return
    place, inner = nested[0]
    names = ", ".join(child.name for child in inner[:3])
    raise DataError(
        f"no class folder in {one.path} has an image in it, only folders, such as {names} in "
        f"{place}. If these are the classes, give the folder that holds them: {place}. If they all "
        f"belong to the class {nested[0][0].relative_to(one.path).parts[0]!r}, say so: "
        f"{AS_PARTS if one.part.name else AS_CLASSES}"
    )


def check_inner_names(one: FolderPart, ids: Sequence[str]) -> None:
    """Refuse folders inside class folders that may be the classes themselves.

    So they may where a class folder has no image of its own, but several folders; where it is the
    only one; and where such a folder is called like a class, or like one in another class folder:
    `a/cat`, `a/dog` and `b/cat`. One name that is everywhere, such as `images`, is not.

    Args:
        one: a part.
        ids: of its items.

    Raises:
        DataError: naming some of the folders.
    """
    names, direct = {folder.name for folder in one.classes}, set[str]()
    above: dict[str, set[str]] = {}
    for item in ids:
        name, *within = item.split("/")[bool(one.part.name) : -1]
        if within:
            above.setdefault(within[0], set()).add(name)
        else:
            direct.add(name)
    holding = Counter(name for by in above.values() for name in by)
    alone = len(direct | holding.keys()) == 1
    for inner, by in above.items():
        hollow = [name for name in by - direct if holding[name] > 1]
        repeated = len(by) > 1 and len(above) > 1 and by - direct
        if hollow or repeated or inner in names - by or (alone and len(above) > 1):
            where = ", ".join(f"{name}/{inner}" for name in sorted(by)[:2])
            raise DataError(
                f"in {one.path}, the class may be the upper or the lower folder of {where}. If it "
                f"is the upper one in all of {one.path}, say so: "
                f"{AS_PARTS if one.part.name else AS_CLASSES}. If the upper folders are parts, "
                f"name them: {STATE_PARTS}. Else put one folder a class into {one.path}"
            )


def check_class_names(one: FolderPart) -> None:
    """Refuse class folders that are all called after the files in them: `images` and `masks`.

    Raises:
        DataError: naming them.
    """
    names = [folder.name for folder in one.classes]
    if names and all(name.lower() in NO_CLASSES for name in names):
        raise DataError(
            f"the class folders of {one.path} are {', '.join(names)}, which name the kind of "
            f"their files, not a class",
            f"if they are the classes, say so: {AS_PARTS if one.part.name else AS_CLASSES}",
            needed=f"Onward needs {LAYOUT}",
        )


def open_folder(
    folder: Path,
    parts: Sequence[FolderPart],
    labels: Mapping[str, int],
    *,
    skip_bad: bool,
    max_pixels: int = MAX_PIXELS,
) -> Items:
    """List the items of an image folder; ids are paths relative to it, with forward slashes.

    Without `skip_bad` no image is decoded here: one that is truncated is an error when it is
    opened. With it each image is decoded once, here.

    Args:
        folder: what the ids are relative to.
        parts: those to open, as `find_parts` gives them.
        labels: label of each class, of all parts.
        skip_bad: leave out what cannot be used and note it in `left_out`.
        max_pixels: the most pixels that an image may have.

    Raises:
        DataError: if a class folder holds no image, a part has no labels, or a file is empty or no
            image, naming it.
    """
    tally = Tally()
    left_out: list[LeftOut] = []
    files: list[tuple[Path, str]] = []
    for file, name, seen in _find_files(folder, parts, tally):
        why = seen
        if why is None and skip_bad:
            why = find_fault({"path": str(file)}, max_pixels)
        if why is None:
            files.append((file, name))
        elif skip_bad:
            left_out.append(LeftOut(as_text(file), why))
        else:
            raise DataError(
                f"{file} {why}. Remove it, or leave out whatever cannot be used: skip_bad=True"
            )
    return Items(
        ids=tuple(file.relative_to(folder).as_posix() for file, _ in files),
        labels=np.array([labels[name] for _, name in files], dtype=np.int64),
        class_names={label: name for name, label in labels.items()},
        payloads=tuple({"path": str(file.absolute())} for file, _ in files),
        source=str(folder),
        left_out=tuple(left_out),
        passed_over=tally.passed_over(folder),
        max_pixels=max_pixels,
    )


def _divided(folder: Path, children: Sequence[Path]) -> bool:
    """Say whether the folders are parts, by names and contents; refuse where both may be."""
    named = [child for child in children if role_of(child.name)]
    with_folders = [child for child in named if look_into(child).folders]
    alike = _named_alike([child for child in children if child not in named])
    if not named and len({role == "train" for _, role in alike}) < 2:
        return False
    others = [one for one in children if one not in named and _holds_image(one, folder)]
    if not others and with_folders:
        return True
    if taken_for_class(children) and not with_folders and others and not alike:
        return False
    names = ", ".join(child.name for child in [*named, *(child for child, _ in alike)])
    if not others:
        raise DataError(
            f"{folder} holds {names}: names of parts of a data set, but there are no class folders "
            f"in them. If they are the classes, say so: {AS_CLASSES}. If they are parts, Onward "
            f"needs {LAYOUT.replace('FOLDER', named[0].name)}"
        )
    beside = ", ".join(one.name for one in others if one not in [child for child, _ in alike])
    raise DataError(
        f"{folder} holds {names}, which may be parts of a data set"
        f"{f', beside {_shortened(beside)}' if beside else ''}. Say which parts are meant: "
        f"{STATE_PARTS}, which leaves all others out",
        f"or that every folder is a class: {AS_CLASSES}",
    )


def taken_for_class(children: Sequence[Path]) -> Path | None:
    """Return the one folder called `train`: with images in it, as in its neighbours, a class."""
    named = [child for child in children if role_of(child.name)]
    return named[0] if len(named) == 1 and named[0].name.lower() == "train" else None


def _named_alike(children: Sequence[Path]) -> list[tuple[Path, Role]]:
    """Return folders in whose names one word tells a part, such as `seg_train`, with what it tells.

    Those without folders in them only if another is called likewise: `cars_train`, `cars_test`.
    """
    told = [(child, *split_name(child.name)[1:]) for child in children]
    return [
        (child, role)
        for child, role, rest in told
        if role
        and (
            any(other and other != role and name == rest for _, other, name in told)
            or look_into(child).folders
        )
    ]


def _shortened(names: str) -> str:
    return names if len(names) <= 100 else f"{names[:100]}..."


def _holds_image(folder: Path, root: Path) -> bool:
    """Say whether there is anything in a folder, or below it, that may be an image.

    What cannot be read may: that is told where its images are listed.
    """
    errors: list[DataError] = []
    found = (file for one in walk(folder, root, errors.append) for file in one.files)
    return any(map(_may_be_image, found)) or bool(errors)


def _may_be_image(file: Path) -> bool:
    return file.suffix.lower() not in TEXT_SUFFIXES


def _read_list(one: FolderPart, parts: Sequence[FolderPart]) -> FolderPart:
    """Return a part with its list of classes, if it has no class folders but such a list.

    Its images may lie in a folder of their own, beside the list; that is no class then.
    """
    divided = [part for part in parts if len(part.classes) > 1]
    others = set[str]().union(*(part.class_names for part in divided if part != one))
    wrapper = len(one.classes) == 1 and len(others) > 1 and one.classes[0].name not in others
    if one.classes and not wrapper:
        return one
    lists = [file for file in look_into(one.path).files if file.name.endswith("annotations.txt")]
    place = FolderPart(one.part, one.classes[0] if wrapper else one.path, ())
    if len(lists) != 1:
        return FolderPart(one.part, place.path, (), unlabelled=True)
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
    return FolderPart(one.part, place.path, (), listed)


def _find_files(
    folder: Path, parts: Sequence[FolderPart], tally: Tally
) -> Iterator[tuple[Path, str, str | None]]:
    """Yield file, class and, as far as it shows without decoding, why it cannot be used."""
    _count_beside(folder, parts, tally)
    seen: dict[str, Path] = {}
    for one in parts:
        if one.unlabelled:
            raise DataError(
                f"neither class folders nor a list ({one.part.name}_annotations.txt) say the "
                f"classes of the images in {one.path}. Name the parts to read without it: "
                f"{STATE_PARTS}; give the folder of another part alone; or, if that folder is a "
                f"class, say so: {AS_PARTS}"
            )
        if not one.classes:
            yield from _find_listed(one)
        for class_folder in one.classes:
            _refuse_link(folder, class_folder, seen)
            yield from _find_in_class(folder, class_folder, tally)


def _refuse_link(folder: Path, child: Path, seen: dict[str, Path]) -> None:
    """Refuse a link to what is in the data set already, and two links to one folder."""
    real = os.path.realpath(child)
    if seen.setdefault(real, child) != child or is_link_back(child, folder):
        raise DataError(
            f"{child} is a link that leads back to {real}, and images would count twice",
            "remove the link",
        )


def _count_beside(folder: Path, parts: Sequence[FolderPart], tally: Tally) -> None:
    """Count what is passed over beside class folders and beside parts."""
    for place in dict.fromkeys([folder, *(one.path for one in parts)]):
        found, classes = look_into(place), {one.path: one.classes for one in parts}
        for why, path in found.passed_over:
            tally.add(why, path)
        if place == folder or classes[place]:
            for file in found.files:
                tally.add(BESIDE, file)
        for child in found.folders if place not in classes else ():
            if child not in classes and not _holds_image(child, folder):
                tally.add(IMAGELESS, child)


def _find_in_class(
    folder: Path, class_folder: Path, tally: Tally
) -> Iterator[tuple[Path, str, str | None]]:
    files: list[Path] = []
    try:
        for found in walk(class_folder, folder):
            files += found.files
            for why, path in found.passed_over:
                tally.add(why, path)
    except DataError as error:
        yield class_folder, class_folder.name, f"cannot be used: {error}"
        return
    for file in files:
        if not _may_be_image(file):
            tally.add(TEXTS, file)
    files = [file for file in files if _may_be_image(file)]
    if not files:
        yield class_folder, class_folder.name, "holds no image, as a class folder must"
    for file in sorted(
        files, key=lambda file: natural_key(file.relative_to(class_folder).as_posix())
    ):
        yield file, class_folder.name, _glance(file)


def _find_listed(one: FolderPart) -> Iterator[tuple[Path, str, str | None]]:
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
        return f"is a raw photo, and only its small preview could be read; {CONVERT}"
    unread = suffix not in IMAGE_SUFFIXES and not is_image(str(file))
    return f"is not an image that is read: {name_format(str(file))}" if unread else None
