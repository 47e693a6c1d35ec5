"""Arguments that the commands of `onward upgrade` share, and how they open an upgrade."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from onward.spaces import Embeddings
    from onward.upgrading import Requirement, Upgrade

TransformationPath = Annotated[Path, typer.Argument(help="Directory written by `fit`.")]
Also = Annotated[
    list[Path] | None,
    typer.Option(
        "--also",
        help="Another transformation to the same space, for rows that lack what those before it "
        "read; may be given more than once.",
    ),
]
Sample = Annotated[
    Path | None,
    typer.Option(help="True new embeddings of some items, to predict quality by: .parquet."),
]
Require = Annotated[
    str | None,
    typer.Option(
        help="What the upgrade must be predicted to give, such as 'cmc@1 >= 0.95 * new/new'; "
        "default: 'map >= old/old', or the same of the agreement where there are no labels."
    ),
]
ForceStart = Annotated[
    bool, typer.Option("--force", help="Start although it is predicted to give less; logged.")
]


def open_upgrade(gallery: str, transformation: Path, also: list[Path] | None = None) -> "Upgrade":
    """Return the upgrade of a gallery by a transformation and its fallbacks."""
    from onward.gallery import open_gallery
    from onward.transformation import Transformation
    from onward.upgrading import Upgrade

    fallbacks = (Transformation.load(path) for path in also or ())
    return Upgrade(open_gallery(gallery), Transformation.load(transformation), *fallbacks)


def read_sample(sample: Path | None) -> "Embeddings | None":
    """Return the sample that a file holds, if one is given."""
    from onward.spaces import Embeddings

    return None if sample is None else Embeddings.load(sample)


def read_requirement(require: str | None) -> "Requirement | None":
    """Return what is required, if anything is said."""
    from onward.upgrading import Requirement

    return None if require is None else Requirement.parse(require)
