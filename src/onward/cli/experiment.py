"""`onward demo` and `onward experiment`: a whole upgrade; a recipe over several seeds."""

import shlex
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from onward.cli.options import DataStated, Device, Overwrite, parse_numbers
from onward.cli.output import Answer, tell_answer
from onward.errors import ConfigurationError
from onward.progress import progress_bar


def demo(
    stated: DataStated,
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
) -> Answer:
    """Train old and new models, fill a gallery, upgrade it without its images, and compare.

    The same again goes on where it was interrupted, and replaces what it has written.

    Example: onward demo --data photos/ --old-classes 10
    """
    from onward.data import Stated
    from onward.experiments.recipe import load_recipe
    from onward.experiments.study import CACHE, run_study
    from onward.experiments.vectors import Stage

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
    stage = Stage(device, tell_answer, progress_bar, out / CACHE)
    return run_study(recipe, out, stage, overwrite=overwrite)


def experiment(
    recipe: Annotated[
        str, typer.Argument(help="A recipe of Onward's, such as digits, or a .toml.")
    ],
    seeds: Annotated[str, typer.Option(help="Such as 0-4 or 0,2.")] = "0",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as fit.epochs=20.")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Perform this arm of RECIPE alone; may be given several times."),
    ] = None,
    merge: Annotated[
        Path | None,
        typer.Option(help="Add or renew the rows of --arm in this NAME.json; write nothing else."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where everything is written; default: runs/RECIPE.")
    ] = None,
    cache: Annotated[
        Path, typer.Option(help="Models, embeddings and the like, shared by experiments.")
    ] = Path("runs/cache"),
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Answer:
    """Perform RECIPE for each seed; write NAME.json and NAME.md. Interrupted, it goes on.

    The same again, or with more seeds, replaces what it has written. With --arm and --merge, rows
    are joined to those that were written before; all others stay as they are.

    Example: onward experiment digits --seeds 0-4 --set fit.method=ridge
    """
    from onward.experiments.experiment import merge_arms, run_experiment
    from onward.experiments.recipe import load_recipe
    from onward.experiments.vectors import Stage

    overrides = dict(read_override(text) for text in set_ or [])
    loaded = load_recipe(recipe, overrides | ({"only": arm} if arm else {}))
    numbers = parse_numbers(seeds, "seeds")
    stage = Stage(device, tell_answer, progress_bar, cache)
    command = shlex.join(["onward", *sys.argv[1:]])
    if merge is not None:
        if out is not None or overwrite:
            raise ConfigurationError(
                "--merge writes its own file alone", "leave --out and --overwrite out"
            )
        return merge_arms(loaded, numbers, merge, stage, command=command)
    place = out or Path("runs") / loaded.name
    return run_experiment(loaded, numbers, place, stage, command=command, overwrite=overwrite)


def read_override(text: str) -> tuple[str, Any]:
    """Read `key=value`; the value is written as in TOML, a bare word is a string.

    Raises:
        ConfigurationError: if there is no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(f"{text!r} sets nothing", "write it as --set fit.epochs=20")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value
