"""Arguments that the commands of `onward upgrade` share, and how they open an upgrade."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from onward.upgrading import Upgrade

TransformationPath = Annotated[Path, typer.Argument(help="Directory written by `fit`.")]
Also = Annotated[
    list[Path] | None,
    typer.Option(
        "--also",
        help="Another transformation to the same space, for rows that lack what those before it "
        "read; may be given more than once.",
    ),
]


def open_upgrade(gallery: str, transformation: Path, also: list[Path] | None = None) -> "Upgrade":
    """Return the upgrade of a gallery by a transformation and its fallbacks."""
    from onward.gallery import open_gallery
    from onward.transformation import Transformation
    from onward.upgrading import Upgrade

    fallbacks = (Transformation.load(path) for path in also or ())
    return Upgrade(open_gallery(gallery), Transformation.load(transformation), *fallbacks)
