"""How a command prints its answer: a table for a person, JSON for a machine.

To a person, control characters are shown escaped, whatever an id, a name or a path holds. The ends
of lines are kept where they are the layout's own: what the answer says of itself as plain values
tells which are not.

Nothing else prints JSON, so every answer in JSON says what may come next, if only that nothing has
to.
"""

import json
import math
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import typer

from onward.errors import OnwardError
from onward.progress import visible


@runtime_checkable
class Answer(Protocol):
    """What a command can print."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        ...


COMMANDS = {
    "start": "onward upgrade start",
    "run": "onward upgrade start",
    "run_and_verify": "onward upgrade start, then onward upgrade verify",
    "pause": "onward upgrade pause",
    "resume": "onward upgrade resume",
    "limit": "onward upgrade limit",
    "abort": "onward upgrade abort",
    "verify": "onward upgrade verify",
    "verify_fused": "onward upgrade verify --serve fused",
    "backfill": "onward backfill",
    "write": "onward gallery write",
    "sample": "onward gallery sample",
    "export": "onward gallery export",
    "embed": "onward embed",
    "upgrade": "onward upgrade",
    "cut_over": "onward upgrade cutover",
    "cut_over_fused": "onward upgrade cutover --serve fused",
    "roll_back": "onward upgrade rollback",
    "complete": "onward upgrade complete",
    "status": "onward upgrade status",
    "create_gallery": "onward gallery create",
}
"""Of each step that the library names: the command that does it."""
OPTIONS = set[str]()
"""Of all commands, as the library's arguments are called; who registers commands adds theirs."""
Steps = Sequence[Mapping[str, str]]
"""What may come next, as `suggest` or an answer gives it, first what is most urgent."""


def suggest(command: str, *arguments: object, why: str) -> dict[str, str]:
    """Return what may come next: a command, why, and the step's name, the command's last word.

    Args:
        command: such as "gallery sample".
        arguments: of it, None left out; what is to be put in by the reader is in capitals.
        why: in a few words.
    """
    given = [str(one) for one in arguments if one is not None]
    whole = shlex.join(["onward", *command.split(), *given])
    return {"step": command.rsplit(maxsplit=1)[-1], "command": whole, "why": why}


@dataclass(frozen=True)
class Told:
    """What a command returns where its answer is not all of it.

    Attributes:
        answer: what is printed.
        steps: what may come next, before what the answer itself says.
        also: more values, for a machine only.
        then: a line for a person, on standard error, after the answer.
        failed: whether the command ends with 1.
    """

    answer: Answer
    steps: Steps = ()
    also: Mapping[str, Any] = field(default_factory=dict)
    then: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Fields:
    """Named values; to a person one a line, and not those that are None, unless there is a text."""

    fields: dict[str, Any]
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the values."""
        return self.fields

    def __str__(self) -> str:
        given = {name: value for name, value in self.fields.items() if value is not None}
        width = max(map(len, given))
        lines = (
            f"{name:<{width}}  {', '.join(map(str, one)) if isinstance(one, list) else one}"
            for name, one in given.items()
        )
        return self.text or "\n".join(lines)


def show(told: Told | Answer, as_json: bool) -> None:
    """Print an answer on standard output; end with 1 where the command has failed."""
    told = told if isinstance(told, Told) else Told(told)
    whole = to_text(told.answer.to_json(), told.steps, told.also) if as_json else ""
    typer.echo(whole or laid_out(told.answer))
    if told.then:
        tell(told.then)
    if told.failed:
        raise typer.Exit(1)


def laid_out(answer: object) -> str:
    """Return an answer as text for a person, nothing hidden in it."""
    text = str(answer)
    values = answer.to_json() if isinstance(answer, Answer) else {}
    given = set(_texts(values))
    for one in sorted((one for one in given if "\n" in one), key=len, reverse=True):
        text = text.replace(one, visible(one))
    return visible(with_options(text, kept=given), lines=True)


def message_of(error: OnwardError) -> str:
    """Return what an error says, and how a command does what it asks for.

    The library names the step and the arguments that put an error right; the command line adds the
    command that takes the step, and says options for arguments.
    """
    text = with_options(str(error))
    return f"{text} ({COMMANDS[error.step]})" if error.step in COMMANDS else text


def with_options(text: str, kept: Collection[str] = ()) -> str:
    """Return a text of the library's with options where it names arguments of the same name.

    Only `name=True`, `name=...` and `name='word'` that stand alone are taken for arguments: what
    has an equals sign otherwise may be a path or an id, and so may be what is `kept`.
    """

    def option(argument: re.Match[str]) -> str:
        name, value = argument[1], argument[3] or argument[2]
        if name not in OPTIONS or argument[0] in kept:
            return argument[0]
        return f"--{name.replace('_', '-')}" + ("" if value == "True" else f" {value}")

    alone = r"(?<![\w./\\-])(\w+)=(\.\.\.|True|'([\w-]+)')(?=[\s,;:)]|\.?\s|\.?$)"
    return re.sub(alone, option, text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _texts(name)
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def to_text(
    fields: Mapping[str, Any],
    steps: Steps = (),
    also: Mapping[str, Any] | None = None,
    *,
    indent: int | None = 2,
) -> str:
    """Return JSON of some values, and last of what may come next: `next_steps`, maybe empty."""
    known = {name: value for name, value in fields.items() if name != "next_steps"}
    following = [_with_command(one) for one in (*steps, *fields.get("next_steps", ()))]
    whole = {**known, **(also or {}), "next_steps": following}
    try:
        return json.dumps(whole, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(whole), indent=indent, allow_nan=False)


def _with_command(step: Mapping[str, str]) -> dict[str, str]:
    """Return a step with its command, where it has none yet."""
    command = step.get("command") or COMMANDS.get(step["step"], "")
    return {"step": step["step"], "command": command, "why": with_options(step["why"])}


def _finite(value: Any) -> Any:
    """Return a value in which null stands for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def tell(line: str) -> None:
    """Print a line about what is going on, on standard error."""
    typer.echo(visible(line), err=True)


def tell_answer(answer: object) -> None:
    """Print what a command would print as its answer, or lines, on standard error."""
    typer.echo(laid_out(answer), err=True)


def print_version(asked: bool) -> bool:
    """Print the version and exit, where it is asked for."""
    if asked:
        from onward import __version__

        typer.echo(__version__)
        raise typer.Exit
    return asked
