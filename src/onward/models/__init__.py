"""Embedding models: load one, embed items, save it. torch is loaded only where a model needs it."""

from onward.models.embedding import EmbeddingModel
from onward.models.engines import InputSpec
from onward.models.layers import LayersReadout
from onward.models.running import payload_embedder

__all__ = ["EmbeddingModel", "InputSpec", "LayersReadout", "payload_embedder"]
