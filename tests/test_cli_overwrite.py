"""A command replaces what is there only with `--overwrite`, and says so before it works."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from commands import answer, parameters
from worlds import save_shop

from onward.artifacts import Artifact, write_artifact
from onward.cli.options import check_room
from onward.errors import ArtifactError, ConfigurationError
from onward.experiments.experiment import run_experiment
from onward.experiments.recipe import load_recipe
from onward.experiments.study import check_place
from onward.gallery import create_gallery
from onward.spaces import Embeddings, Space
from onward.training.loop import has_checkpoint

OLD, NEW = Space("old@1", 4), Space("new@2", 4)
IDS = tuple(f"item-{row}" for row in range(60))


@pytest.fixture
def world(tmp_path):
    """Embeddings of three kinds, a transformation and a gallery with payloads."""
    save_shop(tmp_path, IDS, OLD, NEW, np.eye(4))
    old = Embeddings.load(tmp_path / "old.parquet")
    payloads = [{"digits": row} for row in range(60)]
    url = str(tmp_path / "photos.lance")
    create_gallery(url, OLD, serving=OLD, query_model="old", items=[old], payloads=payloads)
    return tmp_path


def writers(world: Path) -> dict[str, tuple[list[object], list[Path]]]:
    """For each command that writes and needs no training: its arguments, and what it writes."""
    old, upgraded, new = (world / f"{name}.parquet" for name in ("old", "upgraded", "new"))
    gallery = world / "photos.lance"
    page, lines, out = world / "out.html", world / "out.jsonl", world / "out.parquet"
    files = ["--old", old, "--upgraded", upgraded, "--new", new, "--exclude-self"]
    plan = [world / "h", "--sample", new]
    return {
        "fit": (["fit", old, new, world / "h", "--method", "procrustes"], [world / "h"]),
        "gallery export": (["gallery", "export", gallery, out], [out]),
        "gallery sample": (["gallery", "sample", gallery, lines], [lines]),
        "report": (["report", page, *files], [page]),
        "backfill plan": (
            ["backfill", "plan", gallery, *plan, "--report", page],
            [page],
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fit", "gallery export", "gallery sample", "report", "backfill plan"]
)
def test_what_is_there_is_replaced_only_where_that_is_said(world, name):
    arguments, written = writers(world)[name]
    if not written[0].exists():
        answer(*arguments)
    before = {path: path.read_bytes() for path in world.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match=r"is there already; it was left as it is. .*overwrite"):
        answer(*arguments)
    assert {path: path.read_bytes() for path in world.rglob("*") if path.is_file()} == before
    if written[0].is_file():
        written[0].write_text("older")
    answer(*arguments, "--overwrite")
    assert not written[0].is_file() or written[0].read_bytes() != b"older"


@pytest.mark.parametrize("name", ["gallery export", "gallery sample", "report", "backfill plan"])
def test_a_directory_is_never_replaced_by_a_file(world, name):
    arguments, (path,) = writers(world)[name]
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="is a directory; it was left as it is"):
        answer(*arguments, "--overwrite")
    assert (path / "thesis.txt").read_text() == "years of work"


def test_something_else_is_never_replaced_by_an_artefact(world):
    (world / "photos").mkdir()
    (world / "photos" / "1.png").write_text("a picture")
    files = world / "old.parquet", world / "new.parquet"
    for out in (world / "photos", world / "old.parquet"):
        with pytest.raises(ArtifactError, match="is there already and holds no transformation"):
            answer("fit", *files, out, "--method", "procrustes", "--overwrite")


@pytest.mark.parametrize("option", ["out", "--side-out", "--payloads-out"])
def test_embed_looks_at_every_place_before_it_loads_the_model(tmp_path, option):
    out, side, lines = (tmp_path / name for name in ("a.parquet", "b.parquet", "c.jsonl"))
    there = {"out": out, "--side-out": side, "--payloads-out": lines}[option]
    there.write_text("older")
    words = rf"{there.name} is there already; it was left as it is"
    with pytest.raises(ArtifactError, match=words):
        answer("embed", "no-model", "digits", out, "--side-out", side, "--payloads-out", lines)
    assert there.read_text() == "older"


def test_two_results_are_not_written_to_one_place(tmp_path):
    out = tmp_path / "a.parquet"
    with pytest.raises(
        ConfigurationError, match=r"two results would be written to .*a\.parquet; g"
    ):
        answer("embed", "no-model", "digits", out, "--side-out", tmp_path / "." / "a.parquet")
    check_room(out, None, None, tmp_path / "b.parquet", overwrite=False)


def test_what_is_read_is_not_replaced_by_what_is_made_of_it(world):
    words = r"{} is read, and would be replaced by what is made of it; give another place"
    with pytest.raises(ConfigurationError, match=words.format(r"old\.parquet")):
        answer(
            "embed", "no-model", world / "old.parquet", world / "." / "old.parquet", "--overwrite"
        )
    plan = [world / "h", "--sample", world / "new.parquet"]
    with pytest.raises(ConfigurationError, match=words.format(r"new\.parquet")):
        answer(
            *("backfill", "plan", world / "photos.lance", *plan),
            *("--report", world / "new.parquet", "--overwrite"),
        )
    assert Embeddings.load(world / "new.parquet").space == NEW


def test_a_link_that_leads_to_itself_is_a_place_like_any_other(tmp_path):
    (tmp_path / "loop.parquet").symlink_to(tmp_path / "loop.parquet")
    check_room(tmp_path / "made.parquet", None, overwrite=False, read=tmp_path / "loop.parquet")
    with pytest.raises(
        ConfigurationError, match=r"two results would be written to .*loop\.parquet"
    ):
        check_room(tmp_path / "loop.parquet", tmp_path / "loop.parquet", overwrite=False)


def test_train_refuses_before_it_reads_data_and_goes_on_with_what_it_began(world, tmp_path):
    model = tmp_path / "model"
    write_artifact(model, Artifact("embedding-model", {}, {}, {}, "", {}))
    with pytest.raises(ArtifactError, match="model is there already; it was left as it is"):
        answer("train", "no-data", model)
    for begun in (".model.checkpoint", ".model.checkpoint.0"):
        assert not has_checkpoint(tmp_path / ".model.checkpoint")
        (tmp_path / begun).touch()
        assert has_checkpoint(tmp_path / ".model.checkpoint")
        with pytest.raises(Exception, match="no-data"):
            answer("train", "no-data", model)
        (tmp_path / begun).unlink()


def test_a_study_of_another_recipe_stays_unless_it_is_to_be_replaced(tmp_path):
    recipe, other = load_recipe("digits"), load_recipe("digits", {"views": 1})
    described = {"recipe": recipe.model_dump(mode="json"), "data": {}}
    (tmp_path / "recipe.json").write_text(json.dumps(described))
    check_place(tmp_path, recipe, overwrite=False)
    with pytest.raises(ConfigurationError, match="holds another study, of other settings or image"):
        check_place(tmp_path, other, overwrite=False)
    check_place(tmp_path, other, overwrite=True)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ConfigurationError, match="holds another study"):
        check_place(tmp_path, recipe, overwrite=False)
    (tmp_path / "recipe.json").unlink()
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="holds no study; it was left as it is"):
        check_place(tmp_path, recipe, overwrite=True)


def test_every_command_with_a_place_to_write_has_the_option():
    """A parameter that names what is written: `out`, `..._out`, or a page of a report."""
    for name, given in parameters().items():
        names = {one.name for one in given} - {"leave_out"}
        if any(one == "out" or one.endswith("_out") or one == "report" for one in names):
            assert "overwrite" in names, name
    assert "overwrite" in inspect.signature(run_experiment).parameters
