"""What a source of items is: what its owner states of it, its parts, and the items it opens to.

A folder or a shard is a part by its name, in any case: `train`, `Training`, `training_set`,
`train2017`; `val`, `valid`, `validation`, `dev`, `eval`; `test`, `Testing`, `test_images`.
Where that leaves a choice, it is refused, with the option that settles it.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onward.data.images import MAX_PIXELS
from onward.data.items import Items, LeftOut, PassedOver
from onward.data.payloads import Payload, find_fault
from onward.errors import ConfigurationError, DataError

Role = Literal["train", "validation", "test"]
ReadAs = Literal["auto", "classes", "parts", "parquet"]

_TRAINVAL = r"train(?:ing)?[-_ .+&]*(?:val|valid|validation)"
_WORDS: dict[Role, str] = {
    "train": rf"(?:{_TRAINVAL}|training|train|trn)",
    "validation": r"(?:validation|validate|valid|val|development|devel|dev|evaluation|eval)",
    "test": r"(?:testing|test|tst|held[-_ ]?out|hold[-_ ]?out)",
}
_THINGS = r"(?:[-_ .]?(?:data|set|split|part|folder|images?|imgs|pictures|photos))*"
_WHOLE = {
    role: re.compile(rf"{word}{_THINGS}[-_ .]?[0-9]*", re.IGNORECASE)
    for role, word in _WORDS.items()
}
_SEPARATORS = re.compile(r"[-_ .+]+")

ORDER = ("train", "test", "validation", None)
"""Of parts, by what their names say."""

STATE_PARTS = "train_part=..., test_part=..."


class Stated(BaseModel):
    """What its owner states of a source of items; what is not stated is found out.

    Attributes:
        image_column: Parquet: the struct column `{bytes, path}`.
        text_column: Parquet: the column of strings that are the items, in place of images.
        label_column: Parquet: the column of label numbers, or of class names.
        id_column: Parquet: a column of unique strings or integers; otherwise file and row.
        config: Parquet: the configuration, where a data set has several; "*" takes all.
        read_as: "classes": the folders in an image folder are classes, whatever they are called and
            hold; "parts": they are parts, and the folders in them classes; "parquet": the Parquet
            files count, whatever images lie beside them.
        train_part: name of the part to train with.
        test_part: name of the part to test with; where one of the two is stated, no other part
            is read.
        open_set: the test part may have classes that the training part lacks.
        skip_bad: leave out what cannot be used and note it in `left_out`, instead of stopping with
            an error. Decodes every image once to find out.
        max_pixels: the most pixels that an image may have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    id_column: str | None = None
    config: str | None = None
    read_as: ReadAs = "auto"
    train_part: str | None = None
    test_part: str | None = None
    open_set: bool = False
    skip_bad: bool = False
    max_pixels: int = Field(default=MAX_PIXELS, ge=1)


def state(stated: Stated | None, options: Mapping[str, Any]) -> Stated:
    """Return what is stated, by a value and one by one.

    Raises:
        ConfigurationError: if there is no such option, or it makes no sense.
    """
    try:
        known = stated or Stated()
        return Stated(**{**vars(known), **options}) if options else known
    except ValidationError as error:
        first = error.errors()[0]
        given = f"{first['loc'][0]} is {first['input']!r}"
        raise ConfigurationError(given, first["msg"]) from error


@dataclass(frozen=True)
class Part:
    """A part of a data set.

    Attributes:
        name: as it stands there; empty for what is in no part.
        role: what its name says; None where it says nothing.
    """

    name: str
    role: Role | None = None


@dataclass(frozen=True)
class Found:
    """What may be an item, as a source has it; `fault` says why it cannot be used."""

    id: str
    label: int
    payload: Payload
    where: str
    part: Part
    fault: str | None


class Source(ABC):
    """A source of images or texts of some kind.

    Attributes:
        kind: what it is called.
        path: where it is.
        stated: what its owner states.
        parts: in which it is divided; one without a name where it is not.
        config: the configuration that is read, where one was named.
    """

    kind: str
    config: str = ""

    def __init__(self, path: Path, stated: Stated, parts: Sequence[Part]) -> None:
        self.path, self.stated, self.parts = path, stated, tuple(parts)

    @abstractmethod
    def open(self, parts: Sequence[Part]) -> Items:
        """List the items of some parts, in which labels mean the same.

        Raises:
            DataError: if one cannot be used; the message names the file and the row.
        """

    @property
    def named_parts(self) -> list[Part]:
        """The parts that are stated."""
        stated = (self.stated.train_part, self.stated.test_part)
        named = [self._find(name) for name in stated if name is not None]
        return list(dict.fromkeys(named))

    @property
    def numbered(self) -> Sequence[Part]:
        """The parts whose classes are numbered together, whichever of them are opened.

        Those that are stated, and those whose names tell a role; all where none is stated.
        """
        named = self.named_parts
        return [part for part in self.parts if part in named or part.role] if named else self.parts

    def choose(self) -> list[Part]:
        """Return the part to train with and the one to test with, if there are two.

        Where no part has the role "test", the one of the role "validation" is to test with.

        Raises:
            DataError: if there is not one choice; the message lists the parts.
        """
        train, test = self.stated.train_part, self.stated.test_part
        if self.parts == (Part(""),) and train is None and test is None:
            return [Part("")]
        judge = None if test is None else self._find(test)
        if train is not None:
            learn = self._find(train)
        else:
            learn = self._single([one for one in self.parts if one.role == "train"], "train")
        others = [part for part in self.parts if part not in (learn, judge)]
        if judge is None and others:
            roles = [[one for one in others if one.role == role] for role in ("test", "validation")]
            judge = self._single(roles[0] or roles[1], "test")
        if learn == judge:
            raise DataError(
                f"the part {learn.name!r} of {self.path} cannot be both for training and for "
                "testing",
                f"give two: {STATE_PARTS}",
            )
        return [learn] if judge is None else [learn, judge]

    def collect(
        self, found: Iterable[Found], names: Mapping[int, str], passed_over: Iterable[PassedOver]
    ) -> Items:
        """Return what can be used of what was found; the rest is left out or an error, as stated.

        Args:
            found: in the order of the items.
            names: of the classes, as far as they have any.
            passed_over: what was not taken for an item.
        """
        kept, left_out = dict[str, Found](), list[LeftOut]()
        for one in found:
            why = one.fault
            if one.id in kept:
                column = f" ({self.stated.id_column})" if self.stated.id_column else ""
                why = why or f"has the same id {one.id!r}{column} as {kept[one.id].where}"
            if self.stated.skip_bad and not why:
                why = find_fault(one.payload, self.stated.max_pixels)
            if not why:
                kept[one.id] = one
                continue
            left_out.append(LeftOut(one.where, why))
            if not self.stated.skip_bad:
                raise DataError(
                    str(left_out[0]),
                    "mend or remove it, or leave out whatever cannot be used: skip_bad=True",
                )
        if not kept:
            told = [f"the first of {len(left_out)} left out is {left}" for left in left_out[:1]]
            raise DataError(f"{self.path} has no item", *told)
        labels = np.array([one.label for one in kept.values()], dtype=np.int64)
        return Items(
            ids=tuple(kept),
            labels=labels,
            class_names={label: str(label) for label in labels[labels >= 0].tolist()} | {**names},
            payloads=tuple(one.payload for one in kept.values()),
            source=str(self.path),
            left_out=tuple(left_out),
            named=bool(names),
            passed_over=tuple(passed_over),
            max_pixels=self.stated.max_pixels,
            part_of=tuple(one.part.name for one in kept.values()),
        )

    def _find(self, name: str) -> Part:
        """Return the part that the user names; its case need not fit where that leaves one."""
        exact = [part for part in self.parts if part.name == name]
        alike = exact or [part for part in self.parts if part.name.lower() == name.lower()]
        if len(alike) != 1:
            undivided = self.parts == (Part(""),)
            known = "its classes are not divided into parts" if undivided else names_of(self.parts)
            raise DataError(f"{self.path} has no part {name!r}", f"what it has: {known}")
        return alike[0]

    def _single(self, found: Sequence[Part], use: str) -> Part:
        if len(found) == 1:
            return found[0]
        several = f"several parts to {use} with, {names_of(found)}"
        what = several if found else f"no part to {use} with; it has {names_of(self.parts)}"
        raise DataError(f"{self.path} has {what}. Say which ones are meant: {STATE_PARTS}")


def role_of(name: str) -> Role | None:
    """Return the role of which a whole name speaks, such as `Training` or `val2017`."""
    return next((role for role, whole in _WHOLE.items() if whole.fullmatch(name)), None)


def split_name(name: str) -> tuple[str, Role | None, str]:
    """Return the word of a name that tells a part, its role, and the rest of the name.

    "cifar10-train" is ("train", "train", "cifar10"). A name in which no word tells a part, or words
    tell several, is all rest.
    """
    if role := role_of(name):
        return name, role, ""
    words = _SEPARATORS.split(name)
    found = [(word, role) for word in words if (role := role_of(word))]
    if len({role for _, role in found}) != 1:
        return "", None, name
    word, role = found[0]
    return word, role, "-".join(one for one in words if one != word)


def names_of(parts: Iterable[Part]) -> str:
    """Return the names of parts for a sentence."""
    return ", ".join(part.name or "files of no part" for part in parts)
