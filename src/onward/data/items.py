"""Items: what a gallery holds, as ids, labels and where each image or text is. No image is held.

Labels are numbers with a meaning of their own, kept whatever is left out: class splits are by label
number, never by position or name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from onward.artifacts import digest
from onward.data.images import MAX_PIXELS
from onward.data.payloads import Payload, digest_payloads, open_payload, open_text
from onward.errors import DataError, EmbeddingsError
from onward.labels import LARGEST_LABEL, ClassNames, Labels, as_class_names, as_labels
from onward.plain import Plain
from onward.spaces import Ids, check_unique

if TYPE_CHECKING:
    from PIL import Image


LONGEST_NAME = 1000  # characters
MOST = 20  # classes that a message lists
TEST_SHARE = 0.25


def natural_key(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Return what to sort a name by: runs of digits count as numbers, case does not count.

    Names that are equal in this sense (such as "a1" and "a01") are ordered by their characters.
    """
    runs = re.split(r"([0-9]+)", name.lower())
    return tuple((int(run), "") if run.isdecimal() else (-1, run) for run in runs), name


def number_classes(names: Iterable[str], what: str) -> dict[str, int]:
    """Return the label of each class by its name.

    Where all names are numbers, these are the labels: "10" is class 10. Otherwise the labels count
    from 0 in natural order, in which "class10" follows "class9".

    Args:
        names: of all classes, also of those that have no item that can be read.
        what: what bears the names, for messages.

    Raises:
        DataError: if two names mean the same number ("1" and "01"), or a number is beyond 64 bits.
    """
    in_order = list(names)
    for name in in_order:
        if len(name) > LONGEST_NAME:
            raise DataError(
                f"among {what} is one of {len(name):,} characters, {name[:40]!r}...",
                f"names of classes have at most {LONGEST_NAME:,}. Are these the labels?",
            )
    in_order.sort(key=natural_key)
    if not all(name.isascii() and name.isdecimal() for name in in_order):
        return {name: label for label, name in enumerate(in_order)}
    labels = {name: int(name) for name in in_order}
    for name, label in labels.items():
        if label > LARGEST_LABEL:
            raise DataError(
                f"{name!r} among {what} is a number, and numbers are labels, at most "
                f"{LARGEST_LABEL}",
                "begin the names of the classes with a letter",
            )
    for name, after in pairwise(in_order):
        if labels[name] == labels[after]:
            raise DataError(
                f"{name!r} and {after!r} among {what} both mean class {labels[name]}",
                "put their images into one of them",
            )
    return labels


@dataclass(frozen=True)
class PassedOver(Plain):
    """What is in a data set and is not an item, of one kind.

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


@dataclass(frozen=True)
class LeftOut:
    """Something that could not be used and was left out because the user said so.

    Attributes:
        where: the file, and the row in it.
        why: what is wrong with it, as words that go on from `where`.
    """

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where} {self.why}"


@dataclass(frozen=True, eq=False)
class Items:
    """Images or texts that can be opened one by one, each with an id and a label.

    Checked once, here: ids are unique strings, and there is a label, a class name and a payload for
    each. Nothing is opened.

    Attributes:
        ids: identity of each item; stays the same when other items come or go.
        labels: class of each item, negative where it is not known; read-only.
        class_names: what each label is called, also of classes that have no item here.
        payloads: where each image or text is; see `onward.data.payloads`.
        source: where the items come from, for a person.
        left_out: what was left out when the source was opened with `skip_bad`.
        named: false where the source does not say what its classes are called, and `class_names`
            holds the numbers.
        passed_over: what is in the source and was not taken for an item.
        reading: how the source was read, in one line for a person: parts, columns, what was passed
            over.
        max_pixels: the most pixels that an image may have.
        part_of: the name of the part that each item is in; empty where that is unknown.
        columns: of Parquet, that the items were read from.

    Raises:
        DataError: if any of this does not hold; the message names the item and where it is.
    """

    ids: Ids
    labels: Labels
    class_names: Mapping[int, str]
    payloads: tuple[Payload, ...]
    source: str
    left_out: tuple[LeftOut, ...] = ()
    named: bool = True
    passed_over: tuple[PassedOver, ...] = ()
    reading: str = ""
    max_pixels: int = MAX_PIXELS
    part_of: tuple[str, ...] = ()
    columns: Plain | None = None

    def __post_init__(self) -> None:
        try:
            check_unique(self.ids)
            labels = as_labels(self.labels).copy()
            as_class_names(self.class_names, labels)
        except EmbeddingsError as error:
            raise DataError(f"{self.source}: {error}") from error
        labels.flags.writeable = False
        object.__setattr__(self, "ids", tuple(self.ids))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "payloads", tuple(self.payloads))
        counts = {(len(self.ids),), (len(self.payloads),), (len(self.part_of or self.ids),)}
        if counts != {labels.shape}:
            raise DataError(
                f"{self.source}: {len(self.ids)} ids, labels of shape {labels.shape} and "
                f"{len(self.payloads)} payloads",
                "give one of each an item",
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        omitted = f", {len(self.left_out):,} left out" if self.left_out else ""
        classes = f" of {len(self.classes):,} classes" if self.classes else ""
        return f"{len(self):,} items{classes} from {self.source}{omitted}"

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """Label numbers that have an item, ascending; none of them is negative."""
        return tuple(np.unique(self.labels[self.labels >= 0]).tolist())

    @cached_property
    def known_names(self) -> ClassNames | None:
        """What each label is called, as embeddings take it; None where the source does not say."""
        if not self.named:
            return None
        return as_class_names(self.class_names, self.labels)

    @cached_property
    def digest(self) -> str:
        """Changes when ids, their order, labels, or the length of an image file change.

        The same for the same data in another folder; `digest_payloads` says what it cannot see.
        """
        labels = self.labels.astype("<i8").tobytes()
        ids = [item.encode() for item in self.ids]
        return digest(*ids, labels, digest_payloads(self.payloads).encode())

    def open(self, row: int) -> "Image.Image":
        """Return the image of one item, decoded, as grey ("L") or colour ("RGB") pixels.

        Raises:
            DataError: if it cannot be read; the message names its file and row.
        """
        return open_payload(self.payloads[row], self.max_pixels)

    def text(self, row: int) -> str:
        """Return the text of one item, its title before it.

        Raises:
            DataError: if it cannot be read or is an image; the message names its file and row.
        """
        return open_text(self.payloads[row])

    def select(self, rows: Sequence[int] | np.ndarray) -> "Items":
        """Return the items of some rows (positions or a mask), in that order."""
        wanted = np.asarray(rows)
        chosen = np.arange(len(self))[wanted if wanted.size else wanted.astype(np.int64)]
        return replace(
            self,
            ids=tuple(self.ids[row] for row in chosen),
            labels=self.labels[chosen],
            payloads=tuple(self.payloads[row] for row in chosen),
            part_of=tuple(self.part_of[row] for row in chosen if self.part_of),
        )

    def of_part(self, name: str) -> "Items":
        """Return the items of one part."""
        return self.select([row for row, its in enumerate(self.part_of) if its == name])

    def of_classes(self, classes: Iterable[int]) -> "Items":
        """Return the items whose label is one of these numbers, in their order here.

        Raises:
            DataError: if one of these classes has no item, none is given, or no item has a class.
        """
        if not self.classes:
            raise DataError(f"no item of {self.source} has a class", "do not choose by classes")
        wanted = sorted(set(classes))
        missing = [label for label in wanted if label not in self.classes]
        if missing or not wanted:
            lacking = f"class {missing[0]} has no item" if missing else "no class was asked for"
            raise DataError(
                f"{lacking} in {self.source}",
                f"its {len(self.classes)} classes are {', '.join(map(str, self.classes[:MOST]))}"
                f"{', ...' * (len(self.classes) > MOST)}. Classes are given by label number",
            )
        return self.select(np.flatnonzero(np.isin(self.labels, wanted)))


def split_by_id(items: Items) -> tuple[Items, Items]:
    """Return (train, test): of each class a quarter, chosen by a digest of the id, is for testing.

    The same on every machine: the order and the number of other classes do not matter. A class of
    two or three items gives one to the test part, a class of one none. Both keep the order of the
    items. What was left out of the source is noted in the training part alone, so that it is told
    once.
    """
    rank = np.array([digest(item.encode()) for item in items.ids])
    in_test = np.zeros(len(items), dtype=bool)
    for label in items.classes:
        rows = np.flatnonzero(items.labels == label)
        held_out = max(round(len(rows) * TEST_SHARE), 1) if len(rows) > 1 else 0
        in_test[rows[np.argsort(rank[rows])][:held_out]] = True
    return items.select(~in_test), replace(items.select(in_test), left_out=())
