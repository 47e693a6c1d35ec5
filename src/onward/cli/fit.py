"""`onward fit`: learn a transformation from pairs of old and new embeddings."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from onward.cli.fit_sample import load_pairs, load_sample, read_groups, read_sample
from onward.cli.options import (
    Device,
    Directory,
    EmbeddingsFile,
    Overwrite,
    SameLabels,
    Seed,
    check_room,
    is_gallery,
    tell_numbering,
)
from onward.cli.output import AsJson, next_step, show, tell_answer
from onward.errors import ConfigurationError


def fit(
    old: Annotated[
        Path, typer.Argument(help="Embeddings: .parquet; or a gallery that NEW has items of.")
    ],
    new: EmbeddingsFile,
    out: Directory,
    side: Annotated[
        Path | None,
        typer.Option(help="Side-information of the same items: .parquet; of a gallery, its space."),
    ] = None,
    method: Annotated[
        Literal["auto", "ensemble", "ridge", "mlp", "procrustes"],
        typer.Option(
            help="auto: the best of ridge, mlp and ensemble, their mean, by retrieval on what was "
            "held out. All but ridge and procrustes need the extra fit: pip install 'onward[fit]'."
        ),
    ] = "auto",
    paper: Annotated[
        bool, typer.Option("--paper", help="mlp as in the FCT paper: inner width 2048, not 512.")
    ] = False,
    networks: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many networks learn and answer together; two: twice the work.",
        ),
    ] = 1,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of the network; default: 80, more for few items."),
    ] = None,
    objective: Annotated[
        Literal["mse", "l1", "cosine"], typer.Option(help="What the network minimises.")
    ] = "mse",
    classifier: Annotated[
        Path | None, typer.Option(help="The new model: its classifier helps; needs labels.")
    ] = None,
    uncertainty: Annotated[
        bool,
        typer.Option("--uncertainty", help="Learn how unsure h is too: what to backfill first."),
    ] = False,
    gallery: Annotated[
        str | None, typer.Option(help="The gallery that --sample is of, such as photos.lance.")
    ] = None,
    sample: Annotated[
        Path | None,
        typer.Option(help="Items of --gallery that the new model has embedded: .parquet."),
    ] = None,
    sample_share: Annotated[
        float | None,
        typer.Option(help="How much of it to learn from; a plan judges by the rest; default: 0.8."),
    ] = None,
    sample_old: Annotated[
        Path | None, typer.Option(help="Gallery sample: old embeddings, or the whole gallery's.")
    ] = None,
    sample_side: Annotated[
        Path | None, typer.Option(help="Gallery sample: its side-information, likewise.")
    ] = None,
    sample_new: Annotated[
        Path | None, typer.Option(help="Gallery sample: what the new model has embedded.")
    ] = None,
    gallery_classes: Annotated[
        Literal["unseen", "seen"] | None,
        typer.Option(
            help="What the gallery holds: classes that h has not learned from, so whole classes "
            "are held out to choose by, or further items of the same classes. Default: unseen; "
            "seen where OLD is a gallery, whose own items are learned from."
        ),
    ] = None,
    group_column: Annotated[
        str | None,
        typer.Option(
            help="Column of OLD or NEW, or field of the gallery's payloads, that says what is held "
            "out as a whole, such as person; default: the label, else nearest neighbours."
        ),
    ] = None,
    same_labels: SameLabels = False,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Learn h(OLD, side) -> NEW on the same items and write it to OUT. Reads no image.

    Example: onward fit old-train.parquet new-train.parquet old-to-new/ --side side-train.parquet
    """
    from onward.models import EmbeddingModel
    from onward.progress import progress_bar
    from onward.training.fit.fit import check_torch
    from onward.training.fit.fit import fit as fit_transformation
    from onward.training.fit.pairs import Classifier
    from onward.training.settings import PAPER, FitSettings, RunSettings, read_settings
    from onward.transformation import KIND

    if paper and method not in ("auto", PAPER.method):
        raise ConfigurationError(
            f"--paper is the network of the FCT paper, but --method is {method}; give one of them"
        )
    check_room(out, KIND, overwrite=overwrite)
    given: dict[str, Any] = PAPER.model_dump() if paper else {"method": method}
    given |= {"objective": objective, "uncertainty": uncertainty}
    given |= {"networks": networks}
    given |= {"discriminative": "none" if classifier is None else "classifier"}
    given |= {} if epochs is None else {"epochs": epochs}
    of_gallery = is_gallery(old) and group_column is None
    given |= {"gallery_classes": gallery_classes or ("seen" if of_gallery else "unseen")}
    settings = read_settings(FitSettings, given, where="onward fit")
    check_torch(settings)
    pairs = load_pairs(old, side, new, sample_share)
    learned = load_sample(sample_old, sample_side, sample_new)
    share = None if is_gallery(old) else sample_share
    if any(each is not None for each in (gallery, sample, share)):
        if learned is not None:
            raise ConfigurationError(
                "a gallery sample is given by --gallery and --sample, or by --sample-old and "
                "--sample-new; give one of the two"
            )
        learned = read_sample(pairs, gallery, sample, share)
    known = None if classifier is None else Classifier.of(EmbeddingModel.load(classifier))
    if known is not None:
        tell_numbering(known.class_names, pairs.class_names, same_labels=same_labels)
    with progress_bar("Fit", unit="steps") as progress:
        fitted = fit_transformation(
            pairs.old,
            pairs.side,
            pairs.new,
            sample=learned,
            groups=None if group_column is None else read_groups(pairs, old, new, group_column),
            of_gallery=is_gallery(old),
            classifier=known,
            settings=settings,
            seed=seed,
            run=RunSettings(device=device, progress=progress),
            same_labels=same_labels,
        )
    fitted.transformation.save(out)
    tell_answer(fitted)
    show(fitted.transformation, as_json, [_plan_step(old, new, out, gallery, sample)])


def _plan_step(
    old: Path, new: Path, out: Path, gallery: str | None, sample: Path | None
) -> dict[str, str]:
    """Return how to plan the upgrade, by the part of the sample that was kept for it."""
    kept = new if is_gallery(old) else sample
    url = str(old) if is_gallery(old) else gallery or "GALLERY"
    judged = () if kept is None else ("--sample", kept)
    why = "it says what upgrading would do, cost and be worth"
    return next_step("upgrade plan", url, out, *judged, why=why)
