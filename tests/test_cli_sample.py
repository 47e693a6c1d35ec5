"""A gallery sample by commands: choose, embed, fit, plan, start; and what each refuses."""

import json

import numpy as np
import pytest
from commands import answer, run
from encoders import save_projection
from typer.testing import CliRunner
from worlds import unsure_by

from onward import open_items
from onward.cli.app import app
from onward.cli.gallery import parse_count
from onward.errors import (
    ConfigurationError,
    DataError,
    GalleryError,
    SpaceMismatchError,
    TransformationError,
    UpgradeError,
)
from onward.gallery import create_gallery, open_gallery
from onward.spaces import Embeddings, Space
from onward.training.fit.pairs import (
    KEPT,
    choose_from_gallery,
    learned_part,
    pairs_of_gallery,
)
from onward.transformation import Transformation, linear
from onward.upgrading.evidence import LEAST_ITEMS

OLD, SIDE = Space("old@1", 6), Space("side@1", 24)
IDS = tuple(f"digits/{row:04}" for row in range(1000))


def told(*words):
    return run(*words).stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A model, training pairs of 500 digits, and vectors of 500 more; old ones see 6 pixels."""
    path = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    digits = open_items("digits").select(np.arange(1000))
    pixels = np.stack([np.asarray(digits.open(row), np.float32).ravel() for row in range(1000)])
    pixels = pixels / 127.5 - 1
    model = save_projection(path, "new", rng.normal(size=(64, 24)) / 8)
    columns = rng.permutation(64)
    old = Embeddings(IDS, pixels[:, columns[:6]], OLD, digits.labels)
    side = Embeddings(IDS, pixels[:, columns[6:30]], SIDE)
    new = model.embed(digits)
    train, kept = np.arange(500), np.arange(500, 1000)
    for name, vectors in {"old": old, "side": side, "new": new}.items():
        vectors.select(train).save(path / f"{name}-train.parquet")
    return path, old.select(kept), side.select(kept), new.select(kept), digits


@pytest.fixture
def gallery(shop, tmp_path):
    _, old, side, _, digits = shop
    payloads = [dict(payload) for payload in digits.payloads[500:]]
    url = str(tmp_path / "shop.lance")
    create_gallery(url, OLD, SIDE, items=[old, side], payloads=payloads)
    return url


@pytest.mark.slow
def test_a_sample_goes_from_choosing_to_the_first_slice_of_a_backfill(shop, gallery, tmp_path):
    path, *_ = shop
    lines, embedded, h = tmp_path / "sample.jsonl", tmp_path / "again.parquet", tmp_path / "h"
    said = json.loads(answer("gallery", "sample", gallery, lines, "--count", "40%", "--json"))
    (step,) = said.pop("next_steps")
    assert step["command"].startswith(f"onward embed MODEL {lines} ")
    assert said == {"items": 200, "without_payload": 0, "written": [str(lines)]}
    answer("embed", path / "new", lines, embedded)
    sample = Embeddings.load(embedded)
    assert (len(sample), sample.labels) == (200, None)
    train = [path / "old-train.parquet", path / "new-train.parquet", h]
    fit = ("fit", *train, "--side", path / "side-train.parquet", "--method", "ridge", "--json")
    made = json.loads(answer(*fit, "--gallery", gallery, "--sample", embedded))["made_by"]
    learned = set(made["sample"]["ids"])
    assert learned == set(learned_part(sample.ids, 0.8))
    assert 140 < len(learned) < 180
    assert len(made["pairs"]["ids"]) == 500
    assert not any(item in (h / "README.md").read_text() for item in learned)

    plan = ("upgrade", "plan", gallery, h, "--sample", embedded)
    planned = json.loads(answer(*plan, "--json"))
    assert planned["allowed"]
    whole = planned["prediction"]["whole"]
    assert (whole["items"], whole["queries"]) == (500, 200 - len(learned))
    assert planned["recommendation"].startswith("Upgrade")
    refused = answer(*plan, "--require", "map > 1.5 * new/new", code=1)
    assert "gate CLOSED: map " in refused
    assert "map > 1.5 * new/new is required" in refused
    assert "gate CLOSED" in answer("upgrade", gallery, h, *plan[4:], "--require", "map>1", code=1)
    start = ("upgrade", "start", gallery, h, "--sample", embedded, "--json")
    with pytest.raises(UpgradeError, match="nothing was written: the gate is CLOSED"):
        answer(*start, "--require", "map > 1.5 * new/new")
    assert len(open_gallery(gallery).spaces()) == 2
    done = json.loads(answer(*start, "--require", "map > 1.5 * new/new", "--force"))
    assert (done["done"], done["remaining"]) == (300, 0)
    gate = done["gate"]
    assert (gate["answer"], gate["forced"]) == ("closed", True)
    assert "gate         CLOSED, but forced: map" in answer("upgrade", "status", gallery, h)
    events = {entry["event"]: entry for entry in open_gallery(gallery).journal()}
    assert (events["gate"]["forced"], events["sample"]["written"]) == (True, 200)
    stored = open_gallery(gallery).read(sample.space, sample.ids)
    np.testing.assert_array_equal(stored.vectors, sample.vectors)
    answer("upgrade", "all", gallery, h, "--sample", embedded, "--yes")
    assert open_gallery(gallery).view().serving == sample.space


# Choosing


@pytest.mark.parametrize(
    ("text", "expected"), [("3%", 15), ("100%", 500), ("0.01%", 1), ("7", 7), (" 12.5 %", 62)]
)
def test_a_count_is_a_number_or_a_share(text, expected):
    assert parse_count(text, 500) == expected


@pytest.mark.parametrize("text", ["", "0", "1.5", "101%", "0%", "-3", "many", "nan", "inf"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(ConfigurationError, match="is not a number of items; give a whole number"):
        parse_count(text, 500)


@pytest.mark.parametrize("count", [1, 90, 500])
def test_as_many_items_as_asked_for_are_chosen_once_each(gallery, count):
    opened = open_gallery(gallery)
    chosen = choose_from_gallery(opened, OLD, count=count)
    assert len(set(chosen)) == len(chosen) == count
    assert chosen == choose_from_gallery(opened, OLD, count=count)


def test_items_are_chosen_among_those_that_have_what_is_read(shop, gallery):
    _, old, _, new, _ = shop
    opened = open_gallery(gallery)
    opened.add(Embeddings(("bare",), np.full((1, 6), 1e6, np.float32), OLD))
    drawn = choose_from_gallery(opened, OLD, SIDE, count=500)
    assert set(drawn) == set(old.ids)
    h = linear(OLD, SIDE, new.space, np.eye(24, 30), np.zeros(24), made_by={})
    h = unsure_by(h, np.eye(24)[0])
    unsure = choose_from_gallery(opened, OLD, count=10, by="uncertainty", transformation=h)
    values = dict(zip(old.ids, old.vectors[:, 0].tolist(), strict=True))
    assert [values[item] for item in unsure] == sorted(values.values(), reverse=True)[:10]


def test_a_larger_random_sample_holds_a_smaller_one(gallery):
    opened = open_gallery(gallery)
    small, large = (choose_from_gallery(opened, OLD, count=count) for count in (20, 60))
    assert set(small) < set(large)
    assert set(small) != set(choose_from_gallery(opened, OLD, count=20, seed=1))


def test_what_cannot_be_chosen_is_said(shop, gallery, tmp_path):
    opened = open_gallery(gallery)
    with pytest.raises(ConfigurationError, match=r"sample of 501 items was asked for, and 500 of"):
        choose_from_gallery(opened, OLD, count=501)
    with pytest.raises(ConfigurationError, match=r"needs a transformation .* uncertainty=True"):
        choose_from_gallery(opened, OLD, count=5, by="uncertainty")
    h = linear(OLD, None, Space("new@2", 24), np.eye(24, 6), np.zeros(24), made_by={})
    with pytest.raises(TransformationError, match="fitted without uncertainties"):
        choose_from_gallery(opened, OLD, count=5, by="uncertainty", transformation=h)
    with pytest.raises(ConfigurationError, match=r"sample\.txt must end in \.jsonl"):
        answer("gallery", "sample", gallery, tmp_path / "sample.txt")
    with pytest.raises(GalleryError, match="has no space 'sight'; it has old@1, side@1"):
        answer("gallery", "sample", gallery, tmp_path / "sample.jsonl", "--space", "sight")


def test_items_without_a_payload_are_told(shop, tmp_path):
    _, old, *_ = shop
    url = str(tmp_path / "bare.lance")
    create_gallery(url, OLD, items=[old])
    command = ("gallery", "sample", url, tmp_path / "s.jsonl", "--count", 5)
    result = CliRunner().invoke(app, [str(each) for each in command])
    assert (
        "5 of 5 items have no payload, so nothing says where their images or texts are"
        in result.output
    )
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 5


# Embedding


def test_lines_that_point_to_no_image_are_refused_or_left_out(shop, tmp_path):
    path, *_ = shop
    lines = tmp_path / "s.jsonl"
    lines.write_text('{"id": "a", "digits": 3}\n{"id": "b"}\n{"id": "c", "path": "/gone.png"}\n')
    command = ("embed", path / "new", lines, tmp_path / "out.parquet", "--overwrite")
    with pytest.raises(DataError, match="does not say where an image or a text is"):
        answer(*command)
    answer(*command, "--skip-bad")
    assert Embeddings.load(tmp_path / "out.parquet").ids == ("a",)
    with pytest.raises(DataError, match=r"no item of .*s\.jsonl has a class; do not choose by"):
        answer(*command, "--classes", "0-4", "--skip-bad")
    with pytest.raises(DataError, match=r"none of the items of .* has a label, and a split takes"):
        answer(*command, "--split", "test", "--skip-bad")
    lines.write_text("\n")
    with pytest.raises(DataError, match=r"s\.jsonl has no item"):
        answer(*command)
    lines.unlink()
    with pytest.raises(DataError, match=r"there is no .*s\.jsonl; give .* lines of JSON \(\.jsonl"):
        answer(*command)


# Fitting


def test_a_part_is_chosen_by_the_id_alone():
    part = learned_part(IDS, 0.8)
    assert 770 < len(part) < 830
    assert learned_part(IDS[::-1][:500], 0.8) == tuple(i for i in IDS[::-1][:500] if i in part)
    assert learned_part(IDS, 1.0) == IDS
    assert set(learned_part(IDS, 0.5)) < set(part)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_to_learn_from_that_is_none_is_refused(share):
    with pytest.raises(ConfigurationError, match="cannot be learned from; give a fraction above 0"):
        learned_part(IDS, share)


def test_of_a_small_sample_as_many_are_kept_as_a_plan_needs():
    assert KEPT == LEAST_ITEMS
    assert learned_part(IDS, 0.8, kept=KEPT) == learned_part(IDS, 0.8)
    for items, learned in [(21, 1), (60, 40), (20, 0), (3, 0)]:
        part = learned_part(IDS[:items], 0.8, kept=KEPT)
        assert len(part) == learned
        assert set(part) <= set(learned_part(IDS[:items], 0.8))
        assert part == tuple(item for item in IDS[:items] if item in part)


@pytest.mark.slow
def test_fit_keeps_of_a_small_sample_what_the_gate_needs_unless_it_is_told_a_share(
    shop, gallery, tmp_path
):
    path, _, _, new, _ = shop
    new.select(np.arange(45)).save(tmp_path / "new.parquet")
    fit = ("fit", gallery, tmp_path / "new.parquet", tmp_path / "h", "--method", "ridge")
    fit = (*fit, "--overwrite")
    assert "learns from 25 of the sample's 45 items; 20 are kept" in told(*fit)
    pairs = ("fit", path / "old-train.parquet", path / "new-train.parquet", tmp_path / "h2")
    beside = (*pairs, "--overwrite", "--method", "ridge", "--gallery", gallery, "--sample")
    plan = ("upgrade", "plan", gallery, tmp_path / "h", "--sample", tmp_path / "new.parquet")
    shown = CliRunner().invoke(app, [str(each) for each in (*plan, "--json")])
    assert json.loads(shown.stdout)["prediction"]["whole"]["queries"] == 20
    words = told(*fit, "--sample-share", 0.8)
    assert (
        "WARNING: 20 are needed to judge by. With fewer the gate can hardly tell whether" in words
    )
    new.select(np.arange(39)).save(tmp_path / "new.parquet")
    words = r"39 items, and of these 19 are left to learn from; it needs 20"
    with pytest.raises(ConfigurationError, match=words):
        answer(*fit)
    assert "learns from 19 of the sample's 39" in told(*beside, tmp_path / "new.parquet")
    new.select(np.arange(20)).save(tmp_path / "new.parquet")
    with pytest.raises(
        ConfigurationError, match=r"20 items, and of these 0 are left to learn from; it needs 1; em"
    ):
        answer(*beside, tmp_path / "new.parquet")
    assert "learns from 20 of the sample's 20 items; 0 are kept" in told(*fit, "--sample-share", 1)


@pytest.mark.slow
def test_an_upgrade_that_nothing_judges_starts_only_where_that_is_said(shop, gallery, tmp_path):
    _, _, _, new, _ = shop
    h = linear(OLD, SIDE, new.space, np.eye(24, 30), np.zeros(24), made_by={})
    h.save(tmp_path / "h")
    words = (gallery, tmp_path / "h")
    assert json.loads(answer("upgrade", "plan", *words, "--json"))["gate"] is None
    assert "To do it unjudged: --yes --unjudged" in told("upgrade", "all", *words)
    for verb in (("start",), ("all", "--yes")):
        with pytest.raises(
            UpgradeError, match=r"nothing says whether .*onward gallery sample .*--unjudged"
        ):
            answer("upgrade", *verb, *words)
    assert len(open_gallery(gallery).spaces()) == 2
    new.save(tmp_path / "new.parquet")
    with pytest.raises(ConfigurationError, match="--unjudged starts an upgrade that nothing jud"):
        answer("upgrade", "start", *words, "--unjudged", "--sample", tmp_path / "new.parquet")
    start = ["upgrade", "start", *map(str, words), "--json"]
    for said in (["--unjudged"], []):  # what was started goes on
        result = CliRunner().invoke(app, [*start, *said], catch_exceptions=False)
        assert "WARNING: the gate has NOT JUDGED this upgrade, which goes on; it may make" in (
            result.stderr
        )
        gate = json.loads(result.stdout)["gate"]
        assert (gate["answer"], gate["forced"]) == (None, False)
    assert "To do it: add --yes" in told("upgrade", "all", *words)
    assert "the space" not in answer("upgrade", "plan", *words).partition("A plan writes noth")[0]
    shown = answer("upgrade", "status", *words)
    assert "  gate         NOT JUDGED: neither a sample nor real queries were given" in shown
    (entry,) = [one for one in open_gallery(gallery).journal() if one["event"] == "gate"]
    assert entry["answer"] is None


# Real queries


@pytest.mark.slow
def test_real_queries_with_judgements_judge_by_commands(shop, gallery, tmp_path):
    _, old, side, new, _ = shop
    weight = np.linalg.lstsq(np.hstack([old.vectors, side.vectors]), new.vectors, rcond=None)[0]
    h = linear(OLD, SIDE, new.space, weight.T.astype(np.float32), np.zeros(24), made_by={})
    h.save(tmp_path / "h")
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(100, 6)).astype(np.float32)
    ids = tuple(f"q{row}" for row in range(100))
    Embeddings(ids, old.vectors[:100] + noise, OLD).save(tmp_path / "old.parquet")
    Embeddings(ids, new.vectors[:100], new.space).save(tmp_path / "new.parquet")
    lines = [f"q{row} 0 {old.ids[row]} 2" for row in range(100)]
    (tmp_path / "qrels.txt").write_text("\n".join(lines))
    by_new = ("--queries-new", tmp_path / "new.parquet")
    asked = ("--queries-old", tmp_path / "old.parquet", *by_new)
    words = (gallery, tmp_path / "h")
    said = json.loads(
        answer("upgrade", "plan", *words, *asked, "--qrels", tmp_path / "qrels.txt", "--json")
    )
    assert (said["gate"]["answer"], said["gate"]["metric"]) == ("open", "ndcg@10")
    assert said["prediction"]["whole"]["asked"] == "real queries"
    answer("upgrade", "all", *words, *asked, "--qrels", tmp_path / "qrels.txt", "--yes")
    assert open_gallery(gallery).view().serving == new.space
    verify = ("upgrade", "verify", *words, *asked, "--qrels", tmp_path / "qrels.txt")
    found = json.loads(answer(*verify, "--require", "map >= 1.01 * old/old", "--json"))
    assert (found["passed"], found["canaries"]["met"]) == (True, True)


def test_half_of_what_real_queries_need_is_refused(shop, gallery, tmp_path):
    _, old, _, new, _ = shop
    linear(OLD, SIDE, new.space, np.eye(24, 30), np.zeros(24), made_by={}).save(tmp_path / "h")
    old.select(np.arange(9)).save(tmp_path / "old.parquet")
    (tmp_path / "qrels.txt").write_text("q 0 d 1\n")
    plan = ("upgrade", "plan", gallery, tmp_path / "h")
    with pytest.raises(ConfigurationError, match="give the queries by both models, --queries-old"):
        answer(*plan, "--queries-old", tmp_path / "old.parquet")
    with pytest.raises(ConfigurationError, match="--qrels is about real queries, and there are no"):
        answer(*plan, "--qrels", tmp_path / "qrels.txt")
    with pytest.raises(ConfigurationError, match="--same-labels is about real queries, and there"):
        answer(*plan, "--same-labels")
    paired = ("--queries-paired", tmp_path / "old.parquet")
    with pytest.raises(ConfigurationError, match="--queries-paired is about real queries, and th"):
        answer(*plan, *paired)
    both = ("--queries-old", tmp_path / "old.parquet", "--queries-new", tmp_path / "new.parquet")
    new.select(np.arange(9)).save(tmp_path / "new.parquet")
    with pytest.raises(SpaceMismatchError, match=r"alone answers now; leave .*--queries-paired"):
        answer(*plan, *both, *paired)
    result = CliRunner().invoke(app, [*map(str, plan), "--margin", "-1"])
    assert result.exit_code == 2


def test_pairs_leave_out_what_the_gallery_does_not_have(shop, gallery):
    _, old, side, new, _ = shop
    opened = open_gallery(gallery)
    opened.delete(old.ids[:3])
    opened.add(Embeddings(old.ids[:1], old.vectors[:1], OLD))
    pairs = pairs_of_gallery(opened, OLD, SIDE, new)
    assert pairs.old.ids == new.ids[3:]
    np.testing.assert_array_equal(pairs.side.vectors, side.vectors[3:])
    assert pairs_of_gallery(opened, OLD, None, new).old.ids == (new.ids[0], *new.ids[3:])
    stranger = Embeddings(("none",), new.vectors[:1], new.space)
    with pytest.raises(DataError, match=r"none of the sample's 1 items is in gallery .* with a"):
        pairs_of_gallery(opened, OLD, SIDE, stranger)


@pytest.mark.slow
def test_fit_learns_from_a_gallery_alone_and_keeps_a_part_for_the_plan(shop, gallery, tmp_path):
    _, _, _, new, _ = shop
    new.select(np.arange(300)).save(tmp_path / "new.parquet")
    fit = ("fit", gallery, tmp_path / "new.parquet", tmp_path / "h", "--method", "ridge")
    made = json.loads(answer(*fit, "--side", "side@1", "--sample-share", 0.5, "--json"))
    assert made["side"] == SIDE.to_json()
    assert set(made["made_by"]["pairs"]["ids"]) == set(learned_part(new.ids[:300], 0.5))
    plan = ("upgrade", "plan", gallery, tmp_path / "h", "--sample", tmp_path / "new.parquet")
    shown = CliRunner().invoke(app, [str(each) for each in (*plan, "--json")])
    queries = json.loads(shown.stdout)["prediction"]["whole"]["queries"]
    assert queries == 300 - made["made_by"]["pairs"]["items"]
    unseen = ("--gallery-classes", "unseen", "--overwrite")
    answer(*fit, "--side", "side@1", "--sample-share", 0.5, *unseen)
    told_of = Transformation.load(tmp_path / "h").out_of_fold
    assert set(told_of.ids) == set(learned_part(new.ids[:300], 0.5))
    with pytest.raises(GalleryError, match="has no space 'sight'; it has old@1, side@1"):
        answer(*fit, "--side", "sight", "--overwrite")


def test_fit_refuses_half_a_sample(shop, gallery, tmp_path):
    path, _, _, new, _ = shop
    new.save(tmp_path / "new.parquet")
    fit = ("fit", path / "old-train.parquet", path / "new-train.parquet", tmp_path / "h")
    for half in (("--gallery", gallery), ("--sample", tmp_path / "new.parquet")):
        with pytest.raises(ConfigurationError, match="give both --gallery and --sample"):
            answer(*fit, *half)
