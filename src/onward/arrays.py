"""Arrays as users give them: what numbers they hold, or why they hold none.

NumPy turns almost anything into numbers: it drops the imaginary part and the mask, counts days, and
reads text. Whatever takes an array from outside goes through `as_numbers`, which refuses that.
"""

from typing import Any

import numpy as np

from onward.errors import OnwardError

LARGEST_EXACT = 2**53
"""Above it, a float64 no longer tells one whole number from the next."""


def as_numbers(
    values: Any, dtype: type[np.number[Any]], error: type[OnwardError], wrong: str, do: str
) -> np.ndarray:
    """Return real numbers in a type; contiguous, and not copied where they are so already.

    What is too large for a type of floats becomes infinite.

    Args:
        values: anything that NumPy takes.
        dtype: of the numbers; to a type of integers only what they hold exactly is brought.
        error: raised of values that are complex, masked, dates, text or records, or have no regular
            shape; and, where whole numbers are wanted, of booleans and of what is none.
        wrong: what it says is wrong; why follows in brackets.
        do: what it says to do.

    Raises:
        OnwardError: of that kind.
    """
    try:
        return _convert(values, dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError) as cause:
        raise error(f"{wrong} ({cause})", do) from cause


def _convert(values: Any, dtype: type[np.number[Any]]) -> np.ndarray:
    given = values if isinstance(values, np.ndarray) else np.asarray(values)
    if isinstance(given, np.ma.MaskedArray):
        raise TypeError("they are masked: fill the gaps, or leave these items out")
    whole = np.issubdtype(dtype, np.integer)
    refused = "cmMSUb" if whole else "cmMSU"
    if given.dtype.kind in refused or given.dtype.names:
        raise TypeError(f"they are of type {given.dtype}")
    others = str | complex | bool if whole else str | complex
    if given.dtype.kind == "O" and any(isinstance(one, others) for one in given.flat):
        raise TypeError("some of them are text, complex or true and false")
    with np.errstate(over="ignore", invalid="ignore"):  # NaN is not equal to what it becomes
        numbers = np.ascontiguousarray(given, dtype=dtype)
        if not whole or given.dtype == numbers.dtype:
            return numbers
        exact = given.dtype.kind != "f" or bool((np.abs(given) <= LARGEST_EXACT).all())
        if not exact or not (numbers == given).all():
            raise ValueError(f"they are of type {given.dtype} and not all whole numbers")
    return numbers


def as_weights(values: Any, what: str, error: type[OnwardError]) -> np.ndarray:
    """Return a copy of numbers of a model or a transformation, as float32 and read-only.

    Args:
        values: anything that NumPy takes.
        what: what they are, for the message.
        error: of which kind it is.

    Raises:
        OnwardError: of that kind, if they are not numbers.
    """
    wrong, do = f"the {what} holds no numbers", "give an array of float32"
    copied = as_numbers(values, np.float32, error, wrong, do).copy()
    copied.flags.writeable = False
    return copied
