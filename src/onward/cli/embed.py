"""`onward embed`: make embeddings, and side-information in the same pass where there is any."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onward.cli.options import (
    Classes,
    Device,
    Overwrite,
    Split,
    check_apart,
    check_kept,
    check_lines,
    check_room,
    open_data,
    takes_data,
    tell_left_out,
)
from onward.cli.output import AsJson, next_step, show_fields, tell
from onward.errors import ConfigurationError, GalleryError

if TYPE_CHECKING:
    from onward.data.items import Items
    from onward.data.sources import Stated
    from onward.spaces import Embeddings


@takes_data
def embed(
    model: Annotated[Path, typer.Argument(help="A model's directory, as `train` writes it.")],
    data: Annotated[
        str,
        typer.Argument(
            help="As `train` takes it; or a .jsonl file from `gallery sample`: no labels then."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Embeddings to write: .parquet.")],
    stated: "Stated",
    side_out: Annotated[
        Path | None, typer.Option(help="Side-information to write (train --layers): .parquet.")
    ] = None,
    payloads_out: Annotated[
        Path | None,
        typer.Option(help="For `gallery create`: where each image is, and its digest: .jsonl."),
    ] = None,
    split: Annotated[Split, typer.Option(help="Which part of the data.")] = Split.ALL,
    classes: Classes = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Embed the images of DATA with MODEL.

    Example: onward embed models/old digits old.parquet --split test --side-out side.parquet
    """
    from onward.data.payloads import LINES_SUFFIX
    from onward.models import EmbeddingModel
    from onward.progress import progress_bar
    from onward.spaces import check_suffix

    for path in (out, side_out):
        if path is not None:
            check_room(check_suffix(path), overwrite=overwrite)
    if payloads_out is not None:
        check_room(check_lines(payloads_out, "payloads are"), overwrite=overwrite)
    check_apart(out, side_out, payloads_out)
    check_kept(Path(data), out, side_out, payloads_out)
    loaded = EmbeddingModel.load(model)
    from_lines = data.endswith(LINES_SUFFIX)
    if from_lines:
        _refuse_parts(data, split, classes, stated)
        items = _open_lines(Path(data), stated)
        tell(f"read {len(items):,} items listed in {data}; their classes are not known")
        tell_left_out(items)
    else:
        items = open_data(data, stated, split=split, classes=classes)
    with progress_bar(f"Embed with {loaded.space.name}") as progress:
        if side_out is None:
            embeddings = loaded.embed(items, device=device, progress=progress)
        else:
            embeddings, side = loaded.embed_with_side(items, device=device, progress=progress)
            _labelled(side, not from_lines).save(side_out)
    _labelled(embeddings, not from_lines).save(out)
    if payloads_out is not None:
        from onward.data.payloads import with_digest, write_payload_lines

        write_payload_lines(payloads_out, items.ids, [with_digest(one) for one in items.payloads])
    fields = {
        "items": len(embeddings),
        "space": str(embeddings.space),
        "side": None if side_out is None else str(loaded.side),
        "left out": len(items.left_out),
        "written": [str(path) for path in (out, side_out, payloads_out) if path is not None],
    }
    if from_lines:
        step = next_step("fit", "GALLERY", out, "OUT", why="to learn from the gallery's sample")
    else:
        where = () if payloads_out is None else ("--payloads", payloads_out)
        given = ("GALLERY", out, side_out, *where)
        step = next_step("gallery create", *given, why="or fit, where these are to learn from")
    show_fields(fields, as_json, [step])


def _open_lines(path: Path, stated: "Stated") -> "Items":
    """Return the items of the lines; their labels mean nothing.

    Args:
        path: a `.jsonl` file.
        stated: whether to leave out items whose images cannot be read, and the most pixels of one.

    Raises:
        GalleryError: if there is no such file, no line in it, or one is none.
    """
    import numpy as np

    from onward.data.items import Items, LeftOut
    from onward.data.payloads import (
        WRITE_LINES,
        describe_payload,
        find_fault,
        read_payload_lines,
    )

    if not path.is_file():
        raise GalleryError(f"there is no file {path}; make it with: onward gallery sample")
    by_id, left_out = read_payload_lines(path), []
    if stated.skip_bad:
        most = stated.max_pixels
        faults = {item: find_fault(payload, most) for item, payload in by_id.items()}
        bad = {item: fault for item, fault in faults.items() if fault is not None}
        left_out = [LeftOut(describe_payload(by_id[item]), fault) for item, fault in bad.items()]
        by_id = {item: payload for item, payload in by_id.items() if item not in bad}
    if not by_id:
        raise GalleryError(
            f"{path} has no item{' that can be read' if left_out else ''}. {WRITE_LINES}"
        )
    labels = np.zeros(len(by_id), np.int64)
    payloads = tuple(by_id.values())
    return Items(
        ids=tuple(by_id),
        labels=labels,
        class_names={0: "unknown"},
        payloads=payloads,
        source=str(path),
        left_out=tuple(left_out),
        max_pixels=stated.max_pixels,
    )


def _refuse_parts(data: str, split: Split, classes: str | None, stated: "Stated") -> None:
    from onward.data.sources import Stated

    said = Stated(skip_bad=stated.skip_bad, max_pixels=stated.max_pixels)
    if split is not Split.ALL or classes or stated != said:
        raise ConfigurationError(
            f"{data} lists the items to embed, and has neither splits, classes nor columns; leave "
            "these options out"
        )


def _labelled(embeddings: "Embeddings", known: bool) -> "Embeddings":
    """Return embeddings without labels where none are known."""
    from onward.spaces import Embeddings

    if known:
        return embeddings
    return Embeddings(embeddings.ids, embeddings.vectors, embeddings.space)
