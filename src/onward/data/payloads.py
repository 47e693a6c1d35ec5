"""Where an image is, or a text itself, to be opened again later: a payload, plain JSON values.

```
{"path": "/photos/cat/1.jpg"}                                     a file
{"file": "/photos/train.parquet", "row": 17, "column": "image"}   a cell of a Parquet file
{"digits": 17}                                                    one of the bundled digits
{"text": "A claim is ...", "title": "Claims"}                     a text, with or without a title
```

A cell holds an image (a struct with `bytes`) or a text (a string). A title stands before its text,
with a space between, as BEIR has it: Thakur et al., NeurIPS 2021 (arXiv 2104.08663).

The bundled digits are 1,797 real images of 8 x 8, the data that needs no download: E. Alpaydin and
C. Kaynak, "Optical Recognition of Handwritten Digits" (1998), test set; the licence stands in
NOTICE. scikit-learn ships the same images.

The first two may carry `"bytes"`, the length of the item, or `"sha256"`, a digest of its bytes:
what has changed since is then not taken for the item that it was. A gallery keeps payloads beside
its vectors and never reads them. In a file they are lines of JSON, each with the item's `"id"`
(`read_payload_lines`).
"""

import gzip
import hashlib
import json
import lzma
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from onward.artifacts import digest, write_aside
from onward.data import images
from onward.data.images import MAX_PIXELS
from onward.errors import DataError, GalleryError
from onward.labels import Labels, is_text

if TYPE_CHECKING:
    from PIL import Image

Payload = Mapping[str, Any]
V = TypeVar("V", str, int)

LINES_SUFFIX = ".jsonl"
OPENERS: dict[str, Callable[..., IO[str]]] = {
    LINES_SUFFIX: open,
    f"{LINES_SUFFIX}.gz": gzip.open,
    f"{LINES_SUFFIX}.xz": lzma.open,
}
"""What opens lines of JSON, by how the name of the file ends."""
WRITE_LINES = "Write a line of JSON for each item, such as " + '{"id": "cat-17", "path": "17.jpg"}'

SHOWN = 40  # characters of a text in a message

_FOOTER_LENGTH = 8  # at the end of a Parquet file: 4 bytes of length, then PAR1


def open_payload(payload: Payload, max_pixels: int = MAX_PIXELS) -> "Image.Image":
    """Return the image that a payload points to, as grey ("L") or colour ("RGB") pixels.

    Args:
        payload: as this module describes it.
        max_pixels: the most pixels that the image may have.

    Raises:
        DataError: if the image is gone, unreadable, too large or changed, naming its file and row;
            if it is a text; if the payload says nothing about where its image is.
    """
    content = _read_unchanged(payload)
    if isinstance(content, str):
        raise DataError(
            f"{describe_payload(payload)} is a text, and an image is needed",
            "use a model that embeds texts, or give images",
        )
    return images.decode(content, describe_payload(payload), max_pixels)


def open_text(payload: Payload) -> str:
    """Return the text that a payload holds or points to, its title before it.

    Raises:
        DataError: if the text is gone, empty or changed, naming its file and row; if it is an
            image; if the payload says nothing about where its text is.
    """
    content = _read_unchanged(payload)
    if not isinstance(content, str):
        raise DataError(
            f"{describe_payload(payload)} is an image, and a text is needed",
            "use a model that embeds images, or give texts",
        )
    return _check_text(content, payload)


def with_digest(payload: Payload) -> dict[str, Any]:
    """Return the payload with the SHA-256 of its item, by which a change is noticed later.

    That of a bundled digit, or of a text that stands in it, stays as it is: it cannot change.

    Raises:
        DataError: if the item is gone, or the payload says nothing about where it is.
    """
    content = _read(payload)
    if not isinstance(content, bytes | str) or "text" in payload:
        return dict(payload)
    return {**payload, "sha256": hashlib.sha256(_as_bytes(content)).hexdigest()}


def find_fault(payload: Payload, max_pixels: int = MAX_PIXELS) -> str | None:
    """Say in few words why an item cannot be opened; None if it can. Decodes it to find out."""
    try:
        content = _read_unchanged(payload)
        if isinstance(content, str):
            _check_text(content, payload)
        else:
            images.decode(content, describe_payload(payload), max_pixels)
    except DataError as error:
        return error.given.removeprefix(f"{describe_payload(payload)} ")
    return None


def describe_payload(payload: Payload) -> str:
    """Say where an image is, or how a text begins, for a person."""
    if "text" in payload:
        text = str(payload["text"])
        return f"the text {text if len(text) <= SHOWN else f'{text[:SHOWN]}...'!r}"
    if "path" in payload:
        return str(payload["path"])
    if "file" in payload:
        return f"{payload['file']}, row {payload.get('row')}"
    return f"digits, row {payload['digits']}" if "digits" in payload else str(dict(payload))


def digest_payloads(payloads: Iterable[Payload]) -> str:
    """Return a digest of what the payloads point to, wherever it is kept.

    Covers the length of each image file; of each Parquet file its length and its footer, which
    holds sizes and ranges of every column; of the bundled digits the pixels; of texts in payloads
    all. It does not cover an image whose bytes were changed while its file kept its length, nor
    times and folders.

    Raises:
        DataError: if a file is gone.
    """
    digest_footer = cache(_digest_footer)  # once a file, not once an item

    def fingerprint(payload: Payload) -> str:
        if "text" in payload:
            return digest(_text(payload).encode())
        if "path" in payload:
            path = _value(payload, "path", str)
            with _there(path):
                return f"{Path(path).stat().st_size} bytes"
        if {"file", "row"} <= payload.keys():
            file = _value(payload, "file", str)
            return f"row {_value(payload, 'row', int)} of {digest_footer(file)}"
        if "digits" in payload:
            return digest(_digit(payload).tobytes())
        raise _says_nothing(payload)

    return digest(*(fingerprint(payload).encode() for payload in payloads))


def read_payload_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Return the payloads by id (`id`, else `_id`), in the order of the lines.

    Raises:
        GalleryError: naming the line that is none, or is the second one for its item.
    """
    by_id: dict[str, dict[str, Any]] = {}
    try:
        with OPENERS[lines_suffix(path) or LINES_SUFFIX](path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                where = f"line {number} of {path}"
                try:
                    payload = json.loads(line)
                except ValueError as error:
                    raise GalleryError(f"{where} is not JSON: {error}. {WRITE_LINES}") from error
                key = "_id" if isinstance(payload, dict) and "id" not in payload else "id"
                if not isinstance(payload, dict) or not isinstance(payload.get(key), str):
                    raise GalleryError(
                        f"{where} is not a JSON object with a string as `id`. {WRITE_LINES}"
                    )
                item = payload.pop(key)
                if item in by_id:
                    raise GalleryError(
                        f"{where} is the second one for item {item!r}", "give one line an item"
                    )
                by_id[item] = payload
    except UnicodeDecodeError as error:
        raise GalleryError(f"{path} is not text in UTF-8: {error}. {WRITE_LINES}") from error
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError) as error:
        raise GalleryError(
            f"{path} cannot be decompressed: {error}", "fetch it again, or give it decompressed"
        ) from error
    return by_id


def lines_suffix(path: Path | str) -> str | None:
    """Return the ending that tells lines of JSON, compressed or not; None where none does."""
    return next((suffix for suffix in OPENERS if str(path).endswith(suffix)), None)


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
            f"{missing[0]!r}. {WRITE_LINES}"
        )
    return [by_id[item] for item in ids]


def write_payload_lines(
    path: Path, ids: Sequence[str], payloads: Sequence[Mapping[str, Any] | None]
) -> None:
    """Write a line for each item, its payload with its id, so that a reader sees all or nothing."""
    with write_aside(path) as aside, aside.open("w", encoding="utf-8") as lines:
        for item, payload in zip(ids, payloads, strict=True):
            lines.write(json.dumps({**(payload or {}), "id": item}) + "\n")


@contextmanager
def _there(path: str) -> Iterator[None]:
    """Say of a file that cannot be read why."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", "put it back or leave the item out"
        ) from error


def _digest_footer(file: str) -> str:
    with _there(file), Path(file).open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - _FOOTER_LENGTH))
        length = int.from_bytes(opened.read(4), "little") + _FOOTER_LENGTH
        opened.seek(max(0, size - length))
        return digest(str(size).encode(), opened.read())


def _read_unchanged(payload: Payload) -> bytes | str | UInt8[np.ndarray, "8 8"]:
    """Return what `_read` does, once it is sure that it is the item that the payload was of."""
    content = _read(payload)
    if isinstance(content, np.ndarray):
        return content
    changed = _find_change(_as_bytes(content), payload)
    if changed is not None:
        kind = "text" if isinstance(content, str) else "image"
        raise DataError(
            f"{describe_payload(payload)} has changed since its payload was written: {changed}",
            f"put the {kind} back, or update the item, whose other vectors are of the {kind} it "
            "was",
        )
    return content


def _as_bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _read(payload: Payload) -> bytes | str | UInt8[np.ndarray, "8 8"]:
    """Return the bytes of an image file or of a cell, a text, or the grey values of a digit."""
    if "text" in payload:
        return _text(payload)
    if "path" in payload:
        path = _value(payload, "path", str)
        with _there(path):
            if stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would be waited for for ever
                return Path(path).read_bytes()
        raise DataError(f"{path} is not a file", "name the file that holds the image")
    if {"file", "row", "column"} <= payload.keys():
        from onward.data.parquet import read_cell

        file, column = _value(payload, "file", str), _value(payload, "column", str)
        content = read_cell(file, _value(payload, "row", int), column)
        if content is None:
            where = describe_payload(payload)
            raise DataError(f"{where} holds nothing: its cell is null", "leave it out")
        return content
    if "digits" in payload and "file" not in payload:
        return _digit(payload)
    raise _says_nothing(payload)


def _says_nothing(payload: Payload) -> DataError:
    return DataError(
        f"the payload {dict(payload)} does not say where an image or a text is; it needs "
        "'path', or 'file', 'row' and 'column', or 'digits', or, of a text, 'text'"
    )


def _text(payload: Payload) -> str:
    """Return the text that stands in a payload, its title before it."""
    for name in ("title", "text"):
        value = payload.get(name) or ""
        if not isinstance(value, str) or not is_text(value):
            raise DataError(
                f"{describe_payload(payload)} has {value!r} as {name!r}, which is not text",
                "write a string",
            )
    return f"{payload.get('title') or ''} {payload['text'] or ''}".strip()


def _check_text(text: str, payload: Payload) -> str:
    if not text.strip():
        raise DataError(f"{describe_payload(payload)} is empty", "leave it out: skip_bad=True")
    return text


@cache
def read_digits() -> tuple[UInt8[np.ndarray, "item 8 8"], Labels]:
    """Return the ink of each cell of the bundled digits, 0 to 16, and the digit that each shows."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as arrays:
        values, labels = arrays["images"], arrays["labels"].astype(np.int64)
    values.flags.writeable = labels.flags.writeable = False
    return values, labels


def _digit(payload: Payload) -> UInt8[np.ndarray, "8 8"]:
    """Return one digit as grey values, 0 to 255: the ink times 255 / 16, rounded."""
    row, values = _value(payload, "digits", int), read_digits()[0]
    if not 0 <= row < len(values):
        raise DataError(f"there are {len(values)} digits, counted from 0, and no digit {row}")
    grey: UInt8[np.ndarray, "8 8"] = np.rint(values[row] * (255 / 16)).astype(np.uint8)
    return grey


def _value(payload: Payload, name: str, kind: type[V]) -> V:
    """Return a value of a payload; the owner may have written anything."""
    value: V = payload[name]
    unfit = isinstance(value, bool) or not isinstance(value, kind)  # True is not a row
    if unfit or (isinstance(value, str) and ("\0" in value or not is_text(value))):
        raise DataError(
            f"the payload {dict(payload)} has {value!r} as {name!r}, which locates no item",
            f"write {'a number' if kind is int else 'the name of a file or a column'}",
        )
    return value


def _find_change(content: bytes, payload: Payload) -> str | None:
    """Say what shows that an image is another one than its payload was written for."""
    length, stated = payload.get("bytes"), payload.get("sha256")
    if length is not None and length != len(content):
        return f"it has {len(content):,} bytes, not {length}"
    if stated is None:
        return None
    found = hashlib.sha256(content).hexdigest()
    if str(stated).lower() != found:
        return f"its SHA-256 is {found[:8]}..., not {str(stated)[:8]}..."
    return None
