"""Upgrade the embedding model of a retrieval system without embedding the gallery again."""

__version__ = "0.1.0"
