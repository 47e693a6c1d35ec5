"""What a backfill may spend: rows, a share of the gallery, time, or money at a price an item.

Nothing here reads a gallery.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real

from onward.errors import ConfigurationError

FORM = re.compile(r"(?P<money>\$?)\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>%|s|m|h|)")
SECONDS = {"s": 1, "m": 60, "h": 3600}
EXAMPLES = "rows (5000), a share of the gallery (10%), a time (90s, 15m, 2h) or money ($20)"

MOST_DIGITS = 18
"""Of a number that is written: more are no budget."""

FIRST_ROWS = 16
"""Of a time nothing is known yet: so many rows tell how long a row takes."""


@dataclass(frozen=True)
class Budget:
    """What one backfill may spend: one of these four.

    It counts what the model embeds; an image that cannot be read costs nothing.

    Attributes:
        rows: how many rows, 1 or more.
        share: of all rows of the gallery, above 0 and at most 1; rounded down to rows.
        seconds: above 0. Nothing is begun after them; what is under way is finished.
        money: above 0, in the currency of the price; rounded down to rows.
        price: of one item, above 0; needed with money, and only there.

    Raises:
        ConfigurationError: if one of these is something else.
    """

    rows: int | None = None
    share: float | None = None
    seconds: float | None = None
    money: float | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        given = [
            (name, value)
            for name in ("rows", "share", "seconds", "money")
            if (value := getattr(self, name)) is not None
        ]
        if len(given) != 1:
            raise ConfigurationError(
                f"a budget of {', '.join(name for name, _ in given) or 'nothing'} was given; give "
                f"one thing: {EXAMPLES}"
            )
        ((name, value),) = given
        if not _is_above_0(value) or (name == "share" and value > 1):
            limit = "above 0 and at most 1 (100 %)" if name == "share" else "a number above 0"
            raise ConfigurationError(f"a budget of {name} {value} was given; it must be {limit}")
        if name == "rows" and not isinstance(value, Integral):
            raise ConfigurationError(
                f"a budget of rows {value} was given; it must be a whole number"
            )
        if name == "money" and not _is_above_0(self.price):
            raise ConfigurationError(
                f"a budget of money, {value:g}, needs the price of one item, a number above 0; the "
                f"price given is {self.price}. Add it, such as --price 0.002"
            )
        if name != "money" and self.price is not None:
            raise ConfigurationError(
                f"a price of {self.price} an item was given, but the budget is {self}, which is "
                "not money; leave the price out, or give money, such as $20"
            )

    @classmethod
    def parse(cls, text: str, *, price: float | None = None) -> "Budget":
        """Read a budget as it is written: "5000", "10%", "90s", "15m", "2h" or "$20".

        Args:
            text: what was written.
            price: of one item, for money.

        Raises:
            ConfigurationError: if it is none; the message says how one is written.
        """
        found = FORM.fullmatch(text.strip())
        is_long = found is not None and len(found["number"]) > MOST_DIGITS
        if found is None or is_long or (found["money"] and found["unit"]):
            raise ConfigurationError(f"{_shortened(text)} is not a budget; write {EXAMPLES}")
        number, unit = Decimal(found["number"]), found["unit"]
        if found["money"]:
            return cls(money=float(number), price=price)
        if unit == "%":
            return cls(share=float(number / 100), price=price)
        if unit:
            return cls(seconds=float(number * SECONDS[unit]), price=price)
        if number != number.to_integral_value():
            raise ConfigurationError(f"{text!r} rows are not a whole number; write {EXAMPLES}")
        return cls(rows=int(number), price=price)

    def rows_of(self, rows: int) -> int | None:
        """Return how many of a gallery's rows it pays for; None where only time will tell."""
        if self.share is not None:
            return int(_exact(self.share) * rows)
        if self.money is not None and self.price is not None:
            return min(rows, int(_exact(self.money) / _exact(self.price)))
        return None if self.rows is None else min(rows, self.rows)

    def __str__(self) -> str:
        if self.share is not None:
            return f"{_exact(self.share) * 100:f}".rstrip("0").rstrip(".") + "%"
        if self.seconds is not None:
            return f"{self.seconds:g}s"
        if self.money is not None:
            return f"${self.money:g} at ${self.price:g} an item"
        return f"{self.rows:,} rows"


class Meter:
    """What is left of a budget while it is spent.

    Args:
        budget: what may be spent.
        rows: how many the gallery has.
        clock: seconds that only grow.
    """

    def __init__(
        self, budget: Budget, rows: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._begin = clock()
        self._seconds = budget.seconds
        self._left = budget.rows_of(rows)
        self._tried = 0

    def covers(self, rows: int) -> bool:
        """Say whether so many rows are paid for; of a time that is not known."""
        return self._left is not None and self._left >= rows

    def total(self, rows: int) -> int:
        """Return how many of so many rows will be done, as far as that is known."""
        return rows if self._left is None else min(rows, self._left)

    def next_rows(self, most: int) -> int:
        """Return how many rows to do next, at most so many; 0 if everything is spent.

        Of a time as many as are likely to be done within what is left of it, but one in any case.
        """
        if self._left is not None:
            return min(most, self._left)
        assert self._seconds is not None  # noqa: S101  # a budget is rows or time
        elapsed = self._clock() - self._begin
        if elapsed >= self._seconds:
            return 0
        if not self._tried:
            return min(most, FIRST_ROWS)
        likely = self._tried * (self._seconds - elapsed) / elapsed if elapsed else most
        return int(max(1, min(most, likely)))

    def rows_in(self, seconds: float) -> int | None:
        """Return how many rows a time is likely to be enough for; None while nothing is known."""
        elapsed = self._clock() - self._begin
        return int(self._tried * seconds / elapsed) if self._tried and elapsed else None

    def spend(self, embedded: int, *, tried: int) -> None:
        """Count rows that a model has embedded, of so many that were tried."""
        self._tried += tried
        if self._left is not None:
            self._left -= embedded


def _is_above_0(value: object) -> bool:
    """Say whether it is a number above 0; infinity, NaN and truth values are not."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0  # type: ignore[arg-type, operator]


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _exact(number: float) -> Decimal:
    """Return the number that was written, not the float nearest to it."""
    return Decimal(repr(float(number)))
