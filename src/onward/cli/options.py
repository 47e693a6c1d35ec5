"""Arguments and options that several commands share, how their words are read, and images opened.

A command that reads images takes one parameter `stated` and is decorated with `takes_data`: so no
command lacks one of its options, and each says in one line on standard error what was read, and
how.
"""

import inspect
import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from typer.core import TyperGroup

from onward.cli.output import tell
from onward.errors import ArtifactError, ConfigurationError, GalleryError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from onward.data import Stated
    from onward.data.items import Items
    from onward.gallery import Gallery
    from onward.labels import ClassNames
    from onward.models import EmbeddingModel
    from onward.models.running import EmbedPayloads
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
REQUIRED = inspect.Parameter.empty
"""In place of the default of an option that has none."""
MOST_DIGITS, LONGEST_RANGE = 18, 1_000_000
"""In a list of classes, seeds or stages, which must have room in memory."""
EmbeddingsFile = Annotated[Path, typer.Argument(help="Embeddings: .parquet.")]
MaxPixels = Annotated[
    int | None,
    typer.Option(min=1, help="Most pixels of an image that is read; default: 178956970."),
]


class Split(StrEnum):
    """Which part of a source of images."""

    TRAIN = "train"
    TEST = "test"
    ALL = "all"


def defaults_to(name: str) -> type[TyperGroup]:
    """Return a group of commands that takes its arguments for those of one of its commands.

    Args:
        name: of the command that is meant where the first word is none of the group's.
    """

    class WithDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            first = args[0] if args else "--help"
            alike = get_close_matches(first, self.commands, 1)
            if alike and first not in self.commands and not os.path.lexists(first):
                raise ConfigurationError(
                    f"{first!r} is neither a command nor a gallery that is there",
                    f"the command may be {alike[0]!r}",
                )
            if first not in (*self.commands, "--help", "-h"):
                args = [name, *args]
            return super().parse_args(ctx, args)

    return WithDefault


def takes(
    name: str, options: Mapping[str, tuple[Any, Any]], make: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what gives a command some options in place of one parameter.

    What is required stands where the parameter stood, the rest just before `as_json`.

    Args:
        name: of the parameter, which gets what is made of the options.
        options: by name: the annotation, and the default or `REQUIRED`.
        make: makes one value of all of them, given by name.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command)
        before, after = list(own.parameters.values()), list[inspect.Parameter]()
        while before[-1].name != "as_json":
            after.insert(0, before.pop())
        after.insert(0, before.pop())
        place = [each.name for each in before].index(name)
        kind = before.pop(place).kind
        given = [
            inspect.Parameter(each, kind, default=default, annotation=annotation)
            for each, (annotation, default) in options.items()
        ]
        required = [each for each in given if each.default is REQUIRED]
        optional = [each for each in given if each.default is not REQUIRED]
        parameters = [*before[:place], *required, *before[place:], *optional, *after]

        @wraps(command)
        def run(**words: Any) -> None:
            made = make(**{each: words.pop(each) for each in options})
            command(**words, **{name: made})

        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return give


def takes_settings(
    name: str,
    kind: "type[BaseModel]",
    *fields: str,
    called: Mapping[str, str] = MappingProxyType({}),
    shown: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for some fields of settings, in place of one parameter.

    An option has the field's range, and for its help the first sentence of the field's docs. The
    parameter gets what was said, by field: for what was not, the settings have their own default.

    Args:
        name: of the parameter.
        kind: of the settings; their docstrings say what each field means, under "Attributes:".
        fields: those that are options.
        called: what an option is called, where that is not the field's name.
        shown: the default that the help shows, where that is not the settings' own.
    """
    types, docs = get_type_hints(kind), _docs_of(kind)
    by_option = {called.get(field, field): field for field in fields}
    options = dict[str, tuple[Any, Any]]()
    for option, field in by_option.items():
        info = kind.model_fields[field]
        flags = [f"--{option.replace('_', '-')}"] if info.default is False else []
        own = False if info.default in (None, False) else str(info.default)
        own = option if info.default is True else own
        limits = {
            word: getattr(one, bound)
            for one in info.metadata
            for word, bound in (("min", "ge"), ("max", "le"))
            if hasattr(one, bound)
        }
        help_ = docs[field].replace("[", r"\[")  # else taken for markup
        said = typer.Option(*flags, help=help_, show_default=shown.get(field, own), **limits)
        options[option] = (Annotated[types[field] | None, said], None)

    def said_of(**given: Any) -> dict[str, Any]:
        return {by_option[one]: value for one, value in given.items() if value is not None}

    return takes(name, options, said_of)


def _docs_of(kind: type) -> dict[str, str]:
    """Return the first sentence on each attribute that the docstring of a class explains."""
    inherited = _docs_of(kind.__bases__[0]) if kind.__bases__ else {}
    attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    attributes = attributes.partition("\n\n")[0]
    own = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE)
    sentences = {
        name: re.split(r"\.\s+(?=[A-Z\"`])", " ".join(said.split()))[0].removesuffix(".")
        for name, said in own
    }
    return inherited | {name: f"{one[:1].upper()}{one[1:]}." for name, one in sentences.items()}


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
                f"{part!r} in the {what} {text!r} is not a number", "write them as 0-4 or 0,2,7-9"
            )
        is_long = max(len(first), len(last)) > MOST_DIGITS
        found = range(0) if is_long else range(int(first), int(last or first) + 1)
        if not 0 < len(found) <= LONGEST_RANGE:
            raise ConfigurationError(
                f"{part!r} in the {what} {text!r} is not a range",
                f"give the smaller number first, "
                f"such as 7-9, {LONGEST_RANGE:,} numbers at most, of {MOST_DIGITS} digits at most",
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
            f"{path} is there already",
            "it was left as it is. Give another place, or replace it with --overwrite",
        )
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise ArtifactError(
            f"{path} cannot be written: {above} is not a directory that you may write to. Give "
            "another place"
        )


def check_lines(path: Path, what: str) -> Path:
    """Return a place for lines of JSON, which are looked for by its suffix.

    Raises:
        ConfigurationError: if the file has another suffix.
    """
    from onward.data.payloads import LINES_SUFFIX

    if path.suffix != LINES_SUFFIX:
        raise ConfigurationError(
            f"{what} written as JSON lines", f"{path} must end in {LINES_SUFFIX}"
        )
    return path


def check_apart(*paths: Path | None) -> None:
    """Refuse to write two things to one place.

    Raises:
        ConfigurationError: naming the place.
    """
    seen: set[str] = set()
    for path in filter(None, paths):
        if os.path.realpath(path) in seen:
            raise ConfigurationError(f"two results would be written to {path}", "give each its own")
        seen.add(os.path.realpath(path))


def check_kept(read: Path, *written: Path | None) -> None:
    """Refuse to replace what is read by what is made of it, even where replacing is allowed.

    Raises:
        ConfigurationError: naming the place.
    """
    if os.path.realpath(read) in [os.path.realpath(path) for path in filter(None, written)]:
        raise ConfigurationError(
            f"{read} is read, and would be replaced by what is made of it", "give another place"
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
        raise GalleryError(
            f"{gallery.url} has no space {name!r}", needed=f"it has {', '.join(by_name)}"
        )
    return description.serving if name is None else by_name[name]


DATA_OPTIONS: dict[str, tuple[Any, Any]] = {
    "image_column": (
        Annotated[str | None, typer.Option(help="Parquet: column of the images, {bytes, path}.")],
        None,
    ),
    "label_column": (
        Annotated[
            str | None, typer.Option(help="Parquet: column of the label numbers or class names.")
        ],
        None,
    ),
    "id_column": (
        Annotated[
            str | None, typer.Option(help="Parquet: column of the ids; default: file and row.")
        ],
        None,
    ),
    "config": (
        Annotated[
            str | None, typer.Option(help="Parquet: the configuration, if there are several.")
        ],
        None,
    ),
    "read_as": (
        Annotated[
            Literal["auto", "classes", "parts", "parquet"],
            typer.Option(help="What the folders in DATA are, where their names leave it open."),
        ],
        "auto",
    ),
    "train_part": (
        Annotated[
            str | None, typer.Option(help="The folder or shards to train with, such as fold-1.")
        ],
        None,
    ),
    "test_part": (
        Annotated[str | None, typer.Option(help="The folder or shards to test with.")],
        None,
    ),
    "open_set": (
        Annotated[
            bool,
            typer.Option("--open-set", help="The test part may have classes of its own."),
        ],
        False,
    ),
    "skip_bad": (
        Annotated[
            bool,
            typer.Option("--skip-bad", help="Leave out images that cannot be read; say which."),
        ],
        False,
    ),
    "max_pixels": (MaxPixels, None),
}


def _stated(**given: Any) -> "Stated":
    from onward.data import Stated

    return Stated(**{name: value for name, value in given.items() if value is not None})


takes_data = takes("stated", DATA_OPTIONS, _stated)
"""Give a command the options that say how its data is read, in place of `stated`."""


def open_data(
    source: str, stated: "Stated", *, split: Split = Split.ALL, classes: str | None = None
) -> "Items":
    """Open the images that the options name; tell what was read, and what was left out."""
    from onward.data import open_items, open_splits

    if split is Split.ALL:
        items = open_items(source, stated)
    else:
        train, test = open_splits(source, stated)
        items = train if split is Split.TRAIN else test
    tell(f"read {items}{f': {items.reading}' if items.reading else ''}")
    tell_left_out(items)
    return items if classes is None else items.of_classes(parse_numbers(classes, "classes"))


def open_embedder(
    gallery: "Gallery", model: "EmbeddingModel", device: str, max_pixels: int | None
) -> "EmbedPayloads":
    """Return what embeds the images of a gallery's items; tell where it takes them from."""
    from onward.data.decoding import MAX_PIXELS
    from onward.models import payload_embedder

    tell(f"read images where the payloads of {gallery.url} say that they are")
    return payload_embedder(model, device=device, max_pixels=max_pixels or MAX_PIXELS)


def tell_left_out(items: "Items") -> None:
    """Say of each item that could not be used why."""
    for left in items.left_out:
        tell(f"left out: {left}")
