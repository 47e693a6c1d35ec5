"""Artefacts: round trips, damage, and writing that is interrupted."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from onward.artifacts import (
    Artifact,
    canonical_json,
    digest,
    digest_arrays,
    read_artifact,
    read_header,
    write_artifact,
    write_aside,
)
from onward.errors import ArtifactError

ARTIFACT = Artifact(
    kind="transformation",
    config={"dim": 2, "names": ["Ä", "b"], "nested": {"share": 0.5, "none": None}},
    arrays={"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "rows": np.array([7, 8])},
    made_by={"seed": 3},
    card="# A card\n",
    files={"model.onnx": b"\x00\x01\x02"},
)


@pytest.fixture
def saved(tmp_path):
    write_artifact(tmp_path / "h", ARTIFACT)
    return tmp_path / "h"


def assert_same(found, expected):
    for name in ("kind", "config", "made_by", "card", "files"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def test_what_is_written_is_read(saved):
    assert_same(read_artifact(saved, "transformation"), ARTIFACT)
    names = {"config.json", "model.safetensors", "README.md", "model.onnx"}
    assert {path.name for path in saved.iterdir()} == names
    assert [path.name for path in saved.parent.iterdir()] == ["h"]


def test_arrays_in_any_layout_are_read_as_they_were_meant(tmp_path):
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_artifact(tmp_path / "h", replace(ARTIFACT, arrays={"weight": turned}))
    read = read_artifact(tmp_path / "h", "transformation").arrays["weight"]
    np.testing.assert_array_equal(read, turned)


def test_equal_artefacts_are_equal_bytes(tmp_path):
    turned = replace(ARTIFACT, arrays=dict(reversed(ARTIFACT.arrays.items())))
    write_artifact(tmp_path / "a", ARTIFACT)
    write_artifact(tmp_path / "b", turned)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_the_header_can_be_read_alone(saved):
    header = read_header(saved)
    assert (header["kind"], header["format"]) == ("transformation", 1)
    assert header["config"] == ARTIFACT.config
    assert set(header["digests"]) == {"model.safetensors", "README.md", "model.onnx"}


def test_missing_parents_are_made_and_an_empty_directory_is_filled(tmp_path):
    write_artifact(tmp_path / "new" / "h", ARTIFACT)
    (tmp_path / "empty").mkdir()
    write_artifact(tmp_path / "empty", ARTIFACT)
    for directory in (tmp_path / "new" / "h", tmp_path / "empty"):
        assert_same(read_artifact(directory, "transformation"), ARTIFACT)


def test_an_artefact_of_the_same_kind_is_replaced_as_a_whole(saved):
    later = replace(ARTIFACT, card="# Later\n", files={})
    write_artifact(saved, later)
    assert_same(read_artifact(saved, "transformation"), later)
    assert not (saved / "model.onnx").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["h"]


def test_what_is_no_such_artefact_is_never_replaced(saved, tmp_path):
    words = "is there already and holds no embedding-model; it was left as it is. Give another"
    with pytest.raises(ArtifactError, match=words):
        write_artifact(saved, replace(ARTIFACT, kind="embedding-model"))
    assert_same(read_artifact(saved, "transformation"), ARTIFACT)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"1")
    (tmp_path / "note").write_text("hello")
    for other in ("photos", "note"):
        with pytest.raises(ArtifactError, match=f"{other} is there already and holds no transf"):
            write_artifact(tmp_path / other, ARTIFACT)
    assert (tmp_path / "photos" / "one.jpg").read_bytes() == b"1"
    assert (tmp_path / "note").read_text() == "hello"


@pytest.mark.parametrize(
    "theirs", ["notes.txt", ".git/config", "second/config.json", ".h.replaced"]
)
def test_what_a_user_keeps_in_an_artefact_s_directory_is_not_lost_with_it(saved, theirs):
    (saved / theirs).parent.mkdir(exist_ok=True)
    (saved / theirs).write_text("years of work")
    first = theirs.split("/")[0]
    words = (
        rf"h/{first} is not a file of the transformation and would be lost when .* Move it away, or"
    )
    with pytest.raises(ArtifactError, match=words):
        write_artifact(saved, replace(ARTIFACT, card="# Later\n"))
    assert_same(read_artifact(saved, "transformation"), ARTIFACT)
    assert (saved / theirs).read_text() == "years of work"


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "._config.json"])
def test_what_systems_leave_in_an_artefact_s_directory_does_not_keep_it_there(saved, name):
    (saved / name).write_bytes(b"icons")
    write_artifact(saved, replace(ARTIFACT, card="# Later\n"))
    assert read_artifact(saved, "transformation").card == "# Later\n"


def test_a_link_stays_and_what_it_leads_to_is_replaced(saved, tmp_path):
    link = tmp_path / "current"
    link.symlink_to("h")
    for seed in (4, 5):
        newer = replace(ARTIFACT, made_by={"seed": seed})
        write_artifact(link, newer)
        assert_same(read_artifact(saved, "transformation"), newer)
        assert_same(read_artifact(link, "transformation"), newer)
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"h", "current"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "model.onnx"])
def test_a_flipped_bit_in_any_byte_of_any_file_is_refused(saved, name):
    path = saved / name
    whole = path.read_bytes()
    for position, byte in enumerate(whole):
        damaged = byte ^ (1 << position % 8)
        path.write_bytes(whole[:position] + bytes([damaged]) + whole[position + 1 :])
        with pytest.raises(ArtifactError):
            read_artifact(saved, "transformation")
    path.write_bytes(whole)
    assert_same(read_artifact(saved, "transformation"), ARTIFACT)


def test_a_damaged_file_is_named(saved):
    (saved / "model.onnx").write_bytes(b"\x00\x01")
    words = "model.onnx was changed or damaged after it was written (its digest is not the one in "
    with pytest.raises(
        ArtifactError, match=re.escape(words + "config.json); restore it from a copy")
    ):
        read_artifact(saved, "transformation")
    (saved / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing; restore it from a copy"):
        read_artifact(saved, "transformation")


def rewrite_header(directory, **changes):
    header = {**read_header(directory), **changes}
    del header["digest"]
    header["digest"] = digest(canonical_json(header))
    (directory / "config.json").write_bytes(canonical_json(header))


@pytest.mark.parametrize("field", ["format", "config", "made_by", "digests"])
def test_a_header_without_one_of_its_fields_is_refused(saved, field):
    header = {name: value for name, value in read_header(saved).items() if name != field}
    del header["digest"]
    header["digest"] = digest(canonical_json(header))
    (saved / "config.json").write_bytes(canonical_json(header))
    with pytest.raises(
        ArtifactError, match=r"config\.json is not the header of an artefact; it needs f"
    ):
        read_artifact(saved, "transformation")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param(".*", "{", "is not a JSON object: ", id="half"),
        pytest.param(".*", "[1, 2]", "is not a JSON object: ", id="list"),
        pytest.param(".*", "3", "is not a JSON object: ", id="number"),
        pytest.param(".*", "", "is not a JSON object: ", id="empty"),
        *(
            pytest.param('"share": 0.5', f'"share": {value}', "is not a JSON object: ", id=value)
            for value in ("NaN", "Infinity", "-Infinity", "1e999")
        ),
        pytest.param(
            '"dim": 2', '"dim": 3', "was changed after it was written; restore it", id="edited"
        ),
        pytest.param(
            ".*", "[" * 100_000 + "]" * 100_000, "is nested too deeply to be read", id="deep"
        ),
    ],
)
def test_a_header_that_is_none_or_was_edited_is_refused(saved, old, new, words):
    header = re.sub(old, new, (saved / "config.json").read_text(), count=1, flags=re.DOTALL)
    (saved / "config.json").write_text(header)
    for read in (lambda: read_header(saved), lambda: read_artifact(saved, "transformation")):
        with pytest.raises(ArtifactError, match=rf"config\.json {words}"):
            read()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("README.md", b"\xff\xfe", "is not text in UTF-8"),
        ("model.safetensors", b"nonsense", "cannot be read: "),
    ],
)
def test_a_file_that_was_written_wrongly_is_named(saved, name, data, words):
    (saved / name).write_bytes(data)
    rewrite_header(saved, digests={**read_header(saved)["digests"], name: digest(data)})
    with pytest.raises(ArtifactError, match=f"{name} {words}"):
        read_artifact(saved, "transformation")


def test_a_newer_format_asks_for_a_newer_onward(saved):
    rewrite_header(saved, format=3)
    with pytest.raises(
        ArtifactError, match="has format 3, this Onward reads up to 2; install a newer Onward"
    ):
        read_artifact(saved, "transformation")


@pytest.mark.parametrize("stored", ["BF16", "F8_E4M3", "F8_E5M2"])
def test_numbers_that_numpy_does_not_have_are_named(saved, stored):
    size = 2 if stored == "BF16" else 1
    entry = {"weight": {"dtype": stored, "shape": [2], "data_offsets": [0, 2 * size]}}
    data = json.dumps(entry).encode()
    data = len(data).to_bytes(8, "little") + data + bytes(2 * size)
    (saved / "model.safetensors").write_bytes(data)
    rewrite_header(
        saved, digests={**read_header(saved)["digests"], "model.safetensors": digest(data)}
    )
    words = f"model.safetensors holds numbers of type {stored}, which NumPy does not have; convert"
    with pytest.raises(ArtifactError, match=re.escape(words)):
        read_artifact(saved, "transformation")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_a_configuration_that_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(ArtifactError, match="this transformation has a configuration that JSON"):
        write_artifact(tmp_path / "h", replace(ARTIFACT, made_by={"value": value}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/b", "", "..", "a\\b", "config.json"])
def test_a_file_outside_the_directory_is_neither_read_nor_written(saved, name):
    words = "names the file .*; a file of an artefact lies in its own directory"
    with pytest.raises(ArtifactError, match=words):
        write_artifact(saved, replace(ARTIFACT, files={name: b"1"}))
    rewrite_header(saved, digests={**read_header(saved)["digests"], name: digest(b"1")})
    with pytest.raises(ArtifactError, match=words):
        read_artifact(saved, "transformation")


def test_a_link_that_leads_to_itself_is_named(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for write in (
        lambda: write_artifact(tmp_path / "loop", ARTIFACT),
        lambda: write_artifact(tmp_path / "loop" / "h", ARTIFACT),
        lambda: read_artifact(tmp_path / "loop", "transformation"),
        lambda: write_aside(tmp_path / "loop").__enter__(),
    ):
        with pytest.raises(ArtifactError, match=r"loop.* is a link that leads to itself"):
            write()


def test_what_is_not_a_file_is_never_replaced_by_one(tmp_path):
    (tmp_path / "photos.parquet").mkdir()
    os.mkfifo(tmp_path / "pipe.parquet")
    for name, what in (("photos", "a directory"), ("pipe", "not a file that can be replaced")):
        words = rf"{name}\.parquet is {what}; it was left as it is"
        with pytest.raises(ArtifactError, match=words), write_aside(tmp_path / f"{name}.parquet"):
            pass


def test_a_file_that_is_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "current.parquet").symlink_to("vectors.parquet")
    for data in (b"first", b"second"):
        with write_aside(tmp_path / "current.parquet") as aside:
            aside.write_bytes(data)
        assert (tmp_path / "vectors.parquet").read_bytes() == data
    assert (tmp_path / "current.parquet").is_symlink()


def test_what_is_missing_or_of_another_kind_is_named(saved, tmp_path):
    with pytest.raises(ArtifactError, match="nowhere does not exist; give a directory that Onward"):
        read_artifact(tmp_path / "nowhere", "transformation")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ArtifactError, match=r"bare has no config.json; give a directory that Onw"):
        read_artifact(tmp_path / "bare", "transformation")
    with pytest.raises(
        ArtifactError, match="h holds this kind: transformation; embedding-model is needed"
    ):
        read_artifact(saved, "embedding-model")


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path):
    target = tmp_path / "vectors.parquet"
    target.write_bytes(b"old")

    def write_half():
        with write_aside(target) as aside:
            aside.write_bytes(b"half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_half()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.parquet"]


def test_a_digest_tells_parts_names_types_shapes_and_values_apart():
    assert digest(b"ab", b"c") != digest(b"a", b"bc") != digest(b"abc")
    one = np.arange(4, dtype=np.float32)
    variants = [
        {"a": one},
        {"b": one},
        {"a": one.astype(np.float64)},
        {"a": one.reshape(2, 2)},
        {"a": one + 1},
        {"a": one, "b": one},
    ]
    assert len({digest_arrays(arrays) for arrays in variants}) == len(variants)
    assert digest_arrays({"a": one, "b": one + 1}) == digest_arrays({"b": one + 1, "a": one})
    two = np.arange(4.0).reshape(2, 2)
    assert digest_arrays({"a": two.T}) == digest_arrays({"a": np.ascontiguousarray(two.T)})


def test_equal_values_are_equal_json():
    assert canonical_json({"b": 1, "a": [1, 2]}) == canonical_json({"a": [1, 2], "b": 1})
