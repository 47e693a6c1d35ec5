"""The command line: the library's verbs, one file each.

A command parses, makes one call and prints. What it prints on standard output is the answer
(`--json` for a machine); progress goes to standard error. Exit codes: 0 done, 1 the user can put it
right (one message, no traceback), 2 wrong usage. What nobody expected is one message too, which
names a file that holds the traceback. Commands import the library inside the function, so that
`onward --help` is quick.
"""

import io
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from traceback import format_exception, walk_tb
from typing import NoReturn

BY_CTRL_C = 130
"""What typer ends with when it is interrupted from the keyboard."""
INTERRUPTED = "interrupted; nothing was left half written, run the same again to go on"

EXTRAS = {
    "torch": ("torch", "vision"),
    "torchvision": ("torchvision", "vision"),
    "timm": ("timm", "vision"),
    "kornia": ("kornia", "vision"),
    "PIL": ("pillow", "vision"),
    "lightning_fabric": ("lightning-fabric", "train"),
    "pytorch_metric_learning": ("pytorch-metric-learning", "train"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "transformers": ("transformers", "text"),
    "tokenizers": ("tokenizers", "text"),
}
"""What each module that an extra brings is called as a package, and the extra."""
TRAINING = ("onward.training", "onward.experiments")
"""Modules that need the extra `train`, whatever of it they miss first."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `onward` with these arguments (default: those of the process), then exit."""
    # Threads that wait for each other by spinning slow all down where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if arguments is None:  # the process is this command's alone
        _answer_interrupts()
        if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal lacks is shown escaped
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        code = BY_CTRL_C
    if code == BY_CTRL_C:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends without a word
        fail(INTERRUPTED)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    from onward.errors import OnwardError

    if any("\0" in one for one in arguments):
        return _end("an argument holds the character NUL; leave it out", 2)
    try:
        from onward.cli.app import app

        code = app(arguments, prog_name="onward", standalone_mode=False)
    except OnwardError as error:
        from onward.cli.output import message_of

        fail(message_of(error))
    except MemoryError as error:
        said = f" ({error})" if str(error) else ""
        fail(f"there is not enough memory for this{said}; free some, or ask for less at a time")
    except OSError as error:  # disk full, permission denied, a file that went away
        said = error.strerror or str(error)
        fail(f"{said}: {error.filename}" if error.filename else said)
    except ModuleNotFoundError as error:
        fail(_missing_extra(error) or _unexpected(error))
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # typer's own, as are the next two
            error.show()  # type: ignore[attr-defined]
            return 2
        if hasattr(error, "format_message"):
            context = getattr(error, "ctx", None)
            hint = "" if context is None else f" (usage: {context.command_path} --help)"
            return _end(" ".join(error.format_message().split()) + hint, 2)
        if type(error).__name__ == "Abort":  # of an end of input
            fail(INTERRUPTED)
        fail(_unexpected(error))
    return int(code or 0)


def _missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return the message for a module that an extra brings, or None if none does."""
    from onward.errors import MissingExtraError

    package, extra = EXTRAS.get((error.name or "").partition(".")[0], (None, ""))
    if package is None:
        return None
    through = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    trains = any(name.startswith(TRAINING) for name in through)
    return str(MissingExtraError(package, "train" if trains and extra == "vision" else extra))


def _unexpected(error: BaseException) -> str:
    """Write the traceback to a file of its own; return the message that names it."""
    said = next(iter(str(error).splitlines()), "")
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    try:
        descriptor, path = tempfile.mkstemp(prefix="onward-error-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(format_exception(error))
    except OSError as unwritten:
        where = f"its traceback could not be written ({unwritten}). Please report it"
    else:
        where = f"its traceback is in {path}. Please report it with that file"
    return f"unexpected error: {what}; {where}"


def _answer_interrupts() -> None:
    """Let the first Ctrl-C interrupt what is done, and the second end the process at once.

    A run that is interrupted finishes its batch in good order, which may take a while. Whatever is
    written is written in one step, so that nothing is lost by not waiting for it.
    """

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, end)
        raise KeyboardInterrupt

    def end(*_: object) -> None:
        show_the_cursor = "\x1b[?25h" if os.isatty(2) else ""
        os.write(2, f"{show_the_cursor}onward: {INTERRUPTED}\n".encode())
        os._exit(1)

    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what runs behind it
        return
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, interrupt)


def fail(message: str) -> NoReturn:
    """Print one message on standard error and exit with 1."""
    sys.exit(_end(message, 1))


def _end(message: str, code: int) -> int:
    """Print one message on standard error; return the code to exit with."""
    from onward.progress import visible

    with suppress(AttributeError, OSError):  # standard error is closed or full: the code tells
        sys.stderr.write(f"onward: {visible(message)}\n")
    return code
