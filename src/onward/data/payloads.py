"""Where an image is, so that it can be opened again later: a payload, plain JSON values.

```
{"path": "/photos/cat/1.jpg"}                                     a file
{"file": "/photos/train.parquet", "row": 17, "column": "image"}   a cell of a Parquet file
{"digits": 17}                                                    one of the bundled digits
```

A gallery keeps payloads beside its vectors and never reads them.
"""

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onward.artifacts import digest
from onward.data import decoding
from onward.data.decoding import REPAIR
from onward.data.digits import digit_pixels, digit_values
from onward.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Payload = Mapping[str, Any]

_FOOTER_LENGTH = 8  # at the end of a Parquet file: 4 bytes of length, then PAR1


def open_payload(payload: Payload) -> "Image.Image":
    """Return the image that a payload points to, as grey ("L") or colour ("RGB") pixels.

    Raises:
        DataError: if the image is gone or unreadable, naming its file and row; if the payload says
            nothing about where its image is.
    """
    if "path" in payload:
        return decoding.decode(_read_file(payload["path"]), payload["path"])
    if {"file", "row", "column"} <= payload.keys():
        from onward.data.row_groups import read_image_bytes

        where = describe_payload(payload)
        content = read_image_bytes(payload["file"], payload["row"], payload["column"])
        if content is None:
            raise DataError(f"{where} holds no image: its bytes are null; leave it out")
        return decoding.decode(content, where)
    if "digits" in payload:
        row, count = payload["digits"], len(digit_values())
        if not 0 <= row < count:
            raise DataError(f"there are {count} digits, counted from 0, and no digit {row}")
        return decoding.decode(digit_pixels(row), describe_payload(payload))
    raise DataError(
        f"the payload {dict(payload)} does not say where an image is; it needs 'path', or 'file', "
        "'row' and 'column', or 'digits'"
    )


def find_fault(payload: Payload) -> str | None:
    """Say in few words why an image cannot be opened; None if it can. Decodes it to find out."""
    try:
        open_payload(payload)
    except DataError as error:
        return str(error).removeprefix(f"{describe_payload(payload)} ").removesuffix(REPAIR)
    return None


def describe_payload(payload: Payload) -> str:
    """Say where an image is, for a person."""
    if "path" in payload:
        return str(payload["path"])
    if "file" in payload:
        return f"{payload['file']}, row {payload['row']}"
    return f"digits, row {payload['digits']}" if "digits" in payload else str(dict(payload))


def digest_payloads(payloads: Iterable[Payload]) -> str:
    """Return a digest of what the payloads point to, wherever it is kept.

    Covers the length of each image file; of each Parquet file its length and its footer, which
    holds sizes and ranges of every column; of the bundled digits the pixels. It does not cover an
    image whose bytes were changed while its file kept its length, nor times and folders.

    Raises:
        DataError: if a file is gone.
    """
    digest_footer = cache(_digest_footer)  # once a file, not once an item

    def fingerprint(payload: Payload) -> str:
        if "path" in payload:
            return f"{_length(payload['path'])} bytes"
        if "file" in payload:
            return f"row {payload['row']} of {digest_footer(payload['file'])}"
        return digest(digit_pixels(payload["digits"]).tobytes())

    return digest(*(fingerprint(payload).encode() for payload in payloads))


def _length(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise _gone(path, error) from error


def _digest_footer(file: str) -> str:
    try:
        with Path(file).open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, size - _FOOTER_LENGTH))
            length = int.from_bytes(opened.read(4), "little") + _FOOTER_LENGTH
            opened.seek(max(0, size - length))
            return digest(str(size).encode(), opened.read())
    except OSError as error:
        raise _gone(file, error) from error


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _gone(path, error) from error


def _gone(path: str, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror}. Put it back or leave the item out")
