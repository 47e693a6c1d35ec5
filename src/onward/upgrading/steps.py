"""The steps of an upgrade by their names, and what every step refuses before it begins."""

from numbers import Integral

from onward.errors import ConfigurationError, UpgradeError
from onward.gallery import GalleryView, RecordedRoutes
from onward.transformation import Transformation
from onward.upgrading.routes import Routes


def next_step(step: str, why: str) -> dict[str, str]:
    """Return what to do next, for machines, and why.

    Args:
        step: a method of `Upgrade`, or "backfill", or "write", which is the gallery's.
        why: in a few words.
    """
    return {"step": step, "why": why}


def check_whole(what: str, value: object, least: int = 1) -> None:
    """Refuse what is not a whole number, of Python or of NumPy, of at least so much.

    Raises:
        ConfigurationError: naming it.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least:  # type: ignore[operator]
        raise ConfigurationError(f"{what} is {value!r}", f"give a whole number of {least} or more")


def check_routes(view: GalleryView, routes: Routes) -> None:
    """Refuse transformations that read a space which the gallery lacks, or one that they write.

    Raises:
        UpgradeError: saying what is missing, and whether the direction is wrong.
    """
    for transformation in routes.transformations:
        _check_fits(view, transformation)


def _check_fits(view: GalleryView, transformation: Transformation) -> None:
    spaces = view.spaces()
    old, side, new = transformation.old, transformation.side, transformation.new
    known = ", ".join(str(space) for space in spaces)
    if new in (old, side):
        raise UpgradeError(
            f"the transformation goes from {old} to {new}, which it reads itself",
            "there is nothing "
            "to upgrade, and what was given stays as it is. Give a transformation to another space",
        )
    if old not in spaces:
        filled_by, step = view.made_by(new), None
        do = "give a transformation from one of these, or fit one from the old model's embeddings"
        if filled_by is not None and transformation.digest in filled_by.digests:
            do = f"they were dropped after this very upgrade: {new} holds what it has made"
            step = "status"
        elif new in spaces:
            do = f"it seems to go the wrong way: fit one from {new.name}"
        raise UpgradeError(
            f"the transformation goes from {old} to {new}, but gallery {view.url} has no vectors "
            f"in {old}",
            do,
            needed=f"it has {known}",
            step=step,
        )
    if side is not None and side not in spaces:
        raise UpgradeError(
            f"the transformation needs side-information in {side}, but gallery {view.url} has none",
            "fit a transformation without side-information, or store the side-information first",
            needed=f"it has {known}",
            step="write",
        )
    made_by = view.made_by(old)
    if made_by is not None and new in made_by.reads:
        raise UpgradeError(
            f"the transformation goes from {old} to {new}, but the vectors in {old} of gallery "
            f"{view.url} are made from those in {new}: it goes the wrong way. To answer queries "
            f"from {new.name} again, roll back",
            step="roll_back",
        )


def is_started(view: GalleryView, routes: Routes) -> bool:
    """Say whether the gallery records that these transformations fill the new space."""
    made_by = view.made_by(routes.new)
    return made_by is not None and made_by.digest == routes.digest


def check_started(view: GalleryView, routes: Routes) -> RecordedRoutes:
    """Refuse to go on with an upgrade that was not started, or with other transformations.

    Raises:
        UpgradeError: saying which of the two.
    """
    made_by = view.made_by(routes.new)
    if made_by is None:
        raise UpgradeError(
            f"the upgrade of gallery {view.url} from {routes.first.old.name} to "
            f"{routes.new.name} was not started",
            "start it first",
            step="start",
        )
    check_same_routes(view, routes, made_by)
    return made_by


def check_same_routes(view: GalleryView, routes: Routes, made_by: RecordedRoutes) -> None:
    """Refuse to mix vectors of other transformations in one space.

    Raises:
        UpgradeError: naming both.
    """
    if made_by.digest == routes.digest:
        return
    started, given = (
        f"the transformation {first[:8]} and "
        + (f"the fallback {', '.join(one[:8] for one in others)}" if others else "no fallback")
        for first, *others in (made_by.digests, [one.digest for one in routes.transformations])
    )
    raise UpgradeError(
        f"the upgrade of gallery {view.url} to {routes.new.name} was started with {started}, and "
        f"now there is {given}",
        "vectors of two transformations may not be mixed. Go on with what it was started with, the "
        "fallbacks in the same order, or abort the upgrade, with that, and start again",
        step="abort",
    )
