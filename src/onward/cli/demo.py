"""`onward demo`: a gallery of real images moves to a new model, from beginning to end."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onward.cli.options import Device, Overwrite
from onward.cli.output import AsJson, show, tell_answer
from onward.cli.reading import takes_data

if TYPE_CHECKING:
    from onward.data.sources import Stated


@takes_data
def demo(
    stated: "Stated",
    data: Annotated[
        str | None,
        typer.Option(help="Your images: a folder with a sub-folder for each class, or Parquet."),
    ] = None,
    old_classes: Annotated[
        int | None,
        typer.Option(min=1, help="How many classes the old model knows, lowest labels first."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of each model that sees images.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed and device, same numbers.")] = 0,
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/demo"),
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train old and new models, fill a gallery, upgrade it without its images, and compare.

    The same again goes on where it was interrupted, and replaces what it has written.

    Example: onward demo --data photos/ --old-classes 10
    """
    from onward.data.sources import Stated
    from onward.experiments.cache import Cache
    from onward.experiments.learning import Stage
    from onward.experiments.recipe import load_recipe
    from onward.experiments.study import CACHE, run_study
    from onward.progress import progress_bar

    said = vars(stated).items() - vars(Stated()).items()
    overrides: dict[str, Any] = {"seed": seed, **{f"data.{name}": value for name, value in said}}
    given = {
        "data.source": data,
        "data.old_classes": old_classes,
        "embedding_model.epochs": epochs,
        "side_information.epochs": epochs,
        "backward_compatible.epochs": epochs,
    }
    overrides |= {key: value for key, value in given.items() if value is not None}
    recipe = load_recipe("digits" if data in (None, "digits") else "images", overrides)
    stage = Stage(device, tell_answer, progress_bar, Cache(out / CACHE))
    comparison = run_study(recipe, out, stage, overwrite=overwrite)
    show(comparison, as_json)
