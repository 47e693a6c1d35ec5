"""`onward train` and `onward embed`: make a model, and make embeddings with it."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import BaseModel, Field

import onward
from onward.cli.experiment import read_override
from onward.cli.options import (
    Classes,
    DataSource,
    DataStated,
    Device,
    Directory,
    Overwrite,
    SameLabels,
    Seed,
    Split,
    check_lines,
    check_room,
    open_data,
    parse_numbers,
    settings,
    tell_numbering,
)
from onward.cli.output import Fields, Told, suggest, tell
from onward.errors import ConfigurationError
from onward.nn.specs import TIMM, BackboneSpec
from onward.progress import progress_bar
from onward.training.settings import RunSettings, TrainingSettings, read_settings

if TYPE_CHECKING:
    from onward.data.items import Items
    from onward.training.settings import FrozenSettings, ModelSettings

WHERE = "onward train"
BATCH_SIZE = 256
"""In a batch, unless another number is said."""


class ModelKind(StrEnum):
    """What a model learns from."""

    CROSS_ENTROPY = "cross-entropy"
    ARCFACE = "arcface"
    COSFACE = "cosface"
    SUPCON = "supcon"
    SIMCLR = "simclr"
    BACKWARD_COMPATIBLE = "backward-compatible"
    NONE = "none"


class LayerOptions(BaseModel):
    """How side-information is read from a model's own stages.

    Attributes:
        layers: also give side-information of this many dimensions, from its own stages.
        layers_format: layers: 4, 2 or 1 bytes a dimension; default: int8.
        layers_grid: layers: average each stage over this many cells a side; default: 2.
        layers_stages: layers: stages to read, such as 1-3; 0 is nearest to the image; default: all.
    """

    layers: int | None = Field(None, ge=1)
    layers_format: Literal["float32", "float16", "int8"] | None = None
    layers_grid: int | None = Field(None, ge=1)
    layers_stages: str | None = None


class RunOptions(BaseModel):
    """How a training is carried out.

    Attributes:
        device: auto takes a GPU where there is one.
        precision: bf16-mixed: half the bits, where it is safe.
        devices: GPUs that share each batch.
        tensorboard: directory for TensorBoard's event files.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    devices: int = Field(1, ge=1)
    tensorboard: Path | None = None


def _read_layers(layers: int | None = None, **given: Any) -> dict[str, Any] | None:
    """Return what is to be read from the layers, as `add_layers_side_information` takes it.

    Raises:
        ConfigurationError: if it is said how, but not that anything is to be read.
    """
    read = {name.removeprefix("layers_"): value for name, value in given.items()}
    if "stages" in read:
        read["stages"] = parse_numbers(read["stages"], "stages")
    if layers is not None:
        return {"dim": layers, **read}
    if read:
        raise ConfigurationError(
            f"--layers-{next(iter(read))} says how side-information is read from the layers, but "
            "not of how many dimensions",
            "add --layers DIM, such as --layers 256",
        )
    return None


def train(
    data: DataSource,
    out: Directory,
    backbone_said: Annotated[
        dict[str, Any],
        settings(
            BackboneSpec,
            *("name", "dim", "size", "channels", "width", "pretrained"),
            called={"name": "backbone"},
            shown={"dim": "128; with the objective none a timm model's own"},
        ),
    ],
    said: Annotated[
        dict[str, Any],
        settings(
            TrainingSettings,
            *("epochs", "batch_size", "lr", "flip"),
            also={"batch": "batch_size"},
            shown={"batch_size": str(BATCH_SIZE)},
        ),
    ],
    reading: Annotated[dict[str, Any] | None, settings(LayerOptions, make=_read_layers)],
    carried_out: RunOptions,
    stated: DataStated,
    name: Annotated[
        str | None, typer.Option(help="Name of its space; default: OUT's own name.")
    ] = None,
    objective: Annotated[
        ModelKind,
        typer.Option(
            help="simclr makes side-information and needs no labels; none keeps the backbone as "
            "it is."
        ),
    ] = (ModelKind.CROSS_ENTROPY),
    classes: Classes = None,
    split: Annotated[Split, typer.Option(help="Which part of the data.")] = Split.TRAIN,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value: any setting of the objective, as in a recipe."),
    ] = None,
    old_model: Annotated[
        Path | None, typer.Option(help="backward-compatible: the model to stay compatible with.")
    ] = None,
    same_labels: SameLabels = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> Told:
    """Train a model on DATA and write it to OUT. If it was killed, the same command goes on.

    A training that was begun may replace what it was allowed to replace when it began.

    Example: onward train photos/ models/old --classes 0-49 --epochs 100 --layers 256
    """
    from onward.models.files import KIND
    from onward.training.layers import add_layers_side_information
    from onward.training.loop import forget_checkpoint, has_checkpoint

    checkpoint = out.with_name(f".{out.name}.checkpoint")
    check_room(out, kind=KIND, overwrite=overwrite or has_checkpoint(checkpoint))
    spec = _read_backbone(objective, backbone_said)
    items = open_data(data, stated, split=split, classes=classes)
    overrides = dict(read_override(text) for text in set_ or [])
    chosen = _read_objective(objective, {"batch_size": BATCH_SIZE, **said, **overrides})
    compatible = objective is ModelKind.BACKWARD_COMPATIBLE
    old = _load_old(old_model, items, same_labels=same_labels) if compatible else None
    tell(f"train {name or out.name} on {items}")
    with progress_bar("Train", unit="steps") as progress:
        model = onward.train_model(
            items,
            chosen,
            spec,
            name=name or out.name,
            seed=seed,
            run=RunSettings(**vars(carried_out), checkpoint=checkpoint, progress=progress),
            old_model=old,
            same_labels=same_labels,
        )
    if reading is not None:
        model = add_layers_side_information(model, items, **reading, device=carried_out.device)
    model.save(out)
    forget_checkpoint(checkpoint)
    step = suggest("embed", out, "DATA", "OUT", why="to make embeddings with it")
    return Told(model, [step])


def _read_backbone(objective: ModelKind, said: Mapping[str, Any]) -> BackboneSpec:
    """Return what the model is built from; a timm model that is not trained keeps its own dim."""
    own_dim = objective is ModelKind.NONE and said.get("name", "").startswith(TIMM)
    return read_settings(BackboneSpec, {"dim": None, **said} if own_dim else said, where=WHERE)


def _read_objective(
    objective: ModelKind, fields: Mapping[str, Any]
) -> "ModelSettings | FrozenSettings":
    """Return the settings of an objective; `none` has nothing to set."""
    from onward.training import settings as kinds

    if objective is ModelKind.NONE:
        return kinds.FrozenSettings()
    if objective is ModelKind.SIMCLR:
        return read_settings(kinds.SimCLRSettings, fields, where=WHERE)
    if objective is ModelKind.BACKWARD_COMPATIBLE:
        return read_settings(kinds.BackwardCompatibleSettings, fields, where=WHERE)
    loss = {} if objective is ModelKind.CROSS_ENTROPY else {"loss": objective.value}
    return read_settings(kinds.TrainingSettings, {**loss, **fields}, where=WHERE)


def _load_old(
    directory: Path | None, items: "Items", *, same_labels: bool
) -> "onward.EmbeddingModel":
    """Return the model to stay compatible with."""
    if directory is None:
        raise ConfigurationError(
            "a backward compatible model needs the model that it is to stay compatible with",
            "add --old-model DIRECTORY",
        )
    model = onward.EmbeddingModel.load(directory)
    tell_numbering(items.known_names, model.class_names, same_labels=same_labels)
    return model


def embed(
    model: Annotated[Path, typer.Argument(help="A model's directory, as `train` writes it.")],
    data: Annotated[
        str,
        typer.Argument(help="As `train` takes it; texts; or a .jsonl file from `gallery sample`."),
    ],
    out: Annotated[Path, typer.Argument(help="Embeddings to write: .parquet.")],
    stated: DataStated,
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
) -> Told:
    """Embed the images or texts of DATA with MODEL.

    Example: onward embed models/old digits old.parquet --split test --side-out side.parquet
    """
    from onward.data.payloads import lines_suffix, with_digest, write_payload_lines
    from onward.spaces import check_suffix

    for path in filter(None, (out, side_out)):
        check_suffix(path)
    check_lines(payloads_out)
    check_room(out, side_out, payloads_out, overwrite=overwrite, read=Path(data))
    loaded = onward.EmbeddingModel.load(model)
    items = open_data(data, stated, split=split, classes=classes)
    made = _embed(loaded, items, device, with_side=side_out is not None)
    for embeddings, path in zip(made, filter(None, (out, side_out)), strict=True):
        embeddings.save(path)
    if payloads_out is not None:
        write_payload_lines(payloads_out, items.ids, [with_digest(one) for one in items.payloads])
    fields = {
        "items": len(items),
        "space": str(loaded.space),
        "side": None if side_out is None else str(loaded.side),
        "left_out": len(items.left_out),
        "written": [str(path) for path in (out, side_out, payloads_out) if path is not None],
    }
    where = () if payloads_out is None else ("--payloads", payloads_out)
    why = "or fit, where these are to learn from"
    steps = [suggest("gallery create", "GALLERY", out, side_out, *where, why=why)]
    if lines_suffix(data):
        why = "to learn from them, where they are a gallery's sample"
        steps.insert(0, suggest("fit", "GALLERY", out, "OUT", why=why))
    return Told(Fields(fields), steps)


def _embed(
    model: "onward.EmbeddingModel", items: "Items", device: str, *, with_side: bool
) -> "tuple[onward.Embeddings, ...]":
    with progress_bar(f"Embed with {model.space.name}") as progress:
        if with_side:
            return model.embed_with_side(items, device=device, progress=progress)
        return (model.embed(items, device=device, progress=progress),)
