"""All commands of the command line, read from the table that Typer has of them."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any


def build_commands_once() -> None:
    """Have `CliRunner` keep the table of commands, which it builds anew at every call."""
    testing = importlib.import_module("typer.testing")
    testing._get_command = functools.cache(testing._get_command)


@functools.cache
def commands() -> dict[str, Callable[..., Any]]:
    """The function behind each command, such as `gallery create`."""
    typer = importlib.import_module("typer")
    app = importlib.import_module("onward.cli.app").app
    return dict(_below(typer.main.get_command(app)))


def _below(group, *before: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            yield from _below(command, *before, name)
        else:
            yield " ".join([*before, name]), inspect.unwrap(command.callback)
