"""Fit a transformation h on pairs of embeddings, and choose it by retrieval; no image is read.

What has a closed form needs the core alone; the network needs torch, which the extra `fit` brings.
"""
