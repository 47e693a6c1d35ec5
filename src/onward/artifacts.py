"""How every artefact is written and read: a directory that is whole or not there at all.

`config.json` is the header: format number, kind, what the kind needs, what made it, and a digest of
every other file. `model.safetensors` holds the arrays, `README.md` is a card that a person can
read. Nothing is pickled. Everything is written aside, synced and renamed. Nothing here knows what
the kinds mean.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from onward.errors import ArtifactError

FORMAT = 1
CONFIG, ARRAYS, CARD = "config.json", "model.safetensors", "README.md"


@dataclass(frozen=True, eq=False)
class Artifact:
    """What stands in an artefact's directory.

    Attributes:
        kind: what it is, such as "embedding-model" or "transformation".
        config: what its kind needs to be made again, as plain JSON values.
        arrays: named arrays.
        made_by: recipe, seed, versions, commit, digest of the data: whatever made it.
        card: Markdown for a person.
        files: other files, by name.
    """

    kind: str
    config: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    made_by: Mapping[str, Any]
    card: str
    files: Mapping[str, bytes]


def digest(*parts: bytes) -> str:
    """Return the SHA-256 of the parts, each preceded by its length, as hexadecimal digits."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.hexdigest()


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a digest of names, types, shapes and values, whatever the order of the names."""
    parts = []
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        parts += [f"{name} {array.dtype.str} {array.shape}".encode(), array.tobytes()]
    return digest(*parts)


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys: the same bytes for equal values."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False).encode()


def write_artifact(directory: Path | str, artifact: Artifact) -> None:
    """Write an artefact; an older one of the same kind in its place is replaced as a whole.

    Where the directory is a link, what it leads to is written and the link stays.

    Raises:
        ArtifactError: if something that is no such artefact stands in the way; it is left alone.
    """
    target = Path(directory).resolve()
    check_replaceable(target, artifact.kind)
    contents = dict(artifact.files)
    contents[ARRAYS] = save_arrays({k: np.ascontiguousarray(v) for k, v in artifact.arrays.items()})
    contents[CARD] = artifact.card.encode()
    header = {
        "format": FORMAT,
        "kind": artifact.kind,
        "config": dict(artifact.config),
        "made_by": dict(artifact.made_by),
        "digests": {name: digest(data) for name, data in sorted(contents.items())},
    }
    header["digest"] = digest(canonical_json(header))
    contents[CONFIG] = canonical_json(header) + b"\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for name, data in contents.items():
        _write_synced(aside / name, data)
    _sync_directory(aside)
    if target.exists():
        replaced = _replaced(target)
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    aside.rename(target)
    _sync_directory(target.parent)
    shutil.rmtree(_replaced(target), ignore_errors=True)


def read_artifact(directory: Path | str, kind: str) -> Artifact:
    """Read an artefact and check every digest in its header.

    Raises:
        ArtifactError: if it is missing, of another kind, of a newer format, or a byte has changed.
    """
    target = Path(directory)
    whole = target.resolve()
    if not whole.exists() and _replaced(whole).exists():  # killed between two renames
        _replaced(whole).rename(whole)
    header = read_header(target)
    if header.get("kind") != kind:
        raise ArtifactError(f"{target} holds this kind: {header.get('kind')}; needed: {kind}")
    _check_fields(target, header)
    if header["format"] > FORMAT:
        raise ArtifactError(
            f"{target} has format {header['format']}, this Onward reads up to {FORMAT}; "
            "install a newer Onward"
        )
    contents = {name: _read_checked(target / name, of) for name, of in header["digests"].items()}
    try:
        arrays = load_arrays(contents.pop(ARRAYS))
    except SafetensorError as error:
        raise ArtifactError(f"{target / ARRAYS} cannot be read: {error}") from error
    card = contents.pop(CARD).decode()
    return Artifact(kind, header["config"], arrays, header["made_by"], card, contents)


def read_header(directory: Path | str) -> dict[str, Any]:
    """Read an artefact's header alone, whatever its kind, and check its own digest.

    Raises:
        ArtifactError: if there is none, or it was changed after it was written.
    """
    target = Path(directory)
    if not (target / CONFIG).is_file():
        what = "has no config.json" if target.exists() else "does not exist"
        raise ArtifactError(f"{target} {what}; give a directory that Onward wrote")
    try:
        header: dict[str, Any] = dict(json.loads((target / CONFIG).read_bytes()))
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{target / CONFIG} is no JSON object: {error}") from error
    rest = {name: value for name, value in header.items() if name != "digest"}
    if header.get("digest") != digest(canonical_json(rest)):
        raise ArtifactError(
            f"{target / CONFIG} was changed after it was written; restore it from a copy"
        )
    return header


@contextmanager
def write_aside(target: Path) -> Iterator[Path]:
    """Give a path to write to; on leaving, sync it and rename it to the target.

    If the block fails, what stood at the target stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.aside")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(target)
        _sync_directory(target.parent)
    finally:
        aside.unlink(missing_ok=True)


def _check_fields(target: Path, header: Mapping[str, Any]) -> None:
    digests = header.get("digests")
    fits = (
        isinstance(header.get("format"), int)
        and isinstance(digests, dict)
        and {ARRAYS, CARD} <= digests.keys()
        and isinstance(header.get("config"), dict)
        and isinstance(header.get("made_by"), dict)
    )
    if not fits:
        raise ArtifactError(
            f"{target / CONFIG} is no header of an artefact; it needs format, config, made_by and "
            f"digests of {ARRAYS} and {CARD}. Restore it from a copy"
        )


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def check_replaceable(target: Path, kind: str) -> None:
    """Refuse to write where something stands that is no artefact of this kind.

    Raises:
        ArtifactError: saying so; what stands there is left alone.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    header = read_header(target) if (target / CONFIG).is_file() else {}
    if header.get("kind") != kind:
        raise ArtifactError(
            f"{target} is there already and holds no {kind}; it was left as it is. "
            "Give another directory"
        )


def _read_checked(path: Path, stated: str) -> bytes:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; restore it from a copy")
    data = path.read_bytes()
    if digest(data) != stated:
        raise ArtifactError(
            f"{path} was changed or damaged after it was written (its digest is not the one in "
            f"{CONFIG}); restore it from a copy"
        )
    return data


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
