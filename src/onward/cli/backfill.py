"""`onward backfill`: embed the items of a gallery with the new model, as far as a budget goes."""

import heapq
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

import onward
from onward.cli.options import (
    MOST_PIXELS,
    Commands,
    OpenGallery,
    check_room,
    defaults_to,
    open_embedder,
)
from onward.cli.output import Answer, Told, tell
from onward.cli.upgrade import OpenUpgrade
from onward.errors import ConfigurationError
from onward.progress import progress_bar

if TYPE_CHECKING:
    from onward.upgrading.backfill import BackfillResult

NAMED = 5
"""Number of items that are named; more are counted."""
SAMPLE_BATCH_ROWS = 256

app = Commands(
    cls=defaults_to("run"),
    no_args_is_help=True,
    help="Embed items of a gallery with the new model, the least certain first.\n\n"
    "`onward backfill GALLERY` is `onward backfill run GALLERY`.",
)


class EmbeddingOptions(BaseModel):
    """How a model embeds items of a gallery.

    Attributes:
        model: the new model; opens images by the items' payloads.
        seed: same seed and device, same bytes.
        max_pixels: most pixels of an image that is read.
        device: auto takes a GPU where there is one.
    """

    model: Path | None = None
    seed: int = Field(0, ge=0)
    max_pixels: int = Field(MOST_PIXELS, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"


class RunOptions(EmbeddingOptions):
    """What is embedded, and how much of it.

    Attributes:
        embeddings: what the new model has embedded already: .parquet.
        budget: 5000 (rows), 10% (of the gallery), 90s, 15m, 2h, or '$20'.
        price: of one item, for a budget of money.
        order: uncertainty: what the upgrade is least sure of comes first.
    """

    embeddings: Path | None = None
    budget: str | None = None
    price: float | None = None
    order: Literal["uncertainty", "random"] = "uncertainty"

    def model_post_init(self, _: Any) -> None:
        """Refuse options that do not go together."""
        _check_one("--model", self.model, "--embeddings", self.embeddings)
        if self.budget is None and self.model is not None:
            raise ConfigurationError(
                "how much to embed was not said",
                "add --budget: 5000 (rows), 10% (of the gallery), 90s, 15m, or '$20' with --price, "
                "the price of one item. `onward backfill plan` says what it would bring",
            )
        _ = self.spent

    @cached_property
    def spent(self) -> "onward.Budget":
        """What may be spent: what was asked for, or all embeddings that are there already."""
        return onward.Budget.parse(self.budget or "100%", price=self.price)


class PlanOptions(EmbeddingOptions):
    """By what a backfill is planned, and where the page of it goes.

    Attributes:
        sample: true new embeddings of some items: .parquet.
        sample_rows: --model: number of items to embed.
        report: a page with the curves to write: .html.
        overwrite: replace what is already at the output path.
    """

    sample: Path | None = None
    sample_rows: int = Field(1000, ge=20)
    report: Path | None = None
    overwrite: bool = False

    def model_post_init(self, _: Any) -> None:
        """Refuse options that do not go together, and a page that cannot be written."""
        _check_one("--sample", self.sample, "--model", self.model)
        check_room(self.report, overwrite=self.overwrite, read=self.sample)


def _check_one(first: str, one: Path | None, second: str, other: Path | None) -> None:
    if (one is None) == (other is None):
        raise ConfigurationError(
            f"neither {first} nor {second} was given"
            if one is None
            else f"both {first} and {second} were given",
            "give one: the new model, which then embeds items itself, or embeddings that it has "
            "made of some (onward embed)",
        )


@app.command()
def run(given: RunOptions, gallery: OpenGallery) -> Told:
    """Embed items of GALLERY with the new model, the least certain first; as far as a budget goes.

    Goes on where the last one ended. Ends with 1 if an image could not be read, an item is not
    in the gallery or not among --embeddings, or by Ctrl-C.

    Example: onward backfill photos.lance --model models/new --budget 10%
    """
    from onward.upgrading.backfill import EmbeddedItems

    if given.model is None:
        return _write(gallery, given)
    model = onward.EmbeddingModel.load(given.model)
    embed = open_embedder(gallery, model, given.device, given.max_pixels)
    result = _backfill(
        gallery,
        model.space,
        lambda ids, payloads: EmbeddedItems(*embed(ids, payloads)),
        given,
        f"Embed with {model.space.name}",
    )
    return Told(result, failed=bool(result.skipped) or result.stopped)


@app.command()
def plan(given: PlanOptions, upgrade: OpenUpgrade) -> Answer:
    """Say what a backfill would bring, before anything is spent on it; write nothing.

    Example: onward backfill plan photos.lance old-to-new/ --sample new.parquet --report page.html
    """
    known = (
        _embed_some(upgrade, given)
        if given.sample is None
        else onward.Embeddings.load(given.sample)
    )
    routes = upgrade.routes.transformations
    planned = onward.plan_backfill(upgrade.gallery, *routes, sample=known, seed=given.seed)
    if given.report is not None:
        from onward.report import write_backfill_report

        facts = {"true new embeddings": str(given.sample or given.model)}
        write_backfill_report(given.report, planned, facts=facts)
        tell(f"written: {given.report}")
    return planned


def _backfill(
    gallery: "onward.Gallery",
    new: "onward.Space",
    embed: Any,
    given: RunOptions,
    doing: str,
    **some: Any,
) -> "BackfillResult":
    from onward.upgrading.backfill import backfill

    if new in gallery.spaces() and gallery.control(new).paused:
        tell("the upgrade is paused: this waits until it is resumed (onward upgrade resume)")
    with progress_bar(doing, unit="rows") as progress:
        return backfill(
            gallery,
            new,
            embed,
            budget=given.spent,
            order=given.order,
            seed=given.seed,
            progress=progress,
            **some,
        )


def _write(gallery: "onward.Gallery", given: RunOptions) -> Told:
    """Write embeddings into the rows that wait for them, and tell what could not be done."""
    from onward.upgrading.backfill import embeddings_given

    path = given.embeddings
    assert path is not None  # noqa: S101  # one of the two is given
    embedded = onward.Embeddings.load(path)
    # Without a budget no more is asked for than was given.
    paid = None if given.budget is None else given.spent.rows_of(gallery.count())
    waiting = set[str]() if paid is None else set(_waiting(gallery, embedded.space))
    embed = embeddings_given(embedded)
    result = _backfill(gallery, embedded.space, embed, given, "Write", ids=embedded.ids)
    there = {item for batch in gallery.scan((), ids=embedded.ids) for item in batch.ids}
    strangers, lacking = set(embedded.ids) - there, waiting - set(embedded.ids)
    asked = min(paid or 0, len(waiting))
    undone = 0 if result.stopped else max(0, asked - result.done - result.changed)
    tell(f"{result.done:,} of the {len(embedded):,} embeddings in {path} were written")
    absent = {
        "not_in_gallery": _tell_absent(
            strangers,
            len(strangers),
            f"of their items are not in {gallery.url} ",
            ": add these (onward gallery add)",
        ),
        "not_in_file": _tell_absent(
            lacking,
            min(len(lacking), undone),
            f"of the {asked:,} items that the budget asks for are not in {path}; it lacks ",
            ": embed such items too (--model), or give a smaller --budget",
        ),
    }
    undone = any(one["items"] for one in absent.values())
    return Told(result, also=absent, failed=undone or bool(result.skipped) or result.stopped)


def _tell_absent(items: set[str], count: int, before: str, after: str) -> dict[str, Any]:
    """Say how many items stand in one of two places only; return that with the first of them."""
    examples = heapq.nsmallest(min(NAMED, count), items)
    if count:
        named = ", ".join([*examples, *(["..."] if count > len(examples) else [])])
        tell(f"{count:,} {before}({named}){after}")
    return {"items": count, "examples": examples}


def _waiting(gallery: "onward.Gallery", space: "onward.Space") -> Iterator[str]:
    """Give the items that no model has embedded in the space."""
    if space not in gallery.spaces():
        return
    yield from gallery.ids(without=[space])
    for batch in gallery.scan([space]):
        origins: tuple[Any, ...] = batch.origins[space]
        yield from (
            item for item, origin in zip(batch.ids, origins, strict=True) if origin == "upgraded"
        )


def _embed_some(upgrade: "onward.Upgrade", given: PlanOptions) -> "onward.Embeddings":
    """Return what the model makes of some items that nothing was fitted on, chosen at random.

    Of all that can be found now, also of those that no transformation carries.
    """
    import numpy as np

    from onward.upgrading.evidence import fitted_items
    from onward.upgrading.routes import answering_spaces

    assert given.model is not None  # noqa: S101  # one of the two is given
    model, gallery = onward.EmbeddingModel.load(given.model), upgrade.gallery
    embed = open_embedder(gallery, model, given.device, given.max_pixels)
    fitted = fitted_items(upgrade.routes)
    now = answering_spaces(gallery.view(), upgrade.routes)[0]
    drawn = gallery.sample([now], given.sample_rows + len(fitted), seed=given.seed)
    ids = tuple(item for item in drawn if item not in fitted)[: given.sample_rows]
    parts: list[onward.Embeddings] = []
    with progress_bar(f"Embed with {model.space.name}") as progress:
        for start in range(0, len(ids), SAMPLE_BATCH_ROWS):
            chosen = ids[start : start + SAMPLE_BATCH_ROWS]
            made, skipped = embed(chosen, gallery.payloads(chosen))
            for item, why in skipped.items():
                tell(f"left out: {item}: {why}")
            parts.append(made)
            progress(start + len(chosen), len(ids))
    vectors = [np.empty((0, model.space.dim), np.float32), *(part.vectors for part in parts)]
    found = tuple(item for part in parts for item in part.ids)
    return onward.Embeddings(found, np.concatenate(vectors), model.space)
