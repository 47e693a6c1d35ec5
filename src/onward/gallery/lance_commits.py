"""How LanceDB is spoken to: what fails is said in the gallery's words, conflicts are tried again.

Only `onward.gallery.lancedb` imports this.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from onward.errors import GalleryError, OnwardError

T = TypeVar("T")

TRIES = 20
LONGEST_PAUSE = 0.5
"""Seconds."""
CONFLICT = ("conflict", "concurrent", "timed out", "timeout")
"""What Lance's message says when another process has committed first."""


@contextmanager
def speaking(url: str, done: str = "read or written") -> Iterator[None]:
    """Turn what LanceDB raises into a GalleryError that names the gallery."""
    try:
        yield
    except OnwardError:
        raise
    except Exception as error:
        if done != "created" and _is_gone(url):
            raise GalleryError(f"gallery {url} is gone; restore it from a copy") from error
        raise GalleryError(
            f"gallery {url} cannot be {done}: {_first_line(error)}. If its files were changed or "
            "damaged, restore it from a copy; if the disk is full or closed to you, mend that and "
            "run the same again"
        ) from error


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
            return action()
        except Exception as error:
            if not _is_conflict(error, url):
                with speaking(url):
                    raise
            last = error
        time.sleep(random.uniform(0, min(LONGEST_PAUSE, 0.01 * 2**attempt)))
    raise GalleryError(
        f"gallery {url} is being changed by others: {TRIES} tries to write to it were in conflict "
        f"with theirs ({_first_line(last)}). Nothing was lost; run the same again when fewer "
        "processes write"
    ) from last


def _is_conflict(error: Exception, url: str) -> bool:
    """Say whether another process was quicker; words in the names of files do not count."""
    said = str(error).replace(str(Path(url).absolute()).lstrip("/"), "")
    said = re.sub(r"\S*/\S*", "", said).lower()
    return any(word in said for word in CONFLICT)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(", /")[0][:300]
