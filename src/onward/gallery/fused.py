"""Search a fused pair of spaces in any store: candidates from each, ranked by both distances.

Exact by the threshold algorithm: no item that neither space gave can be nearer than the farthest
candidates of both together, for a fused distance grows with each of the two. Where that does not
prove that the nearest are among the candidates, more are taken; in the end everything is compared,
part by part. With indexes, the candidates of both are ranked by exact distances; a store that is a
`PairStore` gives these with their vectors in both spaces, else they are read by their ids.

References:
    Fagin, Lotem and Naor, Optimal Aggregation Algorithms for Middleware, PODS 2001, section 4.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from onward.evaluation.retrieval import Nearest, Ranking, search_among, search_parts, together
from onward.fusion import FusedEmbeddings, Fusion
from onward.gallery.record import Field
from onward.gallery.store import Near, PairStore, Scan, Store
from onward.spaces import Embeddings, Ids

CANDIDATES, LEAST_CANDIDATES = 6, 60
"""Of each space, for every item wanted, and at least: 40 held 99.99 % of the first 10."""
TRIES = 3
"""After this number of tries, with four times as many candidates each, all is compared."""
BLOCK_BYTES = 64 << 20
"""About how much memory the vectors of the candidates take."""


@dataclass(frozen=True, eq=False)
class PairSearch:
    """A search in a fused pair.

    Attributes:
        store: what is searched.
        fusion: the pair.
        old: where its old vectors are.
        new: where its new ones are.
        k: how many items are wanted for each query.
        exclude_self: leave out a query's own entry, the one of the same id.
        approximate: let the indexes of both spaces choose what is looked at.
    """

    store: Store
    fusion: Fusion
    old: Field
    new: Field
    k: int
    exclude_self: bool
    approximate: bool

    def run(self, queries: FusedEmbeddings) -> Ranking:
        """Return the k nearest items of every query among those with a vector in either space."""
        found: dict[int, Nearest] = {}
        # Counted before anything is searched: what gets its other vector meanwhile is alone here.
        alone = (False, False) if self.approximate else self._alone()
        left, count = list(range(len(queries))), max(LEAST_CANDIDATES, CANDIDATES * self.k)
        for _ in range(TRIES):
            step = BLOCK_BYTES // (8 * count * (self.old.space.dim + self.new.space.dim))
            if not left or not step:
                break
            tried, left = left, []
            for start in range(0, len(tried), step):
                rows = tried[start : start + step]
                block = self._block(queries.select(rows), count, alone)
                for row, nearest in zip(rows, block, strict=True):
                    if nearest is None:
                        left.append(row)
                    else:
                        found[row] = nearest
            count *= 4
        if left:
            asked, parts = queries.select(left), self._everything()
            every = search_parts(asked, parts, self.k, exclude_self=self.exclude_self)
            found |= {row: every.nearest(at) for at, row in enumerate(left)}
        return together(queries.ids, found, self.exclude_self)

    def _block(
        self, queries: FusedEmbeddings, count: int, alone: tuple[bool, bool]
    ) -> Iterator[Nearest | None]:
        """Give the nearest of each query among its candidates; None where others may be nearer."""
        near, ends = self._near(queries, count)
        found = search_among(queries, near.items, near.rows, self.k, exclude_self=self.exclude_self)
        for nearest, (old, new) in zip(found, ends, strict=True):
            yield nearest if self._is_whole(nearest, old, new, alone) else None

    def _near(
        self, queries: FusedEmbeddings, count: int
    ) -> tuple[Near, Iterable[tuple[float, float]]]:
        """Return the candidates of each query, and how far away the last of each space is."""
        if self.approximate and isinstance(self.store, PairStore):
            pair = self.old, self.new
            near = self.store.near(pair, queries, count + self.exclude_self)
            if near is not None:
                return near, [(0.0, 0.0)] * len(queries)
        given = [self._candidates(self.old, queries.old.align(queries.ids), count)]
        given.append(self._candidates(self.new, queries.new, count))
        items = self._read(tuple({item for one in given for item in one.gallery_ids}))
        row_of, rows = {item: row for row, item in enumerate(items.ids)}, []
        for at in range(len(queries)):
            ids = {item for one in given for item in one.ids_of(at)}
            found = [row_of[item] for item in ids if item in row_of]
            rows.append(np.array(found, np.int64))
        ends = [[_farthest(one, at, count) for at in range(len(queries))] for one in given]
        return Near(items, rows), zip(*ends, strict=True)

    def _candidates(self, of: Field, queries: Embeddings, count: int) -> Ranking:
        options = {"exclude_self": self.exclude_self, "approximate": self.approximate}
        return self.store.search(of, queries, count, **options)

    def _is_whole(self, nearest: Nearest, old: float, new: float, alone: tuple[bool, bool]) -> bool:
        """Say whether no item beyond the candidates can be among the nearest.

        Args:
            nearest: of the candidates.
            old: the distance in the old space of the farthest that this space gave; infinite if it
                gave all that it has. Whatever was not seen is at least as far away in it.
            new: the same in the new space.
            alone: whether any row has an old vector only, and whether any has a new one only.
        """
        ids, distances = nearest
        if np.isinf(old) and np.isinf(new):
            return True
        if self.approximate:
            return len(ids) >= self.k
        unseen = np.array(
            [
                (old, new),
                (old if alone[0] else np.inf, np.nan),
                (np.nan, new if alone[1] else np.inf),
            ],
            np.float32,
        )
        unseen = unseen[~np.isinf(unseen).any(axis=1)]
        if not len(unseen):
            return True
        if len(ids) < self.k:
            return False
        bound = self.fusion.combine(unseen[None, :, 0], unseen[None, :, 1]).min()
        return bool(distances[self.k - 1] < bound)

    def _alone(self) -> tuple[bool, bool]:
        """Whether any row has an old vector only, and whether any has a new one only."""
        old, new = self.old, self.new
        return self.store.count([old], [new]) > 0, self.store.count([new], [old]) > 0

    def _read(self, ids: Ids) -> FusedEmbeddings:
        """Return the vectors that items have in the two spaces."""
        found = []
        for of in (self.old, self.new):
            batches = list(self.store.scan(Scan([of], ids=ids))) if ids else []
            items = tuple(item for batch in batches for item in batch.ids)
            vectors = [np.empty((0, of.space.dim), np.float32)]
            vectors += [batch.vectors[of.space] for batch in batches]
            found.append(Embeddings(items, np.concatenate(vectors), of.space))
        return FusedEmbeddings(self.fusion, *found)

    def _everything(self) -> Iterator[FusedEmbeddings]:
        """Give all rows with a vector in either space, in parts.

        Rows with one vector are read before and after those with both: so what gets its other
        vector meanwhile is among the latter, and what loses one among the former.
        """
        pair = self.old, self.new
        alone = (pair[:1], pair[1:]), (pair[1:], pair[:1])
        for wanted, empty in (*alone, (pair, ()), *alone):
            for batch in self.store.scan(Scan(wanted, empty=empty)):
                given = (
                    Embeddings(batch.ids, batch.vectors[of.space], of.space)
                    if of in wanted
                    else Embeddings((), np.empty((0, of.space.dim), np.float32), of.space)
                    for of in pair
                )
                yield FusedEmbeddings(self.fusion, *given)


def _farthest(ranking: Ranking, query: int, count: int) -> float:
    """Return the distance of the last of `count` candidates; infinite if there are fewer."""
    distances = ranking.distances[query]
    return float(distances[count - 1]) if len(distances) >= count else np.inf
