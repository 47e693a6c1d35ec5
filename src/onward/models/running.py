"""Runs a model over items batch by batch, with memory bounded by the batch."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from jaxtyping import Float32

from onward.data import Items, load_images
from onward.errors import ConfigurationError, ModelError
from onward.models.engines import Vectors
from onward.models.inputs import InputSpec, Pixels
from onward.progress import Progress

Rows = Float32[np.ndarray, "item _"]
BATCHES_AHEAD = 1  # decoded while the model is at work


def run_batches(
    items: Items,
    run: Callable[[Pixels], tuple[Vectors | None, ...]],
    taken: InputSpec,
    *,
    who: str,
    batch_items: int,
    progress: Progress,
) -> Iterator[tuple[slice, list[Rows]]]:
    """Yield what the model gives for each batch of items, and the rows it is for.

    Args:
        items: what to decode.
        run: from pixels to one or more arrays; what is None is left out.
        taken: what the images are to be.
        who: the model, for messages.
        batch_items: how many items go through the model at a time.
        progress: told after each batch, in items.

    Raises:
        DataError: if an image cannot be opened.
        ModelError: if a value is NaN or infinite; the message names the item.
        ConfigurationError: if batches are to be empty.
    """
    if batch_items < 1:
        raise ConfigurationError(
            f"batches of {batch_items} items were asked for", "give at least 1"
        )
    for rows, pixels in _decoded(items, taken, batch_items):
        given = [array for array in run(pixels) if array is not None]
        for array in given:
            _check_finite(array, items, rows, who)
        progress(rows.stop, len(items))
        yield rows, given


def _decoded(items: Items, taken: InputSpec, batch_items: int) -> Iterator[tuple[slice, Pixels]]:
    """Yield batches of decoded images, each decoded while the model is at work on the last."""
    starts = range(0, len(items), batch_items)
    batches = iter([slice(start, min(start + batch_items, len(items))) for start in starts])

    def decode(rows: slice) -> Pixels:
        return load_images(items, taken.size, taken.channels, np.arange(rows.start, rows.stop))

    waiting: deque[tuple[slice, Future[Pixels]]] = deque()
    with ThreadPoolExecutor(1, "decode") as decoder:
        for rows in islice(batches, BATCHES_AHEAD):
            waiting.append((rows, decoder.submit(decode, rows)))
        while waiting:
            rows, future = waiting.popleft()
            pixels = future.result()
            for following in islice(batches, 1):
                waiting.append((following, decoder.submit(decode, following)))
            yield rows, pixels


def _check_finite(array: Rows, items: Items, rows: slice, who: str) -> None:
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        row = rows.start + int(np.argmin(finite))
        raise ModelError(
            f"{who} gives NaN or infinite values for item {items.ids[row]!r} (row {row}), and for "
            f"{int((~finite).sum())} of the {len(array)} items of its batch",
            "train the model again with a lower learning rate, or fix what computes it",
        )
