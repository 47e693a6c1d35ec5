"""The images of a study through its models, embedded when they are asked for, and only once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onward.data.augmentation import supervised_augmentation
from onward.data.items import Items
from onward.experiments.learning import Stage
from onward.experiments.recipe import Recipe
from onward.experiments.splits import Splits
from onward.models import EmbeddingModel
from onward.spaces import Embeddings, Space
from onward.training.images import embed_views

OLD_TRAIN, TRAIN, MIDDLE_TRAIN, CLOSED, OPEN = (
    "old train",
    "train",
    "middle train",
    "closed",
    "open",
)
LAYERS = "layers"


@dataclass(frozen=True, eq=False)
class StudyVectors:
    """Embeddings by role of the model and by part of the images.

    Attributes:
        recipe: how many views h is fitted on, among others.
        models: by role, as `train_models` gives them.
        splits: the parts.
        stage: where it is done, and where it is kept.
    """

    recipe: Recipe
    models: Mapping[str, EmbeddingModel]
    splits: Splits
    stage: Stage
    _held: dict[tuple[Space, str], Embeddings] = field(default_factory=dict)

    def of(self, role: str, part: str) -> Embeddings:
        """Return the embeddings of a part of the images.

        Args:
            role: a model's, or "layers" for the side-information that the old model reads.
            part: "old train", "train" and "middle train" (in as many views as the recipe says),
                "closed" or "open".
        """
        model, space = self._model(role)
        if (space, part) not in self._held:
            items = self.items(part)
            views = self.recipe.views if part in (TRAIN, MIDDLE_TRAIN) else 1
            what = {
                "space": space.to_json(),
                "items": items.digest,
                "views": views,
                "seed": self.recipe.seed_of("views") if views > 1 else None,
                "flip": self.recipe.embedding_model.flip,
            }

            def make() -> Embeddings:
                seen = self._embed(model, items, views)
                self._held.update({(other, part): each for other, each in seen.items()})
                return seen[space]

            self._held[space, part] = self.stage.cache.embeddings(what, make)
        return self._held[space, part]

    def items(self, part: str) -> Items:
        """Return the images of a part."""
        parts = {
            OLD_TRAIN: self.splits.old_train,
            TRAIN: self.splits.train,
            MIDDLE_TRAIN: self.splits.middle_train,
            CLOSED: self.splits.closed,
            OPEN: self.splits.open,
        }
        items = parts[part]
        assert items is not None  # noqa: S101  # who asks has seen that the recipe has this part
        return items

    def _model(self, role: str) -> tuple[EmbeddingModel, Space]:
        model = self.models["old" if role == LAYERS else role]
        space = model.side if role == LAYERS else model.space
        assert space is not None  # noqa: S101  # `train_models` attached the layers
        return model, space

    def _embed(self, model: EmbeddingModel, items: Items, views: int) -> Mapping[Space, Embeddings]:
        """Embed views; the ids of a single view are those of the items."""
        taken = model.input
        flip = self.recipe.embedding_model.flip
        with self.stage.bar(f"Embed with {model.name}", "items") as progress:
            seen = embed_views(
                [model],
                items,
                augmentation=supervised_augmentation(taken.size, taken.channels, flip),
                views=views,
                seed=self.recipe.seed_of("views"),
                device=self.stage.device,
                progress=progress,
            )
        if views > 1:
            return seen
        return {space: replace(each, ids=items.ids) for space, each in seen.items()}
