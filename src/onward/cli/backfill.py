"""`onward backfill`: embed the items of a gallery with the new model, as far as a budget goes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onward.cli.backfill_given import Given, write_given
from onward.cli.backfill_plan import show_plan
from onward.cli.options import Device, GalleryUrl, Overwrite, Seed
from onward.cli.output import AsJson, show, tell
from onward.cli.reading import MaxPixels, open_embedder
from onward.cli.upgrade_options import Also
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.gallery import Gallery
    from onward.spaces import Space
    from onward.upgrading.backfill import BackfillResult
    from onward.upgrading.budget import Budget


def backfill(
    gallery: GalleryUrl,
    model: Annotated[
        Path | None, typer.Option(help="The new model; opens images by the items' payloads.")
    ] = None,
    embeddings: Annotated[
        Path | None, typer.Option(help="What the new model has embedded already: .parquet.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="5000 (rows), 10% (of the gallery), 90s, 15m, 2h, or '$20'."),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Of one item, for a budget of money.")] = None,
    order: Annotated[
        Literal["uncertainty", "random"],
        typer.Option(help="uncertainty: what the upgrade is least sure of comes first."),
    ] = "uncertainty",
    seed: Seed = 0,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it would bring; write nothing.")
    ] = False,
    transformation: Annotated[
        Path | None, typer.Option(help="--plan: the upgrade's, a directory written by `fit`.")
    ] = None,
    also: Also = None,
    sample: Annotated[
        Path | None, typer.Option(help="--plan: true new embeddings of some items: .parquet.")
    ] = None,
    sample_rows: Annotated[
        int, typer.Option(min=20, help="--plan with --model: number of items to embed.")
    ] = 1000,
    report: Annotated[
        Path | None, typer.Option(help="--plan: a page with the curves to write: .html.")
    ] = None,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Embed items of GALLERY with the new model, the least certain first; as far as a budget goes.

    Goes on where the last one ended. Ends with 1 if an image could not be read, an item is not
    in the gallery or not among --embeddings, or by Ctrl-C.

    Example: onward backfill photos.lance --model models/new --budget 10%
    """
    if plan:
        unwanted = {"--embeddings": embeddings, "--budget": budget, "--price": price}
        _refuse(unwanted, "is not needed by a plan; leave it out, or leave out --plan")
        show_plan(
            gallery,
            transformation,
            also,
            sample=sample,
            model=model,
            rows=sample_rows,
            seed=seed,
            report=report,
            overwrite=overwrite,
            device=device,
            max_pixels=max_pixels,
            as_json=as_json,
        )
        return
    for_plan: dict[str, object] = {
        "--transformation": transformation,
        "--also": also,
        "--sample": sample,
    }
    _refuse(
        for_plan | {"--report": report, "--overwrite": overwrite},
        "is for a plan; add --plan, or leave it out",
    )
    spent = _read_budget(model, embeddings, budget, price)
    if embeddings is not None:
        given = _write(gallery, embeddings, spent, budget is None, order, seed)
        result, absent = given.result, given.to_json()
    else:
        assert model is not None  # noqa: S101  # one of the two is given
        result, absent = _spend(gallery, model, spent, order, seed, device, max_pixels), {}
    show(result, as_json, also=absent)
    not_done = any(one["items"] for one in absent.values())
    if result.skipped or result.stopped or not_done:
        raise typer.Exit(1)


def _refuse(options: Mapping[str, object], why: str) -> None:
    for name, given in options.items():
        if given:
            raise ConfigurationError(f"{name} {why}")


def _read_budget(
    model: Path | None, embeddings: Path | None, budget: str | None, price: float | None
) -> "Budget":
    """Return what may be spent: what was asked for, or all embeddings that are there already."""
    from onward.upgrading.budget import Budget

    if (model is None) == (embeddings is None):
        raise ConfigurationError(
            f"{'neither' if model is None else 'both'} --model and --embeddings were given; give "
            "one: the new model, or what it has embedded already"
        )
    if budget is None and model is not None:
        raise ConfigurationError(
            "how much to embed was not said; add --budget: 5000 (rows), 10% (of the gallery), 90s, "
            "15m, or '$20' with --price, the price of one item. What it would bring says --plan"
        )
    return Budget.parse(budget or "100%", price=price)


def _write(
    gallery: str,
    embeddings: Path,
    budget: "Budget",
    all_given: bool,
    order: Literal["uncertainty", "random"],
    seed: int,
) -> Given:
    from onward.gallery import open_gallery
    from onward.spaces import Embeddings

    opened, given = open_gallery(gallery), Embeddings.load(embeddings)
    _tell_if_paused(opened, given.space)
    return write_given(
        opened, given, embeddings, budget, all_given=all_given, order=order, seed=seed
    )


def _spend(
    gallery: str,
    model: Path,
    budget: "Budget",
    order: Literal["uncertainty", "random"],
    seed: int,
    device: str,
    max_pixels: int | None,
) -> "BackfillResult":
    from onward.gallery import open_gallery
    from onward.models import EmbeddingModel
    from onward.progress import progress_bar
    from onward.upgrading.backfill import Embedded, backfill

    opened = open_gallery(gallery)
    loaded = EmbeddingModel.load(model)
    embed = open_embedder(opened, loaded, device, max_pixels)
    _tell_if_paused(opened, loaded.space)
    with progress_bar(f"Embed with {loaded.space.name}", unit="rows") as progress:
        return backfill(
            opened,
            loaded.space,
            lambda ids, payloads: Embedded(*embed(ids, payloads)),
            budget=budget,
            order=order,
            seed=seed,
            progress=progress,
        )


def _tell_if_paused(gallery: "Gallery", new: "Space") -> None:
    if new in gallery.spaces() and gallery.control(new).paused:
        tell("the upgrade is paused: this waits until it is resumed (onward upgrade resume)")
