"""What is to answer queries after an upgrade, and whether it may; of the lifecycle in `upgrade`.

The new space alone, or a fused pair of the old space and the new one. Each is verified by itself,
has its indexes built before it answers, and is recorded with the models that embed its queries.
"""

import time
from collections.abc import Mapping

from onward.errors import UpgradeError
from onward.fusion import Fusion
from onward.gallery import Gallery, GalleryView
from onward.spaces import Space
from onward.upgrading.routes import Routes, journal_of, next_step
from onward.upgrading.verify import Answering, verification_state, verified_last

INDEX_EVENT, INDEXED = "build index", "the index is built"
SERVED_AS: Mapping[Answering, str] = {"new": "the new space alone", "fused": "the fused pair"}
NOT_VERIFIED = {
    "none": "its upgrade was not verified; verify it first",
    "failed": "the verification of its upgrade has failed; see what it says, mend that, and verify "
    "again",
    "stale": "rows have changed since its upgrade was verified; run it again, then verify",
}
"""Why an upgrade does not cut over, by what its verification is."""


def choose_pair(
    view: GalleryView, routes: Routes, serve: Answering, given: Fusion | None
) -> Fusion | None:
    """Return the pair that is to answer queries; None for the new space alone.

    Raises:
        UpgradeError: if nothing says which, or it cannot be had in this gallery.
    """
    if serve == "new":
        if given is not None:
            raise UpgradeError(
                f"{given} was given, but the new space alone is to serve",
                "leave it out, or say serve='fused'",
            )
        return None
    told = routes.first.serving
    pair = given or (None if told is None else told.fusion)
    if pair is None:
        raise UpgradeError(
            f"the transformation {routes.first.digest[:8]} does not say how old and new "
            "distances are fused",
            "fit it again, which measures that, or give a pair: fusion=...",
        )
    if pair.new != routes.new or pair.old not in view.spaces():
        raise UpgradeError(
            f"{pair} cannot answer queries of gallery {view.url}: this upgrade leads to "
            f"{routes.new}, and the gallery has "
            f"{', '.join(str(one) for one in view.spaces())}",
            "give a pair of a space that is stored and of the one that the upgrade leads to",
        )
    return pair


def check_verified(view: GalleryView, routes: Routes, pair: Fusion | None, *, force: bool) -> str:
    """Return what the verification is; refuse to go on if it is not passed, unless forced."""
    verified = verification_state(view, routes, pair)
    serve: Answering = "new" if pair is None else "fused"
    if verified != "passed" and not force:
        why, other = NOT_VERIFIED[verified], verified_last(view, routes)
        if verified == "none" and other is not None:
            was, of_pair = other
            says = (SERVED_AS[was], SERVED_AS[serve]) if was != serve else (of_pair, pair)
            same = "" if was != serve else " and the same fusion"
            why = (
                f"what was verified is that {says[0]} may serve, not {says[1]}; "
                f"verify with serve={serve!r}{same}"
            )
        verify = "verify" if serve == "new" else "verify_fused"
        raise UpgradeError(
            f"gallery {view.url} was not cut over: {why}. To cut over all "
            "the same, and have that logged, say force=True",
            step="run_and_verify" if verified == "stale" and serve == "new" else verify,
        )
    return verified


def build_indexes(
    gallery: Gallery, view: GalleryView, new: Space, pair: Fusion | None
) -> GalleryView | None:
    """Build the index of each space that will answer queries, once.

    Rows that change afterwards are found without it, so it is not built again. A space without
    a single vector gets none. Returns the gallery afterwards if one was built now.
    """
    after = None
    for space in (new,) if pair is None else (pair.old, pair.new):
        rows = view.count([space])
        if not rows or any(journal_of(view, new, INDEX_EVENT, space=space.to_json())):
            continue
        begin = time.perf_counter()
        view.build_index(space)
        seconds = time.perf_counter() - begin
        event = {"event": INDEX_EVENT, "space": space.to_json(), "rows": rows}
        steps = [next_step("cut_over" if pair is None else "cut_over_fused", INDEXED)]
        after = gallery.log({**event, "seconds": seconds, "next_steps": steps})
    return after


def query_models(
    view: GalleryView, new: Space, pair: Fusion | None, given: str | None, old: str | None
) -> tuple[str | None, str | None]:
    """Return which models embed queries in the new space and, of a pair, in its old one.

    Where nothing is given, what is recorded of these spaces.
    """
    known: dict[Space, str | None] = {}
    for served in filter(None, (view.record.previous, view.record.serving)):
        if served.fusion is not None:
            known[served.fusion.old] = served.old_query_model
        known[served.space] = served.query_model
    model = given or (known.get(new) if view.serving == new else None)
    return model, None if pair is None else old or known.get(pair.old)
