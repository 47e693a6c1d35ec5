"""What the curves of a backfill advise, in a few sentences.

Words only: the curves are drawn elsewhere.
"""

import numpy as np

from onward.upgrading.order_curves import (
    RANDOM,
    SHARES,
    UNCERTAINTY,
    OrderCurve,
    OrderCurves,
)

NOTICED = 0.002
"""Curves that differ by less than this are taken to be level."""


def advise(drawn: OrderCurves) -> str:
    """Say whether to spend anything on a backfill, in which order, and how far.

    Judged by map and cmc@1, or by agreement where there are no labels. A discriminative loss may
    place upgraded items so well that full backfill makes map worse; then it is advised against.
    """
    metrics = [metric for metric in ("map", "cmc@1", "agreement") if metric in drawn.gains]
    gains = {metric: drawn.gains[metric].estimate for metric in metrics}
    curve = _better(drawn, metrics[0])
    if all(gain <= 0 for gain in gains.values()):
        ends = " and ".join(_ends(curve, metric) for metric in metrics)
        return (
            f"Spend nothing: the upgrade alone answers at least as well as full backfill, which "
            f"takes {ends}."
        )
    rising = next(metric for metric in metrics if gains[metric] > 0)
    falling = [metric for metric in metrics if gains[metric] < 0]
    said = [f"Full backfill takes {' and '.join(_ends(curve, metric) for metric in metrics)}."]
    if falling:
        said = [
            f"Spend nothing unless {rising} counts more than {falling[0]}: "
            + said[0][0].lower()
            + said[0][1:]
        ]
    elif not drawn.gains[rising].clear:
        said.append(
            f"These queries cannot tell that from no change ({drawn.gains[rising]}); a larger "
            "sample can."
        )
    said.append(_on_the_way(curve, rising))
    return " ".join([*said, *_warnings(drawn, curve, rising)])


def _better(drawn: OrderCurves, metric: str) -> OrderCurve:
    """Return the curve of the better order that can be had."""
    curves = [one for one in drawn.curves if one.order in (RANDOM, UNCERTAINTY)]
    return max(curves, key=lambda one: (one.auc(metric), one.order == UNCERTAINTY))


def _on_the_way(curve: OrderCurve, metric: str) -> str:
    """Say how much must be embedded for half of the gain, and where the curve is highest."""
    values = curve.values[metric]
    start, end = float(values[0]), float(values[-1])
    half = SHARES[int(np.argmax(values >= start + (end - start) / 2))]
    order = "At random" if curve.order == RANDOM else "By uncertainty"
    said = f"{order}, {_percent(half, 0)} of the items give half of that in {metric}"
    best = int(values.argmax())
    if best < len(values) - 1 and values[best] > end + NOTICED:
        said += (
            f"; it is best at {_percent(SHARES[best], 0)} ({_percent(values[best])}), beyond that "
            "it falls"
        )
    return f"{said}."


def _warnings(drawn: OrderCurves, curve: OrderCurve, metric: str) -> list[str]:
    said = []
    values = curve.values[metric]
    lowest = int(values.argmin())
    if values[lowest] < min(values[0], values[-1]) - NOTICED:
        said.append(
            f"On the way {metric} falls below both ends, to {_percent(values[lowest])} at "
            f"{_percent(SHARES[lowest], 0)}: spend more than that, or nothing."
        )
    return [*said, *_about_orders(drawn, curve)]


def _about_orders(drawn: OrderCurves, curve: OrderCurve) -> list[str]:
    """Say where a random order would do better than uncertainty."""
    random, unsure = drawn.of(RANDOM), drawn.of(UNCERTAINTY)
    if unsure is None or random is None:
        return [
            "The transformation does not know how unsure it is, so only a random order can be had: "
            "fit it with onward fit --uncertainty."
        ]
    shown = [metric for metric in ("map", "cmc@1", "agreement") if metric in drawn.gains]
    better = [one for one in shown if random.auc(one) > unsure.auc(one) + NOTICED]
    if not better:
        return []
    means = " and ".join(
        f"{one} ({_percent(random.auc(one))} against {_percent(unsure.auc(one))} on average)"
        for one in better
    )
    choice = "--order random" if curve.order == RANDOM else "--order random if that counts more"
    return [f"On the way a random order gives more {means}: {choice}."]


def _ends(curve: OrderCurve, metric: str) -> str:
    values = curve.values[metric]
    return f"{metric} from {_percent(values[0])} to {_percent(values[-1])}"


def _percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f} %"
