"""Every error that Onward raises on purpose.

```
OnwardError                 anything the user can put right
├── ConfigurationError      a setting, a recipe or an argument is wrong
├── MissingExtraError       an optional dependency is not installed
├── DataError               images or labels cannot be read, or do not fit together
├── EmbeddingsError         ids, vectors and labels do not make embeddings
├── SpaceMismatchError      vectors of different spaces were put together
├── LabelMismatchError      labels were put together that nothing says mean the same classes
├── EvaluationError         rankings and relevance do not fit together
├── ArtifactError           what is on the disk is missing, damaged or of another kind
├── ModelError              an embedding model cannot be made, saved or run
├── TransformationError     a transformation cannot be fitted or applied
├── GalleryError            a gallery refuses what was asked of it
└── UpgradeError            a step of an upgrade cannot be done now
```

Each says what was given, what is needed and what to do next, as fields and in one message.
"""


class OnwardError(Exception):
    """Anything the user can put right; the command line prints it without a traceback.

    Attributes:
        given: what was given, and what is wrong with it.
        needed: what is needed instead, where `do` alone does not say it.
        do: what to do next, as a sentence of its own.
        step: the step that puts it right, by the name of its function or method, if one step does;
            the command line knows its command.
    """

    def __init__(
        self, given: str = "", do: str = "", *, needed: str = "", step: str | None = None
    ) -> None:
        super().__init__("; ".join(field for field in (given, needed, do) if field))
        self.given, self.needed, self.do, self.step = given, needed, do, step


class ConfigurationError(OnwardError):
    """A setting, a recipe or an argument is wrong."""


class MissingExtraError(OnwardError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed",
            f"it comes with an extra: pip install 'onward[{extra}]'",
        )


class DataError(OnwardError):
    """Images or labels cannot be read, or do not fit together."""


class EmbeddingsError(OnwardError):
    """Ids, vectors and labels do not make embeddings."""


class SpaceMismatchError(OnwardError):
    """Vectors of different spaces were put together."""


class LabelMismatchError(OnwardError):
    """Labels were put together that nothing says mean the same classes."""


class EvaluationError(OnwardError):
    """Rankings and relevance do not fit together."""


class ArtifactError(OnwardError):
    """What is on the disk is missing, damaged or of another kind."""


class ModelError(OnwardError):
    """An embedding model cannot be made, saved or run."""


class TransformationError(OnwardError):
    """A transformation cannot be fitted or applied."""


class GalleryError(OnwardError):
    """A gallery refuses what was asked of it."""


class UpgradeError(OnwardError):
    """A step of an upgrade cannot be done now."""
