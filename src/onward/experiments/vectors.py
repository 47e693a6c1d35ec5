"""What a study makes, each once: models, their embeddings, and its arms.

A model is trained, images are embedded, and a transformation is fitted when the study needs them;
all are kept on the stage, for every study that needs the same.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from torch.utils.flop_counter import FlopCounterMode

from onward.artifacts import canonical_json, digest, digest_arrays, write_aside
from onward.data.items import Items
from onward.experiments.baselines import build_of, fit_residual_bottleneck, low_rank
from onward.experiments.recipe import Arm, Recipe
from onward.experiments.splits import (
    CLOSED,
    MIDDLE_TRAIN,
    OLD_TRAIN,
    OPEN,
    SIDE_TRAIN,
    TRAIN,
    Splits,
    unsampled,
)
from onward.fusion import FusedEmbeddings, Serving
from onward.models import EmbeddingModel, InputSpec
from onward.models.layers import choose_stages, columns_of
from onward.nn.specs import BackboneSpec
from onward.progress import Progress
from onward.quantisation import fit_quantisation
from onward.spaces import Embeddings, Space
from onward.training.fit.fit import fit
from onward.training.fit.pairs import Classifier, Examples, Pairs
from onward.training.image_models import train_model
from onward.training.images import embed_views
from onward.training.layers import add_layers_side_information, measure, principal_components
from onward.training.loop import forget_checkpoint
from onward.training.settings import FrozenSettings, ModelSettings, RunSettings
from onward.transformation import Transformation, without_ids

Lesson = tuple[str, str, BackboneSpec, ModelSettings | FrozenSettings]
Stored = Callable[[Embeddings], Embeddings]
Kept = TypeVar("Kept", Embeddings, EmbeddingModel, Transformation)

GENERATION = {EmbeddingModel: 4, Embeddings: 4, Transformation: 7}
"""To be raised when the same settings come to give something else: by other defaults or code."""

READ_ITEMS = 20_000  # at most, whose stages say what varies
LAYERS = "layers"


@dataclass(frozen=True)
class Stage:
    """Where a study is performed, and where all that it has made is kept.

    A study that is performed again, was interrupted, or shares a model with another one finds there
    what it would make again.

    Attributes:
        device: "auto", "cpu" or "cuda".
        tell: is given a line about each step.
        bar: opens a progress bar, given what is done and in which unit.
        cache: a directory with one for each kind of artefact; to delete it, or anything in it,
            costs time alone.
    """

    device: Literal["auto", "cpu", "cuda"]
    tell: Callable[[str], None]
    bar: Callable[[str, str], AbstractContextManager[Progress]]
    cache: Path

    def place(self, kind: type[Kept], what: Mapping[str, Any]) -> Path:
        """Return where the artefact that depends on this stands, or is to be written.

        Args:
            what: all that it depends on, as plain JSON values; the versions of Onward and of torch
                are added.
        """
        versions = {name: version(name) for name in ("onward", "torch")}
        whole = {"what": dict(what), "versions": versions, "generation": GENERATION[kind]}
        suffix = ".parquet" if kind is Embeddings else ""
        return self.cache / kind.__name__ / f"{digest(canonical_json(whole))[:16]}{suffix}"

    def keep(self, kind: type[Kept], what: Mapping[str, Any], make: Callable[[], Kept]) -> Kept:
        """Return the artefact that depends on this: the one that is kept, or what is made."""
        path = self.place(kind, what)
        if not path.exists():
            make().save(path)
        kept: Kept = kind.load(path)
        return kept


def train_models(recipe: Recipe, splits: Splits, stage: Stage) -> "StudyVectors":
    """Train the models that a recipe's arms and baselines need, by role.

    Each has a seed of its own, so none depends on another's. A model that is kept is not trained
    again, and a training that was killed goes on.
    """
    models: dict[str, EmbeddingModel] = {}
    seconds: dict[str, float] = {}
    sides = (arm.side for arm in recipe.performed if arm.side not in ("none", LAYERS, "oracle"))
    middle = ["middle"] if recipe.needs_middle else []
    for role in ("old", *dict.fromkeys(sides), *middle, "new", *recipe.trained_baselines):
        old = models["old"] if role in recipe.trained_baselines else None
        models[role], seconds[role] = _train(recipe, role, splits, stage, old)
        if role == "old":
            models[role] = _add_layers(recipe, models[role], splits.old_train, stage)
    return StudyVectors(recipe, splits, stage, models, seconds)


def _lessons(recipe: Recipe) -> dict[str, Lesson]:
    """Return by role how a model is told of, what it learns from, its network and its settings."""
    plain, new = recipe.backbone, recipe.backbone_of_new
    frozen, none = recipe.frozen_encoder or plain, FrozenSettings()
    untrained = plain.model_copy(update={"pretrained": False})
    held = "For comparison, a backward compatible model"
    both = recipe.supervised_contrastive
    baselines: dict[str, Lesson] = {
        name: (f"{held}, {name}", TRAIN, new, recipe.training_of(name))
        for name in recipe.trained_baselines
    }
    return baselines | {
        "old": ("Old model", OLD_TRAIN, plain, recipe.embedding_model),
        "middle": ("Model between them", MIDDLE_TRAIN, plain, recipe.embedding_model),
        "new": ("New model, which knows of no old one", TRAIN, new, recipe.training_of_new),
        "simclr": ("SimCLR without labels", SIDE_TRAIN, plain, recipe.side_information),
        "autoencoder": ("autoencoder", SIDE_TRAIN, plain, recipe.autoencoder),
        "supervised": ("a second supervised model", SIDE_TRAIN, plain, recipe.embedding_model),
        "supervised+contrastive": ("cross-entropy and SimCLR at once", SIDE_TRAIN, plain, both),
        "untrained": ("an untrained network", SIDE_TRAIN, untrained, none),
        "frozen": (f"frozen encoder {frozen.name}", SIDE_TRAIN, frozen, none),
    }


def _train(
    recipe: Recipe, role: str, splits: Splits, stage: Stage, old: EmbeddingModel | None
) -> tuple[EmbeddingModel, float]:
    """Return the model of a role and how long its training took; of a resumed one, its last part.

    Args:
        old: the old model, for a model that is held to it.
    """
    told, part, backbone, settings = _lessons(recipe)[role]
    shared = {"simclr": "side"} | dict.fromkeys(recipe.trained_baselines, "bct")
    items, seed = splits.items(part), recipe.seed_of(shared.get(role, role))
    stage.tell(f"{'Side-information: ' if part == SIDE_TRAIN else ''}{told}: {items}")
    what = {
        "role": role,
        "recipe": settings.recipe,
        "backbone": backbone.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json", exclude_defaults=True),
        "seed": seed,
        "data": items.digest,
        "precision": recipe.precision,
        "old": None if old is None else old.space.name,
    } | ({} if recipe.crop_share == 1 else {"crop_share": recipe.crop_share})
    place = stage.place(EmbeddingModel, what)
    took = place.with_suffix(".seconds")
    if place.exists():
        stage.tell(f"  kept from before: {place}")
        return EmbeddingModel.load(place), float(took.read_text()) if took.exists() else 0.0
    started, checkpoint = time.monotonic(), place.with_name(f".{place.name}.checkpoint")
    with run_settings(recipe, stage, f"Train {role}") as run:
        model = train_model(
            items,
            settings,
            backbone,
            name=role.replace("+", "-").replace(" ", "-"),
            input=replace(InputSpec.of_spec(backbone), crop_share=recipe.crop_share),
            seed=seed,
            run=replace(run, checkpoint=checkpoint),
            old_model=old,
            same_labels=recipe.data.old_source is None,
            build=build_of(settings),
        )
    model.save(place)
    forget_checkpoint(checkpoint)
    seconds = time.monotonic() - started
    with write_aside(took) as aside:
        aside.write_text(f"{seconds:.1f}")
    return model, seconds


def _add_layers(
    recipe: Recipe, model: EmbeddingModel, items: Items, stage: Stage
) -> EmbeddingModel:
    """Let a model read side-information from its stages too; few items have few directions.

    Of many items, `READ_ITEMS` evenly spaced ones say enough of what varies.
    """
    if len(items) > READ_ITEMS:
        items = items.select(np.linspace(0, len(items) - 1, READ_ITEMS).astype(np.int64))
    channels, settings = model.stage_channels, recipe.layers
    values = len(columns_of(channels, choose_stages(channels, settings.stages), settings.grid))
    dim = min(settings.dim, values, len(items) - 1)
    how = settings.model_dump(mode="json") | {"dim": dim}

    def read() -> EmbeddingModel:
        with stage.bar("Read layers", "items") as progress:
            return add_layers_side_information(
                model,
                items,
                dim=dim,
                grid=settings.grid,
                format="float32",  # arms quantise what they store
                stages=settings.stages,
                device=stage.device,
                progress=progress,
            )

    return stage.keep(EmbeddingModel, how | {"model": model.space.name, "data": items.digest}, read)


@contextmanager
def run_settings(recipe: Recipe, stage: Stage, what: str) -> Iterator[RunSettings]:
    """Open a progress bar, and give how a training is carried out on this stage."""
    with stage.bar(what, "steps") as progress:
        yield RunSettings(device=stage.device, precision=recipe.precision, progress=progress)


@dataclass(frozen=True, eq=False)
class StudyVectors:
    """Embeddings by role of the model and by part of the images.

    Attributes:
        recipe: how many views h is fitted on, among others.
        splits: the parts.
        stage: where it is done, and where it is kept.
        models: by role: "old" (with side-information from its layers), "new", the kinds of
            side-information that are models, the baselines, and "middle" in a sequence.
        seconds: what the training of each took, now or when it was kept.
    """

    recipe: Recipe
    splits: Splits
    stage: Stage
    models: Mapping[str, EmbeddingModel]
    seconds: Mapping[str, float]
    _held: dict[tuple[Space, str], Embeddings] = field(default_factory=dict)

    def of(self, role: str, part: str) -> Embeddings:
        """Return the embeddings of a part of the images.

        Args:
            role: a model's, or "layers" for the side-information that the old model reads.
            part: as `Splits` names it; "train" and "middle_train" are embedded in as many views as
                the recipe says.
        """
        model = self.models["old" if role == LAYERS else role]
        space = model.side if role == LAYERS else model.space
        assert space is not None  # noqa: S101  # `train_models` attached the layers
        if (space, part) not in self._held:
            items, shown = self.splits.items(part), self.recipe.embedding_model
            views = self.recipe.views if part in (TRAIN, MIDDLE_TRAIN) else 1
            seed = self.recipe.seed_of("views")
            what = {"space": space.to_json(), "items": items.digest, "flip": shown.flip}
            what |= {"views": views, "seed": seed if views > 1 else None}
            what |= {"least_crop": shown.least_crop} if views > 1 and shown.least_crop else {}

            def make() -> Embeddings:
                with self.stage.bar(f"Embed with {model.name}", "items") as progress:
                    seen = embed_views(
                        model,
                        items,
                        views=views,
                        flip=shown.flip,
                        least_crop=shown.least_crop,
                        seed=seed,
                        device=self.stage.device,
                        progress=progress,
                    )
                self._held.update({(other, part): each for other, each in seen.items()})
                return seen[space]

            self._held[space, part] = self.stage.keep(Embeddings, what, make)
        return self._held[space, part]


@dataclass(frozen=True, eq=False)
class StudyArm:
    """An arm of a study: what it stores beside the old embedding, and what carries it over.

    Side-information and transformations are made when they are asked for; what has to be learned
    for the former is, on old data alone.

    Attributes:
        arm: what was asked for.
        vectors: where embeddings come from.
    """

    arm: Arm
    vectors: StudyVectors

    def side(self, part: str) -> Embeddings | None:
        """Return what is stored for a part of the images; None for an arm without any."""
        if self.arm.side == "none":
            return None
        stored = self._whole(part)
        for step in self._steps:
            stored = step(stored)
        return stored

    def pairs(self, part: str, new: str = "new") -> Pairs:
        """Return the pairs of a part, of the old model and one that came later."""
        return Pairs(self.vectors.of("old", part), self.side(part), self.vectors.of(new, part))

    @property
    def h(self) -> Transformation:
        """The transformation into the new space; the other way round in a reverse arm."""
        return self.transformations[-1]

    @cached_property
    def transformations(self) -> tuple[Transformation, ...]:
        """One, or two by way of the middle model."""
        arm, vectors = self.arm, self.vectors
        old, new = vectors.of("old", TRAIN), vectors.of("new", TRAIN)
        if arm.reverse:
            return (self.fit(Pairs(new, None, old)),)
        if arm.through == "direct":
            return (self.fit(self.pairs(TRAIN), self._sampled() if self.sample else None),)
        first = self.fit(self.pairs(MIDDLE_TRAIN, new="middle"))
        before, beside = vectors.of("middle", TRAIN), self.side(TRAIN)
        if arm.through == "chained":
            before = _carry(first, old, beside)
        return first, self.fit(Pairs(before, beside if arm.side_later else None, new))

    @cached_property
    def sample(self) -> tuple[str, ...]:
        """Ids of the gallery items that the new model embeds for h to learn from.

        They are chosen among the half of the open set that is not kept for judging.
        """
        if not self.arm.gallery_sample:
            return ()
        items = self.vectors.splits.items(OPEN)
        candidates = np.flatnonzero(~unsampled(items))
        count = min(max(1, round(self.arm.gallery_sample * len(items))), len(candidates))
        if self.arm.sample_by == "uncertainty":
            unsure = {**self.arm.fit, "uncertainty": True, "method": "mlp"}
            other = replace(self, arm=self.arm.model_copy(update={"fit": unsure}))
            h, old = other.fit(self.pairs(TRAIN)), self.vectors.of("old", OPEN)
            known = h.uncertainties(old, self.side(OPEN))[candidates]
            rows = np.argsort(-known, kind="stable")[:count]
        else:
            rng = np.random.default_rng(self.vectors.recipe.seed_of("sample"))
            rows = np.sort(rng.permutation(len(candidates))[:count])
        return tuple(items.ids[row] for row in candidates[rows])

    def fit(self, pairs: Pairs, sample: Pairs | None = None) -> Transformation:
        """Return what `fit` gives on pairs, or the baseline that the arm names.

        A step that does not end in the new space, or has no labels, cannot use the new classifier.
        """
        arm, recipe, stage = self.arm, self.vectors.recipe, self.vectors.stage
        new = self.vectors.models["new"]
        settings, seed, classifier = recipe.fit_of(arm), recipe.seed_of("fit"), None
        if settings.discriminative == "classifier":
            if pairs.new.space == new.space and pairs.new.labels is not None:
                classifier = Classifier.of(new)
            else:
                settings = settings.model_copy(update={"discriminative": "none"})
        what = {
            "settings": settings.model_dump(mode="json", exclude_defaults=True),
            "seed": seed,
            "pairs": pairs.digest,
            "spaces": [each and each.space.name for each in (pairs.old, pairs.side, pairs.new)],
            "sample": None if sample is None else sample.digest,
            "baseline": arm.baseline,
        }

        def learn() -> Transformation:
            stage.tell(f"  {arm.name}")
            examples = Examples.of(pairs, sample=sample, sample_weight=settings.sample_weight)
            with run_settings(recipe, stage, f"Fit {arm.name}") as run:
                if arm.baseline == "rbt":
                    return fit_residual_bottleneck(examples, settings, seed=seed, run=run)
                found = fit(
                    *(pairs.old, pairs.side, pairs.new),
                    sample=sample,
                    classifier=classifier,
                    settings=settings,
                    seed=seed,
                    run=run,
                    same_labels=True,  # model and embeddings are of one source
                ).transformation
            return found if arm.baseline is None else low_rank(found, examples)

        return stage.keep(Transformation, what, learn)

    def cell(self, part: str) -> tuple[Embeddings, Embeddings]:
        """Return queries and gallery of a part after the upgrade.

        Items of the gallery sample have their true new embedding.
        """
        carried, new = (self.vectors.of(role, part) for role in ("old", "new"))
        if self.arm.reverse:
            return self.h.apply(new), carried
        side = self.side(part)
        for h in self.transformations:
            carried = _carry(h, carried, side)
        if self.sample and part == OPEN:
            rows = np.isin(np.array(carried.ids), self.sample)
            mixed = np.where(rows[:, None], new.vectors, carried.vectors)
            carried = replace(carried, vectors=mixed)
        return new, replace(carried, labels=new.labels, class_names=new.class_names)

    def fused(
        self, part: str, queries: Embeddings, gallery: Embeddings
    ) -> tuple[FusedEmbeddings, FusedEmbeddings]:
        """Return what `cell` gives, each with the old vectors beside the new ones.

        Only of parts that are in `servings`, which has the pair.
        """
        fusion, old = self.servings[part].fusion, self.vectors.of("old", part)
        return FusedEmbeddings(fusion, old, queries), FusedEmbeddings(fusion, old, gallery)

    @cached_property
    def servings(self) -> Mapping[str, Serving]:
        """What to serve of the closed and of the open gallery, by part; of some arms nothing.

        h is one, but what `fit` advises depends on what the gallery holds. For the kind of gallery
        that h was not judged for, its method is fitted once more: that gives the same h, judged on
        what such a gallery holds.
        """
        if self.arm.through != "direct" or self.arm.reverse or self.arm.baseline is not None:
            return {}
        judged_for = self.vectors.recipe.fit_of(self.arm).gallery_classes
        kinds = {} if self.sample else {CLOSED: "seen"}
        kinds |= {} if self.vectors.splits.open is None else {OPEN: "unseen"}
        found = {
            part: self.h if self.sample or kind == judged_for else self._judged_for(kind)
            for part, kind in kinds.items()
        }
        return {part: h.serving for part, h in found.items() if h.serving is not None}

    def _judged_for(self, gallery_classes: str) -> Transformation:
        """Return h, as `fit` judges its method for a gallery of seen, or of unseen classes."""
        made = self.h.made_by
        fixed = {"gallery_classes": gallery_classes, "method": made["method"]}
        if "penalty" in made:
            fixed["ridge_penalties"] = (made["penalty"],)
        arm = self.arm.model_copy(update={"fit": {**self.arm.fit, **fixed}})
        pairs = self.pairs(TRAIN)
        if self.h.side is None:
            pairs = replace(pairs, side=None)
        return replace(self, arm=arm).fit(pairs)

    def uncertainties(self, part: str) -> Float32[np.ndarray, " item"] | None:
        """Return how unsure h is of each item of a part; None where no backfill goes by that."""
        plain = self.arm.through == "direct" and not self.arm.reverse and not self.sample
        if not plain or self.h.uncertainty is None:
            return None
        side = self.side(part) if self.h.side is not None else None
        return self.h.uncertainties(self.vectors.of("old", part), side)

    def describe(self) -> dict[str, Any]:
        """Return what is stored, what it costs an item, and how h came about, as plain values."""
        stored, made = self.side(CLOSED), self.h.made_by
        of_fit = ("method", "networks", "penalty", "pairs")
        of_choice = ("judged_by", "judged_on", "queries", "reason", "tried", "references")
        told = {name: made[name] for name in (*of_fit, *of_choice) if name in made}
        servings = {part: serving.to_json() for part, serving in self.servings.items()}
        return {
            "side": self.arm.side,
            "dim": 0 if stored is None else stored.space.dim,
            "format": None if stored is None else stored.space.format,
            "side_bytes": 0 if stored is None else stored.space.bytes,
            "side_macs": self._macs,
            "gallery_sample": len(self.sample),
            "parameters": self.h.parameters,
            "fit": without_ids(told),
            "serving": servings,
        }

    @property
    def _macs(self) -> int:
        """What making it costs an item, beside the old embedding; 0 for none."""
        models = self.vectors.models
        if self.arm.side in ("none", "oracle"):
            return 0
        if self.arm.side == LAYERS:
            readout = models["old"].readout
            assert readout is not None  # noqa: S101  # `train_models` attached it
            dim = min(self.arm.dim or readout.dim, readout.dim)
            return int(dim * readout.components.shape[1])
        return count_macs(models[self.arm.side])

    def _whole(self, part: str) -> Embeddings:
        if self.arm.side != "oracle":
            return self.vectors.of(self.arm.side, part)
        new = self.vectors.of("new", part)
        return replace(new, space=Space(f"oracle-{new.space.name}", new.space.dim))

    @cached_property
    def _steps(self) -> list[Stored]:
        """What brings it into the form in which it is stored."""
        steps: list[Stored] = []
        dim, format = self.arm.dim, self.arm.format
        if dim is None and format == "float32":
            return steps
        old = self._whole(OLD_TRAIN)
        if dim is not None and dim < old.space.dim:
            steps.append(_projection(old, dim))
            old = steps[0](old)
        if format != "float32":
            steps.append(fit_quantisation(old, format).apply)
        return steps

    def _sampled(self) -> Pairs:
        """Return the pairs of the gallery sample, without labels."""

        def of_sample(embeddings: Embeddings) -> Embeddings:
            return replace(embeddings.align(self.sample), labels=None)

        old, side, new = self.vectors.of("old", OPEN), self.side(OPEN), self.vectors.of("new", OPEN)
        return Pairs(of_sample(old), side and of_sample(side), of_sample(new))


def count_macs(model: EmbeddingModel) -> int:
    """Return how many multiply-accumulate operations (MACs) one embedding takes."""
    run = model.pixel_embedder()
    pixels = np.zeros((1, model.image_input.channels, *[model.image_input.size] * 2), np.uint8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(pixels)
    return int(counter.get_total_flops()) // 2


def _projection(old: Embeddings, dim: int) -> Stored:
    """Return what projects on the first principal components of old data.

    Of side-information that has been projected so before, such as that of layers, these are its
    first dimensions.
    """
    moments = measure(iter([old.vectors]))
    components = principal_components(moments.covariance, dim).astype(np.float32)
    mean = moments.mean.astype(np.float32)
    minted = digest(digest_arrays({"components": components, "mean": mean}).encode())[:8]
    space = Space(f"{old.space.name.rpartition('@')[0]}-{dim}@{minted}", dim)

    def project(embeddings: Embeddings) -> Embeddings:
        return replace(embeddings, vectors=(embeddings.vectors - mean) @ components.T, space=space)

    return project


def _carry(h: Transformation, old: Embeddings, side: Embeddings | None) -> Embeddings:
    """Apply h, which may have been fitted without the side-information that there is."""
    return h.apply(old, side if h.side is not None else None)


def fit_arms(vectors: StudyVectors) -> dict[str, StudyArm]:
    """Fit the transformations of every arm that the recipe performs, by name."""
    arms = {arm.name: StudyArm(arm, vectors) for arm in vectors.recipe.performed}
    for arm in arms.values():
        _ = arm.transformations
    return arms
