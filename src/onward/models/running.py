"""Runs a model over items and payloads batch by batch, each decoded while the last is at work.

For galleries, whose payloads are the owner's, what cannot be opened is told, and stops nothing:
some items are gone, some have changed. Memory is bounded by two batches.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float32

from onward.data import Items
from onward.data.images import MAX_PIXELS, REPAIR
from onward.data.payloads import Payload
from onward.errors import ConfigurationError, DataError, ModelError
from onward.models.engines import Vectors
from onward.progress import Progress
from onward.spaces import Embeddings, Ids

if TYPE_CHECKING:
    from onward.models.embedding import EmbeddingModel

BATCH_SIZE = 256
NOT_FINITE = "the model gives NaN or infinite values for it"
DECODERS = 4
"""Number of images of payloads that are read and decoded at a time."""

Rows = Float32[np.ndarray, "item _"]
EmbedPayloads = Callable[[Ids, Sequence[Payload | None]], tuple[Embeddings, Mapping[str, str]]]
S = TypeVar("S")
T = TypeVar("T")


def run_batches(
    model: "EmbeddingModel",
    items: Items,
    run: Callable[[Any], tuple[Vectors | None, ...]],
    batch_size: int,
    progress: Progress,
) -> Iterator[tuple[slice, list[Rows]]]:
    """Yield what a model gives for each batch of items, and the rows it is for.

    Args:
        model: whose input says what the images or texts are to be.
        items: what to open.
        run: from pixels or texts to one or more arrays; what is None is left out.
        batch_size: how many items go through the model at a time.
        progress: told after each batch, in items.

    Raises:
        DataError: if an item cannot be opened.
        ModelError: if a value is NaN or infinite; the message names the item.
        ConfigurationError: if batches are to be empty.
    """
    if batch_size < 1:
        raise ConfigurationError(f"batches of {batch_size} items were asked for", "give at least 1")

    def load(rows: slice) -> Any:
        return model.input.load(items, np.arange(rows.start, rows.stop))

    for rows, batch in read_ahead(_batches(len(items), batch_size), load):
        given = [array for array in run(batch) if array is not None]
        for array in given:
            finite = np.isfinite(array).all(axis=1)
            if not finite.all():
                row = rows.start + int(np.argmin(finite))
                raise ModelError(
                    f"{model.space.name} gives NaN or infinite values for item "
                    f"{items.ids[row]!r} (row {row}), and for {int((~finite).sum())} of the "
                    f"{len(array)} items of its batch",
                    "train the model again with a lower learning rate, or fix what computes it",
                )
        progress(rows.stop, len(items))
        yield rows, given


def payload_embedder(
    model: "EmbeddingModel", *, device: str = "cpu", max_pixels: int = MAX_PIXELS
) -> EmbedPayloads:
    """Return a function from ids and payloads to embeddings, and why the others have none.

    Where it is called again and again, keep it: on a GPU, each holds a copy of the weights. Memory
    is bounded by what it is given at a time. Images of more than `max_pixels` are not opened.

    Raises:
        ModelError: if the device cannot be used.
    """
    run = model.embedder(device=device)

    def embed(ids: Ids, payloads: Sequence[Payload | None]) -> tuple[Embeddings, Mapping[str, str]]:
        def load(rows: slice) -> tuple[dict[str, Any], dict[str, str]]:
            return _open(model, ids[rows], payloads[rows], max_pixels)

        found, skipped = list[str](), dict[str, str]()
        vectors = [np.empty((0, model.space.dim), np.float32)]
        for _, (opened, faults) in read_ahead(_batches(len(ids), BATCH_SIZE), load):
            skipped |= faults
            if not opened:
                continue
            made, _ = run(model.input.join([*opened.values()]))
            finite = np.isfinite(made).all(axis=1)
            vectors.append(made[finite])
            for item, is_right in zip(opened, finite.tolist(), strict=True):
                if is_right:
                    found.append(item)
                else:
                    skipped[item] = NOT_FINITE
        return Embeddings(tuple(found), np.concatenate(vectors), model.space), skipped

    return embed


def read_ahead(
    wanted: Iterable[S], read: Callable[[S], T], count: int = 1
) -> Iterator[tuple[S, T]]:
    """Yield what is wanted and what it reads to, in its order; so many are read before they are.

    Args:
        wanted: what to read, one after the other.
        read: called in threads, unless `count` is 0.
        count: how many are read ahead, each in a thread; so many and one are held at a time.
    """
    if count == 0:
        yield from ((one, read(one)) for one in wanted)
        return
    waiting: deque[tuple[S, Future[T]]] = deque()
    with ThreadPoolExecutor(count) as threads:
        for one in wanted:
            waiting.append((one, threads.submit(read, one)))
            if len(waiting) > count:
                ready, future = waiting.popleft()
                yield ready, future.result()
        for ready, future in waiting:
            yield ready, future.result()


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _open(
    model: "EmbeddingModel", ids: Ids, payloads: Sequence[Payload | None], max_pixels: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the pixels or the text of each item, and why the others have none."""

    def decode(row: int) -> tuple[Any, str]:
        payload = payloads[row]
        if payload is None:
            return None, f"it has no payload that would say where its {model.input.noun} is"
        try:
            return model.input.open(payload, max_pixels), ""
        except DataError as error:
            return None, error.given if error.do == REPAIR else str(error)

    def place(row: int) -> tuple[str, int]:
        """Cells of a Parquet file by file and row: it is read from top to bottom."""
        payload = payloads[row] or {}
        number = payload.get("row")
        return str(payload.get("file")), number if isinstance(number, int) else 0

    rows = sorted(range(len(ids)), key=place)
    with ThreadPoolExecutor(DECODERS, "decode") as decoders:
        found = dict(zip(rows, decoders.map(decode, rows), strict=True))
    opened = {ids[row]: found[row][0] for row in range(len(ids)) if not found[row][1]}
    return opened, {ids[row]: found[row][1] for row in range(len(ids)) if found[row][1]}
