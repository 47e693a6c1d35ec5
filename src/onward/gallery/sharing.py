"""How several workers part the rows of a gallery: by a digest of the id, in equal shares.

Which rows belong to whom needs no message between them: each worker knows how many they are and
which of them it is. Nothing here reads or writes a store.
"""

import hashlib
from dataclasses import dataclass

DIGITS = 8
"""Number of hexadecimal digits of an id's digest that say to which share it belongs."""


@dataclass(frozen=True)
class Share:
    """One of several equal shares of all ids.

    Attributes:
        number: which one, from 0 on.
        of: how many shares there are.
    """

    number: int = 0
    of: int = 1

    @property
    def is_everything(self) -> bool:
        """Whether every id belongs to it."""
        return self.of == 1

    @property
    def low(self) -> str:
        """The least digest of an id that belongs to it, as far as it counts."""
        return self._bound(self.number)

    @property
    def high(self) -> str | None:
        """The least digest above it; None if there is none."""
        return None if self.number == self.of - 1 else self._bound(self.number + 1)

    def holds(self, item: str) -> bool:
        """Say whether an id belongs to it."""
        found = hashlib.md5(item.encode(), usedforsecurity=False).hexdigest()
        return found >= self.low and (self.high is None or found < self.high)

    def _bound(self, number: int) -> str:
        return f"{16**DIGITS * number // self.of:0{DIGITS}x}"


EVERYTHING = Share()
"""The share of a worker that is alone."""


def share_of(worker: str, workers: list[str]) -> Share:
    """Return the share of one of the workers that there are; it counts as one in any case."""
    every = sorted({worker, *workers})
    return Share(every.index(worker), len(every))
