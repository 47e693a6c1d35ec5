"""`onward fit`: learn a transformation from pairs of old and new embeddings."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import BaseModel, Field

import onward
from onward.cli.judging import Asked, align_files
from onward.cli.options import (
    Directory,
    EmbeddingsFile,
    check_room,
    find_space,
    is_gallery,
    settings,
    tell_numbering,
)
from onward.cli.output import Told, suggest, tell, tell_answer
from onward.errors import ConfigurationError
from onward.progress import progress_bar
from onward.training.settings import PAPER, FitSettings, RunSettings, read_settings

if TYPE_CHECKING:
    from onward.training.fit.pairs import Classifier, Pairs


class FitOptions(BaseModel):
    """What is learned from, and where.

    Attributes:
        side: side-information of the same items: .parquet; of a gallery, its space.
        paper: mlp as in the FCT paper: inner width 2048, not 512.
        classifier: the new model: its classifier helps; needs labels.
        gallery: the gallery that --sample is of, such as photos.lance.
        sample: items of --gallery that the new model has embedded: .parquet.
        sample_share: how much of it to learn from; a plan judges by the rest; default: 0.8.
        group_column: column of OLD or NEW, or field of the gallery's payloads, that says what is
            held out as a whole, such as person; default: the label, else nearest neighbours.
        same_labels: if only one side has class names: the other's label numbers mean the same.
        seed: same seed and device, same bytes.
        device: auto takes a GPU where there is one.
        overwrite: replace what is already at the output path.
    """

    side: Path | None = None
    paper: bool = False
    classifier: Path | None = None
    gallery: str | None = None
    sample: Path | None = None
    sample_share: float | None = None
    group_column: str | None = None
    same_labels: bool = False
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    overwrite: bool = False


def fit(
    old: Annotated[
        Path, typer.Argument(help="Embeddings: .parquet; or a gallery that NEW has items of.")
    ],
    new: EmbeddingsFile,
    out: Directory,
    said: Annotated[
        dict[str, Any],
        settings(
            FitSettings,
            *("method", "networks", "epochs", "objective", "uncertainty", "gallery_classes"),
            shown={
                "gallery_classes": "unseen; seen where OLD is a gallery, whose own items are "
                "learned"
            },
        ),
    ],
    given: FitOptions,
    asked: Annotated[Asked, settings(Asked, "queries_old", "queries_new", "qrels", make=Asked)],
) -> Told:
    """Learn h(OLD, side) -> NEW on the same items and write it to OUT. Reads no image.

    Example: onward fit old-train.parquet new-train.parquet old-to-new/ --side side-train.parquet
    """
    from onward.training.fit.fit import check_torch
    from onward.training.fit.fit import fit as fit_transformation
    from onward.transformation import KIND

    of_gallery = is_gallery(old)
    chosen = _read_settings(said, given, seen=of_gallery and given.group_column is None)
    check_torch(chosen)
    queries = asked.ask()
    check_room(out, kind=KIND, overwrite=given.overwrite)
    if of_gallery:
        pairs, sample = _of_gallery(old, new, given), None
    else:
        pairs = _of_files(old, new, given)
        sample = _of_sample(pairs, given)
    with progress_bar("Fit", unit="steps") as progress:
        fitted = fit_transformation(
            pairs.old,
            pairs.side,
            pairs.new,
            sample=sample,
            groups=read_groups(pairs, old, new, given.group_column),
            of_gallery=of_gallery,
            classifier=_load_classifier(pairs, given),
            queries=queries and replace(queries, same_labels=given.same_labels),
            settings=chosen,
            seed=given.seed,
            run=RunSettings(device=given.device, progress=progress),
            same_labels=given.same_labels,
        )
    fitted.transformation.save(out)
    tell_answer(fitted)
    kept, url = (new, str(old)) if of_gallery else (given.sample, given.gallery or "GALLERY")
    judged = () if kept is None else ("--sample", kept)
    for option, file in asked.model_dump(exclude_none=True, exclude_defaults=True).items():
        judged = (*judged, f"--{option.replace('_', '-')}", file)
    why = "it says what upgrading would do, cost and be worth"
    step = suggest("upgrade plan", url, out, *judged, why=why)
    return Told(fitted.transformation, [step])


def _read_settings(said: dict[str, Any], given: FitOptions, *, seen: bool) -> FitSettings:
    """Return what is fitted: what was said, and what follows from what is given.

    Raises:
        ConfigurationError: if options do not go together.
    """
    if given.paper:
        if said.get("method", "auto") not in ("auto", PAPER.method):
            raise ConfigurationError(
                f"--paper is the network of the FCT paper, but --method is {said['method']}",
                "give one of them",
            )
        said = {**said, "method": PAPER.method, "inner": PAPER.inner}
    helped = "none" if given.classifier is None else "classifier"
    fields = {"gallery_classes": "seen" if seen else "unseen", **said, "discriminative": helped}
    return read_settings(FitSettings, fields, where="onward fit")


def _load_classifier(pairs: "Pairs", given: FitOptions) -> "Classifier | None":
    """Return the new model's classifier, if it is to help."""
    from onward.training.fit.pairs import Classifier

    if given.classifier is None:
        return None
    known = Classifier.of(onward.EmbeddingModel.load(given.classifier))
    tell_numbering(known.class_names, pairs.class_names, same_labels=given.same_labels)
    return known


def _of_files(old: Path, new: Path, given: FitOptions) -> "Pairs":
    """Return the pairs to learn from, of files of the same items in any order."""
    from onward.training.fit.pairs import Pairs

    first, last, side = onward.Embeddings.load(old), onward.Embeddings.load(new), None
    if given.side is not None:
        side = align_files(onward.Embeddings.load(given.side), first, (given.side, old), "items")
    return Pairs(first, side, align_files(last, first, (new, old), "items"))


def _of_gallery(old: Path, new: Path, given: FitOptions) -> "Pairs":
    """Return the pairs to learn from: what a gallery serves of items that were embedded again."""
    from onward.training.fit.pairs import LEAST_ITEMS

    gallery = onward.open_gallery(str(old))
    side = None if given.side is None else find_space(gallery, str(given.side))
    space = find_space(gallery, None)
    return _learned(gallery, space, side, new, given.sample_share, least=LEAST_ITEMS)


def _of_sample(pairs: "Pairs", given: FitOptions) -> "Pairs | None":
    """Return what is learned from a sample, with what the gallery stores of it; None without one.

    Raises:
        ConfigurationError: if the gallery or the sample is missing, the share is not above 0 and at
            most 1, or nothing is left of it.
    """
    if given.gallery is None and given.sample is None and given.sample_share is None:
        return None
    if given.gallery is None or given.sample is None:
        raise ConfigurationError(
            "a sample of a gallery is what the new model gives for some of its items",
            "give both --gallery and --sample (and --sample-share only with them)",
        )
    gallery = onward.open_gallery(given.gallery)
    side = None if pairs.side is None else pairs.side.space
    return _learned(gallery, pairs.old.space, side, given.sample, given.sample_share, least=1)


def read_groups(
    pairs: "Pairs", old: Path, new: Path, column: str | None
) -> list[str | None] | None:
    """Return of each pair what a column says: of the old embeddings' file, or else the new ones'.

    Of a gallery it is a field of the payloads.

    Raises:
        ConfigurationError: if neither has the column.
    """
    from onward.embedding_files import read_column
    from onward.errors import EmbeddingsError

    if column is None:
        return None
    ids, found = pairs.old.ids, dict[str, Any]()
    if is_gallery(old):
        payloads = onward.open_gallery(str(old)).payloads(ids)
        found = {item: (each or {}).get(column) for item, each in zip(ids, payloads, strict=True)}
        where = f"no payload of {old}"
    else:
        where = f"neither {old} nor {new}"
        for path in (old, new):
            with suppress(EmbeddingsError):
                found = found or read_column(path, column)
    if all(each is None for each in found.values()):
        raise ConfigurationError(
            f"{where} has a column {column!r}",
            "give the name of one that says what is held out as a whole, or leave --group-column "
            "out",
        )
    return [None if found.get(item) is None else str(found[item]) for item in ids]


def _learned(
    gallery: "onward.Gallery",
    old: "onward.Space",
    side: "onward.Space | None",
    sample: Path,
    share: float | None,
    *,
    least: int,
) -> "Pairs":
    from onward.training.fit.pairs import KEPT, LEARNED, learned_part, pairs_of_gallery

    embedded = onward.Embeddings.load(sample)
    least, rest = (least, KEPT) if share is None else (1, 0)
    part = learned_part(embedded.ids, LEARNED if share is None else share, kept=rest)
    if len(part) < least:
        raise ConfigurationError(
            f"the sample has {len(embedded)} items, and of these {len(part)} are left to learn "
            f"from; it needs {least}",
            f"embed more items (onward gallery sample), or learn from more with --sample-share: of "
            f"those that are not learned from, {KEPT} judge whether the upgrade makes search worse",
        )
    learned = pairs_of_gallery(gallery, old, side, embedded.align(part))
    kept = len(embedded) - len(part)
    tell(
        f"learns from {len(learned)} of the sample's {len(embedded)} items; {kept} are kept to "
        f"judge by: onward upgrade plan {gallery.url} TRANSFORMATION --sample {sample}"
    )
    if kept < KEPT:
        tell(
            f"WARNING: {KEPT} are needed to judge by. With fewer the gate can hardly tell whether "
            "search gets better, and does not open; embed more items, or leave --sample-share out, "
            "so that enough are kept"
        )
    if len(learned) < len(part):
        tell(f"{len(part) - len(learned)} are not in {gallery.url}, or lack what is read of them")
    return learned
