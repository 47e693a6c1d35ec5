"""What `onward train` can train a model by, and the function of the library that does it."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onward.cli.options import tell_numbering
from onward.errors import ConfigurationError

if TYPE_CHECKING:
    from onward.data.items import Items
    from onward.models import EmbeddingModel
    from onward.nn.specs import BackboneSpec
    from onward.training.settings import RunSettings

WHERE = "onward train"


class Objective(StrEnum):
    """What a model learns from."""

    CROSS_ENTROPY = "cross-entropy"
    ARCFACE = "arcface"
    COSFACE = "cosface"
    SUPCON = "supcon"
    SIMCLR = "simclr"
    AUTOENCODER = "autoencoder"
    LABELS_AND_VIEWS = "labels-and-views"
    BACKWARD_COMPATIBLE = "backward-compatible"
    NONE = "none"


def train_by(
    objective: Objective,
    items: "Items",
    spec: "BackboneSpec",
    *,
    name: str,
    settings: Mapping[str, Any],
    seed: int,
    run: "RunSettings",
    old_model: Path | None = None,
    same_labels: bool = False,
) -> "EmbeddingModel":
    """Train a model by an objective; `none` trains nothing and looks at no item.

    Args:
        settings: plain values of the objective's settings.
        old_model: directory of the model to stay compatible with.
        same_labels: if only it or only the items have class names, the numbers mean the same.

    Raises:
        ConfigurationError: if the objective has no such setting, or needs an old model.
    """
    from onward.training import settings as kinds
    from onward.training.settings import read_settings

    if objective is Objective.NONE:
        from onward.training.frozen_encoder import frozen_encoder

        return frozen_encoder(spec, name=name, seed=seed)
    if objective is Objective.BACKWARD_COMPATIBLE:
        return _train_compatible(items, spec, name, settings, seed, run, old_model, same_labels)
    if objective is Objective.SIMCLR:
        from onward.training.side_information import train_side_information_model

        views = read_settings(kinds.SimCLRSettings, settings, where=WHERE)
        return train_side_information_model(
            items, spec, name=name, settings=views, seed=seed, run=run
        )
    if objective is Objective.AUTOENCODER:
        from onward.training.autoencoder import train_autoencoder_model

        drawn = read_settings(kinds.AutoencoderSettings, settings, where=WHERE)
        return train_autoencoder_model(items, spec, name=name, settings=drawn, seed=seed, run=run)
    if objective is Objective.LABELS_AND_VIEWS:
        from onward.training.supervised_contrastive import train_supervised_contrastive_model

        both = read_settings(kinds.SupervisedContrastiveSettings, settings, where=WHERE)
        return train_supervised_contrastive_model(
            items, spec, name=name, settings=both, seed=seed, run=run
        )
    from onward.training.embedding_models import train_embedding_model

    by_label = {} if objective is Objective.CROSS_ENTROPY else {"loss": objective.value}
    labelled = read_settings(kinds.TrainingSettings, {**by_label, **settings}, where=WHERE)
    return train_embedding_model(items, spec, name=name, settings=labelled, seed=seed, run=run)


def _train_compatible(
    items: "Items",
    spec: "BackboneSpec",
    name: str,
    settings: Mapping[str, Any],
    seed: int,
    run: "RunSettings",
    old_model: Path | None,
    same_labels: bool,
) -> "EmbeddingModel":
    from onward.models import EmbeddingModel
    from onward.training.backward_compatible import train_backward_compatible_model
    from onward.training.settings import BackwardCompatibleSettings, read_settings

    if old_model is None:
        raise ConfigurationError(
            "a backward compatible model needs the model that it is to stay compatible with; "
            "add --old-model DIRECTORY"
        )
    loaded = EmbeddingModel.load(old_model)
    names = items.known_names
    tell_numbering(names, loaded.class_names, same_labels=same_labels)
    return train_backward_compatible_model(
        items,
        spec,
        old_model=loaded,
        name=name,
        settings=read_settings(BackwardCompatibleSettings, settings, where=WHERE),
        seed=seed,
        run=run,
        same_labels=same_labels,
    )
