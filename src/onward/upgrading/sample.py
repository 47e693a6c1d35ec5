"""Write the true new embeddings of some items: the first slice of a backfill.

No image can be read here: they were embedded elsewhere.
"""

from onward.artifacts import digest
from onward.errors import SpaceMismatchError, UpgradeError
from onward.gallery import Gallery
from onward.spaces import Embeddings, Space


def digest_sample(sample: Embeddings) -> str:
    """Return what changes when an id or a vector does."""
    return digest(sample.vectors.tobytes(), *(item.encode() for item in sample.ids))


def check_sample_space(sample: Embeddings, new: Space) -> None:
    """Refuse a sample that is in another space than the upgrade leads to, or not the model's own.

    Raises:
        SpaceMismatchError: naming both spaces.
        UpgradeError: if vectors were upgraded.
    """
    if sample.space != new:
        raise SpaceMismatchError(
            f"the sample is in {sample.space}, the upgrade leads to {new}; give embeddings of "
            "gallery items by the model that the transformation was fitted for"
        )
    check_embedded(sample, "the sample")


def check_embedded(given: Embeddings, what: str) -> None:
    """Refuse vectors that a transformation made where the new model's own are needed.

    Raises:
        UpgradeError: saying how many of the embeddings, called `what`, are such.
    """
    upgraded = given.count_origins().get("upgraded", 0)
    if upgraded:
        raise UpgradeError(
            f"{upgraded:,} of the {len(given):,} vectors of {what} were upgraded by a "
            "transformation, and those that the new model itself gives are needed; embed these "
            "items by the new model, or leave them out"
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
