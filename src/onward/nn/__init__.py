"""Torch modules: backbones, and the transformation h with what it is trained as.

Nothing here knows of images on a disk, of training or of galleries.
"""
