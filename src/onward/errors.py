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

A message says what was given, what is needed and what to do next.
"""


class OnwardError(Exception):
    """Anything the user can put right; the command line prints it without a traceback.

    Attributes:
        do: the step that puts it right, by the name of its function or method, if one step does;
            the command line knows its command.
    """

    def __init__(self, message: str = "", *, do: str | None = None) -> None:
        super().__init__(message)
        self.do = do


class ConfigurationError(OnwardError):
    """A setting, a recipe or an argument is wrong."""


class MissingExtraError(OnwardError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it comes with an extra: pip install 'onward[{extra}]'"
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
