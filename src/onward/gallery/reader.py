"""Search for an application: by what the gallery answers from now, one space or a fused pair.

A `Reader` asks the gallery, embeds the queries by the model or the two that it needs, and searches.
A `Shadow` asks a share of the same queries of what does not serve yet, and keeps what that would
change. Nothing here knows what a model or a query is: a model is a function that the application
gives.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, SupportsIndex, final, runtime_checkable

import numpy as np

from onward.artifacts import digest
from onward.errors import ConfigurationError, EmbeddingsError, GalleryError, SpaceMismatchError
from onward.evaluation.intervals import Interval, over_clusters
from onward.evaluation.retrieval import Ranking, as_count
from onward.fusion import Fusion
from onward.gallery.checks import check_can_serve
from onward.gallery.gallery import Gallery
from onward.gallery.record import Served
from onward.plain import Plain
from onward.spaces import Embeddings, Space


@runtime_checkable
class Queries(Protocol):
    """What an application asks: a list, a tuple, an array; anything with a length and slices."""

    def __len__(self) -> int:
        """Return how many queries there are."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Return some of the queries."""
        ...


Embed = Callable[[Any], Embeddings]
"""A model as a reader needs it: from queries to their embeddings, one for each, in their order."""

MOST = 10_000
"""After this number of queries a shadow asks no more: its intervals are two points wide at most."""
LONGEST_FAILURE = 500
"""Characters that are kept of why a shadow query failed."""


@dataclass(frozen=True, eq=False)
class Answered(Plain):
    """What came back for queries, and from what.

    Attributes:
        ranking: the nearest items of each query.
        served: what answered, with the fingerprints of the query models that belong to it.
    """

    ranking: Ranking
    served: Served


@final
class Reader:
    """Searches a gallery for an application, whatever answers queries there.

    It keeps nothing of the gallery, so it goes on through a cutover and a rollback, and may be used
    from several threads if the models may.

    Args:
        gallery: what is searched.
        models: for each space that may serve, or for its name, a function from queries to their
            embeddings in that space, one for each query, in their order, with the queries' ids.
    """

    def __init__(self, gallery: Gallery, models: Mapping[Space | str, Embed]) -> None:
        self.gallery = gallery
        self._models = {
            one.name if isinstance(one, Space) else one: embed for one, embed in models.items()
        }

    def search(
        self,
        queries: Queries,
        k: SupportsIndex,
        *,
        exclude_self: bool = False,
        approximate: bool = False,
    ) -> Answered:
        """Return the k nearest items of every query, from what answers queries now.

        If that changes while the queries are embedded, they are asked once more, of what answers
        then.

        Args:
            queries: what the models take.
            k: how many items, at least 1.
            exclude_self: leave out a query's own entry, the one of the same id.
            approximate: let indexes choose what is looked at, as for `Gallery.search`.

        Raises:
            ConfigurationError: if no model is there for a space that serves.
            SpaceMismatchError: if a model embeds in another space, or what serves has changed
                twice.
            EmbeddingsError: if a model does not give one embedding for each query.
            GalleryError: as `Gallery.search` raises it.
        """
        ask = partial(
            self._ask, queries=queries, k=k, exclude_self=exclude_self, approximate=approximate
        )
        record = self.gallery.view().record
        try:
            return ask(record.serving)
        except (SpaceMismatchError, GalleryError):
            now = self.gallery.view().record
            if now.revision == record.revision:
                raise
            return ask(now.serving)

    def check_models(self, served: Served) -> None:
        """Refuse to answer from something for which a model is missing.

        Raises:
            ConfigurationError: naming the space, and the fingerprint of its query model.
        """
        for space in served.spaces:
            if space.name not in self._models:
                model = served.query_model if space == served.space else served.old_query_model
                by = "" if model is None else f", by the model {model}"
                raise ConfigurationError(
                    f"queries of gallery {self.gallery.url} are to be embedded in {space}{by}, but "
                    f"the reader has models for {', '.join(self._models) or 'no space'} only",
                    f"give it one under the name {space.name!r}",
                )

    def _ask(
        self,
        what: Served,
        queries: Queries,
        k: SupportsIndex,
        *,
        exclude_self: bool,
        approximate: bool,
        allow_unserved: bool = False,
    ) -> Answered:
        """Embed queries for a space or a pair, and search in it."""
        self.check_models(what)
        by_model = {space: self._embed(space, queries) for space in what.spaces}
        ranking = self.gallery.search(
            by_model[what.space],
            k,
            queries_old=None if what.fusion is None else by_model[what.fusion.old],
            fusion=what.fusion,
            exclude_self=exclude_self,
            approximate=approximate,
            allow_unserved=allow_unserved,
        )
        return Answered(ranking, what)

    def _embed(self, space: Space, queries: Queries) -> Embeddings:
        """Return the embeddings of queries in a space.

        Raises:
            SpaceMismatchError: if the model of that space embeds in another one.
            EmbeddingsError: if it does not give one for each query.
        """
        made = self._models[space.name](queries)
        if made.space != space:
            raise SpaceMismatchError(
                f"the reader's model for {space} has embedded queries in {made.space}",
                "give each space the model that it belongs to",
            )
        if len(made) != len(queries):
            raise EmbeddingsError(
                f"the reader's model for {space} has made {len(made):,} embeddings of "
                f"{len(queries):,} queries",
                "let it give one for each query, in their order",
            )
        return made


@dataclass(frozen=True)
class Shadowed(Plain):
    """What a shadow has seen so far.

    Attributes:
        served: what the live queries were answered from.
        shadow: the space or the pair that was asked besides.
        share: of the live queries that are asked of it, in (0, 1].
        k: how many of the nearest items were compared.
        live: how many live queries were given to the shadow.
        elsewhere: how many of these were answered from something else than `served`: passed over.
        compared: how many were asked of the shadow too, and compared.
        failed: how many could not be asked of it.
        failure: why the last of these could not.
        overlap: the share of the k nearest that both give, the mean over the queries compared. A
            query that was asked several times is one cluster of its interval.
        flips: the share of the queries that get another first item, in the same way.
    """

    served: Served
    shadow: Space | Fusion
    share: float
    k: int
    live: int
    elsewhere: int
    compared: int
    failed: int
    failure: str | None
    overlap: Interval
    flips: Interval

    def __str__(self) -> str:
        lines = [
            f"shadow of {self.shadow} beside {self.served}",
            f"  queries             {self.live:,} live, {self.compared:,} compared "
            f"({100 * self.share:g} % are chosen), {self.failed:,} failed",
        ]
        if self.compared:
            name = f"first {self.k:,} alike"
            lines += [f"  {name:<18}  {self.overlap}", f"  another first item  {self.flips}"]
        if self.elsewhere:
            lines.append(f"  passed over         {self.elsewhere:,}, answered from something else")
        if self.failure is not None:
            lines.append(f"  last failure        {self.failure}")
        return "\n".join(lines)


@final
class Shadow:
    """Asks a share of the live queries of what does not serve yet, and keeps what would change.

    `ask` is given each answer, best after it was sent. It has no thread of its own: in the thread
    that calls it, it takes one more search for each query that it chooses, and next to nothing for
    the others. It never raises. It may be called from several threads. Whether a query is chosen
    goes by a digest of its id, so that each process chooses the same queries. What is kept is
    bounded: after `MOST` queries, compared or failed, nothing more is asked.

    Args:
        reader: what answers the live queries; it needs the models of the shadow, too.
        what: the space, or the pair, as in the `serving` of a transformation. Rows that have no
            vector there yet are not found in it.
        share: of the queries to be asked of it too, above 0 and at most 1.
        k: how many of the nearest items are compared; of an answer with fewer, these.
        approximate: let indexes choose what is looked at in the shadow.

    Raises:
        ConfigurationError: if that serves already, a model is missing, or the share is out of its
            range.
        GalleryError: if the gallery does not have such a space.
    """

    def __init__(
        self,
        reader: Reader,
        what: Space | Fusion,
        *,
        share: float,
        k: SupportsIndex = 10,
        approximate: bool = False,
    ) -> None:
        record = reader.gallery.view().record
        asked = (
            Served(what, None) if isinstance(what, Space) else Served(what.new, None, None, what)
        )
        if not 0 < share <= 1:
            raise ConfigurationError(
                f"a share of {share!r} of the live queries cannot be asked of a shadow",
                "give a number above 0 and at most 1, such as 0.01",
            )
        if (asked.space, asked.fusion) == (record.serving.space, record.serving.fusion):
            raise ConfigurationError(
                f"gallery {reader.gallery.url} answers from {what} already",
                "give the shadow a space or a pair that does not serve",
            )
        for space in asked.spaces:
            check_can_serve(reader.gallery.url, record.field_of(space).space)
        reader.check_models(asked)
        self._reader, self._served, self._what, self._asked = reader, record.serving, what, asked
        self._share, self._k, self._approximate = share, as_count(k, "nearest items"), approximate
        self._lock = threading.Lock()
        self._seen: list[tuple[str, float, bool]] = []
        self._live = self._elsewhere = self._failed = 0
        self._failure: str | None = None

    def ask(self, queries: Queries, answered: Answered) -> None:
        """Ask the chosen ones among live queries of the shadow too.

        Args:
            queries: as the reader got them.
            answered: what it returned for them.
        """
        count = len(answered.ranking)
        is_elsewhere = answered.served != self._served
        with self._lock:
            self._live += count
            self._elsewhere += count if is_elsewhere else 0
            if is_elsewhere:
                return
        for row, item in enumerate(answered.ranking.query_ids):
            try:
                if self._has_room() and self._chooses(item):
                    self._compare(item, queries[row : row + 1], answered.ranking, row)
            except Exception as error:
                with self._lock:
                    self._failed += 1
                    self._failure = f"{type(error).__name__}: {error}"[:LONGEST_FAILURE]

    def result(self) -> Shadowed:
        """Return what was seen so far."""
        with self._lock:
            seen, counts = list(self._seen), (self._live, self._elsewhere)
            failed, failure = self._failed, self._failure
        ids = [item for item, _, _ in seen]
        overlaps, flips = (
            over_clusters(np.array([one[at] for one in seen], np.float64), ids) for at in (1, 2)
        )
        said = (self._served, self._what, self._share, self._k)
        return Shadowed(*said, *counts, len(seen), failed, failure, overlaps, flips)

    def _has_room(self) -> bool:
        """Say whether more queries are to be asked."""
        with self._lock:
            return len(self._seen) + self._failed < MOST

    def _chooses(self, item: str) -> bool:
        """Say whether a query is among the share."""
        return int(digest(b"shadow", item.encode())[:12], 16) < self._share * 16**12

    def _compare(self, item: str, query: Any, live: Ranking, row: int) -> None:
        given = live.ids_of(row)[: self._k]
        answered = self._reader._ask(
            self._asked,
            query,
            max(1, min(self._k, live.rows.shape[1])),
            exclude_self=live.exclude_self,
            approximate=self._approximate,
            allow_unserved=True,
        )
        found = answered.ranking.ids_of(0)
        most = max(len(given), len(found))
        overlap = len({*given} & {*found}) / most if most else 1.0
        with self._lock:
            self._seen.append((item, overlap, given[:1] != found[:1]))
