"""The transformation `h(old, side) -> new`: networks, and what they map between.

Its names are given here: the card of every stored transformation says so.
"""

from onward.transformation.networks import Dense, Network, Residual, Step, Uncertainty
from onward.transformation.transformation import (
    KIND,
    Carried,
    Transformation,
    compose,
    linear,
    mean,
    without_ids,
)

__all__ = [
    "KIND",
    "Carried",
    "Dense",
    "Network",
    "Residual",
    "Step",
    "Transformation",
    "Uncertainty",
    "compose",
    "linear",
    "mean",
    "without_ids",
]
