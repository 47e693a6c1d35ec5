"""`onward backfill`: embed the items of a gallery with the new model, as far as a budget goes."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onward.cli.options import (
    Device,
    GalleryUrl,
    MaxPixels,
    Overwrite,
    Seed,
    check_kept,
    check_room,
    defaults_to,
    open_embedder,
)
from onward.cli.output import AsJson, show, tell
from onward.cli.upgrade import OpenUpgrade, takes_upgrade
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.gallery import Gallery
    from onward.spaces import Embeddings, Space
    from onward.upgrading import Upgrade
    from onward.upgrading.backfill import BackfillResult, Budget

Order = Literal["uncertainty", "random"]
NAMED = 5
"""Number of items that are named; more are counted."""
SAMPLE_BATCH_ROWS = 256

app = typer.Typer(
    cls=defaults_to("run"),
    no_args_is_help=True,
    help="Embed items of a gallery with the new model, the least certain first.\n\n"
    "`onward backfill GALLERY` is `onward backfill run GALLERY`.",
)


@dataclass(frozen=True)
class Absence:
    """Items that stand in one of two places only: how many, and the first few of them."""

    items: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = ", ..." if self.items > len(self.examples) else ""
        return f"({', '.join(self.examples)}{more})"


@dataclass(frozen=True)
class Outcome:
    """What became of embeddings that were given.

    Attributes:
        result: of writing them.
        not_in_gallery: of them, those whose items are not there.
        not_in_file: items that the budget asks for beyond those that were given.
    """

    result: "BackfillResult"
    not_in_gallery: Absence
    not_in_file: Absence

    def to_json(self) -> dict[str, Any]:
        """Return what is absent, for a machine."""
        from onward.plain import plain

        return {
            "not_in_gallery": plain(self.not_in_gallery),
            "not_in_file": plain(self.not_in_file),
        }


@app.command()
def run(
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
        Order,
        typer.Option(help="uncertainty: what the upgrade is least sure of comes first."),
    ] = "uncertainty",
    seed: Seed = 0,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Embed items of GALLERY with the new model, the least certain first; as far as a budget goes.

    Goes on where the last one ended. Ends with 1 if an image could not be read, an item is not
    in the gallery or not among --embeddings, or by Ctrl-C.

    Example: onward backfill photos.lance --model models/new --budget 10%
    """
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


@app.command()
@takes_upgrade
def plan(
    open_upgrade: OpenUpgrade,
    sample: Annotated[
        Path | None, typer.Option(help="True new embeddings of some items: .parquet.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The new model, in place of --sample: it embeds some items.")
    ] = None,
    sample_rows: Annotated[
        int, typer.Option(min=20, help="--model: number of items to embed.")
    ] = 1000,
    report: Annotated[
        Path | None, typer.Option(help="A page with the curves to write: .html.")
    ] = None,
    seed: Seed = 0,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Say what a backfill would bring, before anything is spent on it; write nothing.

    Example: onward backfill plan photos.lance old-to-new/ --sample new.parquet --report page.html
    """
    from onward.spaces import Embeddings
    from onward.upgrading import plan_backfill

    if (sample is None) == (model is None):
        raise ConfigurationError(
            "neither --sample nor --model was given"
            if sample is None
            else "both --sample and --model were given",
            "give true new embeddings of some items (onward gallery sample, then onward embed), or "
            "the new model, which then embeds --sample-rows of them",
        )
    if report is not None:
        check_room(report, overwrite=overwrite)
        if sample is not None:
            check_kept(sample, report)
    upgrade = open_upgrade()
    if sample is not None:
        known = Embeddings.load(sample)
    else:
        assert model is not None  # noqa: S101  # one of the two is given
        known = _embed_some(upgrade, model, sample_rows, seed, device, max_pixels)
    routes = upgrade.routes.transformations
    planned = plan_backfill(upgrade.gallery, *routes, sample=known, seed=seed)
    show(planned, as_json)
    if report is not None:
        from onward.report import write_backfill_report

        write_backfill_report(report, planned, facts={"true new embeddings": str(sample or model)})
        tell(f"written: {report}")


def _read_budget(
    model: Path | None, embeddings: Path | None, budget: str | None, price: float | None
) -> "Budget":
    """Return what may be spent: what was asked for, or all embeddings that are there already."""
    from onward.upgrading.backfill import Budget

    if (model is None) == (embeddings is None):
        raise ConfigurationError(
            "neither --model nor --embeddings was given"
            if model is None
            else "both --model and --embeddings were given",
            "give one: the new model, or what it has embedded already",
        )
    if budget is None and model is not None:
        raise ConfigurationError(
            "how much to embed was not said",
            "add --budget: 5000 (rows), 10% (of the gallery), 90s, "
            "15m, or '$20' with --price, the price of one item. What it would bring says: onward "
            "backfill plan",
        )
    return Budget.parse(budget or "100%", price=price)


def _write(
    gallery: str,
    embeddings: Path,
    budget: "Budget",
    all_given: bool,
    order: Order,
    seed: int,
) -> Outcome:
    from onward.gallery import open_gallery
    from onward.spaces import Embeddings

    opened, given = open_gallery(gallery), Embeddings.load(embeddings)
    _tell_if_paused(opened, given.space)
    return _write_given(
        opened, given, embeddings, budget, all_given=all_given, order=order, seed=seed
    )


def _spend(
    gallery: str,
    model: Path,
    budget: "Budget",
    order: Order,
    seed: int,
    device: str,
    max_pixels: int | None,
) -> "BackfillResult":
    from onward.gallery import open_gallery
    from onward.models import EmbeddingModel
    from onward.progress import progress_bar
    from onward.upgrading.backfill import EmbeddedItems, backfill

    opened = open_gallery(gallery)
    loaded = EmbeddingModel.load(model)
    embed = open_embedder(opened, loaded, device, max_pixels)
    _tell_if_paused(opened, loaded.space)
    with progress_bar(f"Embed with {loaded.space.name}", unit="rows") as progress:
        return backfill(
            opened,
            loaded.space,
            lambda ids, payloads: EmbeddedItems(*embed(ids, payloads)),
            budget=budget,
            order=order,
            seed=seed,
            progress=progress,
        )


def _tell_if_paused(gallery: "Gallery", new: "Space") -> None:
    if new in gallery.spaces() and gallery.control(new).paused:
        tell("the upgrade is paused: this waits until it is resumed (onward upgrade resume)")


def _write_given(
    gallery: "Gallery",
    given: "Embeddings",
    path: Path,
    budget: "Budget",
    *,
    all_given: bool,
    order: Order,
    seed: int,
) -> Outcome:
    """Write embeddings into the rows that wait for them, and tell what could not be done.

    Args:
        gallery: the gallery.
        given: what the new model has embedded.
        path: where that stood, to be told.
        budget: how much of it.
        all_given: whether no budget was named: then no more is asked for than was given.
        order: as `backfill` takes it.
        seed: as `backfill` takes it.
    """
    from onward.progress import progress_bar
    from onward.upgrading.backfill import backfill, embeddings_given

    paid = None if all_given else budget.rows_of(gallery.count())
    waiting = frozenset[str]() if paid is None else frozenset(_waiting(gallery, given))
    with progress_bar("Write", unit="rows") as progress:
        result = backfill(
            gallery,
            given.space,
            embeddings_given(given),
            budget=budget,
            order=order,
            seed=seed,
            ids=given.ids,
            progress=progress,
        )
    there = {item for batch in gallery.scan((), ids=given.ids) for item in batch.ids}
    strangers = _first(set(given.ids) - there)
    asked = min(paid or 0, len(waiting))
    lacking = waiting - set(given.ids)
    short = 0 if result.stopped else min(len(lacking), asked - result.done - result.changed)
    absent = Absence(short, _first(lacking).examples[:short]) if short > 0 else Absence()
    tell(f"{result.done:,} of the {len(given):,} embeddings in {path} were written")
    if strangers.items:
        tell(
            f"{strangers.items:,} of their items are not in {gallery.url} {strangers}: add these "
            "(onward gallery add)"
        )
    if absent.items:
        tell(
            f"{absent.items:,} of the {asked:,} items that the budget asks for are not in {path}; "
            f"it lacks {absent}: embed such items too (--model), or give a smaller --budget"
        )
    return Outcome(result, strangers, absent)


def _first(items: "set[str] | frozenset[str]") -> Absence:
    return Absence(len(items), tuple(heapq.nsmallest(NAMED, items)))


def _waiting(gallery: "Gallery", given: "Embeddings") -> "Iterator[str]":
    """Give the items that no model has embedded in the space."""
    space = given.space
    if space not in gallery.spaces():
        return
    yield from gallery.ids(without=[space])
    for batch in gallery.scan([space]):
        origins: tuple[Any, ...] = batch.origins[space]
        yield from (
            item for item, origin in zip(batch.ids, origins, strict=True) if origin == "upgraded"
        )


def _embed_some(
    upgrade: "Upgrade", model: Path, rows: int, seed: int, device: str, max_pixels: int | None
) -> "Embeddings":
    """Return what the model makes of some items that nothing was fitted on, chosen at random.

    Of all that can be found now, also of those that no transformation carries.
    """
    import numpy as np

    from onward.models import EmbeddingModel
    from onward.progress import progress_bar
    from onward.spaces import Embeddings
    from onward.upgrading.evidence import fitted_items
    from onward.upgrading.routes import answering_space

    loaded = EmbeddingModel.load(model)
    opened = upgrade.gallery
    embed = open_embedder(opened, loaded, device, max_pixels)
    fitted = fitted_items(upgrade.routes)
    now = answering_space(opened.view(), upgrade.routes)
    drawn = opened.sample([now], rows + len(fitted), seed=seed)
    ids = tuple(item for item in drawn if item not in fitted)[:rows]
    parts: list[Embeddings] = []
    with progress_bar(f"Embed with {loaded.space.name}") as progress:
        for start in range(0, len(ids), SAMPLE_BATCH_ROWS):
            chosen = ids[start : start + SAMPLE_BATCH_ROWS]
            made, skipped = embed(chosen, opened.payloads(chosen))
            for item, why in skipped.items():
                tell(f"left out: {item}: {why}")
            parts.append(made)
            progress(start + len(chosen), len(ids))
    vectors = [np.empty((0, loaded.space.dim), np.float32), *(part.vectors for part in parts)]
    found = tuple(item for part in parts for item in part.ids)
    return Embeddings(found, np.concatenate(vectors), loaded.space)
