"""Embedding models: load one, embed items, save it. torch is loaded only where a model needs it."""

from onward.models.embedding import EmbeddingModel
from onward.models.inputs import InputSpec
from onward.models.layers import LayersReadout
from onward.models.payloads import payload_embedder

__all__ = ["EmbeddingModel", "InputSpec", "LayersReadout", "payload_embedder"]
