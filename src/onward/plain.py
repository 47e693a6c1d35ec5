"""Results as plain values, which JSON has: fields by their names, nothing written twice."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


class Plain:
    """A dataclass whose JSON is its fields, each of them plain."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values: fractions, seconds, bytes."""
        return fields_of(self)


def fields_of(value: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of a dataclass by their names, each of them plain, but for some."""
    names = (one.name for one in fields(value))
    return {name: plain(getattr(value, name)) for name in names if name not in without}


def plain(value: Any) -> Any:
    """Return what JSON has for a value: what it says of itself (`to_json`), else its fields.

    Mappings and sequences keep their order, and what is in them becomes plain too; an array becomes
    a list, and a number of NumPy one of Python. NaN, what is not known, becomes None. What is plain
    already stays as it is.
    """
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return fields_of(value)
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and math.isnan(value) else value
