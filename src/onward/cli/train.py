"""`onward train`: an embedding model, a side-information model or a backward compatible model."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onward.cli.options import (
    Classes,
    DataSource,
    Device,
    Directory,
    IdColumn,
    ImageColumn,
    LabelColumn,
    Seed,
    SkipBad,
    Split,
    check_room,
    open_data,
)
from onward.cli.output import AsJson, show, tell
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.data.items import Items
    from onward.models import EmbeddingModel
    from onward.nn.specs import BackboneSpec
    from onward.training.settings import RunSettings


class Objective(StrEnum):
    """What a model learns from."""

    CROSS_ENTROPY = "cross-entropy"
    SIMCLR = "simclr"
    BACKWARD_COMPATIBLE = "backward-compatible"


def train(
    data: DataSource,
    out: Directory,
    name: Annotated[
        str | None, typer.Option(help="Name of its space; default: OUT's own name.")
    ] = None,
    objective: Annotated[
        Objective, typer.Option(help="simclr makes side-information and needs no labels.")
    ] = (Objective.CROSS_ENTROPY),
    classes: Classes = None,
    split: Annotated[Split, typer.Option(help="Which part of the data.")] = Split.TRAIN,
    backbone: Annotated[
        str, typer.Option(help="small-resnet, or timm:NAME such as timm:resnet50.")
    ] = "small-resnet",
    dim: Annotated[int, typer.Option(min=1, help="Dimensions of the embedding.")] = 128,
    size: Annotated[
        int, typer.Option(min=4, help="Height and width that images are brought to, in pixels.")
    ] = 32,
    channels: Annotated[int, typer.Option(min=1, max=3, help="1: grey, 3: colour.")] = 3,
    width: Annotated[int, typer.Option(min=1, help="small-resnet: channels it begins with.")] = 32,
    epochs: Annotated[int, typer.Option(min=1, help="Times that every image is seen.")] = 100,
    batch: Annotated[int, typer.Option(min=2, help="Images in a batch.")] = 256,
    lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate; default: 0.001 for each image of a batch."),
    ] = None,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images; not for digits.")] = True,
    old_model: Annotated[
        Path | None, typer.Option(help="backward-compatible: the model to stay compatible with.")
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Also give side-information of so many dimensions, from its own stages."
        ),
    ] = None,
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
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    id_column: IdColumn = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on DATA and write it to OUT. If it was killed, the same command goes on.

    Example: onward train photos/ models/old --classes 0-49 --epochs 100 --layers 256
    """
    from onward.models.files import KIND
    from onward.nn.specs import BackboneSpec
    from onward.progress import progress_bar
    from onward.training.checkpoints import forget_checkpoint
    from onward.training.layers import add_layers_side_information
    from onward.training.settings import RunSettings, read_settings

    check_room(out, KIND)
    spec = read_settings(
        BackboneSpec,
        {"name": backbone, "dim": dim, "size": size, "channels": channels, "width": width},
        where="onward train",
    )
    items = open_data(
        data,
        split=split,
        classes=classes,
        image_column=image_column,
        label_column=label_column,
        id_column=id_column,
        skip_bad=skip_bad,
    )
    settings: dict[str, Any] = {"epochs": epochs, "batch_items": batch, "lr": lr, "flip": flip}
    checkpoint = out.with_name(f".{out.name}.checkpoint")
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
        model = _train(objective, items, spec, name or out.name, settings, seed, run, old_model)
    if layers is not None:
        model = add_layers_side_information(model, items, dim=layers, device=device)
    model.save(out)
    forget_checkpoint(checkpoint)
    show(model, as_json)


def _train(
    objective: Objective,
    items: "Items",
    spec: "BackboneSpec",
    name: str,
    settings: dict[str, Any],
    seed: int,
    run: "RunSettings",
    old_model: Path | None,
) -> "EmbeddingModel":
    from onward.models import EmbeddingModel
    from onward.training.backward_compatible import train_backward_compatible_model
    from onward.training.embedding_models import train_embedding_model
    from onward.training.settings import (
        BackwardCompatibleSettings,
        SimCLRSettings,
        TrainingSettings,
        read_settings,
    )
    from onward.training.side_information import train_side_information_model

    where = "onward train"
    if objective is Objective.SIMCLR:
        chosen = read_settings(SimCLRSettings, settings, where=where)
        return train_side_information_model(
            items, spec, name=name, settings=chosen, seed=seed, run=run
        )
    if objective is Objective.CROSS_ENTROPY:
        plain = read_settings(TrainingSettings, settings, where=where)
        return train_embedding_model(items, spec, name=name, settings=plain, seed=seed, run=run)
    if old_model is None:
        raise ConfigurationError(
            "a backward compatible model needs the model that it is to stay compatible with; "
            "add --old-model DIRECTORY"
        )
    compatible = read_settings(BackwardCompatibleSettings, settings, where=where)
    return train_backward_compatible_model(
        items,
        spec,
        old_model=EmbeddingModel.load(old_model),
        name=name,
        settings=compatible,
        seed=seed,
        run=run,
    )
