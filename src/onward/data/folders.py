"""Items of an image folder: one sub-folder a class, as torchvision's ImageFolder has it.

```
photos/cat/1.jpg              photos/train/cat/1.jpg
photos/cat/beach/2.jpg        photos/test/cat/2.jpg
photos/dog/1.jpg              photos/test/dog/1.jpg
```

Passed over are files beside the class folders, and whatever is hidden (a name with a leading dot)
or left behind by a file manager. A link that leads back into the data set is not followed.
"""

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from onward.data.decoding import is_image
from onward.data.items import Items, LeftOut
from onward.data.ordering import natural_key
from onward.data.payloads import find_fault
from onward.errors import DataError
from onward.labels import is_text

TRAIN, TEST = ("train",), ("test", "val", "valid", "validation")
LEFT_BEHIND = ("Thumbs.db", "desktop.ini")
IMAGE_SUFFIXES = frozenset(
    [".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)
LARGEST_LABEL = int(np.iinfo(np.int64).max)
LAYOUT = "one sub-folder a class with its images in it: FOLDER/cat/1.jpg, FOLDER/dog/1.jpg"


def find_parts(folder: Path) -> dict[str, Path]:
    """Return the parts of a data set by name ("train", "test" ...), the test parts best first.

    A folder is taken to be divided if it holds `train` with folders in it, and beside it nothing
    but folders named test, val, valid or validation. Otherwise it is one part without a name.
    """
    found = {child.name: child for child in _sub_folders(folder)}
    if "train" in found and found.keys() <= {*TRAIN, *TEST} and any(_sub_folders(found["train"])):
        return {name: found[name] for name in (*TRAIN, *TEST) if name in found}
    return {"": folder}


def label_classes(parts: Iterable[Path]) -> dict[str, int]:
    """Return the label of each class folder, over all parts, so that no part shifts a label.

    Where all class folders have numbers as names, these are the labels: "10" is class 10. Otherwise
    the labels count from 0 in natural order, in which "class10" follows "class9".

    Raises:
        DataError: if there is no class folder, two have the same number ("1" and "01"), or a number
            is beyond 64 bits.
    """
    looked_in = list(parts)
    found = {folder.name for part in looked_in for folder in _sub_folders(part)}
    names = sorted(found, key=natural_key)
    if not names:
        where = " and ".join(map(str, looked_in))
        raise DataError(f"{where} has no class folders; Onward needs {LAYOUT}")
    if not all(name.isascii() and name.isdecimal() for name in names):
        return {name: label for label, name in enumerate(names)}
    labels = {name: int(name) for name in names}
    if labels[names[-1]] > LARGEST_LABEL:
        raise DataError(
            f"the class folder {names[-1]!r} is a number, and numbers are labels, at most "
            f"{LARGEST_LABEL}; begin the names of the class folders with a letter"
        )
    for name, after in pairwise(names):
        if labels[name] == labels[after]:
            raise DataError(
                f"the class folders {name!r} and {after!r} both mean class {labels[name]}; "
                "put their images into one of them"
            )
    return labels


def open_folder(
    folder: Path, parts: Iterable[Path], labels: Mapping[str, int], *, skip_bad: bool
) -> Items:
    """List the items of an image folder; ids are paths relative to it, with forward slashes.

    Without `skip_bad` no image is decoded here: one that is truncated is an error when it is
    opened. With it each image is decoded once, here.

    Args:
        folder: what the ids are relative to.
        parts: the folders that hold the class folders, inside the folder or the folder itself.
        labels: label of each class folder.
        skip_bad: leave out what cannot be used and note it in `left_out`.

    Raises:
        DataError: if a class folder holds no image, or a file is empty or no image, naming it.
    """
    left_out: list[LeftOut] = []
    files: list[tuple[Path, int]] = []
    above = {os.path.realpath(place) for part in parts for place in (folder, part)}
    for class_folder in (child for part in parts for child in _sub_folders(part)):
        found = list(_files_below(class_folder, above))
        if not found:
            _leave_out(left_out, class_folder, "holds no image, as a class folder must", skip_bad)
        for file in found:
            reason = _glance(file) or (find_fault({"path": str(file)}) if skip_bad else None)
            if reason:
                _leave_out(left_out, file, reason, skip_bad)
            else:
                files.append((file, labels[class_folder.name]))
    return Items(
        ids=tuple(file.relative_to(folder).as_posix() for file, _ in files),
        labels=np.array([label for _, label in files], dtype=np.int64),
        class_names={label: name for name, label in labels.items()},
        payloads=tuple({"path": str(file.absolute())} for file, _ in files),
        source=str(folder),
        left_out=tuple(left_out),
    )


def _leave_out(left_out: list[LeftOut], where: Path, why: str, skip_bad: bool) -> None:
    if not skip_bad:
        raise DataError(
            f"{where} {why}. Remove it, or leave out whatever cannot be used: --skip-bad "
            "(skip_bad=True)"
        )
    left_out.append(LeftOut(os.fsencode(where).decode(errors="replace"), why))


def _sub_folders(folder: Path) -> list[Path]:
    try:
        children = list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error
    found = [child for child in children if child.is_dir() and not _is_hidden(child.name)]
    return sorted(found, key=lambda child: natural_key(child.name))


def _files_below(class_folder: Path, above: Collection[str]) -> Iterator[Path]:
    """Yield files in natural order, but not from linked folders that lead back or above."""
    seen = set(above)
    found: list[Path] = []
    for place, folders, files in os.walk(class_folder, onerror=_refuse, followlinks=True):
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = [name for name in folders if not _is_hidden(name)]
        found += [Path(place, name) for name in files if not _is_hidden(name)]
    yield from sorted(
        found, key=lambda file: natural_key(file.relative_to(class_folder).as_posix())
    )


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LEFT_BEHIND


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
    if file.suffix.lower() not in IMAGE_SUFFIXES and not is_image(str(file)):
        return "is not an image"
    return None
