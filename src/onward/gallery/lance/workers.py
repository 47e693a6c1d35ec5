"""Which processes work on a field of a gallery in a directory: those that hold a lock on a file.

The operating system takes a lock away from a process that ends, however it ends. So a worker that
was killed is no longer one at once, without a clock and without being told. Correctness never
depends on these locks: where there are none, every worker believes to be alone.

A link in the place of a lock is not followed: what it leads to is not a worker's.

Only `onward.gallery.lance.store` imports this.
"""

import errno
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from onward.errors import GalleryError
from onward.gallery.lance.commits import speaking
from onward.gallery.store import EVERYTHING, Share, share_of

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def working_in(directory: Path, url: str) -> Iterator[Callable[[], Share]]:
    """Be one of the workers that have a file in this directory, while the block runs."""
    name = secrets.token_hex(8)
    aside, own = directory / f".{name}", directory / name
    with speaking(url):
        directory.mkdir(parents=True, exist_ok=True)
        file = aside.open("x")  # never what somebody else has put there
    with file:
        try:
            if _lock(file, exclusive=True) is None:
                yield lambda: EVERYTHING
                return
            with speaking(url):
                aside.rename(own)  # locked before others can see it
            yield lambda: share_of(name, _alive(directory, name))
        finally:
            own.unlink(missing_ok=True)
            aside.unlink(missing_ok=True)


@contextmanager
def alone_in(path: Path, url: str) -> Iterator[bool]:
    """Say whether no other process is in a block with this lock; hold others off while it runs.

    Raises:
        GalleryError: if the lock cannot be opened, such as where a link stands in its place.
    """
    with speaking(url):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_lock(path)
    with file:
        alone = _lock(file, exclusive=True) is not False
        try:
            yield alone
        finally:
            if alone:
                path.unlink(missing_ok=True)


def touch(lock: Path) -> None:
    """Say that who holds a lock gets on."""
    follow = os.utime not in os.supports_follow_symlinks
    with suppress(FileNotFoundError):  # others may delete what they take for forgotten
        os.utime(lock, follow_symlinks=follow)


def _open_lock(path: Path) -> IO[str]:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NOFOLLOW  # which leaves its time as it is
    try:
        return os.fdopen(os.open(path, flags, 0o666), "a")
    except OSError as error:
        if not path.is_symlink():
            raise
        raise GalleryError(
            f"{path} is a link; a lock has to be a file of its own, so the link was not followed. "
            "Remove it, and run the same again; what was written before is whole"
        ) from error


def _alive(directory: Path, own: str) -> list[str]:
    """Return the other workers; forget those that have ended."""
    found = []
    for path in directory.iterdir():
        if path.name.startswith(".") or path.name == own:
            continue
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | _NOFOLLOW)) as file:
                if _lock(file, exclusive=False):
                    path.unlink(missing_ok=True)
                else:
                    found.append(path.name)
        except FileNotFoundError:  # it ended just now
            continue
        except OSError as error:
            if error.errno != errno.ELOOP:  # a link is not a worker
                raise
    return found


def _lock(file: IO[str], *, exclusive: bool) -> bool | None:
    """Lock a file until it is closed; say whether that could be done, or None where none has locks.

    False means that another process holds it.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system has no locks
        return None
    return True
