"""Which images a study has: who is trained on what, and which classes each knows."""

from dataclasses import dataclass, replace

import numpy as np

from onward.artifacts import digest
from onward.data.items import Items
from onward.data.sources import open_splits
from onward.errors import ConfigurationError, DataError
from onward.experiments.recipe import Recipe

Classes = tuple[int, ...]

OLD_TRAIN, SIDE_TRAIN, TRAIN = "old_train", "side_train", "train"
MIDDLE_TRAIN = "middle_train"
CLOSED, OPEN = "closed", "open"  # as `Splits` names them


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of a study.

    Attributes:
        old_train: what the old model is trained on.
        side_train: what the side-information's models are trained on: these images or some of them.
        train: what the new model is trained on, and h fitted on.
        middle_train: what the model between them is trained on; None without one.
        closed: test images of the classes that a model was trained on: gallery and queries.
        open: all images of classes that no model was trained on, likewise; None without any.
        old_classes: label numbers that the old model knows.
    """

    old_train: Items
    side_train: Items
    train: Items
    middle_train: Items | None
    closed: Items
    open: Items | None
    old_classes: Classes

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the images to train with and of the closed set, by name."""
        return {"train": self.train.digest, "closed": self.closed.digest}

    def items(self, part: str) -> Items:
        """Return the images of a part, which the recipe has."""
        items: Items | None = getattr(self, part)
        assert items is not None  # noqa: S101  # who asks has seen that the recipe has this part
        return items


def split(recipe: Recipe) -> Splits:
    """Open a recipe's images and divide them.

    Raises:
        ConfigurationError: if the recipe wants classes that are not there, or names no images.
        DataError: if the images cannot be read, or have another layout than the recipe needs.
    """
    data = recipe.data
    if not data.source:
        raise ConfigurationError(
            f"the recipe {recipe.name!r} needs images: {data.layout}. Name them: data.source=PATH"
        )
    train, test = _open(recipe, data.source)
    _check_classes(recipe, len(train.classes))
    known, middle = train.classes, recipe.middle_classes
    last = None if data.new_classes is None else data.new_from + data.new_classes
    new_classes = known[data.new_from : last]
    others = train if data.old_source is None else _open(recipe, data.old_source)[0]
    old_train = others.of_classes(others.classes[: data.old_classes])
    old_classes = old_train.classes if data.old_source is None else ()
    seen = {*old_classes, *new_classes}
    return Splits(
        old_train=old_train,
        side_train=old_train.of_classes(old_train.classes[: data.side_classes]),
        train=train.of_classes(new_classes),
        middle_train=None if middle is None else train.of_classes(known[:middle]),
        closed=_closed(test, seen),
        open=_open_set(train, test, seen),
        old_classes=old_classes,
    )


def _check_classes(recipe: Recipe, count: int) -> None:
    """Refuse classes that models cannot know, of the number that there are to train with."""
    data, middle = recipe.data, recipe.middle_classes
    has = f"{data.source} has {count} classes"
    if data.classes not in (None, count):
        raise DataError(
            f"the recipe {recipe.name!r} needs {data.layout}",
            f"{has} to train with. For other images set data.classes, data.old_classes and "
            "data.new_classes too",
        )
    last = count if data.new_classes is None else data.new_from + data.new_classes
    if data.old_source is None and data.old_classes >= count:
        raise ConfigurationError(
            f"old_classes is {data.old_classes}, but {has}",
            "the new model should know some that the old one does not: give fewer",
        )
    if last > count or data.new_from >= last:
        raise ConfigurationError(
            f"the new model is to know classes {data.new_from} to {last - 1} by position, but "
            f"{has}",
            "give a smaller new_from or new_classes",
        )
    if middle is not None and not data.old_classes < middle <= last:
        raise ConfigurationError(
            f"middle_classes is {middle}",
            f"the middle model should know more classes than the old one ({data.old_classes}) and "
            f"no more than the new one (up to {last})",
        )


def unsampled(items: Items) -> np.ndarray:
    """Return which items no gallery sample may be taken from: half, by a digest of the id.

    On them every arm can be judged alike, whatever the sample it learned from.
    """
    return np.array([int(digest(item.encode())[:8], 16) % 2 == 1 for item in items.ids])


def _open(recipe: Recipe, source: str) -> tuple[Items, Items]:
    data = recipe.data
    try:
        return open_splits(source, data)
    except DataError as error:
        if not data.layout:
            raise
        raise DataError(f"the recipe {recipe.name!r} needs {data.layout}: {error}") from error


def _closed(test: Items, seen: set[int]) -> Items:
    """Return the test images of seen classes; all of them where the test part has classes apart."""
    both = seen & set(test.classes)
    return test.of_classes(both) if both else test


def _open_set(train: Items, test: Items, seen: set[int]) -> Items | None:
    if not seen & set(test.classes):  # the whole test part is unseen, and is the gallery already
        return None
    first, second = (
        part.select(np.flatnonzero(~np.isin(part.labels, sorted(seen)))) for part in (train, test)
    )
    if not len(first) + len(second):
        return None
    return replace(
        first,
        ids=first.ids + second.ids,
        part_of=first.part_of + second.part_of,
        labels=np.concatenate([first.labels, second.labels]),
        class_names={**second.class_names, **first.class_names},
        payloads=first.payloads + second.payloads,
        left_out=(),
    )
