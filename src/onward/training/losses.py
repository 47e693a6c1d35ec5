"""Losses on embeddings, from pytorch-metric-learning where it has them.

Each is a function of tensors and numbers; what learns, and by which, is decided elsewhere. What
pytorch-metric-learning computes is computed in float32.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear

from onward.errors import MissingExtraError
from onward.training.settings import Loss, TrainingSettings

Vectors = Float[Tensor, "item dim"]
Views = Float[Tensor, "view dim"]
Rows = Float[Tensor, "class dim"]
Positions = Int64[Tensor, " item"]


def classification_loss(
    embeddings: Vectors, classifier: Rows, positions: Positions, settings: TrainingSettings
) -> Tensor:
    """Return the mean loss of a classifier, by the settings' loss: softmax, arcface or cosface.

    Args:
        classifier: one row a class; arcface and cosface look at their directions alone.
        positions: for each item the row of its class.

    Raises:
        MissingExtraError: if pytorch-metric-learning is needed and not installed.
    """
    if settings.loss == "softmax":
        logits = linear(embeddings, classifier)
        return cross_entropy(logits, positions, label_smoothing=settings.label_smoothing)
    margin_loss = _margin_loss(
        settings.loss, *classifier.shape, settings.margin_or_default, settings.scale
    )
    with torch.autocast(embeddings.device.type, enabled=False):
        weights = {"W": classifier.float().T}
        loss: Tensor = functional_call(margin_loss, weights, (embeddings.float(), positions))
    return loss


def contrastive_loss(views: Views, labels: Int64[Tensor, " view"], temperature: float) -> Tensor:
    """Return the supervised contrastive loss: views of one label against all others.

    For view i with partners P(i), of the same label, and the cosine c: the mean over i, and over p
    in P(i), of `-log(exp(c_ip / t) / sum over k != i of exp(c_ik / t))`.

    Args:
        temperature: t.

    Raises:
        MissingExtraError: if pytorch-metric-learning is not installed.

    References:
        Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, equation 2.
    """
    loss: Tensor = _library().SupConLoss(temperature=temperature)(views, labels)
    return loss


def nt_xent(views: Views, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy of pairs of views.

    For view i with partner j, `-log(exp(c_ij / t) / sum over k != i of exp(c_ik / t))` with the
    cosine c, as the mean over all views. It is computed as the supervised contrastive loss with
    two views a class, which is the same number and takes memory for pairs, not for triplets.

    Args:
        views: the first views of all images, then the second views in the same order.
        temperature: t.

    Raises:
        MissingExtraError: if pytorch-metric-learning is not installed.
    """
    image = torch.arange(len(views) // 2, device=views.device).repeat(2)
    return contrastive_loss(views, image, temperature)


@lru_cache(maxsize=8)
def _margin_loss(loss: Loss, classes: int, dim: int, margin: float, scale: float) -> nn.Module:
    """Return the library's loss without weights of its own: they are given at each call."""
    library = _library()
    sizes: dict[str, Any] = {"num_classes": classes, "embedding_size": dim, "scale": scale}
    with torch.device("meta"):
        if loss == "arcface":
            module: nn.Module = library.ArcFaceLoss(margin=math.degrees(margin), **sizes)
        else:
            module = library.CosFaceLoss(margin=margin, **sizes)
    return module


def _library() -> Any:
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise MissingExtraError("pytorch-metric-learning", "train") from error
    return losses
