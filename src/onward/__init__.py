"""Upgrade the embedding model of a retrieval system without embedding the gallery again.

The public names. They are imported when first used, so that `import onward` loads neither torch
nor a database client.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onward.data.sources import open_items as open_items
    from onward.data.sources import open_splits as open_splits
    from onward.errors import OnwardError as OnwardError
    from onward.evaluation.comparison import Comparison as Comparison
    from onward.evaluation.comparison import compare as compare
    from onward.evaluation.comparison import evaluate_embeddings as evaluate_embeddings
    from onward.evaluation.metrics import Evaluation as Evaluation
    from onward.evaluation.metrics import evaluate as evaluate
    from onward.evaluation.relevance import Relevance as Relevance
    from onward.evaluation.retrieval import Ranking as Ranking
    from onward.evaluation.retrieval import rank as rank
    from onward.evaluation.retrieval import search as search
    from onward.gallery import Gallery as Gallery
    from onward.gallery import Reader as Reader
    from onward.gallery import Shadow as Shadow
    from onward.gallery import create_gallery as create_gallery
    from onward.gallery import open_gallery as open_gallery
    from onward.models import EmbeddingModel as EmbeddingModel
    from onward.spaces import Embeddings as Embeddings
    from onward.spaces import Space as Space
    from onward.training.fit.fit import fit as fit
    from onward.training.image_models import train_model as train_model
    from onward.transformation import Transformation as Transformation
    from onward.transformation import compose as compose
    from onward.upgrading import Budget as Budget
    from onward.upgrading import Upgrade as Upgrade
    from onward.upgrading import plan_backfill as plan_backfill
    from onward.upgrading import plan_upgrade as plan_upgrade
    from onward.upgrading.backfill import backfill as backfill

__version__ = "0.1.0"

_NAMES_OF = {
    "data.sources": ("open_items", "open_splits"),
    "errors": ("OnwardError",),
    "evaluation.comparison": ("Comparison", "compare", "evaluate_embeddings"),
    "evaluation.metrics": ("Evaluation", "evaluate"),
    "evaluation.relevance": ("Relevance",),
    "evaluation.retrieval": ("Ranking", "rank", "search"),
    "gallery": ("Gallery", "Reader", "Shadow", "create_gallery", "open_gallery"),
    "models": ("EmbeddingModel",),
    "spaces": ("Embeddings", "Space"),
    "training.fit.fit": ("fit",),
    "training.image_models": ("train_model",),
    "transformation": ("Transformation", "compose"),
    "upgrading": ("Budget", "Upgrade", "plan_backfill", "plan_upgrade"),
    "upgrading.backfill": ("backfill",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'onward' has no attribute {name!r}")
    return getattr(import_module(f"onward.{_MODULE_OF[name]}"), name)
