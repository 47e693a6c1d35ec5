"""The table of commands."""

from typing import Annotated

import typer

from onward.cli import (
    backfill,
    compare,
    demo,
    embed,
    evaluate,
    experiment,
    fit,
    gallery,
    info,
    report,
    search,
    train,
)
from onward.cli import upgrade as upgrade_command
from onward.cli.output import print_version

app = typer.Typer(
    name="onward",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    demo.demo,
    experiment.experiment,
    train.train,
    embed.embed,
    fit.fit,
    backfill.backfill,
    search.search,
    evaluate.evaluate,
    compare.compare,
    report.report,
    info.info,
):
    app.command()(command)
app.add_typer(gallery.app, name="gallery")
app.add_typer(upgrade_command.app, name="upgrade")


@app.callback()
def onward(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Upgrade the embedding model of a retrieval system without embedding the gallery again."""
