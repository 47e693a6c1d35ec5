"""Training: embedding models, side-information, backward-compatible baselines, transformations.

`settings` says what can be set and loads no torch; `loop` is the one loop under everything that
learns by gradients. The functions are imported from the modules that hold them, so that reading
settings stays fast.
"""
