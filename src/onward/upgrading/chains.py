"""Say which rows an upgrade carries on from vectors that were themselves upgraded: a chain.

A transformation that is fitted from the first vectors and the side-information loses once. Where
these were dropped, or were never given, it can only start from what an earlier upgrade has made,
and loses again. Nothing here reads vectors or writes.
"""

from onward.gallery import Gallery, RecordedRoutes
from onward.spaces import Space
from onward.transformation import Transformation
from onward.upgrading.routes import Routes, count_carried


def describe_chains(gallery: Gallery, routes: Routes) -> tuple[str, ...]:
    """Return a sentence for each transformation that starts from upgraded vectors."""
    now = gallery.describe()
    notes = []
    for transformation in routes.transformations:
        made_by = now.transformations.get(transformation.old)
        if made_by is None or not now.spaces[transformation.old].upgraded:
            continue
        rows = count_carried(gallery, routes, transformation)
        rows -= count_carried(gallery, routes, transformation, origin="embedded")
        if rows:
            notes.append(_note(rows, transformation, made_by, gallery.spaces()))
    return tuple(notes)


def _note(rows: int, by: Transformation, made_by: RecordedRoutes, there: tuple[Space, ...]) -> str:
    first = [one.old for one in made_by.transformations]
    kept = [space.name for space in first if space in there]
    chain = " -> ".join((first[0].name, by.old.name, by.new.name))
    advice = "their originals were dropped; a sample says what is left (plan with sample, --sample)"
    if kept:
        advice = (
            f"a transformation fitted from {' and '.join(kept)} directly, still stored, is better"
        )
    return (
        f"{rows:,} rows are a chain, {chain}: every link loses a little. "
        f"{advice[0].upper()}{advice[1:]}"
    )
