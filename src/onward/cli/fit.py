"""`onward fit`: learn a transformation from pairs of old and new embeddings."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from onward.cli.options import Device, Directory, EmbeddingsFile, Seed, check_room
from onward.cli.output import AsJson, show
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
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of low-rank's map; 64.")] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The network of the FCT paper: inner width 2048.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the network.")] = None,
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
    show(transformation, as_json)
