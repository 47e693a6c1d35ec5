"""How long work tells how far it is: a callable that is given what is done and what there is.

And how a text that may hold anything, such as an item's id, is shown: `visible`.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`, in the unit of the work (items, steps, rows)."""


_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: C0, DEL and C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # what turns the direction, breaks a line
    "\ud800-\udfff]"  # half a character: what was not UTF-8
)


def visible(text: str, *, lines: bool = False) -> str:
    """Return a text in which nothing moves the cursor, rings, colours or turns the direction.

    Args:
        text: any text.
        lines: keep the ends of lines, where these are the layout's own.
    """
    kept = "\n" if lines else ""
    return _HIDDEN.sub(lambda one: one[0] if one[0] == kept else ascii(one[0])[1:-1], text)


def silent(done: int, total: int) -> None:
    """Tell nobody."""


@contextmanager
def progress_bar(description: str, unit: str = "items") -> Iterator[Progress]:
    """Show a bar with rate and time left on standard error while the block runs.

    Where standard error is no terminal, nothing is drawn but one closing line; and nothing at all
    where the work never tells how far it is, as that of a moment does not.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(show_speed=False),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(visible(description), total=1, unit=unit, rate="")

    def show(done: int, total: int) -> None:
        speed = bar.tasks[0].speed
        rate = f"{speed:,.0f}/s" if speed else ""
        bar.start()
        bar.update(task, completed=done, total=max(total, 1), rate=rate)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
