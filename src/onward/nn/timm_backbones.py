"""Any timm model, CNN or transformer, as a backbone with an embedding size of one's choice."""

import difflib
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from onward.errors import MissingExtraError, ModelError
from onward.nn.backbones import Backbone, Images, StageMap, Vectors, projection
from onward.nn.specs import TIMM, BackboneSpec

MOST_STAGES = 6  # a model with more (a transformer tells each block's output) is read four times


class TimmBackbone(Backbone):
    """A timm model without its classifier.

    Where the model ends in a map (most CNNs), 1 x 1 convolution, BatchNorm and ReLU bring it to
    `dim` channels before global pooling. Where it ends in tokens (transformers), the model's own
    pooling gives one vector, and a linear layer brings it to `dim`. Without a `dim` the embedding
    is the model's own pooled output.
    The stages are those of a CNN, or the token grids after each quarter of a transformer's blocks.

    Raises:
        ModelError: if timm has no such model or tag, the model does not tell its stages, gives
            several maps for one image or cannot take images of this size, or its pretrained weights
            cannot be had.
        MissingExtraError: if timm is not installed.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.model = _create(spec)
        self.indices = _stage_indices(len(self.model.feature_info))
        last, pooled, maps = _try_out(self.model, self.indices, spec)
        self.stage_channels = tuple(int(stage.shape[1]) for stage in maps)
        self.ends_in_map = last.ndim == 4 and getattr(self.model, "output_fmt", "NCHW") == "NCHW"
        if spec.dim is None:
            self.dim, self.ends_in_map = int(pooled.shape[1]), False
            self.projection: nn.Module = nn.Identity()
        elif self.ends_in_map:
            self.dim = spec.dim
            self.projection = projection(last.shape[1], spec.dim)
        else:
            self.dim = spec.dim
            self.projection = nn.Linear(pooled.shape[1], spec.dim)

    def forward(self, images: Images) -> Vectors:
        """Return the embedding of each image."""
        return self._embedding(self.model.forward_features(images))

    def stages(self, images: Images) -> tuple[Vectors, list[StageMap]]:
        """Return the embeddings and the output of each stage."""
        last, maps = self.model.forward_intermediates(images, indices=self.indices)
        return self._embedding(last), maps

    def _embedding(self, last: Tensor) -> Vectors:
        pooled = last if self.ends_in_map else self.model.forward_head(last, pre_logits=True)
        vectors: Vectors = self.projection(pooled)
        return vectors


def timm_normalisation(spec: BackboneSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the deviation, a channel, that the model's pretrained weights expect.

    Grey images get the means over the colours, as timm sums the colours' filters for them.

    Raises:
        ModelError: if timm has no such model or tag.
        MissingExtraError: if timm is not installed.
    """
    _, known = _timm_with(spec)
    mean, std = (known.mean, known.std) if known else ((0.5,) * 3, (0.5,) * 3)
    if spec.channels == len(mean):
        return tuple(mean), tuple(std)
    return (fmean(mean),) * spec.channels, (fmean(std),) * spec.channels


def _timm_with(spec: BackboneSpec) -> tuple[Any, Any]:
    """Return timm, once it is sure that it has the model, and what it says of the weights."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtraError("timm", "vision") from error
    name = spec.name.removeprefix(TIMM)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        offer = f"did you mean {', '.join(TIMM + other for other in near)}?" if near else ""
        raise ModelError(
            f"timm has no model {name!r}", f"{offer or 'timm.list_models() lists what it has'}"
        )
    try:
        return timm, timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        model, _, tag = name.partition(".")
        known = [one.partition(".")[2] for one in timm.list_pretrained(f"{model}.*")]
        near = difflib.get_close_matches(tag, known, n=3, cutoff=0) or ["none"]
        raise ModelError(
            f"timm {timm.__version__} has no weights {tag!r} of its model {model!r}",
            f"of the "
            f"{len(known)} that it has, the nearest: {', '.join(near)}. Give one of them, or "
            f"{TIMM + model!r} alone",
        ) from error


def _create(spec: BackboneSpec) -> Any:
    timm, known = _timm_with(spec)
    name, settings = spec.name.removeprefix(TIMM), dict[str, Any]()
    settings |= {"num_classes": 0, "in_chans": spec.channels}
    if known is not None and known.fixed_input_size:  # transformers; others take any size
        settings["img_size"] = spec.size
    try:
        model = timm.create_model(name, pretrained=spec.pretrained, **settings)
    except Exception as error:  # timm and the hub's client raise what they like
        reason = f"{type(error).__name__}: {error}"
        if spec.pretrained:
            raise ModelError(
                f"the pretrained weights of {spec.name} cannot be had ({reason}). They are "
                "fetched from huggingface.co: connect to it once, or set pretrained = false"
            ) from error
        raise _unfit(spec, reason) from error
    if not hasattr(model, "forward_intermediates"):
        raise ModelError(
            f"{spec.name} does not tell what its stages say (it has no forward_intermediates in "
            f"timm {timm.__version__})",
            f"take another model, such as {TIMM}resnet50",
        )
    return model


def _stage_indices(count: int) -> list[int]:
    if count <= MOST_STAGES:
        return list(range(count))
    return [count * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]


def _try_out(
    model: Any, indices: list[int], spec: BackboneSpec
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Run one empty image, so that shapes are known and what does not fit shows now."""
    empty = torch.zeros(1, spec.channels, spec.size, spec.size)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            last, maps = model.forward_intermediates(empty, indices=indices)
            if not isinstance(last, Tensor) or not isinstance(
                model.forward_features(empty), Tensor
            ):
                raise ModelError(
                    f"{spec.name} gives several maps for one image, and a backbone needs one",
                    f"take another model, such as {TIMM}resnet50",
                )
            pooled = model.forward_head(last, pre_logits=True)
    except ModelError:
        raise
    except Exception as error:  # timm's models raise whatever the size leads them to
        raise _unfit(spec, f"{type(error).__name__}: {error}".removesuffix(": ")) from error
    model.train(was_training)
    return last, pooled, maps


def _unfit(spec: BackboneSpec, reason: str) -> ModelError:
    return ModelError(
        f"{spec.name} cannot take images of {spec.size} x {spec.size} pixels and {spec.channels} "
        f"channels ({reason})",
        "give another size or another model",
    )
