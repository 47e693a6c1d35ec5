"""How a command prints its answer: a table for a person, JSON for a machine.

Nothing else prints JSON, so every answer in JSON says what may come next, if only that nothing has
to.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


@runtime_checkable
class Answer(Protocol):
    """What a command can print."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        ...


Steps = Sequence[Mapping[str, str]]
"""What may come next, as `next_step` gives it, first what is most urgent."""


def next_step(command: str, *arguments: object, why: str) -> dict[str, str]:
    """Return what may come next: a command, why, and the step's name, the command's last word.

    Args:
        command: such as "gallery sample".
        arguments: of it, None left out; what is to be put in by the reader is in capitals.
        why: in a few words.
    """
    given = [str(one) for one in arguments if one is not None]
    whole = shlex.join(["onward", *command.split(), *given])
    return {"step": command.rsplit(maxsplit=1)[-1], "command": whole, "why": why}


def show(
    answer: Answer,
    as_json: bool,
    steps: Steps = (),
    also: Mapping[str, Any] | None = None,
) -> None:
    """Print an answer on standard output.

    Args:
        answer: what is printed.
        as_json: for a machine.
        steps: what may come next, before what the answer itself says.
        also: more values, for a machine only.
    """
    typer.echo(to_text(answer.to_json(), steps, also) if as_json else str(answer))


def show_fields(fields: dict[str, Any], as_json: bool, steps: Steps = ()) -> None:
    """Print named values on standard output, one a line; to a person, not those that are None."""
    if as_json:
        typer.echo(to_text(fields, steps))
        return
    given = {name: value for name, value in fields.items() if value is not None}
    width = max(map(len, given))
    for name, value in given.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        typer.echo(f"{name:<{width}}  {shown}")


def to_text(
    fields: Mapping[str, Any],
    steps: Steps = (),
    also: Mapping[str, Any] | None = None,
    *,
    indent: int | None = 2,
) -> str:
    """Return JSON of some values, and last of what may come next: `next_steps`, maybe empty."""
    known = {name: value for name, value in fields.items() if name != "next_steps"}
    following = [*steps, *fields.get("next_steps", ())]
    return json.dumps({**known, **(also or {}), "next_steps": following}, indent=indent)


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
