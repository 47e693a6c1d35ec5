"""The command line: the library's verbs, one file each.

A command parses, makes one call and prints. What it prints on standard output is the answer
(`--json` for a machine); progress goes to standard error. Exit codes: 0 done, 1 the user can put it
right (one message, no traceback), 2 wrong usage. Commands import the library inside the function,
so that `onward --help` is quick.
"""

import os
import sys
from collections.abc import Sequence

BY_CTRL_C = 130
"""What typer ends with when it is interrupted from the keyboard."""
INTERRUPTED = "interrupted; nothing was left half written, run the same again to go on"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `onward` with these arguments (default: those of the process), then exit."""
    # Threads that wait for each other by spinning slow all down where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        _run(arguments)
    except KeyboardInterrupt:
        fail(INTERRUPTED)
    except SystemExit as end:
        if end.code == BY_CTRL_C:
            fail(INTERRUPTED)
        raise


def _run(arguments: Sequence[str] | None) -> None:
    from onward.cli.app import app
    from onward.errors import OnwardError

    try:
        app(None if arguments is None else list(arguments), prog_name="onward")
    except OnwardError as error:
        fail(str(error))
    except OSError as error:  # disk full, permission denied, a file that went away
        fail(f"{error.strerror}: {error.filename}" if error.filename else str(error))


def fail(message: str) -> None:
    """Print one message on standard error and exit with 1."""
    sys.stderr.write(f"onward: {message}\n")
    sys.exit(1)
