"""`onward train`: an embedding model, a side-information model or a backward compatible model."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onward.cli.experiment import read_override
from onward.cli.options import (
    Classes,
    DataSource,
    Device,
    Directory,
    Overwrite,
    SameLabels,
    Seed,
    Split,
    check_room,
    open_data,
    parse_numbers,
    takes_data,
    tell_numbering,
)
from onward.cli.output import AsJson, next_step, show, tell
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.data.items import Items
    from onward.data.sources import Stated
    from onward.models import EmbeddingModel
    from onward.training.settings import FrozenSettings, ModelSettings

WHERE = "onward train"


class Objective(StrEnum):
    """What a model learns from."""

    CROSS_ENTROPY = "cross-entropy"
    ARCFACE = "arcface"
    COSFACE = "cosface"
    SUPCON = "supcon"
    SIMCLR = "simclr"
    BACKWARD_COMPATIBLE = "backward-compatible"
    NONE = "none"


@takes_data
def train(
    data: DataSource,
    out: Directory,
    stated: "Stated",
    name: Annotated[
        str | None, typer.Option(help="Name of its space; default: OUT's own name.")
    ] = None,
    objective: Annotated[
        Objective,
        typer.Option(
            help="simclr makes side-information and needs no labels; none keeps the backbone as "
            "it is."
        ),
    ] = (Objective.CROSS_ENTROPY),
    classes: Classes = None,
    split: Annotated[Split, typer.Option(help="Which part of the data.")] = Split.TRAIN,
    backbone: Annotated[
        str, typer.Option(help="small-resnet, or timm:NAME such as timm:resnet50.")
    ] = "small-resnet",
    dim: Annotated[
        int | None,
        typer.Option(min=1, help="Dimensions; default: 128, or with none a timm model's own."),
    ] = None,
    size: Annotated[
        int, typer.Option(min=4, help="Height and width that images are brought to, in pixels.")
    ] = 32,
    channels: Annotated[int, typer.Option(min=1, max=3, help="1: grey, 3: colour.")] = 3,
    width: Annotated[int, typer.Option(min=1, help="small-resnet: channels it begins with.")] = 32,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="timm: begin with the weights of its hub.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Times that every image is seen.")] = 100,
    batch: Annotated[int, typer.Option(min=2, help="Images in a batch.")] = 256,
    lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate; default: 0.001 for each image of a batch."),
    ] = None,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images; not for digits.")] = True,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value: any setting of the objective, as in a recipe."),
    ] = None,
    old_model: Annotated[
        Path | None, typer.Option(help="backward-compatible: the model to stay compatible with.")
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Also give side-information of this many dimensions, from its own stages."
        ),
    ] = None,
    layers_format: Annotated[
        Literal["float32", "float16", "int8"] | None,
        typer.Option(
            help="layers: 4, 2 or 1 bytes a dimension; default: int8.", show_default=False
        ),
    ] = None,
    layers_grid: Annotated[
        int | None,
        typer.Option(min=1, help="layers: average each stage over this many cells a side; 2."),
    ] = None,
    layers_stages: Annotated[
        str | None,
        typer.Option(help="layers: stages to read, such as 1-3; 0 is nearest to the image; all."),
    ] = None,
    same_labels: SameLabels = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[
        Literal["32-true", "bf16-mixed"],
        typer.Option(help="bf16-mixed: half the bits, where it is safe."),
    ] = "32-true",
    devices: Annotated[int, typer.Option(min=1, help="GPUs that share each batch.")] = 1,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Directory for TensorBoard's event files.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on DATA and write it to OUT. If it was killed, the same command goes on.

    A training that was begun may replace what it was allowed to replace when it began.

    Example: onward train photos/ models/old --classes 0-49 --epochs 100 --layers 256
    """
    from onward.models.files import KIND
    from onward.nn.specs import TIMM, BackboneSpec
    from onward.progress import progress_bar
    from onward.training.image_models import train_model
    from onward.training.layers import add_layers_side_information
    from onward.training.loop import forget_checkpoint, has_checkpoint
    from onward.training.settings import RunSettings, read_settings

    checkpoint = out.with_name(f".{out.name}.checkpoint")
    check_room(out, KIND, overwrite=overwrite or has_checkpoint(checkpoint))
    reading = _read_layers(layers, layers_format, layers_grid, layers_stages)
    own_dim = objective is Objective.NONE and backbone.startswith(TIMM)
    spec = read_settings(
        BackboneSpec,
        {
            "name": backbone,
            "dim": dim or (None if own_dim else 128),
            "size": size,
            "channels": channels,
            "width": width,
            "pretrained": pretrained,
        },
        where=WHERE,
    )
    items = open_data(data, stated, split=split, classes=classes)
    fields: dict[str, Any] = {"epochs": epochs, "batch_items": batch, "flip": flip}
    fields |= {} if lr is None else {"lr": lr}
    fields |= dict(read_override(text) for text in set_ or [])
    settings = _read_objective(objective, fields)
    compatible = objective is Objective.BACKWARD_COMPATIBLE
    old = _load_old(old_model, items, same_labels=same_labels) if compatible else None
    tell(f"train {name or out.name} on {items}")
    with progress_bar("Train", unit="steps") as progress:
        run = RunSettings(
            device=device,
            precision=precision,
            devices=devices,
            checkpoint=checkpoint,
            tensorboard=tensorboard,
            progress=progress,
        )
        model = train_model(
            items,
            settings,
            spec,
            name=name or out.name,
            seed=seed,
            run=run,
            old_model=old,
            same_labels=same_labels,
        )
    if reading is not None:
        model = add_layers_side_information(model, items, **reading, device=device)
    model.save(out)
    forget_checkpoint(checkpoint)
    step = next_step("embed", out, "DATA", "OUT", why="to make embeddings with it")
    show(model, as_json, [step])


def _read_objective(
    objective: Objective, fields: Mapping[str, Any]
) -> "ModelSettings | FrozenSettings":
    """Return the settings of an objective; `none` has nothing to set."""
    from onward.training import settings as kinds

    if objective is Objective.NONE:
        return kinds.FrozenSettings()
    if objective is Objective.SIMCLR:
        return kinds.read_settings(kinds.SimCLRSettings, fields, where=WHERE)
    if objective is Objective.BACKWARD_COMPATIBLE:
        return kinds.read_settings(kinds.BackwardCompatibleSettings, fields, where=WHERE)
    loss = {} if objective is Objective.CROSS_ENTROPY else {"loss": objective.value}
    return kinds.read_settings(kinds.TrainingSettings, {**loss, **fields}, where=WHERE)


def _load_old(directory: Path | None, items: "Items", *, same_labels: bool) -> "EmbeddingModel":
    """Return the model to stay compatible with."""
    from onward.models import EmbeddingModel

    if directory is None:
        raise ConfigurationError(
            "a backward compatible model needs the model that it is to stay compatible with; "
            "add --old-model DIRECTORY"
        )
    model = EmbeddingModel.load(directory)
    tell_numbering(items.known_names, model.class_names, same_labels=same_labels)
    return model


def _read_layers(
    dim: int | None, form: str | None, grid: int | None, stages: str | None
) -> dict[str, Any] | None:
    """Return what is to be read from the layers, as `add_layers_side_information` takes it.

    Raises:
        ConfigurationError: if it is said how, but not that anything is to be read.
    """
    numbers = None if stages is None else parse_numbers(stages, "stages")
    given = {"format": form, "grid": grid, "stages": numbers}
    given = {name: value for name, value in given.items() if value is not None}
    if dim is not None:
        return {"dim": dim, **given}
    if given:
        raise ConfigurationError(
            f"--layers-{next(iter(given))} says how side-information is read from the layers, but "
            "not of how many dimensions; add --layers DIM, such as --layers 256"
        )
    return None
