"""All commands of the command line, read from the table that Typer has of them, and run here."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any


def build_commands_once() -> None:
    """Have `CliRunner` keep the table of commands, which it builds anew at every call."""
    testing = importlib.import_module("typer.testing")
    testing._get_command = functools.cache(testing._get_command)


def attempt(*words: object, **options: Any) -> Any:
    """Run a command in this process; an error that it raises is in the result."""
    app = importlib.import_module("onward.cli.app").app
    runner = importlib.import_module("typer.testing").CliRunner()
    return runner.invoke(app, [str(word) for word in words], **options)


def run(*words: object, code: int = 0) -> Any:
    """Run a command that ends with a code; any error is the test's."""
    result = attempt(*words, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def answer(*words: object, code: int = 0) -> str:
    """Run a command that ends with a code, and return what it prints as its answer."""
    return run(*words, code=code).stdout


@functools.cache
def table() -> dict[str, Any]:
    """Each command as Typer has it, by its name, such as `gallery create`."""
    typer = importlib.import_module("typer")
    app = importlib.import_module("onward.cli.app").app
    return dict(_below(typer.main.get_command(app)))


def commands() -> dict[str, Callable[..., Any]]:
    """The function behind each command."""
    return {name: inspect.unwrap(command.callback) for name, command in table().items()}


def parameters() -> dict[str, list[Any]]:
    """The parameters of each command."""
    return {name: command.params for name, command in table().items()}


def _below(group: Any, *before: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            yield from _below(command, *before, name)
        else:
            yield " ".join([*before, name]), command
