"""Fit a transformation `h(old, side) -> new` on pairs of embeddings; no image is read.

Fitted on vectors, judged on retrieval: what was tried, and how it fared on held-out items beside
doing nothing and embedding everything again, is kept with the result. What has a closed form, and
how unsure a transformation is, needs the core alone; without torch the network is asked for.

References:
    Ramanujan et al., Forward Compatible Training for Large-Scale Embedding Retrieval Systems,
    CVPR 2022, arXiv 2112.02805.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np

from onward.errors import (
    ConfigurationError,
    DataError,
    MissingExtraError,
    SpaceMismatchError,
)
from onward.evaluation.relevance import RealQueries
from onward.evaluation.serving import MOST_MEASURED, SERVED
from onward.plain import fields_of
from onward.progress import silent
from onward.spaces import Embeddings
from onward.training.fit.closed_forms import (
    Method,
    Solved,
    solve_procrustes,
    solve_ridge,
    with_uncertainty,
)
from onward.training.fit.pairs import LEAST_ITEMS, Classifier, Examples, Pairs
from onward.training.fit.selection import (
    Folds,
    Judge,
    Trial,
    choose_method,
    choose_penalty,
    leaves_side_out,
    name_method,
    tell_classes_apart,
)
from onward.training.fit.serving import (
    ITEMS,
    OF_PAIRS,
    REAL,
    ServingChoice,
    choose_serving,
    serve_unmeasured,
)
from onward.training.settings import FCT_METHODS, FitSettings, RunSettings, made_by
from onward.transformation import Transformation, mean

UNSEEN = "classes that h has not seen"
HELD_OUT = {
    "class": ("classes", UNSEEN),
    "group": ("groups", f"{UNSEEN} (groups that were given)"),
    "neighbours": ("groups", f"{UNSEEN} (groups of nearest neighbours stand for them)"),
    "item": ("items", "further items of classes that h has seen"),
}
"""What is held out as a whole, and on what is judged so."""
OF_SAMPLE = "held-out items of the gallery's sample: classes that h has seen"
ASKED = "it was asked for by name"
NO_NETWORK = "the network was not tried, because torch is not installed: pip install 'onward[fit]'"
LEARNED_NOTHING = (
    "on what was held out it errs no less than giving every item the mean of the new vectors "
    "would: it has learned nothing that holds there, and needs more pairs, or pairs of what the "
    "gallery holds"
)
BY_PAIRS = "; judged on the training pairs, for no labels of the sample tell what is right"
TRIAL_STEPS = 1 / 3
"""The share of its steps that a network learns for in a trial: to learn in three trials and once
more takes twice as long as that network alone; judging comes on top, and where a sample without
labels is given, three more trials that say what to serve."""
MOST_LISTED = 20_000
"""The ids of training items are kept with the transformation if they are no more than these; more
are training images, which no gallery holds. Those of a sample are kept always."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A transformation, what was tried beside it, and why it was kept.

    Attributes:
        transformation: what is kept, fitted on everything.
        chosen: the method and settings of what is kept, as plain values.
        judged_on: "new/old" is judged on these: "classes that h has not seen", for one.
        judged_by: "label" or "agreement".
        folds: how many folds there were.
        held_out: what was held out as a whole: "classes", "groups", or "items".
        groups: how many of these there are.
        items: how many items were judged.
        queries: how many of them count: those that have something to find.
        tried: what was tried, judged on what it was not fitted on; none where the method was asked
            for by name and chooses nothing.
        references: what doing nothing ("old/old") and embedding everything again ("new/new") give
            on the same items.
        reason: why it was kept.
        serving: what to serve after an upgrade by it: the old space, the new one, or both, fused.
    """

    transformation: Transformation
    chosen: Mapping[str, Any]
    judged_on: str = "nothing"
    judged_by: str = ""
    folds: int = 0
    held_out: str = "items"
    groups: int = 0
    items: int = 0
    queries: int = 0
    tried: tuple[Trial, ...] = ()
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    reason: str = "it was asked for by name and learned from everything: nothing was held out"
    serving: ServingChoice | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all but the transformation and what was chosen as plain values."""
        return fields_of(self, without=("transformation", "chosen"))

    def __str__(self) -> str:
        """Return a table of what was tried, and the line that says what is kept and why."""
        kept, serve = f"kept: new/old {name_method(self.chosen)}", self.serving
        last = [] if serve is None else [str(serve)]
        if not self.tried:
            return "\n".join([f"{kept}: {self.reason}", *last])
        rows = dict(self.references)
        everything = rows.popitem()
        rows |= {f"new/old {trial}": trial.values for trial in self.tried}
        if serve is not None and serve.asked == ITEMS:
            rows |= {name: values for name, values in serve.values.items() if name not in SERVED}
        elif serve is not None and serve.values:
            last[:0] = [
                f"{serve.asked}, judged by {serve.judged_by}: {serve.queries:,} that count, in "
                "percent",
                *_table(serve.values),
            ]
        return "\n".join(
            [
                f"judged by {self.judged_by} on {self.folds} folds of {self.groups:,} "
                f"{self.held_out}: {self.items:,} items, {self.queries:,} queries that count, "
                "in percent",
                *_table({**rows, everything[0]: everything[1]}),
                f"{kept}, judged on {self.judged_on}: {self.reason}",
                *last,
            ]
        )


def _table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the lines of a table of metrics, in percent."""
    width, metrics = max(map(len, rows)), list(next(iter(rows.values())))
    return [
        " ".join([" " * width, *(f"{metric:>6}" for metric in metrics)]),
        *(
            " ".join(
                [f"{name:<{width}}"]
                + [f"{100 * values[one]:{max(len(one), 6)}.1f}" for one in metrics]
            )
            for name, values in rows.items()
        ),
    ]


def fit(
    old: Embeddings,
    side: Embeddings | None,
    new: Embeddings,
    *,
    sample: Pairs | None = None,
    groups: Sequence[str | None] | None = None,
    of_gallery: bool = False,
    classifier: Classifier | None = None,
    queries: RealQueries | None = None,
    settings: FitSettings | None = None,
    seed: int = 0,
    run: RunSettings | None = None,
    same_labels: bool = False,
) -> Fit:
    """Fit a transformation from the old space (with side-information) to the new one.

    The other way round, `fit(new, None, old)`, gives what brings new queries to an old gallery.

    What is chosen is chosen by retrieval on what was held out: whole classes, for a gallery holds
    what no model has seen unless `settings.gallery_classes` says otherwise. See
    `onward.training.fit.selection`. By "auto" side-information is left out
    where the map is clearly better without it: the transformation then has none. Where torch is
    not installed, "auto" means ridge, and the result says so.

    Args:
        old: old embeddings of the new model's training items; or of re-embedded items of a
            gallery, where there is nothing else. Several views of an item have the ids
            `<id>#<view>`.
        side: side-information of the same items in the same order. Without any, the network's
            second branch is fed the old embedding, so that its capacity stays the same.
        new: new embeddings of the same items in the same order. Labels, here or in `old`, are used
            to judge, to hold out whole classes, and by the new model's classifier.
        sample: gallery items that the new model has embedded, to learn from as well. The method is
            then chosen on held-out items of it, for it is the gallery that counts, if there are at
            least 20; by their labels, if they have some that enough of them share. If not, what to
            serve is chosen by labels of the pairs, if these tell classes apart.
        groups: of each pair, what is to be held out as a whole, such as the person or the product;
            None stands for a group of its own. Without any, classes are; and where there are no
            labels, groups of items that are each other's nearest neighbours in the new space.
        of_gallery: whether the pairs are of items of the gallery to be upgraded, so that what is
            made of each without having seen it is kept. Of further items of seen classes it always
            is, and of a sample that judges.
        classifier: the new model's, for `settings.discriminative` "classifier"; else not used.
        queries: real queries by both models. What to serve is then chosen by what they find among
            the held-out items, by judgements, labels or agreement; else by what items find.
        settings: which method, and how it learns.
        seed: decides first weights, order, and which items are held out.
        run: on what machine; a checkpoint is that of the network.
        same_labels: if only the classifier or only the embeddings have class names, the numbers of
            the others mean the same. Where both have names, labels go by these.

    Returns:
        The transformation, what was tried and how each fared, and why it was kept. Its
        transformation's `made_by` says so too, and which items it has learned from; what a
        transformation that had not seen them makes of items of a gallery is kept with it. Its
        `serving` says what to serve after an upgrade by it: see `onward.training.fit.serving`. Of a
        network that was asked for by name, alone or in an ensemble, nothing is known: it is given
        all pairs to learn from, and the new space is advised, unmeasured.

    Raises:
        TransformationError: if the embeddings are not of the same items in the same order, are in
            one space, or cannot be mapped by the method.
        SpaceMismatchError: if the sample, the classifier or the queries are in other spaces.
        LabelMismatchError: if only the classifier or only the embeddings have class names, and
            `same_labels` is false; or old and new embeddings put an item in two classes.
        EvaluationError: if no real query has anything to find among the items.
        DataError: if there are fewer than 20 items, or the groups do not fit the pairs.
        ConfigurationError: if settings do not fit together, what they need is missing, or a
            checkpoint is another run's.
        ModelError: if the network's loss stops being finite.
        MissingExtraError: if a network was asked for by name and torch is not installed.
    """
    settings, run = settings or FitSettings(), run or RunSettings()
    pairs = Pairs(old, side, new)
    used = settings.discriminative == "classifier" and pairs.labels is not None
    if classifier is not None and used:
        classifier = classifier.numbered_as(pairs.class_names, same_labels=same_labels)
    work = _Work(pairs, sample, groups, of_gallery, classifier, queries, settings, seed, run)
    _check(work)
    if settings.method == "mlp":
        h = work.learn({"method": "mlp"})
        found = Fit(h, {"method": "mlp"}, serving=_serve(work, h, (), {}))
    else:
        found = _choose(work)
    best, serving = found.transformation, found.serving
    best = replace(best, serving=None if serving is None else serving.serving)
    if settings.uncertainty and best.uncertainty is None:
        learned = work.without_side() if best.side is None else work
        best = with_uncertainty(best, learned.everything)
    chosen = {**found.chosen, **found.to_json()}
    described = made_by("fit", settings, seed=seed, run=run, device=_device(work), **chosen)
    facts = {"pairs": _describe(pairs, listed=pairs.items <= MOST_LISTED)}
    facts |= {} if sample is None else {"sample": _describe(sample, listed=True)}
    return replace(found, transformation=replace(best, made_by=described | facts))


@dataclass(frozen=True, eq=False)
class _Work:
    """What was given to `fit`, and what was learned in each fold that several trials use."""

    pairs: Pairs
    sample: Pairs | None
    groups: Sequence[str | None] | None
    pairs_of_gallery: bool
    classifier: Classifier | None
    queries: RealQueries | None
    settings: FitSettings
    seed: int
    run: RunSettings
    side_is_left_out: bool = False
    pairs_judge: bool = False
    learned: dict[tuple[str, int | None], Any] = field(default_factory=dict)

    @property
    def everything(self) -> Examples:
        """All training pairs and all of the sample."""
        return Examples.of(
            self.pairs, sample=self.sample, sample_weight=self.settings.sample_weight
        )

    @property
    def sample_judges(self) -> bool:
        """Whether there is a sample that is large enough to judge by."""
        return self.sample is not None and self.sample.items >= LEAST_ITEMS and not self.pairs_judge

    @property
    def judged(self) -> Pairs:
        """What is divided into folds: the sample, if it is to judge, or else the pairs."""
        return self.sample if self.sample is not None and self.sample_judges else self.pairs

    @property
    def of_gallery(self) -> bool:
        """Whether what is divided may be of the gallery itself."""
        seen = self.settings.gallery_classes == "seen"
        return self.sample_judges or seen or self.pairs_of_gallery

    @cached_property
    def folds(self) -> Folds:
        """The folds: of a sample item by item, for it is drawn from what the gallery holds."""
        return Folds.of(
            self.judged,
            gallery_classes="seen" if self.sample_judges else self.settings.gallery_classes,
            groups=None if self.sample_judges else self.groups,
            seed=self.seed,
        )

    @cached_property
    def judge(self) -> Judge:
        """The judge of what is held out."""
        return Judge.of(self.folds, most=self.settings.most_judged, seed=self.seed)

    @cached_property
    def asked(self) -> tuple[Judge, str]:
        """The judge of what to serve, and what it asks: real queries where there are some."""
        if self.queries is None:
            return self.judge, ITEMS
        most = self.settings.most_judged
        judge = Judge.of_queries(self.folds, self.queries, most=most, seed=self.seed)
        return judge, REAL

    def examples(self, fold: int) -> Examples:
        """Return what is learned from where a fold is held out: no pair of its items."""
        rows, weight = self.folds.learned(fold), self.settings.sample_weight
        items = {self.judged.item_ids[item] for item in self.folds.items(fold)}
        if self.sample_judges:
            return Examples.of(self.pairs, self.pairs.without(items), self.sample, rows, weight)
        others = None if self.sample is None else self.sample.without(items)
        sample = None if others is None or not len(others) else self.sample
        return Examples.of(self.pairs, rows, sample, others, weight)

    def without_side(self) -> "_Work":
        """Return the same work without side-information; judging needs none and stays."""
        sample = None if self.sample is None else replace(self.sample, side=None)
        pairs = replace(self.pairs, side=None)
        work = replace(self, pairs=pairs, sample=sample, side_is_left_out=True, learned={})
        vars(work).update(folds=self.folds, judge=self.judge, asked=self.asked)
        return work

    def judged_by_pairs(self) -> "_Work":
        """Return the same work where pairs are held out to judge by, and nothing of the sample."""
        return replace(self, pairs_judge=True, learned={})

    @property
    def closed_forms(self) -> list[Method]:
        """Those to choose among: ridge of each penalty, but if a rotation is asked for."""
        if self.settings.method == "procrustes":
            return [{"method": "procrustes"}]
        return [{"method": "ridge", "penalty": each} for each in self.settings.ridge_penalties]

    @property
    def networks(self) -> Method:
        """The network, or several."""
        inner, count = self.settings.inner, self.settings.networks
        return {"method": "mlp", "inner": inner} | ({"networks": count} if count > 1 else {})

    def ensemble(self, ridge: Method) -> Method:
        """Return the mean of what the network and a ridge give."""
        return {**self.networks, "method": "ensemble", "penalty": ridge["penalty"]}

    def learn(self, method: Method, fold: int | None = None) -> Transformation:
        """Return what a method makes of everything, or of all but a fold."""
        made = []
        if method["method"] in ("mlp", "ensemble"):
            made.append(self._once("network", fold, self._network))
        if method["method"] != "mlp":
            made.append(self._once("closed form", fold, self._closed)(method))
        return mean(made) if len(made) > 1 else made[0]

    def attempt(self, method: Method) -> Trial:
        """Return how a method fares, where what it makes of each fold's rest is judged on it."""
        made = self.of_folds(method)
        described = {**method, "without_side": True} if self.side_is_left_out else method
        trial = self.judge.judge(self.carry(made, self.judge.rows), described)
        return replace(trial, made=made)

    def of_folds(self, method: Method) -> tuple[Transformation, ...]:
        """Return what a method makes where each fold is held out."""
        return tuple(self.learn(method, fold) for fold in range(self.folds.count))

    def _once(self, what: str, fold: int | None, make: Callable[[int | None], Any]) -> Any:
        if (what, fold) not in self.learned:
            self.learned[what, fold] = make(fold)
        return self.learned[what, fold]

    def _closed(self, fold: int | None) -> Solved:
        examples = self.everything if fold is None else self.examples(fold)
        return (solve_procrustes if self.settings.method == "procrustes" else solve_ridge)(examples)

    def _network(self, fold: int | None) -> Transformation:
        """Return the network; for a trial it learns for a share of its steps."""
        from onward.training.fit.networks import fit_networks

        settings, run, examples = self.settings, self.run_of(fold), self.everything
        if fold is not None:
            whole, examples = len(examples), self.examples(fold)
            epochs = TRIAL_STEPS * settings.epochs * whole / len(examples)
            least = round(TRIAL_STEPS * settings.least_steps)
            fewer = {"epochs": max(1, round(epochs)), "least_steps": least}
            settings = settings.model_copy(update=fewer)
        return fit_networks(examples, settings, classifier=self.classifier, seed=self.seed, run=run)

    def run_of(self, fold: int | None) -> RunSettings:
        """Return how the network that is kept learns, or that of a fold's trial.

        Each has a checkpoint of its own; together they make up the progress, but for those that
        only say what to serve.
        """
        from onward.training.fit.networks import one_of

        trials = self.folds.count if self.settings.method == "auto" else 0
        place = self.run.checkpoint
        if place is not None and fold is not None:
            what = "serving" if self.pairs_judge else "trial"
            place = place.with_name(f"{place.name}.{what}-{fold}")
        if self.pairs_judge:
            return replace(self.run, checkpoint=place, progress=silent)
        run = one_of(self.run, trials if fold is None else fold, trials + 1)
        return replace(run, checkpoint=place)

    def carry(self, made: Sequence[Transformation], rows: Sequence[np.ndarray]) -> list[Embeddings]:
        """Return what the transformation of each fold makes of these pairs."""
        pairs = self.judged
        sides = [None if pairs.side is None else pairs.side.select(each) for each in rows]
        olds = (pairs.old.select(each) for each in rows)
        return [h.apply(old, side) for h, old, side in zip(made, olds, sides, strict=True)]


def _choose(work: _Work) -> Fit:
    """Fit what the method allows apart from each fold, and keep what fares best on all of them.

    The penalty of ridge is chosen so too, also of the ridge of an ensemble. What is kept is then
    fitted once more, on everything.
    """
    method, judge = work.settings.method, work.judge
    trials = [work.attempt(each) for each in work.closed_forms]
    kept, why = choose_penalty(trials, judge)
    made, chosen, reason = kept.made, kept.described, ASKED
    if method == "auto":
        work, trials, kept, why = _choose_inputs(work, trials, kept, why)
        networks = _try_networks(work, kept) if has_torch() else []
        kept, reason = choose_method([kept, *networks], judge)
        trials, made, chosen = [*trials, *networks], kept.made, kept.described
        reason = reason if networks else NO_NETWORK
    elif method == "ensemble":  # its ridge alone was tried
        made, chosen = (), work.ensemble(chosen)
    if "penalty" in chosen:
        reason = f"{reason}; {why}"
    if made and kept.error >= 1:
        reason = f"{reason}; {LEARNED_NOTHING}"
    best = work.learn(chosen)
    serving = _serve(work, best, made, chosen)
    if work.of_gallery and made and work.judged.items <= MOST_LISTED:
        best = replace(best, out_of_fold=_out_of_fold(work, made))
    held_out, judged_on = HELD_OUT[work.folds.by]
    return Fit(
        best,
        chosen,
        judged_on=OF_SAMPLE if work.sample_judges else judged_on,
        judged_by=judge.by,
        folds=work.folds.count,
        held_out=held_out,
        groups=len(np.unique(work.folds.groups)),
        items=sum(len(rows) for rows in judge.rows),
        queries=judge.queries,
        tried=tuple(replace(trial, made=()) for trial in trials),
        references=judge.references,
        reason=reason,
        serving=serving,
    )


def _serve(
    work: _Work, h: Transformation, made: Sequence[Transformation], chosen: Method
) -> ServingChoice:
    """Return what to serve after an upgrade by h, of which the folds' transformations were made.

    A sample without labels cannot say: agreement with a full backfill leans to the new space. Where
    the pairs have labels, these say, by what the chosen method makes of the pairs' folds. Real
    queries come before both.
    """
    if not made:
        some = work.pairs.first_rows[:: -(-work.pairs.items // MOST_MEASURED)]
        old, new = work.pairs.old.select(some), work.pairs.new.select(some)
        side = None if work.pairs.side is None else work.pairs.side.select(some)
        return serve_unmeasured((old, old), (new, h.apply(old, side)), seed=work.seed)
    judge, asked = work.asked
    why = ""
    if asked == ITEMS and judge.by == "agreement" and work.sample_judges:
        other = work.judged_by_pairs()
        if tell_classes_apart(work.pairs) and other.judge.by == "label":
            work, judge, asked, why = other, other.judge, OF_PAIRS, BY_PAIRS
            made = work.of_folds(chosen)
            if chosen["method"] in FCT_METHODS:
                _forget_checkpoints(work)
    seen = work.settings.gallery_classes == "seen"
    carried = work.carry(made, judge.rows)
    choice = choose_serving(judge, carried, asked=asked, seen=seen, seed=work.seed)
    return replace(choice, reason=f"{choice.reason}{why}")


def _choose_inputs(
    work: _Work, trials: list[Trial], kept: Trial, why: str
) -> tuple[_Work, list[Trial], Trial, str]:
    """Leave side-information out where ridge clearly does better without it.

    By the penalty of the least error, which says so sooner than retrieval of them all. What is
    tried further then goes without it too. Of the other way the best stays in the table.
    """
    if work.pairs.side is None:
        return work, trials, kept, why
    without, judge = work.without_side(), work.judge

    def error(method: Method) -> float:
        return float(judge.errors(without.carry(without.of_folds(method), judge.rows)).mean())

    other = without.attempt(min(without.closed_forms, key=error))
    reason = leaves_side_out(other, kept, judge)
    if reason is None:
        return work, [*trials, other], kept, why
    others = [without.attempt(each) for each in without.closed_forms]
    best, its_why = choose_penalty(others, judge)
    return without, [*others, kept], best, f"{its_why}; {reason}"


def _try_networks(work: _Work, ridge: Trial) -> list[Trial]:
    """Try the network, and the mean of what it and ridge give."""
    tried = [work.attempt(each) for each in (work.networks, work.ensemble(ridge.described))]
    _forget_checkpoints(work)
    return tried


def _forget_checkpoints(work: _Work) -> None:
    """Delete the checkpoints of the networks that learned apart from a fold."""
    if work.run.checkpoint is None:
        return
    from onward.training.loop import forget_checkpoint

    for fold in range(work.folds.count):
        checkpoint = work.run_of(fold).checkpoint
        assert checkpoint is not None  # noqa: S101  # each has one where the run has
        forget_checkpoint(checkpoint)


def _out_of_fold(work: _Work, made: Sequence[Transformation]) -> Embeddings:
    """Return what is made of every item by the transformation that has not seen it."""
    folds = work.folds
    carried = work.carry(made, [folds.held_out(fold) for fold in range(folds.count)])
    ids = [work.judged.item_ids[item] for fold in range(folds.count) for item in folds.items(fold)]
    vectors = np.concatenate([each.vectors for each in carried])
    return Embeddings(tuple(ids), vectors, work.pairs.new.space)


def has_torch() -> bool:
    """Say whether networks can learn here."""
    return find_spec("torch") is not None


def check_torch(settings: FitSettings) -> None:
    """Refuse a method that needs a network where none can learn.

    Raises:
        MissingExtraError: naming the extra that brings torch.
    """
    if settings.method in ("ensemble", "mlp") and not has_torch():
        raise MissingExtraError("torch", "fit")


def _device(work: _Work) -> str:
    """Return where networks learn; what has a closed form is solved on the CPU."""
    if work.settings.method not in FCT_METHODS or not has_torch():
        return "cpu"
    from onward.training.devices import device_of

    return device_of(work.run)


def _check(work: _Work) -> None:
    """Refuse what cannot be fitted or judged."""
    pairs, sample, settings = work.pairs, work.sample, work.settings
    if pairs.items < LEAST_ITEMS:
        raise DataError(
            f"there are {pairs.items} items to fit a transformation on, in {len(pairs)} pairs",
            "embed more items with both models",
            needed=f"it needs at least {LEAST_ITEMS}",
        )
    if work.groups is not None and sample is not None and work.sample_judges:
        raise ConfigurationError(
            f"groups of the {len(pairs)} pairs were given, but the {sample.items} items of the "
            "gallery's sample are held out to judge by, item by item",
            "leave the groups or the sample out",
        )
    if work.groups is not None and settings.gallery_classes == "seen":
        raise ConfigurationError(
            "groups are held out as a whole for a gallery of unseen classes, but gallery_classes "
            "is 'seen', by which items are held out",
            "leave the groups out, or say 'unseen'",
        )
    for name in ("old", "side", "new") if sample is not None else ():
        ours, theirs = getattr(pairs, name), getattr(sample, name)
        if (ours and ours.space) != (theirs and theirs.space):
            said = [f"in {of.space}" if of is not None else "not given" for of in (ours, theirs)]
            what = "side-information" if name == "side" else f"{name} embeddings"
            raise SpaceMismatchError(
                f"the {what} of the training pairs are {said[0]}, those of the gallery sample are "
                f"{said[1]}",
                "embed the sample with the same models",
                needed="a transformation is fitted between the same spaces on both",
            )
    if work.queries is not None:
        _check_queries(work, work.queries)
    settings.check()
    check_torch(settings)
    if settings.discriminative == "classifier":
        _check_classifier(pairs, work.classifier)


def _check_queries(work: _Work, queries: RealQueries) -> None:
    """Refuse real queries that cannot be asked; that they find nothing shows before h is fitted."""
    if work.settings.method in ("ensemble", "mlp"):
        raise ConfigurationError(
            f"real queries were given to choose what to serve by, but method "
            f"{work.settings.method!r} learns from all items: none is held out",
            "choose 'auto' or 'ridge', or leave the queries out",
        )
    for whose, given, pairs in (
        ("old", queries.old, work.pairs.old),
        ("new", queries.new, work.pairs.new),
    ):
        if given.space != pairs.space:
            raise SpaceMismatchError(
                f"the real queries by the {whose} model are in {given.space}, the {whose} "
                f"embeddings of the pairs are in {pairs.space}",
                "embed the queries by the models of the pairs",
            )
    _ = work.asked


def _check_classifier(pairs: Pairs, classifier: Classifier | None) -> None:
    if classifier is None:
        raise ConfigurationError(
            "discriminative is 'classifier', but no classifier was given",
            "give the new model's, "
            "classifier=Classifier.of(new_model), or choose discriminative 'none'",
        )
    if classifier.space != pairs.new.space:
        raise SpaceMismatchError(
            f"the classifier tells embeddings in {classifier.space} apart, the new embeddings are "
            f"in {pairs.new.space}",
            "give the classifier of the model that made them",
        )
    if pairs.labels is None:
        raise ConfigurationError(
            "discriminative is 'classifier', which needs labels, but neither the old nor the new "
            "embeddings have any",
            "embed items with labels, or choose discriminative 'none'",
        )
    if (classifier.rows_of(pairs.labels) < 0).all():
        raise ConfigurationError(
            f"the classifier knows the classes {_few(classifier.classes)}, the embeddings have the "
            f"labels {_few(np.unique(pairs.labels).tolist())}: none is common. Number the classes "
            "as in the training of the new model, or choose discriminative 'none'"
        )


def _few(labels: Sequence[int]) -> str:
    shown = ", ".join(str(label) for label in labels[:5])
    return shown if len(labels) <= 5 else f"{shown} ..."


def _describe(pairs: Pairs, *, listed: bool) -> dict[str, Any]:
    """Return what was learned from; with the ids, by which a plan leaves these items out."""
    facts = {"items": pairs.items, "pairs": len(pairs), "digest": pairs.digest}
    return facts | ({"ids": list(pairs.item_ids)} if listed else {})
