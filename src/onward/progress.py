"""How long work tells how far it is: a callable that is given what is done and what there is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`, in the unit of the work (items, steps, rows)."""


def silent(done: int, total: int) -> None:
    """Tell nobody."""


@contextmanager
def progress_bar(description: str, unit: str = "items") -> Iterator[Progress]:
    """Show a bar with rate and time left on standard error while the block runs.

    Where standard error is no terminal, nothing is drawn but one closing line.
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
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(show_speed=False),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=1, unit=unit, rate="")

        def show(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:,.0f}/s" if speed else ""
            bar.update(task, completed=done, total=max(total, 1), rate=rate)

        yield show
