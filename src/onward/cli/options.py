"""Arguments and options that several commands share, how their words are read, and images opened.

A parameter of a command may stand for several options: those of settings, or a `Bundle`. So all
commands that read images have one parameter `DataStated`, and none lacks one of its options; each
says in one line on standard error what was read, and how.
"""

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer
from pydantic import BaseModel, Field
from typer.core import TyperGroup

import onward
from onward.cli.output import OPTIONS, show, tell
from onward.errors import ArtifactError, ConfigurationError, GalleryError

if TYPE_CHECKING:
    from onward.data import Stated
    from onward.data.items import Items
    from onward.labels import ClassNames
    from onward.models.running import EmbedPayloads


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
Overwrite = Annotated[bool, typer.Option(help="Replace what is already at the output path.")]
Directory = Annotated[Path, typer.Argument(help="A directory to write.")]
SameLabels = Annotated[
    bool,
    typer.Option(help="If only one side has class names: the other's label numbers mean the same."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
FLAGS = {"exclude_self": "--exclude-self/--include-self"}
"""Options that must be said, and have a flag to say no."""
REQUIRED = inspect.Parameter.empty
"""In place of the default of an option that has none."""
MOST_DIGITS, LONGEST_RANGE = 18, 1_000_000
"""In a list of classes, seeds or stages, which must have room in memory."""
EmbeddingsFile = Annotated[Path, typer.Argument(help="Embeddings: .parquet.")]
MOST_PIXELS = 178_956_970


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


@dataclass(frozen=True)
class Bundle:
    """Options of which a command gets one value: stands in the annotation of its parameter.

    What is required stands where the parameter stands, the rest behind all others. Where a command
    has several, their values are made in the order of its parameters.

    Attributes:
        options: by name: the annotation, and the default or `REQUIRED`.
        make: makes the value of all of them, given by name.
    """

    options: Mapping[str, tuple[Any, Any]]
    make: Callable[..., Any]

    @classmethod
    def of(cls, annotation: Any) -> "Bundle | None":
        """Return what stands in an annotation; settings are a bundle of all their fields."""
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return settings(annotation, make=annotation)
        return next((one for one in get_args(annotation) if isinstance(one, Bundle)), None)


class Commands(typer.Typer):
    """A table of commands, each of which returns its answer; here it is printed, or made JSON."""

    def command(self, *words: Any, **more: Any) -> Callable[[Callable[..., Any]], Any]:
        """Give a command `--json` and the options of its bundles, and print what it returns."""
        add = super().command(*words, **more)

        def register(command: Callable[..., Any]) -> Callable[..., Any]:
            own = inspect.signature(command).parameters
            found = {name: Bundle.of(one.annotation) for name, one in own.items()}
            bundles = {name: bundle for name, bundle in found.items() if bundle is not None}

            @wraps(command)
            def run(as_json: bool, **given: Any) -> None:
                for name, bundle in bundles.items():
                    words = {each: given.pop(each) for each in bundle.options}
                    given[name] = bundle.make(**words)
                if "as_json" in own:  # it prints what it has line by line
                    command(as_json=as_json, **given)
                else:
                    show(command(**given), as_json)

            options = dict[str, tuple[Any, Any]]()
            for name, one in own.items():
                bundle = found[name]
                options |= bundle.options if bundle else {name: (one.annotation, one.default)}
            options |= {"as_json": (AsJson, False)}
            _set_signature(run, options)
            add(run)
            return command

        return register


def _set_signature(command: Callable[..., Any], options: Mapping[str, tuple[Any, Any]]) -> None:
    """Let a function have these parameters for whoever looks at it, as Typer does."""
    kind = inspect.Parameter.KEYWORD_ONLY
    given = [
        inspect.Parameter(name, kind, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]
    for one in given:
        _, *words = get_args(one.annotation)
        is_named = words and (words[0].param_decls or isinstance(words[0].default, str))
        if one.default is False and words and not is_named:  # else `--no-` stands too
            words[0].param_decls = (_flag(one.name),)
    given.sort(key=lambda one: one.default is not REQUIRED)
    OPTIONS.update(one.name for one in given if one.default is not REQUIRED)
    command.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in given}


def settings(
    kind: type[BaseModel],
    *fields: str,
    called: Mapping[str, str] = MappingProxyType({}),
    also: Mapping[str, str] = MappingProxyType({}),
    shown: Mapping[str, str] = MappingProxyType({}),
    make: Callable[..., Any] = dict,
) -> Bundle:
    """Return an option for some fields of settings, as a bundle.

    An option has the field's range, and for its help the first sentence of the field's docs. What
    is made gets what was said, by field: for what was not, the settings have their own default.

    Args:
        kind: of the settings; their docstrings say what each field means, under "Attributes:".
        fields: those that are options; all where none is named.
        called: what an option is called, where that is not the field's name.
        also: second spellings, each with the field that it sets.
        shown: the default that the help shows, where that is not the settings' own.
        make: makes a value of what was said, given by field; a dictionary if not given.
    """
    types, docs = get_type_hints(kind), _docs_of(kind)
    first = {field: called.get(field, field) for field in fields or kind.model_fields}
    by_option = {**{option: field for field, option in first.items()}, **also}
    options = dict[str, tuple[Any, Any]]()
    for option, field in by_option.items():
        info = kind.model_fields[field]
        flag = _flag(option) if info.default is False else FLAGS.get(option)
        own = False if info.is_required() or info.default in (None, False) else str(info.default)
        own = option if info.default is True else own
        limits = {
            word: getattr(one, bound)
            for one in info.metadata
            for word, bound in (("min", "ge"), ("max", "le"))
            if hasattr(one, bound)
        }
        help_ = docs[field] if option == first[field] else f"The same as {_flag(first[field])}."
        help_ = help_.replace("[", r"\[")  # else taken for markup
        words = [] if flag is None else [flag]
        said = typer.Option(*words, help=help_, show_default=shown.get(field, own), **limits)
        if info.is_required():
            options[option] = (Annotated[types[field], said], REQUIRED)
        else:
            options[option] = (Annotated[types[field] | None, said], None)

    def said_of(**given: Any) -> Any:
        said: dict[str, Any] = {}
        for option, value in given.items():
            field = by_option[option]
            if value is not None and field in said:
                raise ConfigurationError(
                    f"{_flag(option)} and {_flag(first[field])} mean the same",
                    "give one of the two",
                )
            said |= {} if value is None else {field: value}
        return make(**said)

    return Bundle(options, said_of)


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


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


def _open_gallery(gallery: str) -> "onward.Gallery":
    return onward.open_gallery(gallery)  # found when it is first called


OpenGallery = Annotated[
    "onward.Gallery", Bundle({"gallery": (GalleryUrl, REQUIRED)}, _open_gallery)
]
"""The gallery that a command is for."""


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


def read_time(option: str, given: float, unit: timedelta) -> timedelta:
    """Return a time that was given in some unit.

    Raises:
        ConfigurationError: if that is no length of time.
    """
    try:
        return given * unit
    except (ValueError, OverflowError) as error:  # NaN, infinity, or longer than a calendar
        raise ConfigurationError(
            f"{option} {given:g} is not a number of {option.rpartition('-')[2]}",
            "give one such as 7",
        ) from error


def check_room(
    *paths: Path | None, overwrite: bool, kind: str | None = None, read: Path | None = None
) -> None:
    """Refuse places that cannot or may not be written to before long work is done for them.

    Args:
        paths: what is to be written.
        overwrite: whether what stands there may be replaced.
        kind: of the artefact that it is to be; None for files.
        read: what is never replaced by what is made of it.

    Raises:
        ArtifactError: naming what is in the way.
        ConfigurationError: if two results, or what is read and a result, are at one place.
    """
    from onward.artifacts import check_replaceable

    written = [path for path in paths if path is not None]
    places = [os.path.realpath(path) for path in written]
    for path, place in zip(written, places, strict=True):
        if places.count(place) > 1:
            raise ConfigurationError(f"two results would be written to {path}", "give each its own")
        if read is not None and place == os.path.realpath(read):
            raise ConfigurationError(
                f"{read} is read, and would be replaced by what is made of it", "give another place"
            )
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
                f"{path} cannot be written: {above} is not a directory that you may write to",
                "give another place",
            )


def check_lines(path: Path | None) -> None:
    """Refuse a place for lines of JSON that are not found again by its suffix.

    Raises:
        ConfigurationError: if the file has another suffix.
    """
    from onward.data.payloads import LINES_SUFFIX

    if path is not None and path.suffix != LINES_SUFFIX:
        raise ConfigurationError("JSON lines are written", f"{path} must end in {LINES_SUFFIX}")


def tell_numbering(
    given: "ClassNames | None", to: "ClassNames | None", *, same_labels: bool
) -> None:
    """Say so if labels of two sources are put together by number, unless that was stated."""
    from onward.labels import numbering_note

    note = numbering_note(given, to, same_labels=same_labels)
    if note is not None:
        tell(note)


def holds_gallery(path: Path) -> bool:
    """Say whether a folder has what a gallery is stored in."""
    return path.is_dir() and any(path.glob("*.lance"))


def is_gallery(path: Path) -> bool:
    """Say whether a path is that of a gallery, not of a file or a folder of embeddings."""
    return path.is_dir() and (holds_gallery(path) or not any(path.rglob("*.parquet")))


def find_space(gallery: "onward.Gallery", name: str | None) -> "onward.Space":
    """Return a space of a gallery by its name; the one that answers queries if None."""
    view = gallery.view()
    by_name = {each.name: each for each in view.spaces()}
    if name is not None and name not in by_name:
        raise GalleryError(
            f"{gallery.url} has no space {name!r}", needed=f"it has {', '.join(by_name)}"
        )
    return view.serving if name is None else by_name[name]


class DataOptions(BaseModel):
    """How the images or texts of a source are read, as `onward.data.Stated` takes it.

    Attributes:
        image_column: Parquet: column of the images, {bytes, path}.
        text_column: Parquet: column of strings, for texts in place of images.
        label_column: Parquet: column of the label numbers or class names.
        id_column: Parquet: column of the ids; default: file and row.
        config: Parquet: the configuration, if there are several.
        read_as: what the folders in DATA are, where their names leave it open.
        train_part: the folder or shards to train with, such as fold-1.
        test_part: the folder or shards to test with.
        open_set: the test part may have classes of its own.
        skip_bad: leave out images that cannot be read; say which.
        max_pixels: most pixels of an image that is read.
    """

    image_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    id_column: str | None = None
    config: str | None = None
    read_as: Literal["auto", "classes", "parts", "parquet"] = "auto"
    train_part: str | None = None
    test_part: str | None = None
    open_set: bool = False
    skip_bad: bool = False
    max_pixels: int = Field(MOST_PIXELS, ge=1)


def _stated(**given: Any) -> "Stated":
    from onward.data import Stated

    return Stated(**given)


DataStated = Annotated["Stated", settings(DataOptions, make=_stated)]
"""How a command's data is read."""


def open_data(
    source: str, stated: "Stated", *, split: Split = Split.ALL, classes: str | None = None
) -> "Items":
    """Open the images that the options name; tell what was read, and what was left out."""
    if split is Split.ALL:
        items = onward.open_items(source, stated)
    else:
        train, test = onward.open_splits(source, stated)
        items = train if split is Split.TRAIN else test
    tell(f"read {items}{f': {items.reading}' if items.reading else ''}")
    tell_left_out(items)
    return items if classes is None else items.of_classes(parse_numbers(classes, "classes"))


def open_embedder(
    gallery: "onward.Gallery", model: "onward.EmbeddingModel", device: str, max_pixels: int
) -> "EmbedPayloads":
    """Return what embeds a gallery's items; tell where it takes them from."""
    from onward.models import payload_embedder

    tell(f"read {model.input.noun}s where the payloads of {gallery.url} say that they are")
    return payload_embedder(model, device=device, max_pixels=max_pixels)


def tell_left_out(items: "Items") -> None:
    """Say of each item that could not be used why."""
    for left in items.left_out:
        tell(f"left out: {left}")
