"""Arguments and options that several commands share, and how their words are read."""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onward.cli.output import tell
from onward.errors import ArtifactError, ConfigurationError, GalleryError

if TYPE_CHECKING:
    from onward.gallery import Gallery
    from onward.labels import ClassNames
    from onward.spaces import Space


DataSource = Annotated[
    str, typer.Argument(help="'digits', an image folder (a sub-folder a class) or image Parquet.")
]
GalleryUrl = Annotated[str, typer.Argument(help="A gallery, such as photos.lance.")]
Classes = Annotated[
    str | None, typer.Option(help="Label numbers, such as 0-4 or 0,2,7-9; all if not given.")
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed and device, same bytes.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU where there is one.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is already at the output path.")
]
Directory = Annotated[Path, typer.Argument(help="A directory to write.")]
SameLabels = Annotated[
    bool,
    typer.Option(
        "--same-labels",
        help="If only one side has class names: the other's label numbers mean the same.",
    ),
]
MOST_DIGITS, LONGEST_RANGE = 18, 1_000_000
"""In a list of classes, seeds or stages, which must have room in memory."""
EmbeddingsFile = Annotated[Path, typer.Argument(help="Embeddings: .parquet.")]


def takes(
    name: str, options: Mapping[str, tuple[Any, Any]], make: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what gives a command some options in place of one parameter, just before `as_json`.

    Args:
        name: of the parameter, which gets what is made of the options.
        options: by name: the annotation, and the default.
        make: makes one value of all of them, given by name.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command)
        parameters = [each for each in own.parameters.values() if each.name != name]
        last = [each.name for each in parameters].index("as_json")
        parameters[last:last] = [
            inspect.Parameter(each, parameters[last].kind, default=default, annotation=annotation)
            for each, (annotation, default) in options.items()
        ]

        @wraps(command)
        def run(**given: Any) -> None:
            made = make(**{each: given.pop(each) for each in options})
            command(**given, **{name: made})

        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return give


def parse_numbers(text: str, what: str) -> tuple[int, ...]:
    """Read numbers and ranges: `0-4,7` is 0, 1, 2, 3, 4, 7.

    Args:
        text: what was given.
        what: what the numbers are, for the message.

    Raises:
        ConfigurationError: if a part is neither a number nor a range.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigurationError(
                f"{part!r} in the {what} {text!r} is not a number; write them as 0-4 or 0,2,7-9"
            )
        is_long = max(len(first), len(last)) > MOST_DIGITS
        found = range(0) if is_long else range(int(first), int(last or first) + 1)
        if not 0 < len(found) <= LONGEST_RANGE:
            raise ConfigurationError(
                f"{part!r} in the {what} {text!r} is not a range; give the smaller number first, "
                f"such as 7-9, {LONGEST_RANGE:,} numbers at most, of {MOST_DIGITS} digits at most"
            )
        numbers += found
    return tuple(numbers)


def check_room(path: Path, kind: str | None = None, *, overwrite: bool) -> None:
    """Refuse a place that cannot or may not be written to before long work is done for it.

    Args:
        path: what is to be written.
        kind: of the artefact that it is to be; None for a file.
        overwrite: whether what stands there may be replaced.

    Raises:
        ArtifactError: naming what is in the way.
    """
    from onward.artifacts import check_file_replaceable, check_replaceable

    if kind is None:
        check_file_replaceable(path)
    else:
        check_replaceable(path, kind)
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not (overwrite or empty):
        raise ArtifactError(
            f"{path} is there already; it was left as it is. Give another place, or replace it "
            "with --overwrite"
        )
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise ArtifactError(
            f"{path} cannot be written: {above} is not a directory that you may write to. Give "
            "another place"
        )


def check_apart(*paths: Path | None) -> None:
    """Refuse to write two things to one place.

    Raises:
        ConfigurationError: naming the place.
    """
    seen: set[str] = set()
    for path in filter(None, paths):
        if os.path.realpath(path) in seen:
            raise ConfigurationError(f"two results would be written to {path}; give each its own")
        seen.add(os.path.realpath(path))


def check_kept(read: Path, *written: Path | None) -> None:
    """Refuse to replace what is read by what is made of it, even where replacing is allowed.

    Raises:
        ConfigurationError: naming the place.
    """
    if os.path.realpath(read) in [os.path.realpath(path) for path in filter(None, written)]:
        raise ConfigurationError(
            f"{read} is read, and would be replaced by what is made of it; give another place"
        )


def tell_numbering(
    given: "ClassNames | None", to: "ClassNames | None", *, same_labels: bool
) -> None:
    """Say so if labels of two sources are put together by number, unless that was stated."""
    from onward.labels import numbering_note

    note = numbering_note(given, to, same_labels=same_labels)
    if note is not None:
        tell(note)


def is_gallery(path: Path) -> bool:
    """Say whether a path is that of a gallery, not of a file or a folder of embeddings."""
    if not path.is_dir():
        return False
    return (path / "record.lance").exists() or not any(path.rglob("*.parquet"))


def find_space(gallery: "Gallery", name: str | None) -> "Space":
    """Return a space of a gallery by its name; the one that answers queries if None."""
    description = gallery.describe()
    by_name = {each.name: each for each in description.spaces}
    if name is not None and name not in by_name:
        raise GalleryError(f"{gallery.url} has no space {name!r}; it has {', '.join(by_name)}")
    return description.serving if name is None else by_name[name]
