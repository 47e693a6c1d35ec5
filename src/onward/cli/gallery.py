"""`onward gallery`: make, fill and look at a gallery; `onward info`: say what a path holds."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import onward
from onward.cli.options import (
    Commands,
    DataStated,
    GalleryUrl,
    OpenGallery,
    Overwrite,
    SameLabels,
    Seed,
    check_lines,
    check_room,
    find_space,
    holds_gallery,
    read_time,
    tell_numbering,
)
from onward.cli.output import Fields, Told, suggest, tell
from onward.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from onward.gallery import GalleryView

app = Commands(no_args_is_help=True, help="Make a gallery, add to it, take from it, look at it.")

Files = Annotated[
    list[Path], typer.Argument(help="Embeddings of the same items, one .parquet a space.")
]
Payloads = Annotated[
    Path | None, typer.Option(help='JSON lines, {"id": ..., ...}: what to keep with each item.')
]


@app.command()
def create(gallery: GalleryUrl, embeddings: Files, payloads: Payloads = None) -> Told:
    """Make GALLERY from embeddings; the first file's space answers queries.

    Example: onward gallery create photos.lance old.parquet side.parquet
    """
    from onward.data.payloads import read_payloads

    loaded = _load(embeddings)
    spaces = [each.space for each in loaded]
    made = onward.create_gallery(
        gallery,
        *spaces,
        serving=spaces[0],
        query_model=spaces[0].name,
        items=loaded,
        payloads=read_payloads(payloads, loaded[0].ids),
    )
    return described(made)


@app.command()
def add(
    gallery: OpenGallery,
    embeddings: Files,
    payloads: Payloads = None,
    same_labels: SameLabels = False,
) -> Told:
    """Add items to GALLERY: old embedding and side-information, or the new model's embedding.

    Labels go by the names of their classes, which GALLERY keeps.

    Example: onward gallery add photos.lance more-old.parquet more-side.parquet
    """
    from onward.data.payloads import read_payloads

    loaded = _load(embeddings)
    where = read_payloads(payloads, loaded[0].ids)
    gallery.add(*loaded, payloads=where, same_labels=same_labels)
    if any(one.labels is not None for one in loaded):
        named = next((one.class_names for one in loaded if one.class_names), None)
        tell_numbering(named, gallery.class_names(), same_labels=same_labels)
    return described(gallery)


@app.command()
def write(gallery: OpenGallery, embeddings: Files) -> Told:
    """Give items that GALLERY holds vectors that they lack, such as side-information made later.

    A space that is new to GALLERY is added. Ends with 1 if items are not there.

    Example: onward gallery write photos.lance side.parquet
    """
    absent = 0
    for given in _load(embeddings):
        gallery.add_space(given.space)
        written = 0
        for batch in gallery.scan((), without=[given.space], ids=given.ids):
            vectors = given.align(batch.ids)
            written += gallery.write(vectors, batch.revisions, origin="embedded")
        there = sum(len(batch.ids) for batch in gallery.scan((), ids=given.ids))
        absent += len(given) - there
        tell(
            f"{written:,} of {len(given):,} vectors in {given.space.name} were written; "
            f"{there - written:,} items have one, {len(given) - there:,} are not in the gallery"
        )
    return described(gallery, failed=absent > 0)


@app.command()
def delete(
    gallery: OpenGallery,
    ids: Annotated[list[str], typer.Argument(help="Ids of the items to delete.")],
) -> Told:
    """Delete items from GALLERY.

    Example: onward gallery delete photos.lance cat-17 cat-18
    """
    deleted = gallery.delete(ids)
    return Told(Fields({"deleted": deleted}), steps_of_gallery(gallery.describe()))


@app.command()
def describe(gallery: OpenGallery) -> Told:
    """Say what GALLERY holds and which space answers queries.

    Example: onward gallery describe photos.lance --json
    """
    return described(gallery)


@app.command()
def compact(
    gallery: OpenGallery,
    keep_minutes: Annotated[
        float, typer.Option(min=0, help="How long what was replaced is kept for those who read it.")
    ] = 60.0,
) -> Told:
    """Put together what writing has scattered, index it, and free what was replaced.

    Safe beside others who write. An upgrade does it at its end.

    Example: onward gallery compact photos.lance --keep-minutes 10
    """
    gallery.compact(keep=read_time("--keep-minutes", keep_minutes, timedelta(minutes=1)))
    return described(gallery)


@app.command()
def export(
    gallery: OpenGallery,
    out: Annotated[Path, typer.Argument(help="Embeddings to write: .parquet.")],
    space: Annotated[
        str | None, typer.Option(help="Name of the space; default: the one that answers queries.")
    ] = None,
    overwrite: Overwrite = False,
) -> Told:
    """Write the vectors of GALLERY in one space to a file, and of each whether it was embedded.

    Example: onward gallery export photos.lance upgraded.parquet
    """
    from onward.spaces import check_suffix

    check_room(check_suffix(out), overwrite=overwrite)
    embeddings = gallery.read(find_space(gallery, space))
    embeddings.save(out)
    fields = {
        "items": len(embeddings),
        **embeddings.count_origins(),
        "space": str(embeddings.space),
        "written": [str(out)],
    }
    step = suggest("evaluate", "QUERIES", out, "--exclude-self", why="if the items have labels")
    return Told(Fields(fields), [step])


@app.command()
def sample(
    gallery: OpenGallery,
    out: Annotated[Path, typer.Argument(help="JSON lines to write, an item a line: .jsonl.")],
    count: Annotated[
        str, typer.Option(help="How many items, or how many percent: 1000 or 3%.")
    ] = "3%",
    by: Annotated[
        Literal["random", "uncertainty"],
        typer.Option(help="uncertainty: those of which --transformation is least sure."),
    ] = "random",
    space: Annotated[
        str | None, typer.Option(help="Of items in this space; default: the one serving.")
    ] = None,
    side: Annotated[
        str | None, typer.Option(help="Only of items that have this side-information too.")
    ] = None,
    transformation: Annotated[
        Path | None, typer.Option(help="uncertainty: one from onward fit --uncertainty.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Told:
    """Choose items of GALLERY to embed with the new model: ids with payloads, to OUT.

    Example: onward gallery sample photos.lance sample.jsonl --count 3%
    """
    from onward.data.payloads import write_payload_lines
    from onward.training.fit.pairs import choose_from_gallery

    check_lines(out)
    check_room(out, overwrite=overwrite)
    old = find_space(gallery, space)
    ids = choose_from_gallery(
        gallery,
        old,
        None if side is None else find_space(gallery, side),
        count=parse_count(count, gallery.count([old])),
        by=by,
        transformation=onward.Transformation.load(transformation) if transformation else None,
        seed=seed,
    )
    payloads = gallery.payloads(ids)
    write_payload_lines(out, ids, payloads)
    bare = sum(payload is None for payload in payloads)
    if bare:
        lack = f"{bare} of {len(ids)} items have no payload"
        tell(f"{lack}, so nothing says where their images or texts are")
    fields = {"items": len(ids), "without_payload": bare, "written": [str(out)]}
    why = "by the new model; then fit and plan with what it gives (--sample)"
    step = suggest("embed", "MODEL", out, out.with_suffix(".parquet"), why=why)
    return Told(Fields(fields), [step])


def _load(paths: list[Path]) -> "list[onward.Embeddings]":
    return [onward.Embeddings.load(path) for path in paths]


def described(gallery: "onward.Gallery", *, failed: bool = False) -> Told:
    """Return what a gallery holds now, and what may come next."""
    now = gallery.describe()
    return Told(now, steps_of_gallery(now), failed=failed)


def steps_of_gallery(now: "GalleryView") -> list[dict[str, str]]:
    """Return what may come next: go on with an upgrade; else a sample, with which one begins."""
    steps = []
    for space in now.record.transformations:
        missing = now.rows - now.counts[space].filled
        if missing or space != now.serving:
            why = f"an upgrade to {space.name} was started; {missing:,} rows have no vector there"
            steps.append(suggest("upgrade status", now.url, "TRANSFORMATION", why=why))
    if now.rows and not now.record.transformations:
        why = "to upgrade to a new model: it embeds a sample first"
        steps.append(suggest("gallery sample", now.url, "sample.jsonl", why=why))
    return steps


def parse_count(text: str, whole: int) -> int:
    """Read how many of `whole` items are meant: a number, or a share such as 3%; at least one.

    Raises:
        ConfigurationError: if it is neither.
    """
    percent = text.strip().endswith("%")
    try:
        number = float(text.strip().removesuffix("%"))
    except ValueError:
        number = -1
    if not (0 < number <= 100 if percent else number >= 1 and number.is_integer()):
        raise ConfigurationError(
            f"{text!r} is not a number of items",
            "give a whole number such as 1000, or a share such as 3%",
        )
    return max(1, round(number * whole / 100)) if percent else int(number)


def info(
    path: Annotated[
        Path, typer.Argument(help="A model, a transformation, embeddings, a gallery, items.")
    ],
    stated: DataStated,
) -> Told | Fields:
    """Say what PATH holds: its spaces, its sizes and what made it; of items, how they are read.

    The options say how images and texts are read, as for `embed`.

    Example: onward info runs/demo/models/new
    """
    from onward.data import Stated
    from onward.data.sources import describe_data

    kind = _kind_of(path)
    if kind == "items":
        data = describe_data(str(path), stated)
        return Fields({**data.to_json(), "kind": data.holds, "layout": data.kind}, str(data))
    if stated != Stated():
        raise ConfigurationError(
            f"{path} holds no images, and these options say how images are read", "leave them out"
        )
    if kind == "gallery":
        told = described(onward.open_gallery(str(path)))
        return Told(told.answer, told.steps, {"kind": kind})
    return _artifact(path) if kind == "artifact" else _embeddings(path)


def _kind_of(path: Path) -> str:
    """Say what a path holds: items, a gallery, embeddings, or else what Onward wrote.

    Raises:
        ArtifactError: if it is nothing of these.
    """
    from onward.data.folders import Folder
    from onward.data.parquet import find_shards, read_schema
    from onward.data.payloads import lines_suffix
    from onward.data.sources import DIGITS

    if str(path) == DIGITS or lines_suffix(path):
        return "items"
    if (path / "config.json").is_file():
        return "artifact"
    if holds_gallery(path):
        return "gallery"
    shard = next(iter(find_shards(Folder(path, path))), None) if path.is_dir() else path
    if shard is None:
        return "items" if any(path.iterdir()) else "gallery"
    if shard.suffix.lower() != ".parquet":
        raise ArtifactError(
            f"{path} is not a model, a transformation, embeddings, a gallery or items",
            "give a directory that Onward wrote, a .parquet file of embeddings, or a folder of "
            "images",
        )
    if shard.is_file() and "vector" not in read_schema(shard).names:
        return "items"
    return "embeddings"


def _embeddings(path: Path) -> Fields:
    embeddings = onward.Embeddings.load(path)
    known = embeddings.labels
    unknown = 0 if known is None else int((known < 0).sum())
    names = None if embeddings.class_names is None else len(embeddings.class_names)
    fields = {
        "kind": "embeddings",
        "space": embeddings.space.to_json(),
        "format": embeddings.space.format,
        "bytes": embeddings.space.bytes,
        "items": len(embeddings),
        "labels": known is not None,
        "unknown_labels": unknown,
        "named_classes": names,
        "origins": embeddings.count_origins(),
    }
    stored = f"{embeddings.space.bytes:,} bytes an item ({embeddings.space.format})"
    labels = "without labels" if known is None else "with labels without class names"
    if names is not None:
        labels = f"with labels of {names:,} named classes"
    labels += f", of {unknown:,} items not known" if unknown else ""
    if embeddings.origins is not None:
        counts = embeddings.count_origins().items()
        labels += f", {' and '.join(f'{count:,} {origin}' for origin, count in counts)}"
    return Fields(fields, f"{embeddings}, {stored}, {labels}")


def _artifact(path: Path) -> Fields:
    from onward.artifacts import read_artifact, read_header

    header = read_header(path)
    artifact = read_artifact(path, header["kind"])  # checks every file
    fields = {"kind": header["kind"], **header["config"], "made_by": header["made_by"]}
    return Fields({**fields, "digest": header["digest"]}, artifact.card.strip())
