"""Labels, the names of their classes, and how the labels of two sources are brought together.

A label is a number that means something within one source only: class 1 is "owl" where the source
has cats and owls, and "dog" where it has cats, dogs and owls. What compares the labels of two
sources, or puts them into one gallery, goes through `renumber`: by name where both have names.
A negative label means that the class is not known. Nothing here knows of vectors or files.
"""

import unicodedata
from collections.abc import Mapping
from itertools import chain, count
from typing import Any

import numpy as np
from jaxtyping import Int64

from onward.arrays import as_numbers
from onward.errors import EmbeddingsError, LabelMismatchError

Labels = Int64[np.ndarray, " item"]
ClassNames = Mapping[int, str]

LARGEST_LABEL = 2**63 - 1


def as_labels(values: Any) -> Labels:
    """Return labels as whole numbers of 64 bits; a negative one means that the class is not known.

    Raises:
        EmbeddingsError: if they are anything else, such as 1.5, NaN, True, a date, or masked.
    """
    return as_numbers(
        values,
        np.int64,
        EmbeddingsError,
        "the labels are not all whole numbers of 64 bits",
        "give each item's class a number, and -1 where it is not known",
    )


def as_class_names(names: Any, labels: Labels) -> dict[int, str]:
    """Return what each label is called, by ascending label; negative labels have no name.

    Names are brought into one form of Unicode (NFC), so that "é" is one name however it is written.

    Args:
        names: a name for every label that is not negative, and for any other class.
        labels: those that need one.

    Raises:
        EmbeddingsError: if a label has no name, a name is no text, or two labels have one name.
    """
    if not isinstance(names, Mapping):
        raise EmbeddingsError(
            f"the class names are given as a {type(names).__name__}",
            'give a name by label, such as {0: "cat"}',
        )
    found: dict[int, str] = {}
    label_of: dict[str, int] = {}
    for label, name in names.items():
        if isinstance(label, bool) or not isinstance(label, int | np.integer):
            raise EmbeddingsError(
                f"a class name is given for {label!r}",
                "class names are given for labels, which are whole numbers",
            )
        if not isinstance(name, str) or not name or not is_text(name):
            raise EmbeddingsError(
                f"the name of class {label} is {name!r}",
                "class names are strings in UTF-8 that are not empty",
            )
        if label < 0:
            continue
        plain = as_name(name)
        if (other := label_of.setdefault(plain, int(label))) != label:
            raise EmbeddingsError(
                f"the classes {other} and {label} are both called {plain!r}",
                "give each class a name of its own, or give labels without class names",
            )
        found[int(label)] = plain
    for label in np.unique(labels).tolist():
        if label >= 0 and label not in found:
            raise EmbeddingsError(
                f"class {label} has no name, and {len(found)} other classes have one",
                "name every class that an item has, or give labels without class names",
            )
    return dict(sorted(found.items()))


def as_name(name: str) -> str:
    """Return a class name in the form of Unicode in which names are compared: NFC."""
    return unicodedata.normalize("NFC", name)


def is_text(name: str) -> bool:
    """Say whether a string can be written in UTF-8; that of a file's name need not."""
    return name.encode(errors="ignore").decode() == name


def named_by_number(names: ClassNames) -> bool:
    """Say whether every class is called by its own number, as the digits are."""
    return all(name == str(label) for label, name in names.items())


def comparable(given: ClassNames | None, to: ClassNames | None) -> bool:
    """Say whether two numberings can be brought together with nothing stated about them."""
    names = given if to is None else to
    return (given is None) == (to is None) or names is None or named_by_number(names)


def renumber(
    labels: Labels,
    given: ClassNames | None,
    to: ClassNames | None,
    *,
    same_labels: bool,
    sources: tuple[str, str],
) -> Labels:
    """Return labels of one source in the numbering of another.

    By name where both have names. A class that the other does not know keeps its number if that
    is free there, and gets a new one if not. Where neither has names, the numbers are taken to
    mean the same; also where one has none and the other's names are the numbers themselves.

    Args:
        labels: what is renumbered.
        given: the names of their classes.
        to: the names of the classes in whose numbering they are wanted.
        same_labels: the numbers of a source without names are those of the one with names.
        sources: what the two are, for messages: "the queries", "the gallery".

    Raises:
        LabelMismatchError: if one has names, the other has not, and nothing says that the numbers
            mean the same.
    """
    if given is None or to is None:
        if same_labels or comparable(given, to):
            return labels
        with_names, without = sources if to is None else sources[::-1]
        label, name = next(iter((given or to or {}).items()))
        raise LabelMismatchError(
            f"the classes of {with_names} have names ({label} is {name!r}), those of {without} "
            "have none, so nothing tells whether a label means the same class in both. Embed again "
            "from data with class names",
            "or, if both number their classes the same, say so: same_labels=True",
        )
    label_of, used = {name: label for label, name in to.items()}, {*given, *to}
    after = range(max(used, default=-1) + 1, LARGEST_LABEL + 1)
    fresh = (number for number in chain(after, count()) if number not in used)
    found = {
        label: label_of[name] if name in label_of else next(fresh) if label in to else label
        for label, name in given.items()
    }
    every, row_of = np.unique(labels, return_inverse=True)
    new: Labels = np.array([found.get(label, label) for label in every.tolist()], np.int64)
    return new[row_of]


def into(
    labels: Labels,
    given: ClassNames | None,
    to: ClassNames | None,
    *,
    same_labels: bool,
    sources: tuple[str, str],
) -> tuple[Labels, ClassNames | None]:
    """Return what `renumber` does, and the names of the other source with those it lacked.

    Raises:
        LabelMismatchError: as `renumber` does, and if a label without a name is said to be of a
            numbering that has no such class.
    """
    new = renumber(labels, given, to, same_labels=same_labels, sources=sources)
    if to is None:
        return new, None
    if given is not None:
        numbers = np.array([*given], np.int64)
        known = renumber(numbers, given, to, same_labels=same_labels, sources=sources)
        return new, {**to, **dict(zip(known.tolist(), given.values(), strict=True))}
    lacking = [label for label in np.unique(new).tolist() if label >= 0 and label not in to]
    if lacking and not named_by_number(to):
        raise LabelMismatchError(
            f"{sources[0]} have no class names and are said to be numbered as {sources[1]}, but "
            f"label {lacking[0]} is none of the {len(to)} classes there. Give class names"
        )
    return new, {**to, **{label: str(label) for label in lacking}}


def shown(label: int, names: ClassNames | None) -> str:
    """Return a class as messages show it: by its name, or its number where it has none."""
    return repr(label if names is None else names[label])


def numbering_note(
    given: ClassNames | None, to: ClassNames | None, *, same_labels: bool
) -> str | None:
    """Return a sentence if labels of two sources meet by number, and nobody stated that they may.

    None where they meet by name, and where `renumber` refuses to bring them together.
    """
    if same_labels or (given is not None and to is not None) or not comparable(given, to):
        return None
    return "labels without class names: the same number is taken to mean the same class"
