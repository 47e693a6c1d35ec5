"""`onward backfill` on the digits and on image files: what it writes, says, and ends with."""

import json
from dataclasses import replace

import numpy as np
import pytest
from commands import run
from encoders import save_projection
from PIL import Image
from typer.testing import CliRunner
from upgrades import run_upgrade

from onward.cli.app import app
from onward.data import open_items
from onward.data.payloads import with_digest
from onward.errors import ConfigurationError
from onward.gallery import create_gallery, open_gallery
from onward.spaces import Embeddings, Space
from onward.training.fit.fit import fit as fit_and_choose
from onward.training.settings import FitSettings
from onward.transformation import Transformation, linear
from onward.upgrading import Upgrade

GALLERY = range(0, 300)
TRAINING = range(900, 1200)


def fit(*given, **more):
    """Return the transformation alone."""
    return fit_and_choose(*given, **more).transformation


def make_model(path, name, dim, seed):
    """A random projection of the pixels, as an ONNX file."""
    return save_projection(path, name, np.random.default_rng(seed).normal(size=(64, dim)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An old and a new model, a transformation between them, and digits by both."""
    path = tmp_path_factory.mktemp("backfill")
    old, new = make_model(path, "old", 6, 0), make_model(path, "new", 24, 1)
    items = open_items("digits")
    settings = FitSettings(method="ridge", uncertainty=True)
    train = items.select(TRAINING)
    fit(old.embed(train), None, new.embed(train), settings=settings).save(path / "h")
    shown = items.select(GALLERY)
    old.embed(shown).save(path / "old.parquet")
    new.embed(shown).save(path / "new.parquet")
    return path


def start(place, url, payloads):
    old = Embeddings.load(place / "old.parquet").select(range(len(payloads)))
    gallery = create_gallery(str(url), old.space, items=[old], payloads=payloads)
    run_upgrade(gallery, Transformation.load(place / "h"))
    return gallery


@pytest.fixture
def gallery(place, tmp_path):
    payloads = open_items("digits").select(GALLERY).payloads
    start(place, tmp_path / "digits.lance", payloads)
    return str(tmp_path / "digits.lance")


def embedded(url, place):
    new = Embeddings.load(place / "new.parquet").space
    return open_gallery(url).view().counts[new].embedded


@pytest.mark.slow
def test_digits_are_backfilled_within_the_budget_and_then_to_the_end(place, gallery):
    given = ["backfill", gallery, "--model", place / "new"]
    first = json.loads(run(*given, "--budget", "10%", "--json").stdout)
    assert (first["done"], first["skipped"], first["upgraded"]) == (30, 0, 270)
    assert [step["command"] for step in first["next_steps"]] == [
        "onward backfill",
        "onward upgrade verify",
    ]
    by_money = json.loads(run(*given, "--budget", "$0.5", "--price", 0.01, "--json").stdout)
    assert (by_money["done"], by_money["budget"]) == (50, "$0.5 at $0.01 an item")
    shown = run(*given, "--budget", "1000", "--order", "random").stdout
    assert shown.startswith("220 rows embedded in ")
    stored = open_gallery(gallery).read(Embeddings.load(place / "new.parquet").space)
    true = Embeddings.load(place / "new.parquet").align(stored.ids)
    np.testing.assert_allclose(stored.vectors, true.vectors, atol=1e-4)
    events = [one for one in open_gallery(gallery).journal() if one["event"] == "backfill"]
    assert [one["done"] for one in events] == [30, 50, 220]


def test_what_h_is_least_sure_of_comes_first(place, gallery):
    run("backfill", gallery, "--model", place / "new", "--budget", 20)
    new = Embeddings.load(place / "new.parquet").space
    unsure = Transformation.load(place / "h").uncertainties(Embeddings.load(place / "old.parquet"))
    ids = Embeddings.load(place / "old.parquet").ids
    first = {ids[row] for row in np.argsort(-unsure)[:20]}
    (batch,) = open_gallery(gallery).scan([new])
    origins = zip(batch.ids, batch.origins[new], strict=True)
    assert {item for item, origin in origins if origin == "embedded"} == first


@pytest.mark.slow
def test_embeddings_that_are_there_already_are_written_without_a_model(place, gallery):
    some = Embeddings.load(place / "new.parquet").select(range(40))
    some.save(place / "some.parquet")
    result = run("backfill", gallery, "--embeddings", place / "some.parquet", "--json")
    assert json.loads(result.stdout)["done"] == 40
    assert "40 of the 40 embeddings in " in result.stderr
    again = run("backfill", gallery, "--embeddings", place / "some.parquet")
    assert again.stdout.startswith("0 rows embedded")
    assert embedded(gallery, place) == 40


def test_embeddings_that_wait_for_a_paused_upgrade_say_so(place, gallery, monkeypatch):
    opened, new = open_gallery(gallery), Embeddings.load(place / "new.parquet")
    Upgrade(opened, Transformation.load(place / "h")).pause()
    monkeypatch.setattr("onward.upgrading.run.Pace.next_rows", lambda *_: None)  # told to end
    words = ["backfill", gallery, "--embeddings", str(place / "new.parquet")]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 1
    assert "the upgrade is paused: this waits until it is resumed" in told.stderr
    assert opened.view().counts[new.space].embedded == 0


def test_embeddings_of_items_that_are_not_there_are_told(place, gallery):
    new = Embeddings.load(place / "new.parquet").select(range(2))
    strangers = Embeddings((new.ids[0], "a stranger"), new.vectors, new.space)
    strangers.save(place / "strangers.parquet")
    given = ["backfill", gallery, "--embeddings", place / "strangers.parquet"]
    told = run(*given, "--json", code=1)
    assert "1 of the 2 embeddings in " in told.stderr
    words = f"1 of their items are not in {gallery} (a stranger): add these (onward gallery add)"
    assert words in told.stderr
    answer = json.loads(told.stdout)
    assert answer["done"] == 1
    assert answer["not_in_gallery"] == {"items": 1, "examples": ["a stranger"]}
    assert answer["not_in_file"] == {"items": 0, "examples": []}


@pytest.mark.slow
def test_items_that_the_budget_asks_for_and_the_embeddings_lack_are_named(place, gallery):
    new = Embeddings.load(place / "new.parquet")
    new.select(range(40)).save(place / "some.parquet")
    given = ["backfill", gallery, "--embeddings", place / "some.parquet", "--json", "--budget"]
    assert json.loads(run(*given, "10%").stdout)["done"] == 30
    told = run(*given, "5%", code=1)
    answer = json.loads(told.stdout)
    assert (answer["done"], answer["skipped"]) == (10, 0)
    first = list(new.ids[40:45])
    assert answer["not_in_file"] == {"items": 5, "examples": first}
    words = f"5 of the 15 items that the budget asks for are not in {place / 'some.parquet'}; it "
    assert f"{words}lacks ({', '.join(first)}): embed such items too (--model)" in told.stderr
    told = run(*given, "100%", code=1)
    assert json.loads(told.stdout)["not_in_file"] == {"items": 260, "examples": first}
    assert f"it lacks ({', '.join(first)}, ...): embed" in told.stderr
    assert run(*given[:-1]).exit_code == 0  # without a budget no more than was given is asked for


@pytest.mark.slow
def test_missing_and_changed_images_are_told_skipped_and_end_with_1(place, tmp_path):
    payloads = []
    for number in range(30):
        file = tmp_path / f"{number}.png"
        open_items("digits").open(number).save(file)
        payloads.append(with_digest({"path": str(file)}))
    gallery = start(place, tmp_path / "files.lance", payloads)
    ids = gallery.ids()
    (tmp_path / "3.png").unlink()
    Image.new("L", (8, 8), 9).save(tmp_path / "4.png")
    (tmp_path / "5.png").write_bytes(b"no image")
    url, given = str(tmp_path / "files.lance"), ("--model", place / "new", "--budget", "100%")
    result = run("backfill", url, *given, "--json", code=1)
    answer = json.loads(result.stdout)
    assert (answer["done"], answer["skipped"], answer["upgraded"]) == (27, 3, 3)
    reasons = answer["reasons"]
    assert f"read images where the payloads of {url} say that they are" in result.stderr
    assert set(reasons) == set(ids[3:6])
    assert "3.png cannot be read: No such file or directory" in reasons[ids[3]]
    assert "4.png has changed since its payload was written" in reasons[ids[4]]
    assert "5.png has changed since" in reasons[ids[5]]
    assert answer["next_steps"][0]["command"] == "onward backfill"
    open_items("digits").open(3).save(tmp_path / "3.png")
    few = run("backfill", url, *given, "--max-pixels", 63, "--json", code=1)
    assert "3.png cannot be read as an image: it has more than 63" in few.stdout
    shown = run("backfill", url, *given, code=1).stdout
    assert "1 rows embedded" in shown
    assert f"    {ids[4]}: {tmp_path}/4.png has changed" in shown


@pytest.mark.slow
def test_a_plan_draws_the_curves_and_writes_nothing_but_its_page(place, gallery, tmp_path):
    before = open_gallery(gallery).state(), len(open_gallery(gallery).journal())
    given = ["backfill", "plan", gallery, place / "h"]
    result = run(*given, "--sample", place / "new.parquet", "--report", tmp_path / "page.html")
    assert (open_gallery(gallery).state(), len(open_gallery(gallery).journal())) == before
    assert "judged   by labels on 300 items" in result.stdout
    assert "map, percent" in result.stdout
    assert "random  uncertainty  oracle" in result.stdout
    assert "A plan writes nothing." in result.stdout
    assert f"written: {tmp_path}/page.html" in result.stderr
    page = (tmp_path / "page.html").read_text()
    assert "What a backfill would bring" in page
    plan = json.loads(run(*given, "--model", place / "new", "--sample-rows", 100, "--json").stdout)
    assert plan["items"] == 100
    assert (open_gallery(gallery).state(), len(open_gallery(gallery).journal())) == before


@pytest.mark.slow
def test_a_plan_that_embeds_a_sample_itself_looks_at_what_cannot_be_carried_too(place, tmp_path):
    old, new = (Embeddings.load(place / f"{name}.parquet") for name in ("old", "new"))
    side = Space("side@1", 2)
    url = f"memory:{tmp_path}"
    gallery = create_gallery(url, old.space, side)
    payloads = open_items("digits").select(GALLERY).payloads
    aside = Embeddings(old.ids[:200], np.ones((200, 2), np.float32), side)
    gallery.add(old.select(range(200)), aside, payloads=payloads[:200])
    gallery.add(old.select(range(200, 300)), payloads=payloads[200:])
    weight = np.random.default_rng(0).normal(size=(24, 8))
    linear(old.space, side, new.space, weight, np.zeros(24, np.float32), made_by={}).save(
        tmp_path / "h"
    )
    given = ["backfill", "plan", url, tmp_path / "h", "--json"]
    by_model = run(*given, "--model", place / "new", "--sample-rows", 300).stdout
    by_sample = run(*given, "--sample", place / "new.parquet").stdout
    for plan in (json.loads(by_model), json.loads(by_sample)):
        assert (plan["items"], plan["lost"]) == (300, 100)
    assert json.loads(by_model)["curves"]["random"]["map"][0] == pytest.approx(
        json.loads(by_sample)["curves"]["random"]["map"][0], abs=1e-4
    )


@pytest.mark.slow
def test_without_labels_a_plan_judges_by_agreement(place, tmp_path):
    old = replace(Embeddings.load(place / "old.parquet"), labels=None)
    new = replace(Embeddings.load(place / "new.parquet"), labels=None)
    new.save(tmp_path / "bare.parquet")
    url = str(tmp_path / "bare.lance")
    create_gallery(url, old.space, items=[old])
    given = ["backfill", "plan", url, place / "h", "--json"]
    plan = json.loads(run(*given, "--sample", tmp_path / "bare.parquet").stdout)
    assert list(plan["gains"]) == ["agreement"]
    assert plan["rows"] == {"upgraded": 0, "embedded": 0, "missing": 300}
    for curve in plan["curves"].values():
        assert curve["agreement"][-1] == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "neither --model nor --embeddings was given; give one"),
        (["--model", "m", "--embeddings", "e"], "both --model and --embeddings were given"),
        (["--model", "m"], r"how much to embed was not said; add --budget: 5000 \(rows\), 10%"),
        (["--model", "m", "--budget", "all"], "'all' is not a budget; write rows"),
        (["--model", "m", "--budget", "$5"], "needs the price of one item"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(ConfigurationError, match=words):
        run("backfill", "memory:nowhere", *options)
    with pytest.raises(ConfigurationError, match=words):
        run("backfill", "run", "memory:nowhere", *options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "neither --sample nor --model was given; give"),
        (["--sample", "s", "--model", "m"], "both --sample and --model were given; give"),
    ],
)
def test_a_plan_needs_a_sample_or_a_model_that_makes_one(options, words):
    with pytest.raises(ConfigurationError, match=words):
        run("backfill", "plan", "memory:nowhere", "h", *options)


@pytest.mark.slow
def test_embed_writes_where_the_images_are_so_that_a_changed_one_is_noticed(place, tmp_path):
    for number in range(25):
        (tmp_path / "images" / str(number % 5)).mkdir(parents=True, exist_ok=True)
        file = tmp_path / "images" / str(number % 5) / f"{number}.png"
        open_items("digits").open(number).save(file)
    out, lines = tmp_path / "old.parquet", tmp_path / "where.jsonl"
    embed = ["embed", place / "old", tmp_path / "images", out]
    written = json.loads(run(*embed, "--payloads-out", lines, "--json").stdout)["written"]
    assert written == [str(out), str(lines)]
    gallery = str(tmp_path / "photos.lance")
    run("gallery", "create", gallery, out, "--payloads", lines)
    run("upgrade", "start", gallery, place / "h", "--unjudged")
    Image.new("L", (8, 8), 9).save(tmp_path / "images" / "3" / "3.png")
    given = ("--model", place / "new", "--budget", "100%", "--json")
    answer = json.loads(run("backfill", gallery, *given, code=1).stdout)
    assert (answer["done"], list(answer["reasons"])) == (24, ["3/3.png"])
    assert "has changed since its payload was written: its SHA-256" in answer["reasons"]["3/3.png"]
    with pytest.raises(ConfigurationError, match=r"JSON lines are written; .* must end in"):
        run(*embed, "--payloads-out", tmp_path / "where.json", "--overwrite")
