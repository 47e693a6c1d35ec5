"""Fit a transformation `h(old, side) -> new` on pairs of embeddings; no image is read.

Fitted on vectors, judged on retrieval: what was tried, and how it fared on held-out items beside
doing nothing and embedding everything again, is kept with the result.

References:
    Ramanujan et al., Forward Compatible Training for Large-Scale Embedding Retrieval Systems,
    CVPR 2022, arXiv 2112.02805.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onward.dense import layers_of
from onward.errors import ConfigurationError, SpaceMismatchError
from onward.spaces import Embeddings
from onward.training.checkpoints import forget_checkpoint
from onward.training.classifiers import Classifier
from onward.training.closed_forms import fit_closed_form
from onward.training.devices import device_of
from onward.training.ensembles import ensemble, fit_networks
from onward.training.pairs import (
    LEAST_ITEMS,
    Examples,
    Pairs,
    check_enough,
    check_sample,
    split,
)
from onward.training.provenance import made_by
from onward.training.selection import Judge, choose_penalty
from onward.training.settings import FitSettings, RunSettings
from onward.training.uncertainty import with_uncertainty
from onward.transformation import Transformation

_Found = tuple[dict[str, Any], Transformation]

LEAST_HELD_OUT = 10
LEAST_HELD_OUT_OF_SAMPLE = 200
"""Of a sample more are worth holding out, for all of it is learned from in the end."""
MOST_LISTED = 20_000
"""The ids of training items are kept with the transformation if they are no more than these; more
are training images, which no gallery holds. Those of a sample are kept always."""


def fit(
    old: Embeddings,
    side: Embeddings | None,
    new: Embeddings,
    *,
    sample: Pairs | None = None,
    classifier: Classifier | None = None,
    settings: FitSettings | None = None,
    seed: int = 0,
    run: RunSettings | None = None,
    same_labels: bool = False,
) -> Transformation:
    """Fit a transformation from the old space (with side-information) to the new one.

    The other way round, `fit(new, None, old)`, gives what brings new queries to an old gallery.

    Args:
        old: old embeddings of the new model's training items; or of re-embedded items of a
            gallery, where there is nothing else. Several views of an item have the ids
            `<id>#<view>`.
        side: side-information of the same items in the same order. Without any, the network's
            second branch is fed the old embedding, so that its capacity stays the same.
        new: new embeddings of the same items in the same order. Labels, here or in `old`, are used
            to judge, and by the new model's classifier.
        sample: gallery items that the new model has embedded, to learn from as well. Their labels
            are not used. The method is then chosen on held-out items of it, for it is the gallery
            that counts, if there are at least 20.
        classifier: the new model's, for `settings.discriminative` "classifier"; else not used.
        settings: which method, and how it learns.
        seed: decides first weights, order, and which items are held out.
        run: on what machine; a checkpoint is that of the network.
        same_labels: if only the classifier or only the embeddings have class names, the numbers of
            the others mean the same. Where both have names, labels go by these.

    Returns:
        The transformation; its `made_by` says what was tried and how each fared on held-out items,
        and which items of a sample it has learned from
        (of a network that was asked for by name, nothing, or the ridge that it is added to: it is
        given all pairs to learn from).

    Raises:
        TransformationError: if the embeddings are not of the same items in the same order, are in
            one space, or cannot be mapped by the method.
        SpaceMismatchError: if the sample or the classifier is in other spaces.
        LabelMismatchError: if only the classifier or only the embeddings have class names, and
            `same_labels` is false.
        DataError: if there are fewer than 20 items.
        ConfigurationError: if settings do not fit together, what they need is missing, or a
            checkpoint is another run's.
        ModelError: if the network's loss stops being finite.
    """
    settings, run = settings or FitSettings(), run or RunSettings()
    pairs = Pairs(old, side, new)
    if classifier is not None and pairs.labels is not None and _uses_classifier(settings):
        classifier = classifier.numbered_as(pairs.class_names, same_labels=same_labels)
    _check(pairs, sample, classifier, settings)
    work = _Work(pairs, sample, classifier, settings, seed, run)
    if settings.method in ("mlp", "rbt") and not settings.residual:
        best = work.network(work.everything, run)
        judged: dict[str, Any] = {"method": settings.method, "judged on": 0}
    else:
        best, judged = _choose(work)
    if settings.uncertainty and best.uncertainty is None:
        best = with_uncertainty(best, work.everything)
    described = made_by("fit", settings, seed=seed, run=run, device=device_of(run), **judged)
    facts = {"pairs": _describe(pairs, listed=pairs.items <= MOST_LISTED)}
    facts |= {} if sample is None else {"sample": _describe(sample, listed=True)}
    return replace(best, made_by=described | facts)


@dataclass(frozen=True, eq=False)
class _Work:
    """What was given to `fit`."""

    pairs: Pairs
    sample: Pairs | None
    classifier: Classifier | None
    settings: FitSettings
    seed: int
    run: RunSettings

    @property
    def everything(self) -> Examples:
        """All training pairs and all of the sample."""
        return Examples.of(
            self.pairs, sample=self.sample, sample_weight=self.settings.sample_weight
        )

    @property
    def sample_judges(self) -> bool:
        """Whether there is a sample that is large enough to judge by."""
        return self.sample is not None and self.sample.items >= LEAST_ITEMS

    @property
    def trial_run(self) -> RunSettings:
        """How a network learns that may have to learn again: with a checkpoint of its own."""
        checkpoint = self.run.checkpoint
        if checkpoint is None or not self.sample_judges:
            return self.run
        return replace(self.run, checkpoint=checkpoint.with_name(f"{checkpoint.name}.trial"))

    def parted(self) -> tuple[Examples, Judge]:
        """Return what to learn from, and the judge of the held-out rest."""
        settings, sample = self.settings, self.sample
        share, most, weight = settings.held_out, settings.most_held_out, settings.sample_weight
        if sample is not None and self.sample_judges:
            least = LEAST_HELD_OUT_OF_SAMPLE
            rows, out = split(sample, share=share, most=most, seed=self.seed, least=least)
            judge = Judge.of(sample, out, use_labels=False)
            return Examples.of(self.pairs, None, sample, rows, weight), judge
        least = LEAST_HELD_OUT
        rows, out = split(self.pairs, share=share, most=most, seed=self.seed, least=least)
        return Examples.of(self.pairs, rows, sample, None, weight), Judge.of(self.pairs, out)

    def closed(self, examples: Examples, penalty: float | None = None) -> list[_Found]:
        """Return what has a closed form; of all penalties, or of one."""
        penalties = self.settings.ridge_penalties if penalty is None else (penalty,)
        settings = self.settings.model_copy(update={"ridge_penalties": penalties})
        return list(fit_closed_form(examples, settings))

    def network(
        self, examples: Examples, run: RunSettings, penalty: float | None = None
    ) -> Transformation:
        """Return a network that has learned from examples; with a penalty, what ridge leaves."""
        base = None
        if penalty is not None:
            ((_, ridge),) = self.closed(examples, penalty)
            (base,) = (layer for _, layer in layers_of(ridge.steps))
        return fit_networks(
            examples,
            self.settings,
            base=base,
            classifier=self.classifier,
            seed=self.seed,
            run=run,
        )


def _choose(work: _Work) -> tuple[Transformation, dict[str, Any]]:
    """Fit what the method allows apart from held-out items, and return what fares best on them.

    The penalty of ridge is chosen so too (see `choose_penalty`), also of the ridge that a network
    is added to. Then what has a closed form is solved once more on all pairs, which costs nothing.
    A network is trained once more where a sample judged, of which no item should be wasted;
    held-out training pairs are few among many, and it stays as it is.
    """
    settings, (examples, judge) = work.settings, work.parted()
    found = work.closed(examples)
    tried = [described | judge.upgrade(closed) for described, closed in found]
    linears, kept = len(tried), choose_penalty(tried, judge)
    linear, ridge = found[kept]
    chosen = _describe_network(settings, linear)
    if settings.method == "auto":
        network = work.network(examples, work.trial_run, chosen.get("penalty"))
        found.append((chosen, network))
        if not settings.residual:
            described = _describe_ensemble(settings, linear)
            found.append((described, ensemble(network, ridge)))
        tried += [described | judge.upgrade(each) for described, each in found[len(tried) :]]
    if settings.method == "ensemble":
        chosen = _describe_ensemble(settings, linear)
    elif settings.method == "auto":
        rows = [kept, *range(linears, len(tried))]
        chosen = found[max(rows, key=lambda row: judge.merit(tried[row]))][0]
    elif settings.method != "mlp":
        chosen = linear
    trained = network if settings.method == "auto" and not work.sample_judges else None
    best = _fit_chosen(work, chosen, trained)
    if work.trial_run.checkpoint is not None and work.sample_judges:
        forget_checkpoint(work.trial_run.checkpoint)
    return best, {
        **chosen,
        "judged on": len(judge.new),
        "judged by": judge.by,
        "tried": tried,
        "references": dict(judge.references()),
    }


def _fit_chosen(
    work: _Work, chosen: Mapping[str, Any], trained: Transformation | None
) -> Transformation:
    """Fit what was chosen on everything; a network that need not be trained again is given."""
    penalty, everything = chosen.get("penalty"), work.everything
    if chosen["method"] == "mlp":
        return trained or work.network(everything, work.run, penalty)
    if chosen["method"] == "ensemble":
        ((_, ridge),) = work.closed(everything, penalty)
        return ensemble(trained or work.network(everything, work.run), ridge)
    ((_, best),) = work.closed(everything, penalty)
    return best


def _describe_network(settings: FitSettings, linear: Mapping[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"method": "mlp", **_shape(settings)}
    if settings.residual:
        described |= {"residual": True, "penalty": linear["penalty"]}
    return described


def _describe_ensemble(settings: FitSettings, linear: Mapping[str, Any]) -> dict[str, Any]:
    return {"method": "ensemble", **_shape(settings), "penalty": linear["penalty"]}


def _shape(settings: FitSettings) -> dict[str, Any]:
    count = settings.networks
    return {"inner": settings.inner} | ({"networks": count} if count > 1 else {})


def _check(
    pairs: Pairs, sample: Pairs | None, classifier: Classifier | None, settings: FitSettings
) -> None:
    check_enough(pairs)
    if sample is not None:
        check_sample(pairs, sample)
    settings.check()
    if _uses_classifier(settings):
        _check_classifier(pairs, classifier)


def _uses_classifier(settings: FitSettings) -> bool:
    return settings.discriminative == "classifier"


def _check_classifier(pairs: Pairs, classifier: Classifier | None) -> None:
    if classifier is None:
        raise ConfigurationError(
            "discriminative is 'classifier', but no classifier was given; give the new model's, "
            "classifier=Classifier.of(new_model), or choose discriminative 'label-free'"
        )
    if classifier.space != pairs.new.space:
        raise SpaceMismatchError(
            f"the classifier tells embeddings in {classifier.space} apart, the new embeddings are "
            f"in {pairs.new.space}; give the classifier of the model that made them"
        )
    if pairs.labels is None:
        raise ConfigurationError(
            "discriminative is 'classifier', which needs labels, but neither the old nor the new "
            "embeddings have any; embed items with labels, or choose discriminative 'label-free'"
        )
    if (classifier.rows_of(pairs.labels) < 0).all():
        raise ConfigurationError(
            f"the classifier knows the classes {_few(classifier.classes)}, the embeddings have the "
            f"labels {_few(np.unique(pairs.labels).tolist())}: none is common. Number the classes "
            "as in the training of the new model, or choose discriminative 'label-free'"
        )


def _few(labels: Sequence[int]) -> str:
    shown = ", ".join(str(label) for label in labels[:5])
    return shown if len(labels) <= 5 else f"{shown} ..."


def _describe(pairs: Pairs, *, listed: bool) -> dict[str, Any]:
    """Return what was learned from; with the ids, by which a plan leaves these items out."""
    facts = {"items": pairs.items, "pairs": len(pairs), "digest": pairs.digest}
    return facts | ({"ids": list(pairs.item_ids)} if listed else {})
