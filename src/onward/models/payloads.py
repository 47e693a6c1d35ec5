"""Embed the images that payloads point to; what cannot be opened is told, and stops nothing.

For galleries, whose payloads are the owner's: some images are gone, some have changed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from onward.data import open_payload
from onward.data.decoding import MAX_PIXELS, REPAIR
from onward.data.images import to_pixels
from onward.data.payloads import Payload
from onward.errors import DataError
from onward.models.embedding import BATCH_ITEMS, EmbeddingModel
from onward.spaces import Embeddings, Ids

NO_PAYLOAD = "it has no payload that would say where its image is"
NOT_FINITE = "the model gives NaN or infinite values for it"
DECODERS = 4
"""Number of images that are read and decoded at a time."""

Image = UInt8[np.ndarray, "channel height width"]
EmbedPayloads = Callable[[Ids, Sequence[Payload | None]], tuple[Embeddings, Mapping[str, str]]]


def payload_embedder(
    model: EmbeddingModel, *, device: str = "cpu", max_pixels: int = MAX_PIXELS
) -> EmbedPayloads:
    """Return a function from ids and payloads to embeddings, and why the others have none.

    Where it is called again and again, keep it: on a GPU, each holds a copy of the weights. Memory
    is bounded by what it is given at a time. Images of more than `max_pixels` are not opened.

    Raises:
        ModelError: if the device cannot be used.
    """
    run = model.pixel_embedder(device=device)

    def embed(ids: Ids, payloads: Sequence[Payload | None]) -> tuple[Embeddings, Mapping[str, str]]:
        found, skipped = list[str](), dict[str, str]()
        vectors = [np.empty((0, model.space.dim), np.float32)]
        for images, faults in _decoded(model, ids, payloads, max_pixels):
            skipped |= faults
            if not images:
                continue
            made, _ = run(np.stack(list(images.values())))
            finite = np.isfinite(made).all(axis=1)
            vectors.append(made[finite])
            for item, is_right in zip(images, finite.tolist(), strict=True):
                if is_right:
                    found.append(item)
                else:
                    skipped[item] = NOT_FINITE
        return Embeddings(tuple(found), np.concatenate(vectors), model.space), skipped

    return embed


def _decoded(
    model: EmbeddingModel, ids: Ids, payloads: Sequence[Payload | None], max_pixels: int
) -> Iterator[tuple[dict[str, Image], dict[str, str]]]:
    """Yield what `_decode` gives of some items at a time, each while the model is at the last."""
    parts = [slice(start, start + BATCH_ITEMS) for start in range(0, len(ids), BATCH_ITEMS)]
    with ThreadPoolExecutor(1, "ahead") as ahead:
        coming = [
            ahead.submit(_decode, model, ids[part], payloads[part], max_pixels)
            for part in parts[:1]
        ]
        for part in [*parts[1:], None] if parts else []:
            found = coming.pop().result()
            if part is not None:
                following = ids[part], payloads[part]
                coming.append(ahead.submit(_decode, model, *following, max_pixels))
            yield found


def _decode(
    model: EmbeddingModel, ids: Ids, payloads: Sequence[Payload | None], max_pixels: int
) -> tuple[dict[str, Image], dict[str, str]]:
    """Return the pixels by id, and why there are none of the others."""
    taken = model.input

    def decode(row: int) -> Image | str:
        payload = payloads[row]
        if payload is None:
            return NO_PAYLOAD
        try:
            return to_pixels(open_payload(payload, max_pixels), taken.size, taken.channels)
        except DataError as error:
            return str(error).removesuffix(REPAIR)

    rows = sorted(range(len(ids)), key=lambda row: _place(payloads[row]))
    with ThreadPoolExecutor(DECODERS, "decode") as decoders:
        found = dict(zip((ids[row] for row in rows), decoders.map(decode, rows), strict=True))
    images = {item: one for item, one in found.items() if not isinstance(one, str)}
    in_order = {item: images[item] for item in ids if item in images}
    return in_order, {item: one for item, one in found.items() if isinstance(one, str)}


def _place(payload: Payload | None) -> tuple[str, int]:
    """Return what sorts cells of a Parquet file by file and row: it is read from top to bottom."""
    file, row = (payload or {}).get("file"), (payload or {}).get("row")
    return str(file), row if isinstance(row, int) else 0
