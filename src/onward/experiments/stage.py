"""Where a study is performed, and what it has made: kept by the digest of all that it depends on.

A study that is performed again, was interrupted, or shares a model with another one finds here what
it would make again. Nothing here knows what is kept.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onward.artifacts import canonical_json, digest, write_aside
from onward.evaluation import Evaluation
from onward.progress import Progress
from onward.spaces import Embeddings

GENERATION = 1
"""To be raised when the same settings come to give something else: by other defaults or code."""


@dataclass(frozen=True)
class Cache:
    """A directory of artefacts; deleting it, or any of them, costs time alone.

    Attributes:
        directory: one directory a kind of artefact in it.
    """

    directory: Path

    def place(self, kind: str, what: Mapping[str, Any]) -> Path:
        """Return where the artefact that depends on this stands, or is to be written.

        Args:
            kind: such as "models".
            what: all that it depends on, as plain JSON values; the versions of Onward and of torch
                are added.
        """
        versions = {name: version(name) for name in ("onward", "torch")}
        all_of_it: dict[str, Any] = {"what": dict(what), "versions": versions}
        all_of_it |= {} if GENERATION == 1 else {"generation": GENERATION}
        name = digest(canonical_json(all_of_it))[:16]
        return self.directory / kind / name

    def embeddings(self, what: Mapping[str, Any], make: Callable[[], Embeddings]) -> Embeddings:
        """Return embeddings that depend on this: those that are kept, or else what is made."""
        path = self.place("embeddings", what).with_suffix(".parquet")
        if not path.exists():
            make().save(path)
        return Embeddings.load(path)

    def evaluation(self, what: Mapping[str, Any], make: Callable[[], Evaluation]) -> Evaluation:
        """Return the evaluation that depends on this: the one that is kept, or what is made."""
        path = self.place("evaluations", what).with_suffix(".npz")
        if not path.exists():
            made = make()
            with write_aside(path) as aside, aside.open("wb") as file:
                np.savez(
                    file,
                    query_ids=np.array(made.query_ids),
                    first_hit=made.first_hit,
                    relevant=made.relevant,
                    average_precision=made.average_precision,
                )
        with np.load(path, allow_pickle=False) as kept:
            return Evaluation(
                tuple(kept["query_ids"].tolist()),
                kept["first_hit"],
                kept["relevant"],
                kept["average_precision"],
            )


@dataclass(frozen=True)
class Stage:
    """Where a study is performed.

    Attributes:
        device: "auto", "cpu" or "cuda".
        tell: is given a line about each step.
        bar: opens a progress bar, given what is done and in which unit.
        cache: what is made stays there, and what is there is not made again.
    """

    device: Literal["auto", "cpu", "cuda"]
    tell: Callable[[str], None]
    bar: Callable[[str, str], AbstractContextManager[Progress]]
    cache: Cache
