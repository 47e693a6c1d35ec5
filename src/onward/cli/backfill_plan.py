"""`onward backfill --plan`: what a backfill would bring, before anything is spent on it."""

from pathlib import Path
from typing import TYPE_CHECKING

from onward.cli.options import check_kept, check_room
from onward.cli.output import show, tell
from onward.cli.reading import open_embedder
from onward.cli.upgrade_options import open_upgrade
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.spaces import Embeddings
    from onward.upgrading import Upgrade

SAMPLE_BATCH_ROWS = 256


def show_plan(
    gallery: str,
    transformation: Path | None,
    also: list[Path] | None,
    *,
    sample: Path | None,
    model: Path | None,
    rows: int,
    seed: int,
    report: Path | None,
    overwrite: bool,
    device: str,
    max_pixels: int | None,
    as_json: bool,
) -> None:
    """Print what a backfill would bring; write a page of it, if one is asked for.

    Raises:
        ConfigurationError: if the transformation is missing, or what it is compared with.
    """
    from onward.spaces import Embeddings
    from onward.upgrading import plan_backfill

    if transformation is None:
        raise ConfigurationError(
            "a plan needs the transformation of the upgrade, whose vectors are compared with those "
            "of the new model; add --transformation DIRECTORY"
        )
    if (sample is None) == (model is None):
        raise ConfigurationError(
            f"{'neither' if sample is None else 'both'} --sample and --model were given; give "
            "true new embeddings of some items (onward gallery sample, then onward embed), or the "
            "new model, which then embeds --sample-rows of them"
        )
    if report is not None:
        check_room(report, overwrite=overwrite)
        if sample is not None:
            check_kept(sample, report)
    upgrade = open_upgrade(gallery, transformation, also)
    if sample is not None:
        known = Embeddings.load(sample)
    else:
        assert model is not None  # noqa: S101  # one of the two is given
        known = _embed_some(upgrade, model, rows, seed, device, max_pixels)
    routes = upgrade.routes.transformations
    plan = plan_backfill(upgrade.gallery, *routes, sample=known, seed=seed)
    show(plan, as_json)
    if report is not None:
        from onward.report import write_backfill_report

        write_backfill_report(report, plan, facts={"true new embeddings": str(sample or model)})
        tell(f"written: {report}")


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
    from onward.upgrading.evidence import fitted_on
    from onward.upgrading.routes import answering_space

    loaded = EmbeddingModel.load(model)
    opened = upgrade.gallery
    embed = open_embedder(opened, loaded, device, max_pixels)
    fitted = {item for one in upgrade.routes.transformations for item in fitted_on(one.made_by)}
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
