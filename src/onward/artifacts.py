"""How every artefact is written and read: a directory that is whole or not there at all.

`config.json` is the header: format number, kind, what the kind needs, what made it, and a digest of
every other file. `model.safetensors` holds the arrays, `README.md` is a card that a person can
read. Nothing is pickled. Nothing here knows what the kinds mean.

Everything is written aside, synced and put into its place in one step. Aside is a directory of the
writer alone, beside what it writes, with a name that nobody can guess and a file in it that the
writer keeps locked: so whoever comes later knows ours from a user's, and a living writer's from a
dead one's. A reader changes nothing on the disk. The header has the digest of every file, so what
takes their place meanwhile is never mixed with them: it reads again. What a killed writer left, the
next writer to the same place puts right.
"""

import ctypes
import errno
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from onward.errors import ArtifactError

Result = TypeVar("Result")

FORMAT = 2
"""The newest that is read. What an older one can hold is written in that, so that programs which
know no newer one read it: 2 differs in the parallel parts of a transformation alone."""
CONFIG, ARRAYS, CARD = "config.json", "model.safetensors", "README.md"

WRITER = "onward-writer"
"""The file in a directory aside that its writer keeps locked."""
NEW, OLD = "new.", "old."
"""What names begin with in a directory aside: what is being written, what was in its place."""
PATIENCE = 10.0
"""Seconds for which a reader tries again while writers replace what it reads."""
ROUNDS = 50
"""Times that a reader looks again for what is not there, while there is a writer beside it."""
LEFT_BEHIND = frozenset(
    [
        ".ds_store", "@eadir", "@recently-snapshot", "@recycle", "@sharebin", "@tmp", "#recycle",
        "#snapshot", "$recycle.bin", "recycler", "system volume information", "found.000",
        "lost+found", "lost.dir", "__macosx", "__pycache__", "network trash folder",
        "temporary items", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "zbthumbnail.info",
        "desktop.ini", "picasa.ini", "icon\r", "ipod photo cache",
    ]
)  # fmt: skip
"""What file servers and systems leave in folders, which nobody has put there on purpose: names in
lower case, recognised in any."""

LEFT_BEFORE, LEFT_AFTER = ("._", ".trash", "~$", "thumbs.db:"), ("~", ":zone.identifier")
"""How other names begin and end that they leave."""

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


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
        format: the oldest format that can hold it.
    """

    kind: str
    config: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    made_by: Mapping[str, Any]
    card: str
    files: Mapping[str, bytes]
    format: int = 1


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
        ArtifactError: if something that is not such an artefact, or more than one, stands in the
            way, which is left alone; or the artefact cannot be written, such as a configuration
            that holds NaN.
    """
    target = _resolved(Path(directory))
    check_replaceable(target, artifact.kind)
    contents = _contents(artifact)
    with beside(target) as aside:
        aside.mkdir()
        for name, data in contents.items():
            _write_synced(aside / name, data)
        _sync_directory(aside)
        _put(aside, target)
        _sync_directory(target.parent)


def _contents(artifact: Artifact) -> dict[str, bytes]:
    """Return the bytes of every file, the header last."""
    contents = dict(artifact.files)
    contents[ARRAYS] = save_arrays({k: np.ascontiguousarray(v) for k, v in artifact.arrays.items()})
    contents[CARD] = artifact.card.encode()
    for name in contents:
        _check_name(name, "an artefact")
    header = {
        "format": artifact.format,
        "kind": artifact.kind,
        "config": dict(artifact.config),
        "made_by": dict(artifact.made_by),
        "digests": {name: digest(data) for name, data in sorted(contents.items())},
    }
    try:
        header["digest"] = digest(canonical_json(header))
    except (ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"this {artifact.kind} has a configuration that JSON cannot hold: {error}",
            "give plain values, and numbers that are finite",
        ) from error
    contents[CONFIG] = canonical_json(header) + b"\n"
    return contents


def read_artifact(directory: Path | str, kind: str) -> Artifact:
    """Read an artefact and check every digest in its header.

    Where a writer replaces it meanwhile, all that is read is of one generation.

    Raises:
        ArtifactError: if it is missing, of another kind, of a newer format, or a byte has changed.
    """
    return _read_steadily(Path(directory), lambda place: _read_whole(place, kind))


def read_header(directory: Path | str) -> dict[str, Any]:
    """Read an artefact's header alone, whatever its kind, and check its own digest.

    Raises:
        ArtifactError: if there is none, or it was changed after it was written.
    """
    return _read_steadily(Path(directory), _read_header)


@contextmanager
def write_aside(target: Path) -> Iterator[Path]:
    """Give a path to write a file to; on leaving, sync it and put it into the target's place.

    If the block fails, what stood at the target stays. Where the target is a link, what it leads to
    is written and the link stays.

    Raises:
        ArtifactError: if the target is there and is not a file.
    """
    check_replaceable(target, None)
    target = _resolved(target)
    with beside(target) as aside:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(target)
        _sync_directory(target.parent)


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Give a path beside a target, where nobody else writes; on leaving, what is there is removed.

    It ends as the target's name does, and has yet to be made, as a file or a directory. The block
    moves it to the target. First, what killed writers to the same target left is put right.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    clean_leftovers(target)
    place, lock = _new_place(target)
    with lock:
        try:
            yield place / f"{NEW}{target.name}"
        finally:
            _remove(place)


def clean_leftovers(target: Path) -> None:
    """Remove what killed writers to a target left beside it; of living ones, nothing.

    Where one was killed between taking away the old artefact and putting in the new one (a system
    that cannot exchange them in one step), the old one is put back.
    """
    for place in _places(target):
        try:
            descriptor = os.open(place / WRITER, os.O_RDWR | _NOFOLLOW)
        except FileNotFoundError:
            with suppress(OSError):
                place.rmdir()  # killed before it wrote anything; if not empty, it is not ours
            continue
        except OSError:  # somebody else's
            continue
        with os.fdopen(descriptor, "r+") as lock:
            if _lock(lock, wait=False):
                _put_back(place, target)
                _remove(place)


def is_left_behind(name: str) -> bool:
    """Say whether a name is that of something that a file server or a system left in a folder."""
    lower = name.lower()
    return lower in LEFT_BEHIND or lower.startswith(LEFT_BEFORE) or lower.endswith(LEFT_AFTER)


def check_replaceable(target: Path, kind: str | None) -> None:
    """Refuse to write where something stands that is not one artefact of this kind.

    Or that is not a file, where the kind is None.

    Raises:
        ArtifactError: saying so; what stands there is left alone.
    """
    target = _resolved(target)
    if kind is not None:
        if target.exists():  # asked once: between two writers' renames the answer changes
            _read_steadily(target, lambda place: _check_standing(place, kind))
    elif target.exists() and not target.is_file():
        what = "a directory" if target.is_dir() else "not a file that can be replaced"
        raise ArtifactError(f"{target} is {what}", "it was left as it is. Give another place")


def _check_standing(place: Path, kind: str) -> None:
    names = {path.name for path in place.iterdir()} if place.is_dir() else {""}
    header = _read_header(place) if CONFIG in names else {}
    if names and header.get("kind") != kind:
        raise ArtifactError(
            f"{place} is there already and holds no {kind}",
            "it was left as it is. Give another directory",
        )
    if header:
        _check_fields(place, header)
    others = sorted(names - {CONFIG, *header.get("digests", ())})
    lost = [name for name in others if not is_left_behind(name)]
    if lost:
        raise ArtifactError(
            f"{place / lost[0]} is not a file of the {kind} and would be lost when that is "
            "replaced",
            "it was left as it is. Move it away, or give another directory",
        )


def _resolved(path: Path) -> Path:
    """Return what a path leads to, all links followed.

    Raises:
        ArtifactError: if a link leads to itself.
    """
    try:
        return path.resolve()
    except RuntimeError as error:
        raise ArtifactError(f"{path} is a link that leads to itself", "remove it") from error


def _read_steadily(target: Path, read: Callable[[Path], Result]) -> Result:
    """Read; before complaining once more, and for as long as writers replace what is read."""
    failed: object = None
    until = time.monotonic() + PATIENCE
    for round_ in itertools.count():
        # What stands there, or what a writer has taken away, which is just about to replace it.
        place = target if target.exists() else _taken_away(_resolved(target)) or target
        try:
            return read(place)
        except (ArtifactError, FileNotFoundError):
            now = _generation(place)
            between = now is None and round_ < ROUNDS and _places(target)
            if (round_ and now == failed and not between) or time.monotonic() > until:
                raise
            if between:
                time.sleep(0.001)
        failed = now
    raise AssertionError  # never reached


def _generation(place: Path) -> tuple[int, bytes | None] | None:
    """Return what tells one generation from the next; None where there is nothing."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return place.stat().st_ino, _read_file(place / CONFIG)
    return None


def _read_file(path: Path) -> bytes | None:
    """Return the bytes of a file; None where there is no such file."""
    try:
        return path.read_bytes() if path.is_file() else None
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ESTALE):
            return None
        raise


def _read_whole(place: Path, kind: str) -> Artifact:
    header = _read_header(place)
    if header.get("kind") != kind:
        raise ArtifactError(
            f"{place} holds this kind: {header.get('kind')}", needed=f"{kind} is needed"
        )
    _check_fields(place, header)
    if header["format"] > FORMAT:
        raise ArtifactError(
            f"{place} has format {header['format']}, this Onward reads up to {FORMAT}",
            "install a newer Onward",
        )
    contents = {
        name: _read_checked(place / name, stated) for name, stated in header["digests"].items()
    }
    try:
        arrays = load_arrays(contents.pop(ARRAYS))
        card = contents.pop(CARD).decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{place / CARD} is not text in UTF-8: {error}") from error
    except KeyError as error:
        raise ArtifactError(
            f"{place / ARRAYS} holds numbers of type {error.args[0]}, which NumPy does not have",
            "convert them to float32 and write it again",
        ) from error
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{place / ARRAYS} cannot be read: {error}") from error
    made = header["config"], arrays, header["made_by"], card, contents
    return Artifact(kind, *made, header["format"])


def _read_header(place: Path) -> dict[str, Any]:
    data = _read_file(place / CONFIG)
    if data is None:
        lacks = f"has no {CONFIG}" if place.exists() else "does not exist"
        raise ArtifactError(f"{place} {lacks}", "give a directory that Onward wrote")
    try:
        header: dict[str, Any] = json.loads(data, parse_constant=_refuse_constant)
        if not isinstance(header, dict):
            raise TypeError(f"it is a {type(header).__name__}")
        rest = {name: value for name, value in header.items() if name != "digest"}
        whole = header.get("digest") == digest(canonical_json(rest))
        wrong = "" if whole else "was changed after it was written"
    except RecursionError:
        wrong = "is nested too deeply to be read"
    except (ValueError, TypeError) as error:
        wrong = f"is not a JSON object: {error}"
    if wrong:
        raise ArtifactError(f"{place / CONFIG} {wrong}", "restore it from a copy")
    return header


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which JSON does not have")


def _check_fields(place: Path, header: Mapping[str, Any]) -> None:
    types = {"format": int, "config": dict, "made_by": dict, "digests": dict}
    fits = all(type(header.get(name)) is one for name, one in types.items())
    if not fits or not {ARRAYS, CARD} <= header["digests"].keys():
        raise ArtifactError(
            f"{place / CONFIG} is not the header of an artefact",
            "restore it from a copy",
            needed=f"it needs format, config, made_by and digests of {ARRAYS} and {CARD}",
        )
    for name in header["digests"]:
        _check_name(name, str(place / CONFIG))


def _check_name(name: str, where: str) -> None:
    """Refuse a file that would lie outside the artefact's directory, or in its header's place."""
    if name in ("", ".", "..", CONFIG) or re.search(r"[/\\\x00]", name):
        raise ArtifactError(
            f"{where} names the file {name!r}",
            needed="a file of an artefact lies in its own directory, beside the header",
        )


def _read_checked(path: Path, stated: str) -> bytes:
    data = _read_file(path)
    if data is None:
        raise ArtifactError(f"{path} is missing", "restore it from a copy")
    if digest(data) != stated:
        raise ArtifactError(
            f"{path} was changed or damaged after it was written (its digest is not the one in "
            f"{CONFIG})",
            "restore it from a copy",
        )
    return data


def _places(target: Path) -> list[Path]:
    """Return the directories aside of a target, of living and of dead writers."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.aside")
    try:
        found = sorted(path for path in target.parent.iterdir() if ours.fullmatch(path.name))
    except OSError:
        return []
    return [path for path in found if path.is_dir() and not path.is_symlink()]


def _new_place(target: Path) -> tuple[Path, IO[str]]:
    """Make a directory aside; return it with the lock that says that its writer lives."""
    while True:
        place = target.with_name(f".{target.name}.{secrets.token_hex(8)}.aside")
        place.mkdir(mode=0o700)
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NOFOLLOW
            lock = os.fdopen(os.open(place / WRITER, flags, 0o600), "w")
        except FileNotFoundError:  # taken for a dead writer's before it was locked
            continue
        _lock(lock, wait=True)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), (place / WRITER).stat()):
                return place, lock
        lock.close()


def _lock(file: IO[str], *, wait: bool) -> bool:
    """Lock a file until it is closed; say whether that could be done."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # its writer lives, or this file system has no locks
        return False
    return True


def _remove(place: Path) -> None:
    """Remove a directory aside, last what says that it is one."""
    with suppress(OSError):
        for path in place.iterdir():
            if path.name == WRITER:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        (place / WRITER).unlink(missing_ok=True)
        place.rmdir()


def _put(new: Path, target: Path) -> None:
    """Put a directory into a target's place, in one step where the system can exchange two.

    Where it cannot, what stands there is taken away first; a reader finds it aside meanwhile.
    """
    for number in itertools.count():
        try:
            new.rename(target)  # where nothing is, or an empty directory
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
        else:
            return
        if _exchange(new, target):
            return
        with suppress(FileNotFoundError):
            target.rename(new.with_name(f"{OLD}{number}"))


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two directories in one step; say whether that could be done."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = (os.fsencode(one), os.fsencode(other))
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    failed = ctypes.get_errno()
    if failed in (*_NO_EXCHANGE, errno.ENOENT):
        return False
    raise OSError(failed, os.strerror(failed), str(other))


def _taken_away(target: Path) -> Path | None:
    """Return what stood at a target before a writer took it away, if nothing is there yet."""
    for place in _places(target):
        with suppress(OSError):
            names = {path.name for path in place.iterdir()}
            old = [name for name in names if re.fullmatch(rf"{re.escape(OLD)}\d+", name)]
            if old and f"{NEW}{target.name}" in names:
                return place / max(old, key=lambda name: int(name.removeprefix(OLD)))
    return None


def _put_back(place: Path, target: Path) -> None:
    old = _taken_away(target)
    if old is not None and old.parent == place and not target.exists():
        with suppress(OSError):
            old.rename(target)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
