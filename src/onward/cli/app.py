"""The table of commands."""

from typing import Annotated

import typer

from onward.cli import backfill, evaluate, experiment, fit, gallery, train, upgrade
from onward.cli.options import Commands
from onward.cli.output import print_version

app = Commands(
    name="onward",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    experiment.demo,
    experiment.experiment,
    train.train,
    train.embed,
    fit.fit,
    evaluate.search,
    evaluate.evaluate,
    evaluate.compare,
    evaluate.report,
    gallery.info,
):
    app.command()(command)
app.add_typer(backfill.app, name="backfill")
app.add_typer(gallery.app, name="gallery")
app.add_typer(upgrade.app, name="upgrade")


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
