"""Order names as a person does: "9" before "10", "img2" before "img10"."""

import re

NaturalKey = tuple[tuple[tuple[int, str], ...], str]


def natural_key(name: str) -> NaturalKey:
    """Return what to sort a name by: runs of digits count as numbers, case does not count.

    Names that are equal in this sense (such as "a1" and "a01") are ordered by their characters.
    """
    parts = re.split(r"([0-9]+)", name.lower())
    key = tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)
    return key, name
