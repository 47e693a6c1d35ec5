"""What people have judged, read from files: qrels, pairs to ignore, and pairs to verify.

Every error names the file and the line. Nothing here knows what the ids belong to:
`onward.evaluation.relevance` and `onward.evaluation.verification` look them up.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from onward.errors import EvaluationError

Pair = tuple[str, str, bool]
"""The id of a query, the id of a gallery item, and whether the two are the same."""

BEIR_HEADER = ["query-id", "corpus-id", "score"]
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")
VERDICTS = {"1": True, "same": True, "0": False, "different": False}

QRELS = (
    "TREC's qrels have four columns (query iteration item grade); BEIR's have three, split by "
    f"tabs, under the header {' '.join(BEIR_HEADER)!r}; none may be empty"
)
IGNORED = (
    "give the id of a query and the id of an item to ignore for it, with a tab or a space between"
)
PAIRS = (
    "give two ids and whether they are the same (1, same, 0 or different), without a header, split "
    "by commas in a .csv file and by tabs or spaces in others"
)
"""What a line is to hold."""


def read_qrels(path: Path | str) -> dict[str, dict[str, int]]:
    """Read judgements: for each query's id, the grade of each item's id.

    Two formats are known by their first line. TREC: four columns, `query iteration item grade`,
    split at spaces or tabs; where exactly four are split by tabs, ids may hold spaces. BEIR: three
    columns split by tabs under the header `query-id corpus-id score`. Of a folder its one .tsv
    file is read, or that in its folder `qrels`, as BEIR has it.

    Raises:
        EvaluationError: if the file cannot be read, a line is of neither format, a grade is not a
            whole number, or an item has two different grades for one query.
    """
    file = _find(Path(path))
    qrels: dict[str, dict[str, int]] = {}
    beir = None
    for where, line in _lines(file):
        if beir is None:
            beir = [one.strip().casefold() for one in line.split("\t")] == BEIR_HEADER
            if beir:
                continue
        fields = line.split("\t") if beir else _split(line, 4)
        query, *_, item, text = _whole(fields, 3 if beir else 4, f"{where} is {line!r:.80}", QRELS)
        if not WHOLE_NUMBER.fullmatch(text.strip()):
            raise EvaluationError(
                f"{where} gives item {item!r} the grade {text!r}",
                "grades are whole numbers: 0 is not relevant, and the higher the more relevant",
            )
        first = qrels.setdefault(query, {}).setdefault(item, int(text))
        if first != int(text):
            raise EvaluationError(
                f"{where} gives item {item!r} the grade {int(text)} for query {query!r}, and an "
                f"earlier line the grade {first}",
                "give each pair one grade",
            )
    if not qrels:
        raise EvaluationError(f"{file} holds no judgements", "give a file of qrels with lines")
    return qrels


def read_ignored(path: Path | str) -> dict[str, set[str]]:
    """Read pairs to ignore: for each query's id, the ids of the items that do not count for it.

    Two columns, `query item`, split by a tab, or else at spaces.

    Raises:
        EvaluationError: if the file cannot be read, or a line has not two ids.
    """
    ignored: dict[str, set[str]] = {}
    for where, line in _lines(Path(path)):
        query, item = _whole(_split(line, 2), 2, f"{where} is {line!r:.80}", IGNORED)
        ignored.setdefault(query, set()).add(item)
    return ignored


def read_pairs(path: Path | str) -> list[Pair]:
    """Read pairs to verify: ids of a query and of a gallery item, and whether they are the same.

    Three columns, the last of them 1 or `same`, 0 or `different`; no header. Split by commas in a
    .csv file, else by tabs, or else at spaces.

    Raises:
        EvaluationError: if the file cannot be read, is empty, or a line is none of that.
    """
    file = Path(path)
    pairs = []
    for where, line in _lines(file):
        fields = _at_commas(line) if file.suffix.lower() == ".csv" else _split(line, 3)
        verdict = VERDICTS.get(fields[-1].strip().casefold()) if fields else None
        known = fields if verdict is not None else []
        one, other, _ = _whole(known, 3, f"{where} is {line!r:.80}", PAIRS)
        pairs.append((one, other, verdict is True))
    if not pairs:
        raise EvaluationError(f"{file} holds no pairs", "give one a line")
    return pairs


def _whole(fields: list[str], columns: int, given: str, do: str) -> list[str]:
    """Return the fields of a line.

    Raises:
        EvaluationError: if there are not as many as there are columns, or one is empty.
    """
    if len(fields) != columns or not all(fields):
        raise EvaluationError(given, do)
    return fields


def _find(path: Path) -> Path:
    """Return the file of qrels that a path means.

    Raises:
        EvaluationError: if a folder holds none, or several.
    """
    if not path.is_dir():
        return path
    folder = path / "qrels" if (path / "qrels").is_dir() else path
    found = sorted(file for file in folder.glob("*.tsv") if not file.name.startswith("."))
    if len(found) != 1:
        names = ", ".join(file.name for file in found)
        raise EvaluationError(
            f"the folder {folder} holds {len(found)} .tsv files{': ' if found else ''}{names}",
            "give the file of qrels itself",
        )
    return found[0]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not blank, each with its number from 1 and the file in words.

    Raises:
        EvaluationError: if the file cannot be read as text.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number} of {path}", line.rstrip("\n")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise EvaluationError(f"{path} cannot be read: {why}", "give a text in UTF-8") from error


def _split(line: str, columns: int) -> list[str]:
    """Split a line at tabs where that gives as many columns, else at spaces and tabs."""
    fields = line.split("\t")
    return fields if len(fields) == columns else re.split(r"[ \t]+", line.strip(" \t"))


def _at_commas(line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error:  # a field of over 128 KiB: no id
        return []
