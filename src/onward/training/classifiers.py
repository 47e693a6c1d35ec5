"""The classifier of an embedding model, frozen: what else a transformation can learn from."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from onward.errors import ConfigurationError, ModelError
from onward.labels import ClassNames, Labels, translate
from onward.models import EmbeddingModel
from onward.spaces import Space


@dataclass(frozen=True, eq=False)
class Classifier:
    """A linear classifier without bias on the embeddings of one space.

    Attributes:
        weight: one row a class.
        classes: the label of each row.
        space: where the embeddings lie that it tells apart.
        class_names: what each label is called; None where nothing says so.

    Raises:
        ModelError: if these do not fit together.
    """

    weight: Float32[np.ndarray, "class dim"]
    classes: tuple[int, ...]
    space: Space
    class_names: ClassNames | None = None

    def __post_init__(self) -> None:
        if self.weight.shape != (len(self.classes), self.space.dim):
            raise ModelError(
                f"a classifier of shape {self.weight.shape} for {len(self.classes)} classes in "
                f"{self.space}; give one row of the space's dimensions for each class"
            )

    @classmethod
    def of(cls, model: EmbeddingModel) -> "Classifier":
        """Return a model's classifier.

        Raises:
            ConfigurationError: if the model has none.
        """
        if model.classifier is None or model.classes is None:
            raise ConfigurationError(
                f"{model.space.name} has no classifier; one comes with every model that "
                "`onward train` has trained on classes. Give such a model, or no classifier"
            )
        return cls(model.classifier, model.classes, model.space, model.class_names)

    def numbered_as(self, class_names: ClassNames | None, *, same_labels: bool) -> "Classifier":
        """Return the classifier with the labels that its classes have in another source.

        Args:
            class_names: what that source calls its classes.
            same_labels: if only one of the two has class names, the numbers mean the same.

        Raises:
            LabelMismatchError: if only one of the two has class names, and `same_labels` is false.
        """
        sources = ("the classifier", "the items")
        translated = translate(
            self.class_names, class_names, same_labels=same_labels, sources=sources
        )
        classes = tuple(translated.get(label, label) for label in self.classes)
        return replace(self, classes=classes, class_names=class_names)

    def rows_of(self, labels: Labels) -> Labels:
        """Return the row of each label's class, or -1 where the classifier does not know it."""
        order = np.argsort(self.classes)
        known = np.asarray(self.classes, np.int64)[order]
        place = np.searchsorted(known, labels).clip(max=len(known) - 1)
        return np.where(known[place] == labels, order[place], -1).astype(np.int64)
