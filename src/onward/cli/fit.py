"""`onward fit`: learn a transformation from pairs of old and new embeddings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from onward.cli.options import Device, Directory, EmbeddingsFile, Seed, check_room
from onward.cli.output import AsJson, show, tell
from onward.errors import ConfigurationError


def fit(
    old: EmbeddingsFile,
    new: EmbeddingsFile,
    out: Directory,
    side: Annotated[
        Path | None, typer.Option(help="Side-information of the same items: .parquet.")
    ] = None,
    method: Annotated[
        Literal["auto", "ridge", "mlp", "low-rank", "procrustes", "identity", "rbt"],
        typer.Option(help="auto: the better of ridge and mlp by retrieval; the rest to compare."),
    ] = "auto",
    rank: Annotated[
        int | None, typer.Option(min=1, help="low-rank: rank of its map; default: 64.")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="mlp as in the FCT paper: inner width 2048, not 512.")
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of the network; default: 80, more for few items."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Learn h(OLD, side) -> NEW on the same items and write it to OUT. Reads no image.

    Example: onward fit old-train.parquet new-train.parquet old-to-new/ --side side-train.parquet
    """
    from onward.progress import progress_bar
    from onward.spaces import Embeddings
    from onward.training.settings import PAPER, FitSettings, RunSettings, read_settings
    from onward.training.transformations import fit as fit_transformation
    from onward.transformation import KIND

    if paper and method not in ("auto", PAPER.method):
        raise ConfigurationError(
            f"--paper is the network of the FCT paper, but --method is {method}; give one of them"
        )
    if rank is not None and method != "low-rank":
        raise ConfigurationError(
            f"--rank is that of low-rank's map, but --method is {method}; give --method low-rank, "
            "or no rank"
        )
    check_room(out, KIND)
    given: dict[str, Any] = PAPER.model_dump() if paper else {"method": method}
    chosen = {"epochs": epochs, "rank": rank}
    given |= {name: value for name, value in chosen.items() if value is not None}
    settings = read_settings(FitSettings, given, where="onward fit")
    with progress_bar("Fit", unit="steps") as progress:
        transformation = fit_transformation(
            Embeddings.load(old),
            None if side is None else Embeddings.load(side),
            Embeddings.load(new),
            settings=settings,
            seed=seed,
            run=RunSettings(device=device, progress=progress),
        )
    transformation.save(out)
    for line in describe_trials(transformation.made_by):
        tell(line)
    show(transformation, as_json)


def describe_trials(made_by: Mapping[str, Any]) -> list[str]:
    """Return what was tried and how each fared, beside doing nothing and embedding all anew.

    Nothing where nothing was held out to judge by.
    """
    if not made_by.get("tried"):
        return []
    references = made_by["references"]
    rows = [(name, references[name]) for name in ("old/old", "new/new") if name in references]
    rows[1:1] = [(_name(trial), trial) for trial in made_by["tried"]]
    width = max(len(name) for name, _ in rows)
    judged = f"{made_by['judged on']} held-out items, judged by {made_by['judged by']}, in percent"
    return [
        f"{judged}; kept: {_name(made_by)}",
        f"{'':<{width}}  cmc@1    map",
        *(f"{name:<{width}}  {_percent(n['cmc@1'])}  {_percent(n['map'])}" for name, n in rows),
    ]


def _name(trial: Mapping[str, Any]) -> str:
    settings = (f"{name} {trial[name]:g}" for name in ("penalty", "rank") if name in trial)
    return " ".join(["new/old", trial["method"], *settings])


def _percent(fraction: float) -> str:
    return f"{100 * fraction:5.1f}"
