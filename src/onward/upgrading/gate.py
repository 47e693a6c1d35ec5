"""The gate: is an upgrade better than doing nothing? And what to do, said from the same numbers.

It has three answers, from the difference between what is to be served and doing nothing, on the
same queries, and its 95 % interval. What is to be served, the new space or a fused pair, is what is
advised, unless it was said. Nothing here reads a gallery.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from onward.errors import ConfigurationError, UpgradeError
from onward.evaluation.comparison import NEW, OLD
from onward.evaluation.intervals import Interval, queries_for
from onward.fusion import Serve
from onward.plain import Plain
from onward.spaces import Embeddings
from onward.upgrading.evidence import ITEMS, Who, count_asked, digest_sample
from onward.upgrading.forecast import (
    AGREEMENT,
    BY_GRADE,
    EVERYTHING,
    FUSED,
    FUSED_WITH_SAMPLE,
    METRICS,
    NOTHING,
    SERVED,
    UPGRADE,
    WITH_SAMPLE,
    Forecast,
    Judgement,
)

GATE = "gate"
"""The journal's event."""
MARGIN = 0.01
"""Search may get worse by so much and the gate still opens, as long as the mean does not fall."""

SERVE: tuple[Serve, ...] = ("new", "fused")
"""What an upgrade can lead to."""

Answer = Literal["open", "closed", "cannot judge"]
OPEN: Answer = "open"
CLOSED: Answer = "closed"
CANNOT_JUDGE: Answer = "cannot judge"
SHOUTED: Mapping[Answer, str] = {OPEN: "open", CLOSED: "CLOSED", CANNOT_JUDGE: "CANNOT JUDGE"}

NOT_JUDGED = "neither a sample nor real queries were given, so nothing was predicted"

REQUIREMENT = re.compile(
    r"(?P<metric>\S+?)\s*(?P<operator>>=|>)\s*"
    r"(?:(?:(?P<factor>\d+(?:\.\d+)?|\.\d+)\s*\*\s*)?(?P<cell>old/old|new/new)"
    r"|(?P<fraction>\d+(?:\.\d+)?|\.\d+))"
)


@dataclass(frozen=True)
class Requirement:
    """What the upgraded gallery's number must reach.

    Attributes:
        metric: "ndcg@10", "cmc@1", "cmc@5", "map" or "agreement", of what will be written.
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
                f"there is no metric {self.metric!r} to require something of",
                f"choose one of {', '.join(METRICS)}",
            )
        is_limit = 0 <= self.number <= 1
        if self.cell is not None:
            is_limit = self.cell in (OLD, NEW) and 0 < self.number < math.inf
        if not is_limit:
            limit = f"{self.number:g}" if self.cell is None else f"{self.number:g} * {self.cell}"
            raise ConfigurationError(
                f"{limit} is nothing to require of {self.metric}",
                f"give a fraction from 0 to 1 such as 0.5, or a multiple of {OLD} or {NEW} by a "
                "number above 0",
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
                f"{text!r} is not a requirement",
                f"write a metric ({', '.join(METRICS)}), >= or >, and {OLD}, {NEW}, a multiple "
                f"such as 0.95 * {NEW}, or a fraction such as 0.5: 'map >= {OLD}'",
            )
        strict, cell = found["operator"] == ">", found["cell"]
        number = found["fraction"] if cell is None else found["factor"] or "1"
        return cls(found["metric"], strict, cell, float(number))

    def __str__(self) -> str:
        limit = f"{self.number:g}" if self.cell is None else self.cell
        if self.cell is not None and self.number != 1:
            limit = f"{self.number:g} * {self.cell}"
        return f"{self.metric} {'>' if self.strict else '>='} {limit}"

    def to_json(self) -> str:
        """Return it as it is written."""
        return str(self)

    def judge(self, prediction: Forecast, written: str = UPGRADE) -> "Verdict":
        """Say whether a prediction meets it.

        What is compared with full backfill, and the agreement with it, is judged within the sample;
        all else in the whole gallery, if that is judged.

        Args:
            prediction: of each way to go.
            written: name of the cell of what will be written; where it is not known, of the same
                without the sample.

        Raises:
            UpgradeError: if the prediction does not know the metric.
        """
        within = self.cell == NEW or self.metric == AGREEMENT
        judge = prediction.within if within else prediction.judge
        if judge is None or self.metric not in judge.metrics:
            place = "within the sample" if within else "in the gallery"
            known = "nothing" if judge is None else f"only {', '.join(judge.metrics)}"
            answers = "judgements (qrels=...)" if self.metric == BY_GRADE[0] else "labels"
            raise UpgradeError(
                f"{self} is required, but what is known {place} is {known}",
                f"give {answers}, or a larger sample, or require something of what is known, such "
                f"as '{AGREEMENT} >= {OLD}'",
            )
        cell = NOTHING if self.cell == OLD else EVERYTHING
        compared = 1.0 if self.cell is None else judge.value(self.metric, cell)
        alone = FUSED if written == FUSED_WITH_SAMPLE else UPGRADE
        value = judge.value(self.metric, written if judge.has(written) else alone)
        return self.compare(value, compared)

    def compare(self, value: float, compared: float = 1.0) -> "Verdict":
        """Say whether a number meets it, beside that of the cell that it is compared with."""
        limit = self.number * (1.0 if self.cell is None else compared)
        met = value > limit if self.strict else value >= limit
        return Verdict(self, limit, value, met)


@dataclass(frozen=True)
class Verdict(Plain):
    """Whether a number, predicted or found, meets what is required.

    Attributes:
        requirement: what was required.
        limit: what it must reach.
        value: what it is, in [0, 1].
        met: whether it does.
    """

    requirement: Requirement
    limit: float
    value: float
    met: bool

    def __str__(self) -> str:
        return (
            f"{self.requirement} is required, that is {percent(self.limit)}, and "
            f"{percent(self.value)} is predicted"
        )


@dataclass(frozen=True, kw_only=True)
class Decision(Plain):
    """What the gate says of a prediction, and what to do.

    Attributes:
        answer: "open", "closed" or "cannot judge".
        says: why, in a line.
        recommendation: what to do, in a line.
        metric: what was judged by; None if nothing is predicted.
        asked: what the queries are.
        queries: how many count.
        nothing: what doing nothing gives, in [0, 1].
        written: what is predicted of what will be written.
        gain: their difference, with its paired interval.
        margin: search may get worse by so much, in [0, 1].
        needed: how many items a sample would have to have, or real queries there would have to be,
            to tell; None where it is told, or no number can be given.
        needed_of: which of the two.
        serve: what is to be served after the upgrade, "new" or "fused"; None if nothing is
            predicted and it was not said.
        advised: what is advised: "old" (do nothing), "new", or "fused"; None if that is not known.
        lost_if_retired: where it is fused, what search gives less, by metric, once the old model is
            retired and the new space answers alone; else empty.
        writes_sample: whether the sample will be written.
        sample_note: why it will not, if there is one.
        verdict: whether what was required besides is met.
    """

    answer: Answer
    says: str = ""
    recommendation: str = ""
    metric: str | None = None
    asked: Who | None = None
    queries: int = 0
    nothing: float | None = None
    written: float | None = None
    gain: Interval | None = None
    margin: float
    needed: int | None = None
    needed_of: Who | None = None
    serve: Serve | None = None
    advised: Serve | None = None
    lost_if_retired: Mapping[str, Interval] = field(default_factory=dict)
    writes_sample: bool
    sample_note: str | None = None
    verdict: Verdict | None = None

    def __str__(self) -> str:
        return f"{SHOUTED[self.answer]}: {self.says}"


@dataclass(frozen=True)
class GateEntry(Plain):
    """What the gate said of an upgrade when it was started, as the journal has it.

    Attributes:
        answer: "open", "closed" or "cannot judge"; None if nothing was given to judge by.
        forced: whether the upgrade was started although the gate was not open.
        says: what it said, or why nothing.
        serve: what is to be served, "new" or "fused"; None if that was not said.
    """

    answer: Answer | None
    forced: bool
    says: str
    serve: Serve | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any] | None) -> "GateEntry":
        """Return what an entry of the journal says; None where there is none: nobody asked."""
        if entry is None:
            return cls(None, False, NOT_JUDGED)
        answer, forced = entry.get("answer"), bool(entry.get("forced"))
        if "met" not in entry:
            says = entry.get("says", entry.get("why", NOT_JUDGED))
            return cls(answer, forced, says, entry.get("serve"))
        # Written when the gate had two answers.
        limit, value = (f"{100 * entry[name]:.1f} %" for name in ("limit", "value"))
        says = f"{entry['requirement']} was required, that is {limit}, and {value} was predicted"
        return cls(OPEN if entry["met"] else CLOSED, forced, says)

    @property
    def warning(self) -> str | None:
        """What whoever starts an upgrade is to read; None if the gate was open."""
        if self.answer == OPEN:
            return None
        first = "has NOT JUDGED" if self.answer is None else "did NOT OPEN for"
        return (
            f"the gate {first} this upgrade, which goes on; it may make search worse. "
            f"It says: {self.says}. Before cutting over, plan with a sample, "
            "or verify with queries whose answers are known"
        )

    def __str__(self) -> str:
        said = "NOT JUDGED" if self.answer is None else SHOUTED[self.answer]
        return f"{said}{', but forced' if self.forced else ''}: {self.says}"


def gate_event(
    prediction: Forecast | None,
    decision: Decision | None,
    transformation: str,
    serve: Serve | None = None,
) -> dict[str, Any]:
    """Return what the journal is to say of the gate, also that nothing was judged.

    Of what is to be served, what was judged, or else what was asked for.
    """
    event = {"event": GATE, "transformation": transformation}
    if decision is None or prediction is None:
        return {**event, "answer": None, "forced": False, "says": NOT_JUDGED, "serve": serve}
    return {
        **event,
        "serve": decision.serve,
        "answer": decision.answer,
        "forced": decision.answer != OPEN,
        "says": decision.says,
        "decision": decision.to_json(),
        "prediction": prediction.to_json(),
    }


def decide(
    prediction: Forecast,
    *,
    margin: float = MARGIN,
    require: Requirement | None = None,
    writes_sample: bool = True,
    serve: Serve | None = None,
    old_model_gone: bool = False,
) -> Decision:
    """Say whether an upgrade is better than doing nothing, what to serve, and what to do.

    Open if the lower end of the interval of the difference is above `-margin` and its mean is not
    below 0; closed if its upper end is below 0, or what is required besides is not met; else it
    cannot be judged. Where the sample is to be written, it is judged with it; a sample that is
    predicted to make search worse is not written.

    Args:
        prediction: of each way to go.
        margin: search may get worse by so much, in [0, 1).
        require: what must be reached besides.
        writes_sample: whether the sample is to be written, if there is one.
        serve: what is to be served, "new" or "fused"; what is advised if None.
        old_model_gone: no query can be embedded by the old model, so nothing can be fused.

    Raises:
        ConfigurationError: if the margin is not in [0, 1), or fused search is asked for without
            the old model.
        UpgradeError: if something is required of which nothing is known, or fused search is asked
            for where no pair is known.
    """
    check_asked(margin, serve, old_model_gone)
    judge = prediction.judge
    if judge is None and require is not None:
        raise UpgradeError(f"{require} is required, but {prediction.why}")
    if judge is None:
        known = Decision(
            answer=CANNOT_JUDGE,
            margin=margin,
            serve=serve,
            writes_sample=prediction.sample is not None,
        )
        why = str(prediction.why)
        return replace(known, says=why, recommendation=f"Not known: {why}.")
    if serve == "fused" and not judge.has(FUSED):
        raise UpgradeError(
            "fused search is asked for (serve='fused'), but the transformation knows no pair of "
            "the new space with the one that answers now",
            "fit it again from that space, with a fit that chooses a pair, or serve the new space",
        )
    with_sample = writes_sample and judge.has(WITH_SAMPLE)
    note = _why_not_written(judge, margin) if with_sample else None
    with_sample = with_sample and note is None
    can_fuse = judge.has(FUSED) and not old_model_gone
    told = judge.cell(_to_write("fused", with_sample)).advice if can_fuse else None
    best: Serve = "fused" if told is not None and told.advised == "fused" else "new"
    judged = partial(_decided, prediction, margin=margin, require=require, with_sample=with_sample)
    decided = judged(best)
    advice: dict[Answer, Serve] = {OPEN: best, CLOSED: "old"}
    advised = advice.get(decided.answer)
    if serve not in (None, best):
        decided = judged(serve)
    decision = replace(decided, advised=advised, sample_note=note)
    return _in_words(prediction, judge, decision, old_model_gone)


def check_asked(margin: float, serve: Serve | None, old_model_gone: bool) -> None:
    """Refuse what an upgrade cannot be judged by, or lead to; see `decide`.

    Raises:
        ConfigurationError: if the margin is not in [0, 1), or what is to be served is not "new" or
            "fused", or is fused although the old model is gone.
    """
    if not 0 <= margin < 1:
        raise ConfigurationError(
            f"the margin is {margin!r}", "give a fraction from 0 to 1, such as 0.01 (1 point)"
        )
    if serve is not None and serve not in SERVE:
        raise ConfigurationError(
            f"an upgrade cannot lead to serving {serve!r}", "choose 'new' or 'fused'"
        )
    if serve == "fused" and old_model_gone:
        raise ConfigurationError(
            "fused search is asked for (serve='fused'), and the old model, which must embed every "
            "query for it, is said to be gone (old_model_gone=True)",
            "leave one of them out",
        )


def _decided(
    prediction: Forecast,
    serve: Serve,
    *,
    margin: float,
    require: Requirement | None,
    with_sample: bool,
) -> Decision:
    """Return what the gate says of serving one thing, without words."""
    judge = prediction.judge
    assert judge is not None  # noqa: S101 (its caller looked)
    written = _to_write(serve, with_sample)
    cell = judge.cell(written)
    gain = cell.gains[judge.metric]
    verdict = None if require is None else require.judge(prediction, written)
    answer = _answer(gain, margin) if verdict is None or verdict.met else CLOSED
    needed = _needed(prediction, judge, gain, margin) if answer == CANNOT_JUDGE else None
    return Decision(
        answer=answer,
        metric=judge.metric,
        asked=judge.asked,
        queries=judge.queries,
        nothing=judge.value(judge.metric, NOTHING),
        written=judge.value(judge.metric, written),
        gain=gain,
        margin=margin,
        needed=needed,
        needed_of=judge.asked if needed is not None else None,
        serve=serve,
        lost_if_retired=cell.over_one_space,
        writes_sample=with_sample,
        verdict=verdict,
    )


def _to_write(serve: Serve | None, with_sample: bool) -> str:
    """Return the name of the cell of what will be written and served."""
    if serve == "fused":
        return FUSED_WITH_SAMPLE if with_sample else FUSED
    return WITH_SAMPLE if with_sample else UPGRADE


def check_allowed(
    transformation: str,
    prediction: Forecast | None,
    *,
    sample: Embeddings | None,
    margin: float,
    require: Requirement | None,
    force: bool,
    serve: Serve | None = None,
    old_model_gone: bool = False,
) -> Decision | None:
    """Refuse an upgrade that is not predicted to be better than doing nothing.

    Arguments are those of `Upgrade.start`, and the digest of the transformations. Returns what the
    gate says; None where nothing is predicted.

    Raises:
        ConfigurationError: as `decide` does.
        UpgradeError: if the gate is not open and `force` is not given, something is required of
            which nothing is known, fused search is asked for where no pair is known, or the
            prediction is of other transformations, or of another sample than the one to be written.
    """
    check_asked(margin, serve, old_model_gone)
    if prediction is None:
        if require is None:
            return None
        raise UpgradeError(
            f"{require} is required, but nothing is predicted; give true new embeddings of some of "
            "the gallery's items that the transformation was not fitted on (sample=...)",
            step="sample",
        )
    if prediction.transformation != transformation:
        raise UpgradeError(
            f"the prediction is of the transformation {prediction.transformation[:8]}, the upgrade "
            f"is by {transformation[:8]}",
            "predict what this one gives",
        )
    if sample is not None and digest_sample(sample) != prediction.sample:
        raise UpgradeError(
            "the prediction is not of the sample that is to be written, so nothing is known of "
            "what it does",
            "predict with this sample, or leave it out",
        )
    decision = decide(
        prediction,
        margin=margin,
        require=require,
        writes_sample=sample is not None,
        serve=serve,
        old_model_gone=old_model_gone,
    )
    if decision.answer == OPEN or force:
        return decision
    raise UpgradeError(
        f"nothing was written: the gate is {decision}. {decision.recommendation} To start all the "
        "same, and have that logged, say force=True"
    )


def _answer(gain: Interval, margin: float) -> Answer:
    if gain.low > -margin and gain.estimate >= 0:
        return OPEN
    return CLOSED if gain.high < 0 else CANNOT_JUDGE  # NaN is neither


def _why_not_written(judge: Judgement, margin: float) -> str | None:
    """Say why a sample is not written: it is predicted to make search worse; None if it is not."""
    change = judge.of_sample
    if change is None or judge.flattered:  # without the sample, h would be judged on what it knows
        return None
    if not (change.high < 0 or change.estimate < -margin):
        return None
    with_it, without = (judge.value(judge.metric, name) for name in (WITH_SAMPLE, UPGRADE))
    return (
        f"the sample is not written, because beside upgraded vectors it makes search worse: "
        f"{judge.metric} {percent(with_it)} with it, {percent(without)} without"
    )


def _needed(prediction: Forecast, judge: Judgement, gain: Interval, margin: float) -> int | None:
    """Return about how many items of a sample, or real queries, would tell; None if none would."""
    mean = gain.estimate
    room = mean + margin if mean >= 0 else -mean
    if not room > 0:
        return None
    queries = queries_for(gain, room, queries=judge.queries, clusters=judge.clusters)
    a_query = prediction.sample_items / judge.queries if judge.asked == ITEMS else 1
    given = prediction.sample_items if judge.asked == ITEMS else judge.queries
    return max(math.ceil(queries * a_query), given + 1)


def _in_words(
    prediction: Forecast, judge: Judgement, decision: Decision, old_model_gone: bool
) -> Decision:
    """Return a decision that says why, and whether to upgrade, to backfill, or to do nothing."""
    written = _to_write(decision.serve, decision.writes_sample)
    gain = judge.cell(written).gains[judge.metric]
    before, after = (percent(judge.value(judge.metric, one)) for one in (NOTHING, written))
    name, asked = judge.metric, count_asked(judge.queries, judge.asked)
    told = verdict = unlike = None
    if name == AGREEMENT and judge.asked == ITEMS:
        unlike = "queries that are not items may give other results"
    if name == AGREEMENT:
        name += f" of {judge.asked if unlike is None else 'items with items'}"
    if decision.verdict is not None:
        verdict = str(decision.verdict)
    if decision.answer == CANNOT_JUDGE:
        told = _what_would_tell(prediction, judge, decision, gain)
    first = f"{name} {before} -> {after} ({written}), {points(gain)} over {asked}"
    says = filter(None, (first, verdict, told, unlike, decision.sample_note))
    do = _what_to_do(
        prediction.within, decision, gain, f"takes {name} from {before} (doing nothing) to {after}"
    )
    if decision.answer == CANNOT_JUDGE:
        do = f"Not known: {asked} cannot tell whether search gets worse ({points(gain)}); {told}"
    served = _about_serving(judge, decision, old_model_gone)
    do += f".{served}{_caution(judge, gain, written)}"
    return replace(decision, says="; ".join(says), recommendation=do)


def _what_to_do(within: Judgement | None, decision: Decision, gain: Interval, moved: str) -> str:
    """Say what to do where that is known, given how an upgrade moves what decides."""
    serve = decision.serve or "new"
    if decision.answer == OPEN:
        how = "Upgrade, and serve it fused" if serve == "fused" else "Upgrade"
        return f"{how}: it {moved}{_backfill(within, serve)}"
    if gain.high >= 0:
        return f"Do not upgrade yet: it {moved}, and {decision.verdict}"
    if within is None or _gained(within, NOTHING) <= 0:
        return f"Do nothing: upgrading {moved}{_backfill(within, 'old')}"
    return (
        f"Do not upgrade with this transformation alone: it {moved}{_backfill(within, 'old')}. Or "
        "let the transformation learn from items of this gallery and from side-information"
    )


def _about_serving(judge: Judgement, decision: Decision, old_model_gone: bool) -> str:
    """Say what fused search costs and gives, where there is a pair; or why it is not to be had."""
    if not judge.has(FUSED):
        return ""
    if old_model_gone:
        return " Fused search is out of the running, because the old model is gone."
    fused = judge.cell(_to_write("fused", decision.writes_sample))
    if decision.serve != "fused":
        values = (f"{one} {percent(fused.values[one].estimate)}" for one in judge.weighed)
        found = f"Fused search gives {' and '.join(values)}"
        if decision.advised == "fused":
            return f" {found}, and is advised: serve='fused'."
        return f" {found}: not clearly better than one space{_unmeasured(judge)}."
    lost = (f"{one} {points(fused.over_one_space[one], -1)}" for one in judge.weighed)
    advised = f" It is not clearly better than one space{_unmeasured(judge)}."
    advised = "" if decision.advised == "fused" else advised
    return (
        f"{advised} Fused search embeds every query by both models, so both must be kept. Once the "
        f"old model is retired, the new space answers alone: {', '.join(lost)}."
    )


def _unmeasured(judge: Judgement) -> str:
    return ", but agreement does not tell" if judge.metric == AGREEMENT else ""


def _what_would_tell(
    prediction: Forecast, judge: Judgement, decision: Decision, gain: Interval
) -> str:
    if decision.needed is None:
        return "without a margin, no number of queries can show that nothing gets worse"
    about = "at least" if -1 in (gain.low, -gain.high) else "about"  # it is cut off
    several = " of more than one class" if judge.of_one_class else ""
    if judge.asked != ITEMS:
        return f"{about} {count_asked(decision.needed, judge.asked)}{several} would tell"
    more = ", more than the gallery holds" if decision.needed > prediction.rows else ""
    return f"a sample of {about} {decision.needed:,} items{several} would tell{more}"


def _gained(within: Judgement, beside: str) -> float:
    """Return what full backfill gives more than another way to go."""
    return within.value(within.metric, EVERYTHING) - within.value(within.metric, beside)


def _backfill(within: Judgement | None, beside: Serve) -> str:
    """Say what the least backfill that is no worse gives beside another way to go, and full.

    Where what is served is fused, that of a backfill is too.
    """
    if within is None:
        return ""
    metric, start = within.metric, within.value(within.metric, SERVED[beside])
    cells = within.backfilled("fused" if beside == "fused" else "new")
    values = [cell.values[metric].estimate for cell in cells]
    gains = values[-1] > start
    least = next((place for place, one in enumerate(values) if gains and one >= start), -1)
    is_full = cells[least] is cells[-1]
    named = EVERYTHING if is_full else f"backfilling {100 * cells[least].share:g} %"
    said = f"within the sample {named} takes {metric} from {percent(start)} to "
    said += percent(values[least]) + ("" if is_full else f", and in full to {percent(values[-1])}")
    return f"; {said}" if gains or beside == "old" else f"; spend nothing on backfill: {said}"


def _caution(judge: Judgement, gain: Interval, written: str) -> str:
    if judge.metric == AGREEMENT:
        said = (
            " Without labels or judgements, agreement shows only how near search is to that of "
            "the new model, not whether the new model is better."
        )
        if judge.asked == ITEMS:
            said += " Queries that are not items may give other results: give real ones."
        return said
    first, before = (judge.value("cmc@1", name) for name in (written, NOTHING))
    if first < before and gain.estimate >= 0:
        return f" But cmc@1 goes from {percent(before)} to {percent(first)}, which is worse."
    return ""


def points(change: Interval, sign: int = 1) -> str:
    """Return a difference, or its opposite (-1), as a person reads it, with its interval."""
    ends = sorted((sign * change.low, sign * change.high))
    shown = ", ".join(f"{100 * end:+.1f}" for end in ends)
    return f"{100 * sign * change.estimate:+.1f} points [{shown}]"


def percent(fraction: float, digits: int = 1) -> str:
    """Return a fraction as a person reads it."""
    return f"{100 * fraction:.{digits}f} %"
