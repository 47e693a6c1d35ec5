"""Payloads as lines of JSON, `{"id": ..., ...}`: read, written, and taken for items to embed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onward.cli.options import check_room
from onward.errors import ConfigurationError, GalleryError

if TYPE_CHECKING:
    from onward.data.items import Items
    from onward.data.sources import Stated

SUFFIX = ".jsonl"
_LINES = "Write a line of JSON for each item, such as " + '{"id": "cat-17", "path": "17.jpg"}'


def read_payload_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Return the payloads by id, in the order of the lines.

    Raises:
        GalleryError: naming the line that is none, or is the second one for its item.
    """
    by_id: dict[str, dict[str, Any]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    item, payload = _read_line(f"line {number} of {path}", line)
                    if item in by_id:
                        raise GalleryError(
                            f"line {number} of {path} is the second one for item {item!r}; "
                            "give one line an item"
                        )
                    by_id[item] = payload
    except UnicodeDecodeError as error:
        raise GalleryError(f"{path} is not text in UTF-8: {error}. {_LINES}") from error
    return by_id


def read_payloads(path: Path | None, ids: tuple[str, ...]) -> list[dict[str, Any]] | None:
    """Return the payload of each item, from lines in any order; None where no file is given.

    Raises:
        GalleryError: naming the line that is none, or the item that has none.
    """
    if path is None:
        return None
    by_id = read_payload_lines(path)
    missing = [item for item in ids if item not in by_id]
    if missing:
        raise GalleryError(
            f"{path} has no payload for {len(missing)} of {len(ids)} items, the first "
            f"{missing[0]!r}. {_LINES}"
        )
    return [by_id[item] for item in ids]


def check_lines(path: Path, *, overwrite: bool) -> None:
    """Refuse to write payloads where they cannot be, or are not looked for.

    Raises:
        ConfigurationError: if the file has another suffix.
        ArtifactError: naming what is in the way.
    """
    if path.suffix != SUFFIX:
        raise ConfigurationError(f"payloads are written as JSON lines; {path} must end in {SUFFIX}")
    check_room(path, overwrite=overwrite)


def write_payload_lines(
    path: Path, ids: Sequence[str], payloads: Sequence[Mapping[str, Any] | None]
) -> None:
    """Write a line for each item, its payload with its id, so that a reader sees all or nothing."""
    from onward.artifacts import write_aside

    with write_aside(path) as aside, aside.open("w", encoding="utf-8") as lines:
        for item, payload in zip(ids, payloads, strict=True):
            lines.write(json.dumps({**(payload or {}), "id": item}) + "\n")


def open_payload_lines(path: Path, stated: "Stated") -> "Items":
    """Return the items of the lines; their labels mean nothing.

    Args:
        path: a `.jsonl` file.
        stated: whether to leave out items whose images cannot be read, and the most pixels of one.

    Raises:
        GalleryError: if there is no such file, no line in it, or one is none.
    """
    import numpy as np

    from onward.data.items import Items, LeftOut
    from onward.data.payloads import describe_payload, find_fault

    if not path.is_file():
        raise GalleryError(f"there is no file {path}; make it with: onward gallery sample")
    by_id, left_out = read_payload_lines(path), []
    if stated.skip_bad:
        most = stated.max_pixels
        faults = {item: find_fault(payload, most) for item, payload in by_id.items()}
        bad = {item: fault for item, fault in faults.items() if fault is not None}
        left_out = [LeftOut(describe_payload(by_id[item]), fault) for item, fault in bad.items()]
        by_id = {item: payload for item, payload in by_id.items() if item not in bad}
    if not by_id:
        raise GalleryError(f"{path} has no item{' that can be read' if left_out else ''}. {_LINES}")
    labels = np.zeros(len(by_id), np.int64)
    payloads = tuple(by_id.values())
    return Items(
        ids=tuple(by_id),
        labels=labels,
        class_names={0: "unknown"},
        payloads=payloads,
        source=str(path),
        left_out=tuple(left_out),
        max_pixels=stated.max_pixels,
    )


def _read_line(where: str, line: str) -> tuple[str, dict[str, Any]]:
    try:
        payload = json.loads(line)
    except ValueError as error:
        raise GalleryError(f"{where} is not JSON: {error}. {_LINES}") from error
    if not isinstance(payload, dict) or not isinstance(payload.get("id"), str):
        raise GalleryError(f"{where} is not a JSON object with a string as `id`. {_LINES}")
    return payload.pop("id"), payload
