"""Upgrade the embedding model of a retrieval system without embedding the gallery again.

The public names. They are imported when first used, so that `import onward` loads neither torch
nor a database client.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onward.data.sources import open_items, open_splits
    from onward.errors import OnwardError
    from onward.evaluation.comparison import Comparison, compare, evaluate_embeddings
    from onward.evaluation.metrics import Evaluation, evaluate
    from onward.evaluation.relevance import Relevance
    from onward.evaluation.retrieval import Ranking, rank, search
    from onward.gallery import Gallery, create_gallery, open_gallery
    from onward.models import EmbeddingModel
    from onward.spaces import Embeddings, Space
    from onward.training.fit.fit import fit
    from onward.training.image_models import train_model
    from onward.transformation import Transformation, compose
    from onward.upgrading import Budget, Upgrade, plan_backfill, plan_upgrade
    from onward.upgrading.backfill import backfill

__version__ = "0.1.0"

_MODULE_OF = {
    "Budget": "upgrading",
    "Comparison": "evaluation.comparison",
    "EmbeddingModel": "models",
    "Embeddings": "spaces",
    "Evaluation": "evaluation.metrics",
    "Gallery": "gallery",
    "OnwardError": "errors",
    "Ranking": "evaluation.retrieval",
    "Relevance": "evaluation.relevance",
    "Space": "spaces",
    "Transformation": "transformation",
    "Upgrade": "upgrading",
    "backfill": "upgrading.backfill",
    "compare": "evaluation.comparison",
    "compose": "transformation",
    "create_gallery": "gallery",
    "evaluate": "evaluation.metrics",
    "evaluate_embeddings": "evaluation.comparison",
    "fit": "training.fit.fit",
    "open_gallery": "gallery",
    "open_items": "data.sources",
    "open_splits": "data.sources",
    "plan_backfill": "upgrading",
    "plan_upgrade": "upgrading",
    "rank": "evaluation.retrieval",
    "search": "evaluation.retrieval",
    "train_model": "training.image_models",
}

__all__ = [
    "Budget",
    "Comparison",
    "EmbeddingModel",
    "Embeddings",
    "Evaluation",
    "Gallery",
    "OnwardError",
    "Ranking",
    "Relevance",
    "Space",
    "Transformation",
    "Upgrade",
    "backfill",
    "compare",
    "compose",
    "create_gallery",
    "evaluate",
    "evaluate_embeddings",
    "fit",
    "open_gallery",
    "open_items",
    "open_splits",
    "plan_backfill",
    "plan_upgrade",
    "rank",
    "search",
    "train_model",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'onward' has no attribute {name!r}")
    return getattr(import_module(f"onward.{_MODULE_OF[name]}"), name)
