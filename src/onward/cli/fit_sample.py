"""The pairs and the gallery sample that `onward fit` learns from, and how they are read."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onward.cli.options import find_space, is_gallery
from onward.cli.output import tell
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.gallery import Gallery
    from onward.spaces import Space
    from onward.training.fit.pairs import Pairs


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


def load_sample(old: Path | None, side: Path | None, new: Path | None) -> "Pairs | None":
    """Return the re-embedded gallery items of three files, if any is given.

    Of the old embeddings and the side, which may be the whole gallery's, only theirs.

    Raises:
        ConfigurationError: if one is given without those that belong to it.
    """
    from onward.spaces import Embeddings
    from onward.training.fit.pairs import Pairs

    if old is None and side is None and new is None:
        return None
    if old is None or new is None:
        raise ConfigurationError(
            "a gallery sample is pairs: give both --sample-old and --sample-new (and --sample-side "
            "where --side is given), or --gallery and --sample"
        )
    embedded = Embeddings.load(new)
    aside = None if side is None else Embeddings.load(side).align(embedded.ids)
    return Pairs(Embeddings.load(old).align(embedded.ids), aside, embedded)


def read_sample(
    pairs: "Pairs", gallery: str | None, sample: Path | None, share: float | None
) -> "Pairs":
    """Return the part of a sample that is learned from, with what the gallery stores of it.

    Raises:
        ConfigurationError: if the gallery or the sample is missing, the share is not above 0 and at
            most 1, or nothing is left of it.
    """
    from onward.gallery import open_gallery

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
                f"no payload of these items in {old} has a field {column!r}; give the name of one "
                "that has (onward gallery export shows them), or leave --group-column out"
            )
    else:
        for path in (old, new):
            with suppress(EmbeddingsError):
                found = found or read_column(path, column)
    if not found:
        raise ConfigurationError(
            f"neither {old} nor {new} has a column {column!r}; give the name of one that says what "
            "is held out as a whole, or leave --group-column out"
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
    from onward.training.fit.samples import KEPT, LEARNED, learned_part, pairs_of_gallery

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
    from onward.training.fit.samples import KEPT

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
