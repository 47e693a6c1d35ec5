"""Write the true new embeddings of some items: the first slice of a backfill.

No image can be read here: they were embedded elsewhere.
"""

from onward.artifacts import digest
from onward.errors import SpaceMismatchError
from onward.gallery import Gallery
from onward.spaces import Embeddings, Space


def digest_sample(sample: Embeddings) -> str:
    """Return what changes when an id or a vector does."""
    return digest(sample.vectors.tobytes(), *(item.encode() for item in sample.ids))


def check_sample_space(sample: Embeddings, new: Space) -> None:
    """Refuse a sample that is in another space than the upgrade leads to.

    Raises:
        SpaceMismatchError: naming both spaces.
    """
    if sample.space != new:
        raise SpaceMismatchError(
            f"the sample is in {sample.space}, the upgrade leads to {new}; give embeddings of "
            "gallery items by the model that the transformation was fitted for"
        )


def write_sample(gallery: Gallery, sample: Embeddings) -> int:
    """Write a sample's vectors, with the origin "embedded", into the rows that are there; log it.

    A vector that a model made stays as it is. The sample must be of the items as they are now:
    rows that were updated since it was embedded are to be left out of it.

    Returns:
        How many rows were written.
    """
    written = 0
    vectors = Embeddings(sample.ids, sample.vectors, sample.space)
    for batch in gallery.scan((), ids=sample.ids):
        written += gallery.write(vectors.align(batch.ids), batch.revisions, origin="embedded")
    event = {
        "event": "sample",
        "sample": digest_sample(sample),
        "space": sample.space.to_json(),
        "items": len(sample),
        "written": written,
    }
    gallery.log(event)
    return written
