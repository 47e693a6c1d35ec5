"""The parts of a data set, what their names tell, and which one is to train and which to test with.

A folder or a shard is a part by its name, in any case: `train`, `Training`, `training_set`,
`train2017`; `val`, `valid`, `validation`, `dev`, `eval`; `test`, `Testing`, `test_images`.
Where that leaves a choice, it is refused, with the option that settles it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from onward.errors import DataError

Role = Literal["train", "validation", "test"]

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

STATE_PARTS = "--train-part NAME --test-part NAME (train_part=..., test_part=...)"


@dataclass(frozen=True)
class Part:
    """A part of a data set.

    Attributes:
        name: as it stands there; empty for what is in no part.
        role: what its name says; None where it says nothing.
    """

    name: str
    role: Role | None = None


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


def find_part(parts: Sequence[Part], name: str, source: object) -> Part:
    """Return the part that the user names; its case need not fit where that leaves one.

    Raises:
        DataError: if there is none, listing those there are.
    """
    exact = [part for part in parts if part.name == name]
    alike = exact or [part for part in parts if part.name.lower() == name.lower()]
    if len(alike) != 1:
        undivided = list(parts) == [Part("")]
        known = "its classes are not divided into parts" if undivided else names_of(parts)
        raise DataError(f"{source} has no part {name!r}", f"what it has: {known}")
    return alike[0]


def choose_parts(
    parts: Sequence[Part], train: str | None, test: str | None, source: object
) -> tuple[Part, Part | None]:
    """Return the part to train with and the one to test with, None where a quarter is to be taken.

    Where no part has the role "test", the one of the role "validation" is to test with.

    Args:
        parts: of the source.
        train: name of the part to train with, where it is stated.
        test: likewise.
        source: for messages.

    Raises:
        DataError: if there is not one choice; the message lists the parts and names the options.
    """
    chosen_test = None if test is None else find_part(parts, test, source)
    if train is not None:
        chosen = find_part(parts, train, source)
    else:
        chosen = _single([one for one in parts if one.role == "train"], parts, "train", source)
    others = [part for part in parts if part not in (chosen, chosen_test)]
    if chosen_test is None and others:
        by_role = [[one for one in others if one.role == role] for role in ("test", "validation")]
        chosen_test = _single(by_role[0] or by_role[1], parts, "test", source)
    if chosen == chosen_test:
        raise DataError(
            f"the part {chosen.name!r} of {source} cannot be both for training and for testing",
            f"give two: {STATE_PARTS}",
        )
    return chosen, chosen_test


def names_of(parts: Iterable[Part]) -> str:
    """Return the names of parts for a sentence."""
    return ", ".join(part.name or "files of no part" for part in parts)


def _single(found: Sequence[Part], parts: Sequence[Part], use: str, source: object) -> Part:
    if len(found) == 1:
        return found[0]
    several = f"several parts to {use} with, {names_of(found)}"
    what = several if found else f"no part to {use} with; it has {names_of(parts)}"
    raise DataError(f"{source} has {what}. Say which ones are meant: {STATE_PARTS}")
