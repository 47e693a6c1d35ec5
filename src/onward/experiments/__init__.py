"""Whole studies from recipes: models, embeddings, an upgrade, and what each choice gives."""
