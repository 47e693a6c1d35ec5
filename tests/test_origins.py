"""Origins travel: what was embedded and what was upgraded, from the gallery to the page."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import answer
from typer.testing import CliRunner
from upgrades import OLD, SECOND, SIDE, TO_SECOND, make_gallery, numbered

from onward.cli.app import app
from onward.errors import (
    ConfigurationError,
    EmbeddingsError,
    EvaluationError,
    GalleryError,
    TransformationError,
    UpgradeError,
)
from onward.evaluation.comparison import (
    AgreementComparison,
    compare_upgraded,
    evaluate_embeddings,
    of_h_alone,
)
from onward.evaluation.relevance import Relevance
from onward.evaluation.retrieval import agreement, search
from onward.fusion import Fusion, Scale, Serving, fuse
from onward.gallery import create_gallery, open_gallery
from onward.spaces import Embeddings, Space
from onward.training.fit.pairs import Pairs
from onward.upgrading import Upgrade, forecast
from onward.upgrading.backfill import embeddings_given

ROWS, CLASSES = 40, 5
LABELS = np.arange(ROWS) % CLASSES
EMBEDDED = numbered(ROWS)[::5]
"""A fifth of the items: those of the first class."""
BY_H = sorted(set(numbered(ROWS)) - set(EMBEDDED))


def true_new(ids):
    """What the new model makes of items: it tells their classes apart well."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(ROWS, SECOND.dim)) + 4 * np.eye(CLASSES, SECOND.dim)[LABELS]
    made = Embeddings(numbered(ROWS), vectors.astype(np.float32), SECOND, LABELS)
    return made.align(ids)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A gallery of which a fifth was embedded by the new model, and its export."""
    tmp_path = tmp_path_factory.mktemp("made")
    gallery = make_gallery(str(tmp_path / "g.lance"), ROWS, LABELS)
    gallery.read(OLD).save(tmp_path / "old.parquet")
    upgrade = Upgrade(gallery, TO_SECOND)
    upgrade.start(sample=true_new(EMBEDDED), force=True)
    assert upgrade.run().remaining == 0
    true_new(numbered(ROWS)).save(tmp_path / "new.parquet")
    words = ["gallery", "export", gallery.url, tmp_path / "up.parquet", "--space", SECOND.name]
    exported = json.loads(answer(*words, "--json"))
    assert (exported["embedded"], exported["upgraded"]) == (len(EMBEDDED), ROWS - len(EMBEDDED))
    return tmp_path


@pytest.fixture
def files(made, tmp_path):
    return shutil.copytree(made, tmp_path / "files")


def test_an_export_says_of_each_vector_how_it_came_to_be(files):
    table = pq.read_table(files / "up.parquet", columns=["id", "origin"]).to_pydict()
    origins = dict(zip(table["id"], table["origin"], strict=True))
    assert {item for item, origin in origins.items() if origin == "embedded"} == set(EMBEDDED)
    assert set(origins.values()) == {"embedded", "upgraded"}
    loaded = Embeddings.load(files / "up.parquet")
    assert dict(zip(loaded.ids, loaded.origins, strict=True)) == origins
    words = ["gallery", "export", files / "g.lance", files / "s.parquet", "--space", SIDE.name]
    assert "embedded  40" in answer(*words)
    assert Embeddings.load(files / "s.parquet").count_origins() == {"embedded": ROWS}


def test_a_gallery_and_a_transformation_say_how_their_vectors_came_to_be(files):
    gallery = open_gallery(str(files / "g.lance"))
    some = (EMBEDDED[1], numbered(ROWS)[1])
    assert gallery.read(SECOND, some).origins == ("embedded", "upgraded")
    made = TO_SECOND.apply(gallery.read(OLD, some), gallery.read(SIDE, some))
    assert made.origins == ("upgraded", "upgraded")


def test_info_counts_origins(files):
    assert "8 embedded and 32 upgraded" in answer("info", files / "up.parquet")
    told = json.loads(answer("info", files / "up.parquet", "--json"))
    assert told["origins"] == {"embedded": 8, "upgraded": 32}
    assert json.loads(answer("info", files / "new.parquet", "--json"))["origins"] == {
        "unknown": ROWS
    }


# Comparing: h alone, and what is stored


def words_of(files, *more):
    cells = ("--old", files / "old.parquet", "--upgraded", files / "up.parquet")
    return ["compare", *cells, "--new", files / "new.parquet", *more]


FILES = {"old/old": ("old", "old"), "new/old": ("new", "up"), "new/new": ("new", "new")}


def by_hand(files, cell, items):
    """A cell among some items alone, which are the queries too."""
    asked, searched = (Embeddings.load(files / f"{name}.parquet") for name in FILES[cell])
    return evaluate_embeddings(
        asked.align(items), searched.align(items), exclude_self=True
    ).to_json()


def test_h_alone_and_what_is_stored_are_two_rows(files):
    found = json.loads(answer(*words_of(files, "--exclude-self", "--json")))
    assert found["origins"] == {"embedded": 8, "upgraded": 32}
    assert found["items"] == 32
    for cell in ("old/old", "new/old", "new/new"):
        assert found["cells"][cell] == by_hand(files, cell, BY_H)
    stored = found["as_stored"]
    assert stored["items"] == ROWS
    rows = ["old/old", "new/old as stored", "new/old as stored fused", "new/new"]
    assert list(stored["cells"]) == rows
    everything = numbered(ROWS)
    assert found["fusion"]["weight"] == 0.5
    assert stored["cells"]["new/old as stored"] == by_hand(files, "new/old", everything)
    assert stored["cells"]["new/new"] == by_hand(files, "new/new", everything)
    # What the sample's own vectors find is not h's.
    assert stored["cells"]["new/old as stored"]["map"] > 1.2 * found["cells"]["new/old"]["map"]
    gains = found["update_gain"]["map"], stored["update_gain"]["map"]
    for gain, cells, name in (
        (gains[0], found["cells"], "new/old"),
        (gains[1], stored["cells"], "new/old as stored"),
    ):
        old, new = cells["old/old"]["map"], cells["new/new"]["map"]
        assert gain == pytest.approx((cells[name]["map"] - old) / (new - old))


def test_the_two_rows_are_printed_each_among_its_own_items(files):
    lines = answer(*words_of(files, "--exclude-self")).splitlines()
    alone = lines.index("h alone, on the 32 items that h carried:")
    stored = lines.index(
        "as stored, 20 % embedded (40 items: 8 embedded by the new model, 32 upgraded by h):"
    )
    assert [line.split("  ")[0] for line in lines[alone + 2 : alone + 6]] == [
        "old/old", "new/old", "new/old fused", "new/new",
    ]  # fmt: skip
    assert lines[stored + 3].startswith("new/old as stored")
    assert not any(line.startswith("new/old  ") for line in lines[stored:])


QUERIES = tuple(f"q{row}" for row in range(ROWS))
QRELS = {q: {BY_H[row % 32]: 1, EMBEDDED[row % 8]: 2} for row, q in enumerate(QUERIES)}
"""Each query looks for an item that h carried and for one that was embedded."""


@pytest.fixture
def asked(files):
    """Real queries by both models, without labels, and qrels in a file."""
    for name in ("old", "new"):
        items = Embeddings.load(files / f"{name}.parquet")
        made = Embeddings(QUERIES, items.vectors, items.space)
        made.save(files / f"queries-{name}.parquet")
    (files / "qrels").write_text(
        "\n".join(f"{q} 0 {i} {grade}" for q, of in QRELS.items() for i, grade in of.items())
    )
    words = ["--queries-old", files / "queries-old.parquet"]
    return [*words, "--queries-new", files / "queries-new.parquet", "--include-self"]


def without_new(files, *more):
    return [word for word in words_of(files, *more) if word not in ("--new", files / "new.parquet")]


def test_queries_that_are_not_items_are_all_asked_of_h_alone(files, asked):
    found = json.loads(answer(*words_of(files, *asked, "--qrels", files / "qrels", "--json")))
    assert found["cells"]["new/old"]["queries"] == ROWS
    kept = {q: {item: 1 for item in wanted if item in BY_H} for q, wanted in QRELS.items()}
    queries = Embeddings.load(files / "queries-new.parquet")
    carried = Embeddings.load(files / "up.parquet").align(BY_H)
    relevance = Relevance.of_qrels(QUERIES, carried.ids, kept, exclude_self=False)
    expected = evaluate_embeddings(queries, carried, exclude_self=False, relevance=relevance)
    assert found["cells"]["new/old"]["map"] == pytest.approx(expected.map)


def test_without_full_backfill_the_rows_are_the_same_and_no_gain_is_known(files, asked):
    judged = ("--qrels", files / "qrels", "--json")
    found = json.loads(answer(*words_of(files, *asked, *judged)))
    bare = json.loads(answer(*without_new(files, *asked, *judged)))
    assert list(bare["cells"]) == ["old/old", "new/old", "new/old fused"]
    for cell in ("new/old", "new/old fused"):
        assert bare["cells"][cell] == found["cells"][cell]
    stored = ["old/old", "new/old as stored", "new/old as stored fused"]
    assert list(bare["as_stored"]["cells"]) == stored
    assert bare["update_gain"]["map"] is None
    assert bare["next_steps"] == []


def test_without_answers_the_agreement_of_the_queries_is_compared(files, asked):
    agreed = json.loads(answer(*words_of(files, *asked, "--json")))
    assert (agreed["queries"], agreed["queries_are_items"], agreed["items"]) == (ROWS, False, 32)
    assert agreed["cells"]["new/new"]["agreement"] == 1
    assert "Agreement of 40 real queries with full backfill" in answer(*words_of(files, *asked))


def test_what_agreement_cannot_tell_is_refused(files, asked):
    with pytest.raises(ConfigurationError, match=r"needs the items by the new model; give --qrels"):
        answer(*without_new(files, *asked))
    with pytest.raises(ConfigurationError, match="of which --metrics, --ignored"):
        answer(*words_of(files, *asked, "--metrics", "map"))


def test_a_gallery_that_was_embedded_whole_has_no_row_of_h(files):
    everything = true_new(numbered(ROWS))
    Embeddings(everything.ids, everything.vectors, SECOND, LABELS, None, ("embedded",) * ROWS).save(
        files / "up.parquet"
    )
    found = json.loads(answer(*words_of(files, "--exclude-self", "--json")))
    assert "cells" not in found
    rows = ["old/old", "new/old as stored", "new/old as stored fused", "new/new"]
    assert list(found["as_stored"]["cells"]) == rows
    shown = answer(*words_of(files, "--exclude-self"))
    assert shown.startswith("as stored, 100 % embedded (40 items: 40 embedded by the new model):")
    words = ["report", files / "page.html", *words_of(files, "--exclude-self")[1:]]
    with pytest.raises(EvaluationError, match=r"h carried none of the items in .*up\.parquet"):
        answer(*words)


def test_where_nothing_says_what_was_embedded_a_line_says_so(files):
    bare = Embeddings.load(files / "up.parquet")
    Embeddings(bare.ids, bare.vectors, SECOND, bare.labels).save(files / "up.parquet")
    last = answer(*words_of(files, "--exclude-self")).splitlines()[-1]
    assert last.startswith("Nothing says which vectors of the upgraded gallery the new model embed")
    found = json.loads(answer(*words_of(files, "--exclude-self", "--json")))
    assert (found["origins"], found["items"]) == ({"unknown": ROWS}, ROWS)
    answer("report", files / "page.html", *words_of(files, "--exclude-self")[1:])
    assert last in (files / "page.html").read_text(encoding="utf-8")


def test_a_vector_of_unknown_origin_is_not_taken_for_one_of_h(files):
    new, old = true_new(numbered(ROWS)), Embeddings.load(files / "old.parquet")
    origins = ("upgraded",) * 30 + (None,) * 10
    up = Embeddings(new.ids, new.vectors, SECOND, LABELS, None, origins)
    cells = {"old/old": (old, old), "new/old": (new, up), "new/new": (new, new)}
    alone = of_h_alone(cells)
    assert {gallery.ids for _, gallery in alone.values()} == {numbered(ROWS)[:30]}
    made = compare_upgraded(cells, exclude_self=True, relevance=None)
    assert isinstance(made.stored, AgreementComparison)
    assert (made.carried, made.origins) == (30, {"upgraded": 30, "unknown": 10})
    assert "30 upgraded by h, 10 of unknown origin" in str(made)


PAIR = Fusion(OLD, SECOND, 0.5, Scale(2.0, 0.5), Scale(4.0, 0.5))


@pytest.fixture
def fused(files):
    """The words that name a transformation with a fused pair."""
    replace(TO_SECOND, serving=Serving("fused", PAIR)).save(files / "h")
    return "--transformation", files / "h"


def fused_by_hand(files, items):
    old, new, up = (Embeddings.load(files / f"{name}.parquet") for name in ("old", "new", "up"))
    queries, gallery = (fuse(PAIR, old.align(items), each.align(items), "") for each in (new, up))
    return evaluate_embeddings(queries, gallery, exclude_self=True).to_json()


def test_the_pair_of_a_transformation_is_a_row_of_h_alone_and_of_what_is_stored(files, fused):
    found = json.loads(answer(*words_of(files, *fused, "--exclude-self", "--json")))
    assert list(found["cells"]) == ["old/old", "new/old", "new/old fused", "new/new"]
    assert found["cells"]["new/old fused"] == fused_by_hand(files, BY_H)
    stored = found["as_stored"]["cells"]["new/old as stored fused"]
    assert stored == fused_by_hand(files, numbered(ROWS))
    assert found["fusion"] == PAIR.to_json()
    assert "new/old fused" in found["update_gain_by_cell"].keys() & found["negative_flips_by_cell"]
    shown = answer(*words_of(files, *fused, "--exclude-self"))
    assert f"new/old fused is {PAIR}." in shown.splitlines()
    assert "Fused search, with queries by both models, gives map" in shown
    (step,) = json.loads(answer(*words_of(files, *fused, "--exclude-self", "--json")))["next_steps"]
    assert f"--transformation {fused[1]}" in step["command"]
    answer("report", files / "page.html", *words_of(files, *fused, "--exclude-self")[1:])
    page = (files / "page.html").read_text(encoding="utf-8")
    assert "new/old fused" in page
    assert "queries by both models, both distances count" in page


def test_the_pair_of_another_upgrade_is_refused(files):
    other = replace(PAIR, old=Space("elsewhere@1", OLD.dim))
    replace(TO_SECOND, old=other.old, serving=Serving("fused", other)).save(files / "other")
    with pytest.raises(ConfigurationError, match=r"leads from elsewhere@1 .* and the items are in"):
        answer(*words_of(files, "--exclude-self", "--transformation", files / "other"))


def test_too_few_items_to_measure_a_pair_are_compared_without_one(files):
    for name in ("old", "up", "new"):
        one = Embeddings.load(files / f"{name}.parquet")
        one.align(sorted(one.ids)[:2]).save(files / f"{name}.parquet")
    shown = CliRunner().invoke(app, [str(word) for word in words_of(files, "--exclude-self")])
    assert "fused search is not compared, for no scale can be measured" in shown.stderr
    assert "fused" not in shown.stdout


def test_without_a_transformation_the_pair_has_equal_weights_and_the_scales_of_the_files(files):
    old, up = (Embeddings.load(files / f"{name}.parquet") for name in ("old", "up"))
    new = Embeddings.load(files / "new.parquet")
    shown = CliRunner().invoke(
        app, [str(word) for word in words_of(files, "--exclude-self", "--json")]
    )
    assert "fused search is compared with equal weights and scales of these" in shown.stderr
    pair = Fusion.from_json(json.loads(shown.stdout)["fusion"])
    assert (pair.old, pair.new, pair.weight) == (OLD, SECOND, 0.5)
    others = ~np.eye(ROWS, dtype=bool)
    for scale, asked, there in ((pair.old_scale, old, old), (pair.new_scale, new, up)):
        apart = asked.vectors[:, None].astype(np.float64) - there.align(asked.ids).vectors
        distances = (apart**2).sum(axis=2)[others]
        assert scale.std == pytest.approx(distances.std())


def test_a_fused_row_has_an_agreement_too(files, fused):
    forget_labels(files)
    found = json.loads(answer(*words_of(files, *fused, "--exclude-self", "--json")))
    old, new, up = (
        Embeddings.load(files / f"{name}.parquet").align(BY_H) for name in ("old", "new", "up")
    )
    asked, searched = fuse(PAIR, old, new, ""), fuse(PAIR, old, up, "")
    count = found["neighbours"]
    shares = agreement(
        search(asked, searched, count, exclude_self=True),
        search(new, new, count, exclude_self=True),
    )
    assert found["cells"]["new/old fused"]["agreement"] == shares.mean()
    assert "(new/old fused)" in found["verdict"]


def test_a_pair_that_is_none_or_of_other_spaces_is_refused(files):
    TO_SECOND.save(files / "h")
    words = words_of(files, "--transformation", files / "h", "--exclude-self")
    with pytest.raises(
        ConfigurationError, match=r"has no fused pair: .* leave --transformation ou"
    ):
        answer(*words)
    other = replace(PAIR, old=SIDE)
    old, up = (Embeddings.load(files / f"{name}.parquet") for name in ("old", "up"))
    cells = {"old/old": (old, old), "new/old": (up, up), "new/new": (up, up)}
    with pytest.raises(EmbeddingsError, match=r"the old vectors of a fused pair are in .*, not in"):
        compare_upgraded(cells, exclude_self=True, relevance=None, fusion=other)


def forget_labels(files):
    for name in ("old", "up", "new"):
        one = Embeddings.load(files / f"{name}.parquet")
        Embeddings(one.ids, one.vectors, one.space, origins=one.origins).save(
            files / f"{name}.parquet"
        )


def test_items_without_labels_are_compared_by_agreement_and_it_is_called_so(files):
    forget_labels(files)
    shown = answer(*words_of(files, "--exclude-self"))
    assert "Agreement of 32 items, as queries, with full backfill, over 3 neighbours." in shown
    assert "To learn whether the new model is better, give labels" in shown
    found = json.loads(answer(*words_of(files, "--exclude-self", "--json")))
    mean = {name: one["agreement"] for name, one in found["cells"].items()}
    gain = (mean["new/old"] - mean["old/old"]) / (1 - mean["old/old"])
    assert found["update_gain_by_cell"]["new/old"]["agreement"] == pytest.approx(gain)
    words = ["report", files / "page.html", *words_of(files, "--exclude-self")[1:]]
    with pytest.raises(EvaluationError, match="have no labels, and a page shows what is right by"):
        answer(*words)


def test_without_queries_the_items_by_the_new_model_are_asked_for(files):
    with pytest.raises(ConfigurationError, match="give --new FILE, or queries: --queries-old FILE"):
        answer(*without_new(files, "--exclude-self"))


# The page, and one evaluation


def test_the_page_tells_h_alone_from_what_is_stored(files):
    words = ["report", files / "page.html", *words_of(files, "--exclude-self")[1:], "--json"]
    told = json.loads(answer(*words))
    found = json.loads(answer(*words_of(files, "--exclude-self", "--json")))
    assert told["verdict"] == found["verdict"]
    assert (told["embedded"], told["upgraded"]) == (8, 32)
    page = (files / "page.html").read_text(encoding="utf-8")
    assert "40 items: 8 embedded by the new model, 32 upgraded by h" in page
    assert "all else on this page is about the 32 items that h carried" in page
    rows = page.split('data-cell="')[1:]
    shown = {row.partition('"')[0]: row for row in rows}
    assert f">{100 * found['cells']['new/old']['map']:.1f}<" in shown["new/old"]
    mix = found["as_stored"]["cells"]["new/old as stored"]["map"]
    assert f">{100 * mix:.1f}<" in shown["new/old as stored"]


def test_an_evaluation_of_several_origins_says_so(files):
    words = ["evaluate", files / "new.parquet", files / "up.parquet", "--exclude-self", "--json"]
    result = CliRunner().invoke(app, [str(each) for each in words], catch_exceptions=False)
    assert json.loads(result.stdout)["gallery_origins"] == {"embedded": 8, "upgraded": 32}
    assert "of several origins (8 embedded, 32 upgraded)" in result.stderr
    words[2] = words[1]
    assert "gallery_origins" not in json.loads(answer(*words))


# Where true new vectors are needed


def test_upgraded_vectors_are_not_taken_for_the_new_models_own(files):
    upgrade = Upgrade(open_gallery(str(files / "g.lance")), TO_SECOND)
    up = Embeddings.load(files / "up.parquet")
    words = "32 of the 40 vectors of the sample were upgraded by a transformation, and those that"
    with pytest.raises(UpgradeError, match=words):
        upgrade.start(sample=up, force=True)
    with pytest.raises(UpgradeError, match=words):
        forecast(upgrade.gallery, upgrade.routes, up)
    with pytest.raises(UpgradeError, match="32 of the 40 vectors of the embeddings were upgraded"):
        embeddings_given(up)
    assert embeddings_given(up.align(EMBEDDED)) is not None


def test_upgraded_vectors_do_not_pass_as_embedded_ones_in_another_gallery_or_a_fit(made):
    exported = Embeddings.load(made / "up.parquet")
    words = "32 of the 40 vectors in .* were upgraded by a transformation, .* Add the vectors that"
    with pytest.raises(GalleryError, match=words):
        create_gallery("memory:again", SECOND, items=[exported])
    gallery = make_gallery("memory:other", ROWS, LABELS)
    gallery.add_space(SECOND)
    (batch,) = gallery.scan(())
    with pytest.raises(GalleryError, match=words):
        gallery.write(exported.align(batch.ids), batch.revisions, origin="embedded")
    assert gallery.view().counts[SECOND].filled == 0
    embedded = exported.align(EMBEDDED)
    assert create_gallery("memory:part", SECOND, items=[embedded]).count([SECOND]) == len(EMBEDDED)
    with pytest.raises(TransformationError, match="32 of the 40 new embeddings were upgraded by a"):
        Pairs(Embeddings.load(made / "old.parquet").align(exported.ids), None, exported)
