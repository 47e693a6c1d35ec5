"""Which items a backfill has before it, in which order, and where those who do it meet.

Nothing here writes.
"""

from dataclasses import dataclass

import numpy as np

from onward.backfill_curve import random_order, uncertainty_order
from onward.errors import UpgradeError
from onward.gallery import Gallery, Share
from onward.spaces import Ids, Space
from onward.upgrading.backfill_result import Order
from onward.upgrading.routes import recorded_reads
from onward.upgrading.work import MOST_NAMED, left_by_runs


@dataclass(frozen=True, eq=False)
class Waiting:
    """The rows that no model has embedded in the new space.

    Attributes:
        lost: rows without a vector there that no recorded transformation can carry, because they
            lack what it reads or because the latest run got no vector for them, sorted.
        upgraded: rows that a transformation has made.
        uncertainty: of these.
        pending: rows that a run of the upgrade will carry, sorted.
    """

    lost: Ids
    upgraded: Ids
    uncertainty: np.ndarray
    pending: Ids

    @classmethod
    def of(cls, gallery: Gallery, new: Space, among: frozenset[str] | None) -> "Waiting":
        """Return those of a gallery, or only those among some."""
        upgraded: list[str] = []
        unsure: list[np.ndarray] = [np.empty(0, np.float32)]
        for batch in gallery.scan([new]):
            rows = [
                row
                for row, (item, origin) in enumerate(
                    zip(batch.ids, batch.origins[new], strict=True)
                )
                if origin == "upgraded" and (among is None or item in among)
            ]
            upgraded += [batch.ids[row] for row in rows]
            unsure.append(batch.uncertainties[new][rows])
        missing = [item for item in gallery.ids(without=[new]) if among is None or item in among]
        carried = _to_be_carried(gallery, new)
        return cls(
            lost=tuple(item for item in missing if item not in carried),
            upgraded=tuple(upgraded),
            uncertainty=np.concatenate(unsure),
            pending=tuple(item for item in missing if item in carried),
        )

    def __len__(self) -> int:
        return len(self.lost) + len(self.upgraded) + len(self.pending)

    def in_order(self, url: str, new: Space, order: Order, seed: int, *, matters: bool) -> Ids:
        """Return their ids in the order in which they are to be embedded.

        Raises:
            UpgradeError: if the order matters, is by uncertainty, and none is stored.
        """
        if order == "random":
            parts = (self.lost, self.upgraded, self.pending)
            return tuple(item for part in parts for item in random_order(part, seed=seed))
        unknown = np.isnan(self.uncertainty)
        if matters and self.upgraded and unknown.all():
            raise UpgradeError(
                f"how unsure the upgrade is of its {len(self.upgraded):,} vectors in {new} is not "
                f"stored in gallery {url}, so there is no order by uncertainty; backfill in random "
                "order (order='random', --order random), or fit the transformation with "
                "uncertainty (onward fit --uncertainty) and upgrade with that"
            )
        known = np.where(unknown, -np.inf, self.uncertainty)
        return (*self.lost, *uncertainty_order(self.upgraded, known), *self.pending)


def in_turn(ids: Ids, share: Share) -> Ids:
    """Return items in the order in which a worker with this share gets to them.

    Its own first, as they stand. Then the others', who may be slow, or have spent their budget:
    from the end, where these come last, and each worker from a place of its own, so that two are
    seldom at the same.
    """
    if share.is_everything:
        return ids
    own = frozenset(item for item in ids if share.holds(item))
    theirs = [item for item in reversed(ids) if item not in own]
    first = len(theirs) * share.number // share.of
    return (*(item for item in ids if item in own), *theirs[first:], *theirs[:first])


def meeting_space(gallery: Gallery, new: Space) -> Space:
    """Return the space by whose workers those tell each other apart who backfill the new one.

    It is one that no transformation fills, if there is one. On the new space itself the runs of
    the upgrade meet, which do other rows: a backfill would leave rows to them that they never do.
    """
    return next((space for space in gallery.spaces() if gallery.made_by(space) is None), new)


def _to_be_carried(gallery: Gallery, new: Space) -> frozenset[str]:
    """Return the rows without a new vector that a run of the upgrade, as recorded, would carry."""
    made_by, spaces = gallery.made_by(new), gallery.spaces()
    reads = () if made_by is None else recorded_reads(made_by)
    needed = [[space for space in both if space is not None] for both in reads]
    able = [each for each in needed if set(each) <= set(spaces)]
    carried = frozenset(item for each in able for item in gallery.ids(each, [new]))
    if not carried or made_by is None:
        return carried
    left = left_by_runs(gallery, new, made_by.get("digest"))
    # Where only the first are named, nobody knows which of the others get no vector either.
    return frozenset() if len(left) >= MOST_NAMED else carried - set(left)
