"""Verify and cut over while others write: again and again, until a verification is not stale."""

from collections.abc import Callable

from onward.errors import UpgradeError
from onward.progress import Progress, silent
from onward.upgrading.canaries import Canaries
from onward.upgrading.serving import build_index
from onward.upgrading.status import UpgradeStatus
from onward.upgrading.upgrade import Upgrade
from onward.upgrading.verify import Verification, verification_state
from onward.upgrading.work import check_started, check_whole

ATTEMPTS = 3


def verify_and_cut_over(
    upgrade: Upgrade,
    *,
    query_model: str | None,
    leave_out: bool = False,
    canaries: Canaries | None = None,
    attempts: int = ATTEMPTS,
    progress: Progress = silent,
    tell: Callable[[Verification], None] | None = None,
) -> UpgradeStatus:
    """Verify an upgrade that was run, and cut over; run and verify again if rows have changed.

    Args:
        upgrade: the upgrade.
        query_model: as `Upgrade.cut_over` takes it.
        leave_out: as `Upgrade.verify` takes it.
        canaries: as `Upgrade.verify` takes them.
        attempts: how often it is verified at most.
        progress: of the runs in between.
        tell: told every verification.

    Raises:
        UpgradeError: if the verification fails, a run is stopped, or rows changed every time.
        ConfigurationError: if the number of attempts is not a whole number from 1 up.
    """
    check_whole("attempts", attempts)
    gallery, routes = upgrade.gallery, upgrade.routes
    check_started(gallery, routes)
    build_index(gallery, routes.new)  # it takes long, and rows may change meanwhile
    longest = 0.0
    for _ in range(attempts):
        verification = upgrade.verify(leave_out=leave_out, canaries=canaries)
        if tell is not None:
            tell(verification)
        longest = max(longest, verification.seconds)
        if verification_state(gallery, routes) != "stale":
            try:
                return upgrade.cut_over(query_model=query_model)
            except UpgradeError:
                if verification_state(gallery, routes) != "stale":
                    raise
        if upgrade.run(progress=progress).stopped:
            raise UpgradeError(
                f"the upgrade of gallery {gallery.url} was stopped before it cut over; run the "
                "same again to go on"
            )
    raise UpgradeError(
        f"gallery {gallery.url} was not cut over: others changed rows during each of {attempts} "
        f"verifications. All else is done; let them rest for about {longest:,.1f} s, as long as a "
        "verification takes, and do the same again. Or cut over with force=True (--force): rows "
        "that are to be done then are done by the next run"
    )
