"""One line that says what to do, from what is predicted.

Words only: what is required, and whether it is met, is decided elsewhere.
"""

from onward.upgrading.prediction import EVERYTHING, NOTHING, UPGRADE, Cell, Prediction


def recommend(prediction: Prediction, *, met: bool) -> str:
    """Say whether to upgrade, to backfill, or to do nothing.

    Judged by map, or by agreement where there are no labels.

    Args:
        prediction: of each way to go.
        met: whether the gate lets the upgrade start.
    """
    metric = "map" if "map" in prediction.metrics else "agreement"
    nothing, upgrade, full = (
        prediction.value(metric, name) for name in (NOTHING, UPGRADE, EVERYTHING)
    )
    moved = f"{metric} from {_percent(nothing)} (doing nothing) to {_percent(upgrade)}"
    backfill = f"full backfill gives {_percent(full)}"
    gain = prediction.cell(UPGRADE).gains[metric]
    if upgrade <= nothing and full <= nothing:
        said = f"Do nothing: upgrading takes {moved}, and even {backfill}"
    elif upgrade < nothing:
        said = f"Do not upgrade by this alone: it takes {moved}; {_mend(prediction, metric)}"
    elif not met:
        said = f"Do not upgrade yet: it takes {moved}, less than is required; {backfill}"
    elif not gain.clear:
        said = (
            f"Upgrade with care: it takes {moved}, and {prediction.queries:,} queries cannot tell "
            f"that from no change ({gain}); a larger sample can; {backfill}"
        )
    else:
        said = f"Upgrade: it takes {moved}; {_spend(prediction, metric)}"
    return f"{said}.{_caution(prediction, metric)}"


def _mend(prediction: Prediction, metric: str) -> str:
    """Say how much must be backfilled until search is not worse than before."""
    nothing = prediction.value(metric, NOTHING)
    enough = next(cell for cell in prediction.cells[2:] if _of(cell, metric) >= nothing)
    return (
        f"{_name(enough)} gives {_percent(_of(enough, metric))}. Or let the transformation learn "
        "from items of this gallery (onward fit --sample) and from side-information"
    )


def _spend(prediction: Prediction, metric: str) -> str:
    """Say what backfilling adds to an upgrade, and whether it is worth it."""
    upgrade, full = (prediction.value(metric, name) for name in (UPGRADE, EVERYTHING))
    if full <= upgrade:
        return f"spend nothing on backfill, for in full it gives {_percent(full)}"
    nothing, part = prediction.value(metric, NOTHING), prediction.cells[2]
    share = (upgrade - nothing) / (full - nothing)
    gained = f"{100 * share:.0f} % of what full backfill ({_percent(full)}) gains"
    if part.name == EVERYTHING or _of(part, metric) <= upgrade:
        return gained
    return f"{gained}, and {_name(part)} gives {_percent(_of(part, metric))}"


def _caution(prediction: Prediction, metric: str) -> str:
    if metric == "agreement":
        return (
            " Without labels nothing is known of how good the new model itself is: agreement is "
            "nearness to it."
        )
    first, before = (prediction.value("cmc@1", name) for name in (UPGRADE, NOTHING))
    if first < before and prediction.value(metric, UPGRADE) >= prediction.value(metric, NOTHING):
        return f" But cmc@1 goes from {_percent(before)} to {_percent(first)}, which is worse."
    return ""


def _of(cell: Cell, metric: str) -> float:
    return cell.values[metric].estimate


def _name(cell: Cell) -> str:
    return cell.name if cell.name == EVERYTHING else f"backfilling {100 * cell.share:g} %"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
