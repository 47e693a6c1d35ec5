"""`onward fit`: learn a transformation from pairs of old and new embeddings."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onward.cli.options import (
    Device,
    Directory,
    EmbeddingsFile,
    Overwrite,
    SameLabels,
    Seed,
    check_room,
    find_space,
    is_gallery,
    takes_settings,
    tell_numbering,
)
from onward.cli.output import Told, suggest, tell, tell_answer
from onward.errors import ConfigurationError
from onward.training.settings import PAPER, FitSettings, RunSettings, read_settings

if TYPE_CHECKING:
    from onward.gallery import Gallery
    from onward.spaces import Space
    from onward.training.fit.pairs import Classifier, Pairs


@takes_settings(
    "said",
    FitSettings,
    *("method", "networks", "epochs", "objective", "uncertainty", "gallery_classes"),
    shown={"gallery_classes": "unseen; seen where OLD is a gallery, whose own items are learned"},
)
def fit(
    old: Annotated[
        Path, typer.Argument(help="Embeddings: .parquet; or a gallery that NEW has items of.")
    ],
    new: EmbeddingsFile,
    out: Directory,
    said: dict[str, Any],
    side: Annotated[
        Path | None,
        typer.Option(help="Side-information of the same items: .parquet; of a gallery, its space."),
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="mlp as in the FCT paper: inner width 2048, not 512.")
    ] = False,
    classifier: Annotated[
        Path | None, typer.Option(help="The new model: its classifier helps; needs labels.")
    ] = None,
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
) -> Told:
    """Learn h(OLD, side) -> NEW on the same items and write it to OUT. Reads no image.

    Example: onward fit old-train.parquet new-train.parquet old-to-new/ --side side-train.parquet
    """
    from onward.progress import progress_bar
    from onward.training.fit.fit import check_torch
    from onward.training.fit.fit import fit as fit_transformation
    from onward.transformation import KIND

    of_gallery = is_gallery(old)
    if paper:
        if said.get("method", "auto") not in ("auto", PAPER.method):
            raise ConfigurationError(
                f"--paper is the network of the FCT paper, but --method is {said['method']}",
                "give one of them",
            )
        said |= {"method": PAPER.method, "inner": PAPER.inner}
    seen = "seen" if of_gallery and group_column is None else "unseen"
    helped = "none" if classifier is None else "classifier"
    given = {"gallery_classes": seen, **said, "discriminative": helped}
    settings = read_settings(FitSettings, given, where="onward fit")
    check_torch(settings)
    check_room(out, kind=KIND, overwrite=overwrite)
    pairs = load_pairs(old, side, new, sample_share)
    share = None if of_gallery else sample_share
    learned = read_sample(pairs, gallery, sample, share)
    known = _load_classifier(classifier, pairs, same_labels=same_labels)
    with progress_bar("Fit", unit="steps") as progress:
        fitted = fit_transformation(
            pairs.old,
            pairs.side,
            pairs.new,
            sample=learned,
            groups=None if group_column is None else read_groups(pairs, old, new, group_column),
            of_gallery=of_gallery,
            classifier=known,
            settings=settings,
            seed=seed,
            run=RunSettings(device=device, progress=progress),
            same_labels=same_labels,
        )
    fitted.transformation.save(out)
    tell_answer(fitted)
    kept, url = (new, str(old)) if of_gallery else (sample, gallery or "GALLERY")
    judged = () if kept is None else ("--sample", kept)
    why = "it says what upgrading would do, cost and be worth"
    step = suggest("upgrade plan", url, out, *judged, why=why)
    return Told(fitted.transformation, [step])


def _load_classifier(
    model: Path | None, pairs: "Pairs", *, same_labels: bool
) -> "Classifier | None":
    """Return the new model's classifier, if it is to help."""
    from onward.models import EmbeddingModel
    from onward.training.fit.pairs import Classifier

    if model is None:
        return None
    known = Classifier.of(EmbeddingModel.load(model))
    tell_numbering(known.class_names, pairs.class_names, same_labels=same_labels)
    return known


def load_pairs(old: Path, side: Path | None, new: Path, share: float | None) -> "Pairs":
    """Return the pairs to learn from: of files, or of a gallery and a part of a sample of it.

    Args:
        old: a file of old embeddings, or a gallery; then those of its serving space are read.
        side: a file of side-information, or the name of a space of the gallery.
        new: a file of new embeddings.
        share: of a gallery's items, how much to learn from.
    """
    from onward.gallery import open_gallery
    from onward.spaces import Embeddings
    from onward.training.fit.pairs import LEAST_ITEMS, Pairs

    if not is_gallery(old):
        aside = None if side is None else Embeddings.load(side)
        return Pairs(Embeddings.load(old), aside, Embeddings.load(new))
    gallery = open_gallery(str(old))
    space = find_space(gallery, None)
    named = None if side is None else find_space(gallery, str(side))
    return _learned(gallery, space, named, new, share, least=LEAST_ITEMS)


def read_sample(
    pairs: "Pairs", gallery: str | None, sample: Path | None, share: float | None
) -> "Pairs | None":
    """Return the part of a sample that is learned from, with what the gallery stores of it.

    None where there is no sample.

    Raises:
        ConfigurationError: if the gallery or the sample is missing, the share is not above 0 and at
            most 1, or nothing is left of it.
    """
    from onward.gallery import open_gallery

    if gallery is None and sample is None and share is None:
        return None
    if gallery is None or sample is None:
        raise ConfigurationError(
            "a sample of a gallery is what the new model gives for some of its items: give both "
            "--gallery and --sample (and --sample-share only with them)"
        )
    side = None if pairs.side is None else pairs.side.space
    return _learned(open_gallery(gallery), pairs.old.space, side, sample, share, least=1)


def read_groups(pairs: "Pairs", old: Path, new: Path, column: str) -> list[str | None]:
    """Return of each pair what a column says: of the old embeddings' file, or else the new ones'.

    Of a gallery it is a field of the payloads.

    Raises:
        ConfigurationError: if neither has the column.
    """
    from onward.embedding_files import read_column
    from onward.errors import EmbeddingsError
    from onward.gallery import open_gallery

    ids, found = pairs.old.ids, dict[str, Any]()
    if is_gallery(old):
        payloads = open_gallery(str(old)).payloads(ids)
        found = {item: (each or {}).get(column) for item, each in zip(ids, payloads, strict=True)}
        if all(each is None for each in found.values()):
            raise ConfigurationError(
                f"no payload of these items in {old} has a field {column!r}",
                "give the name of one "
                "that has (onward gallery export shows them), or leave --group-column out",
            )
    else:
        for path in (old, new):
            with suppress(EmbeddingsError):
                found = found or read_column(path, column)
    if not found:
        raise ConfigurationError(
            f"neither {old} nor {new} has a column {column!r}",
            "give the name of one that says what "
            "is held out as a whole, or leave --group-column out",
        )
    return [None if found.get(item) is None else str(found[item]) for item in ids]


def _learned(
    gallery: "Gallery",
    old: "Space",
    side: "Space | None",
    sample: Path,
    share: float | None,
    *,
    least: int,
) -> "Pairs":
    from onward.spaces import Embeddings
    from onward.training.fit.pairs import KEPT, LEARNED, learned_part, pairs_of_gallery

    embedded = Embeddings.load(sample)
    if share is None:
        part = learned_part(embedded.ids, LEARNED, kept=KEPT)
    else:
        part = learned_part(embedded.ids, share)
    if not part or (share is None and len(part) < least):
        raise ConfigurationError(_why_few(len(embedded), len(part), least, share))
    learned = pairs_of_gallery(gallery, old, side, embedded.align(part))
    kept = len(embedded) - len(part)
    tell(
        f"learns from {len(learned)} of the sample's {len(embedded)} items; {kept} are kept to "
        f"judge by: onward upgrade plan {gallery.url} TRANSFORMATION --sample {sample}"
    )
    if kept < KEPT:
        tell(
            f"WARNING: {KEPT} are needed to judge by. By fewer the gate can hardly tell whether "
            "search gets better, and does not open; embed more items, or leave --sample-share out, "
            "and enough are kept"
        )
    if len(learned) < len(part):
        tell(f"{len(part) - len(learned)} are not in {gallery.url}, or lack what is read of them")
    return learned


def _why_few(items: int, left: int, least: int, share: float | None) -> str:
    from onward.training.fit.pairs import KEPT

    if share is not None:
        return (
            f"of the sample's {items} items a share of {share:g} is none; embed more items or give "
            "a larger --sample-share"
        )
    return (
        f"the sample has {items} items, and {KEPT} of a sample are kept to judge the upgrade by, "
        f"so {left} are left to learn from; it needs {least}. Embed more items (onward gallery "
        "sample), or learn from all with --sample-share 1: then nothing says whether the upgrade "
        "makes search worse"
    )
