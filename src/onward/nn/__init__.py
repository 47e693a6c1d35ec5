"""Torch modules that turn images into embeddings: backbones.

Nothing here knows of images on a disk, of training or of galleries.
"""
