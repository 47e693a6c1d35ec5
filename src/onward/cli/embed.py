"""`onward embed`: make embeddings, and side-information in the same pass where there is any."""

from pathlib import Path
from typing import Annotated

import typer

from onward.cli.options import (
    Classes,
    DataSource,
    Device,
    IdColumn,
    ImageColumn,
    LabelColumn,
    SkipBad,
    Split,
    check_room,
    open_data,
)
from onward.cli.output import AsJson, show_fields


def embed(
    model: Annotated[Path, typer.Argument(help="A model's directory, as `train` writes it.")],
    data: DataSource,
    out: Annotated[Path, typer.Argument(help="Embeddings to write: .parquet.")],
    side_out: Annotated[
        Path | None, typer.Option(help="Side-information to write (train --layers): .parquet.")
    ] = None,
    split: Annotated[Split, typer.Option(help="Which part of the data.")] = Split.ALL,
    classes: Classes = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    id_column: IdColumn = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Embed the images of DATA with MODEL.

    Example: onward embed models/old digits old.parquet --split test --side-out side.parquet
    """
    from onward.models import EmbeddingModel
    from onward.progress import progress_bar
    from onward.spaces import check_suffix

    for path in (out, side_out):
        if path is not None:
            check_room(check_suffix(path))
    loaded = EmbeddingModel.load(model)
    items = open_data(
        data,
        split=split,
        classes=classes,
        image_column=image_column,
        label_column=label_column,
        id_column=id_column,
        skip_bad=skip_bad,
    )
    with progress_bar(f"Embed with {loaded.space.name}") as progress:
        if side_out is None:
            embeddings = loaded.embed(items, device=device, progress=progress)
        else:
            embeddings, side = loaded.embed_with_side(items, device=device, progress=progress)
            side.save(side_out)
    embeddings.save(out)
    fields = {
        "items": len(embeddings),
        "space": str(embeddings.space),
        "side": None if side_out is None else str(loaded.side),
        "left out": len(items.left_out),
        "written": [str(path) for path in (out, side_out) if path is not None],
    }
    show_fields(fields, as_json)
