"""How a command prints its answer: a table for a person, JSON for a machine."""

import json
from typing import Annotated, Any, Protocol, runtime_checkable

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


@runtime_checkable
class Answer(Protocol):
    """What a command can print."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        ...


def show(answer: Answer, as_json: bool) -> None:
    """Print an answer on standard output."""
    typer.echo(json.dumps(answer.to_json(), indent=2) if as_json else str(answer))


def show_fields(fields: dict[str, Any], as_json: bool) -> None:
    """Print named values on standard output, one a line; to a person, not those that are None."""
    if as_json:
        typer.echo(json.dumps(fields, indent=2))
        return
    given = {name: value for name, value in fields.items() if value is not None}
    width = max(map(len, given))
    for name, value in given.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        typer.echo(f"{name:<{width}}  {shown}")


def tell(line: str) -> None:
    """Print a line about what is going on, on standard error."""
    typer.echo(line, err=True)


def print_version(asked: bool) -> bool:
    """Print the version and exit, where it is asked for."""
    if asked:
        from onward import __version__

        typer.echo(__version__)
        raise typer.Exit
    return asked
