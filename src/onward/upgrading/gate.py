"""The gate: what a prediction must show before an upgrade may start.

Nothing here reads a gallery.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onward.compatibility import NEW, OLD
from onward.errors import ConfigurationError, UpgradeError
from onward.upgrading.prediction import (
    EVERYTHING,
    METRICS,
    NOTHING,
    UPGRADE,
    Prediction,
    Unpredicted,
)
from onward.upgrading.recommendation import recommend

GATE = "gate"
"""The journal's event."""
NO_SAMPLE = "no sample was given (--sample), so nothing was predicted"
REQUIREMENT = re.compile(
    r"(?P<metric>\S+?)\s*(?P<operator>>=|>)\s*"
    r"(?:(?:(?P<factor>\d+(?:\.\d+)?|\.\d+)\s*\*\s*)?(?P<cell>old/old|new/new)"
    r"|(?P<fraction>\d+(?:\.\d+)?|\.\d+))"
)


@dataclass(frozen=True)
class Requirement:
    """What the upgraded gallery's number must reach.

    Attributes:
        metric: "cmc@1", "cmc@5", "map" or "agreement", of the upgrade without any backfill.
        strict: whether it must lie above (">"), not only reach it (">=").
        cell: "old/old" (doing nothing) or "new/new" (full backfill), whose number is multiplied by
            `number`; None if `number` is the limit itself.
        number: a factor above 0; or a fraction in [0, 1].

    Raises:
        ConfigurationError: if one of these is something else.
    """

    metric: str
    strict: bool
    cell: str | None
    number: float = 1.0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigurationError(
                f"there is no metric {self.metric!r} to require something of; choose one of "
                f"{', '.join(METRICS)}"
            )
        if self.cell is None and not 0 <= self.number <= 1:
            raise ConfigurationError(
                f"{self.metric} lies between 0 and 1, and {self.number:g} is required of it; give "
                "a fraction such as 0.5"
            )
        is_factor = math.isfinite(self.number) and self.number > 0
        if self.cell is not None and (self.cell not in (OLD, NEW) or not is_factor):
            raise ConfigurationError(
                f"{self.number:g} * {self.cell} is nothing to require; give a multiple of {OLD} or "
                f"{NEW} by a number above 0"
            )

    @classmethod
    def parse(cls, text: str) -> "Requirement":
        """Read what `str` of a requirement gives, such as "map >= old/old".

        Raises:
            ConfigurationError: if it is none; the message says how one is written.
        """
        found = REQUIREMENT.fullmatch(text.strip())
        if found is None:
            raise ConfigurationError(
                f"{text!r} is not a requirement; write a metric ({', '.join(METRICS)}), >= or >, "
                f"and {OLD}, {NEW}, a multiple such as 0.95 * {NEW}, or a fraction such as 0.5: "
                f"'map >= {OLD}'"
            )
        strict, cell = found["operator"] == ">", found["cell"]
        number = found["fraction"] if cell is None else found["factor"] or "1"
        return cls(found["metric"], strict, cell, float(number))

    def __str__(self) -> str:
        limit = f"{self.number:g}" if self.cell is None else self.cell
        if self.cell is not None and self.number != 1:
            limit = f"{self.number:g} * {self.cell}"
        return f"{self.metric} {'>' if self.strict else '>='} {limit}"

    def judge(self, prediction: Prediction) -> "Verdict":
        """Say whether a prediction meets it.

        Raises:
            UpgradeError: if the prediction does not know the metric.
        """
        if self.metric not in prediction.metrics:
            raise UpgradeError(
                f"{self} is required, but the sample's items have no labels that two of them "
                f"share, in the sample or in the gallery, so {self.metric} is not known; give "
                "embeddings with labels, or require something of agreement, such as "
                f"'agreement >= {OLD}'"
            )
        limit = self.number
        if self.cell is not None:
            cell = NOTHING if self.cell == OLD else EVERYTHING
            limit *= prediction.value(self.metric, cell)
        value = prediction.value(self.metric, UPGRADE)
        return Verdict(self, value, limit, value > limit if self.strict else value >= limit)


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a prediction.

    Attributes:
        requirement: what was required.
        value: what the upgrade is predicted to give, in [0, 1].
        limit: what it must reach.
        met: whether it does.
    """

    requirement: Requirement
    value: float
    limit: float
    met: bool

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "requirement": str(self.requirement),
            "value": self.value,
            "limit": self.limit,
            "met": self.met,
        }

    def __str__(self) -> str:
        says = "open" if self.met else "CLOSED"
        return (
            f"{says}: {self.requirement} is required, that is {100 * self.limit:.1f} %, and the "
            f"upgrade is predicted to give {100 * self.value:.1f} %"
        )


@dataclass(frozen=True)
class GateSaid:
    """What the gate said of an upgrade when it was started, as the journal has it.

    Attributes:
        judged: whether it could say anything.
        met: whether the prediction met what was required; None if it was not judged.
        forced: whether the upgrade was started although it did not.
        words: what it said, or why nothing.
    """

    judged: bool
    met: bool | None
    forced: bool
    words: str

    @classmethod
    def of(cls, entry: Mapping[str, Any] | None) -> "GateSaid":
        """Return what an entry of the journal says; None where there is none: nobody asked."""
        if entry is None:
            return cls(False, None, False, NO_SAMPLE)
        if not entry.get("judged", True):
            return cls(False, None, False, entry["why"])
        met = bool(entry["met"])
        words = (
            f"{entry['requirement']} was required, that is {100 * entry['limit']:.1f} %, and "
            f"{100 * entry['value']:.1f} % was predicted"
        )
        return cls(True, met, bool(entry["forced"]), words)

    @property
    def warning(self) -> str | None:
        """What whoever starts an upgrade is to read; None if the gate has judged it."""
        if self.judged:
            return None
        return (
            "the gate has NOT JUDGED this upgrade, which goes on; it may make search worse. "
            f"{self.words[0].upper()}{self.words[1:]}. Before cutting over, verify with queries "
            "whose answers are known (onward upgrade verify --canaries), or plan with a sample"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "judged": self.judged,
            "met": self.met,
            "forced": self.forced,
            "says": self.warning or self.words,
        }

    def __str__(self) -> str:
        if not self.judged:
            return f"NOT JUDGED: {self.words}"
        says = "open" if self.met else "CLOSED, but forced" if self.forced else "CLOSED"
        return f"{says}: {self.words}"


def gate_event(
    predicted: Prediction | Unpredicted, verdict: Verdict | None, transformation: str
) -> dict[str, Any]:
    """Return what the journal is to say of the gate, also that it could not judge."""
    event: dict[str, Any] = {"event": GATE, "transformation": transformation}
    if verdict is None or not isinstance(predicted, Prediction):
        return {**event, "judged": False, "why": str(predicted)}
    said = {**verdict.to_json(), "forced": not verdict.met}
    return {**event, "judged": True, **said, "prediction": predicted.to_json()}


def default_requirement(prediction: Prediction) -> Requirement:
    """Return what is required where nothing is said: not to search worse than doing nothing."""
    return Requirement("map" if "map" in prediction.metrics else "agreement", False, OLD)


def ask(
    predicted: Prediction | Unpredicted | None, requirement: Requirement | None
) -> Verdict | None:
    """Say whether what is predicted meets a requirement; the default one if none is given.

    Returns:
        None if nothing is predicted, and nothing required.

    Raises:
        UpgradeError: if something is required of which nothing is known.
    """
    if isinstance(predicted, Prediction):
        return (requirement or default_requirement(predicted)).judge(predicted)
    if requirement is None:
        return None
    if predicted is not None:
        raise UpgradeError(f"{requirement} is required, but {predicted}")
    raise UpgradeError(
        f"{requirement} is required, but nothing is predicted; give true new embeddings of some of "
        "the gallery's items that the transformation was not fitted on (sample=..., --sample "
        "FILE); `onward gallery sample` chooses them"
    )


def check_allowed(
    transformation: str,
    predicted: Prediction | Unpredicted | None,
    requirement: Requirement | None,
    *,
    force: bool,
) -> Verdict | None:
    """Refuse an upgrade that is not predicted to be good enough.

    Args:
        transformation: digest of the transformations that are to be started.
        predicted: what is predicted, or why nothing is; None if there is no sample.
        requirement: what is required; the default if None.
        force: let it start all the same.

    Returns:
        What the gate says; None where nothing is predicted.

    Raises:
        UpgradeError: if the gate says no and `force` is not given, something is required of which
            nothing is known, or the prediction is of other transformations.
    """
    if isinstance(predicted, Prediction) and predicted.transformation != transformation:
        raise UpgradeError(
            f"the prediction is of the transformation {predicted.transformation[:8]}, the upgrade "
            f"is by {transformation[:8]}; predict what this one gives"
        )
    verdict = ask(predicted, requirement)
    if verdict is None or verdict.met or force:
        return verdict
    assert isinstance(predicted, Prediction)  # noqa: S101 (there is no verdict on anything else)
    raise UpgradeError(
        f"the upgrade was not started: the gate is {verdict}. {recommend(predicted, met=False)} To "
        "start all the same, and have that logged, say force=True (--force)"
    )
