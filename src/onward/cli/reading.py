"""The options that say how images are read, the same for each command that reads some; and opening.

A command takes one parameter `stated` and is decorated with `takes_data`: so no command lacks one
of them, and each says in one line on standard error what was read, and how.
"""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onward.cli.options import parse_numbers, takes
from onward.cli.output import tell

if TYPE_CHECKING:
    from onward.data.items import Items
    from onward.data.sources import Stated
    from onward.gallery import Gallery
    from onward.models import EmbeddingModel
    from onward.models.payloads import EmbedPayloads


class Split(StrEnum):
    """Which part of a source of images."""

    TRAIN = "train"
    TEST = "test"
    ALL = "all"


MaxPixels = Annotated[
    int | None,
    typer.Option(min=1, help="Most pixels of an image that is read; default: 178956970."),
]

_OPTIONS: dict[str, tuple[Any, Any]] = {
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
    from onward.data.sources import Stated

    return Stated(**{name: value for name, value in given.items() if value is not None})


takes_data = takes("stated", _OPTIONS, _stated)
"""Give a command the options that say how its data is read, in place of `stated`."""


def open_data(
    source: str, stated: "Stated", *, split: Split = Split.ALL, classes: str | None = None
) -> "Items":
    """Open the images that the options name; tell what was read, and what was left out."""
    from onward.data.sources import read_items, read_splits

    if split is Split.ALL:
        items = read_items(source, stated)
    else:
        train, test = read_splits(source, stated)
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
