"""How LanceDB is spoken to: what fails is said in the gallery's words, conflicts are tried again.

What it logs on its own goes to a file and not to the terminal: its errors come as exceptions.
Whoever sets LANCE_LOG, LANCE_LOG_FILE or LANCEDB_LOG gets what these ask for.

Only the modules of the gallery in a directory import this.
"""

import errno
import os
import random
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from onward.errors import GalleryError, OnwardError

T = TypeVar("T")

LONGEST_LOG = 1 << 20
"""Bytes; a log that is longer is set aside, in the place of the one that was set aside before."""
TRIES = 20
LONGEST_PAUSE = 0.5
"""Seconds."""
_NEITHER_LINK_NOR_PIPE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
CONFLICT = ("conflict", "concurrent", "timed out", "timeout")
"""What Lance's message says when another process has committed first."""
SPARE_FILES = 32
"""About how many files Lance opens at once; where it cannot, it panics and never answers again."""
PANIC = "PanicException"
"""What becomes in Python of a failure that Lance did not expect: not a kind of Exception."""

CAUSES: tuple[tuple[tuple[int, ...], str], ...] = (
    (
        (errno.EMFILE, errno.ENFILE),
        "More files are open than are allowed: close some, or allow more (ulimit -n)",
    ),
    (
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "The disk is full, or what you may use of it: make room",
    ),
    (
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "You may not read or write its files: get the right to do so in the directory",
    ),
    ((errno.ENOMEM,), "There is too little memory: free some, or ask for less at a time"),
)
"""What the numbers of the system's errors mean here, and what to do."""


def keep_off_the_terminal() -> None:
    """Have what LanceDB logs on its own written to a file, unless the environment says where to.

    Each of its two halves looks once, when it is imported. `lance`, which compacts, can log to a
    file; where there is no place for one, and of `lancedb`, which cannot, errors alone are logged.
    """
    os.environ.setdefault("LANCEDB_LOG", "error")
    if os.environ.keys() & {"LANCE_LOG", "LANCE_LOG_FILE"}:
        return
    log = _log_file()
    if log is None:
        os.environ["LANCE_LOG"] = "error"
    else:
        os.environ |= {"LANCE_LOG": "warn", "LANCE_LOG_FILE": str(log)}


def _log_file() -> Path | None:
    """Return the file that the log goes to; None where LanceDB could not open it."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NEITHER_LINK_NOR_PIPE
    try:
        if not state.is_absolute():
            state = Path.home() / ".local" / "state"
        path = state / "onward" / "lance.log"
        str(path).encode()  # LanceDB reads no name that is not in UTF-8
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
        status = os.fstat(descriptor)
        os.close(descriptor)
        if status.st_size > LONGEST_LOG:
            path.replace(path.with_name("lance.log.1"))
    except (OSError, RuntimeError, UnicodeEncodeError):  # RuntimeError: there is no home
        return None
    return path if stat.S_ISREG(status.st_mode) else None


def connect(path: Path) -> Any:
    """Return the database in a directory: what it reads is always the newest."""
    keep_off_the_terminal()
    import lancedb

    check_spare_files()
    return lancedb.connect(path.absolute(), read_consistency_interval=timedelta(0))


def open_dataset(path: Path) -> Any:
    """Return a table as it is now, as its own engine knows it."""
    keep_off_the_terminal()
    import lance

    check_spare_files()
    return lance.dataset(path.absolute())


def check_spare_files() -> None:
    """Fail as the system does, before Lance does it worse, if hardly a file more may be opened."""
    try:
        with ExitStack() as held:
            for _ in range(SPARE_FILES):
                held.enter_context(Path(os.devnull).open())
    except OSError as error:  # which file it was tells nothing
        raise OSError(error.errno, error.strerror) from None


@contextmanager
def speaking(url: str, done: str = "read or written") -> Iterator[None]:
    """Turn what LanceDB raises into a GalleryError that names the gallery, the cause and the way.

    Args:
        url: of the gallery.
        done: what cannot be done if it fails.
    """
    try:
        yield
    except OnwardError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        if done != "created" and _is_gone(url):
            raise GalleryError(f"gallery {url} is gone", "restore it from a copy") from error
        said, advice = _first_line(error), _advice(error)
        raise GalleryError(f"gallery {url} cannot be {done}: {said}. {advice}") from error


def _advice(error: BaseException) -> str:
    """Say what has caused an error, as far as that is known, and what to do."""
    number = _number_of(error)
    for numbers, cause in CAUSES:
        if number in numbers:
            return f"{cause}, and run the same again; what was written before is whole"
    return "If its files were changed, removed or damaged, restore it from a copy"


def _number_of(error: BaseException) -> int | None:
    """Return the number of the system's error that an error has, or that it names."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    named = re.search(r"\bos error (\d+)|\bErrno (\d+)|\bOs \{ code: (\d+)", str(error))
    if named is not None:
        return int(next(number for number in named.groups() if number))
    return error.errno if isinstance(error, OSError) else None


def _is_gone(url: str) -> bool:
    try:
        Path(url).stat()
    except FileNotFoundError:
        return True
    except OSError:  # closed to us, say: that is another complaint
        return False
    return False


def commit(url: str, action: Callable[[], T]) -> T:
    """Do one commit; try again, a bounded number of times, where other processes were quicker.

    Raises:
        GalleryError: if they were so every time, or for any other reason that LanceDB gives.
    """
    for attempt in range(TRIES):
        try:
            with speaking(url):
                return action()
        except GalleryError as error:
            cause = error.__cause__
            said = "" if cause is None else _without_paths(cause, url).lower()
            if cause is None or not any(word in said for word in CONFLICT):
                raise
            last = cause
        time.sleep(random.uniform(0, min(LONGEST_PAUSE, 0.01 * 2**attempt)))
    raise GalleryError(
        f"gallery {url} is being changed by others: {TRIES} tries to write to it were in conflict "
        f"with theirs ({_first_line(last)}). Nothing was lost",
        "run the same again when fewer processes write",
    ) from last


def _without_paths(error: BaseException, url: str) -> str:
    """Return what an error says; words in the names of files do not count."""
    said = str(error).replace(str(Path(url).absolute()).lstrip("/"), "")
    return re.sub(r"\S*/\S*", "", said)


def _first_line(error: BaseException) -> str:
    kind = type(error).__name__
    lines = str(error).strip().splitlines() or [kind]
    said = lines[0].split(", /")[0][:300].rstrip(".")
    return (
        f"{kind}: {said}" if isinstance(error, LookupError | TypeError | AttributeError) else said
    )
