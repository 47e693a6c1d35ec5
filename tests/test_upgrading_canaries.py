"""Verifying by ids and by queries whose answers are known, and cutting over while others write."""

import itertools
import json

import numpy as np
import pytest
from typer.testing import CliRunner
from upgrades import (
    OLD,
    SECOND,
    SIDE,
    TO_SECOND,
    embed,
    make_gallery,
    numbered,
    run_upgrade,
    start_upgrade,
    steps_of,
)

from onward.cli.app import app
from onward.errors import ConfigurationError, EmbeddingsError, LabelMismatchError, UpgradeError
from onward.gallery import GalleryRows
from onward.spaces import Embeddings
from onward.upgrading import Canaries, Requirement, verify_and_cut_over
from onward.upgrading.verify import ask_canaries, compare_ids

ROWS, CLASSES = 24, 4
LABELS = np.arange(ROWS) % CLASSES
HALF = Requirement.parse("cmc@1 >= 0.5")


def labelled(embeddings, classes=CLASSES):
    labels = np.arange(len(embeddings)) % classes
    return Embeddings(embeddings.ids, embeddings.vectors, embeddings.space, labels)


@pytest.fixture
def gallery(url):
    return make_gallery(url, ROWS, LABELS)


@pytest.fixture
def upgrade(gallery):
    return run_upgrade(gallery, TO_SECOND)


def asked(gallery, rows, space):
    """Queries that lie exactly on items, with other ids and the items' labels."""
    stored = labelled(gallery.read(space, numbered(ROWS))).select(rows)
    names = tuple(f"q-{row}" for row in rows)
    return Embeddings(names, stored.vectors, space, stored.labels)


# Canaries


def test_canaries_on_the_items_themselves_find_them_first(gallery, upgrade):
    rows = list(range(6))
    canaries = Canaries(asked(gallery, rows, SECOND), asked(gallery, rows, OLD), require=HALF)
    result = ask_canaries(gallery, SECOND, canaries)
    assert (result.value, result.limit, result.met) == (1.0, 0.5, True)
    assert set(result.cells) == {"new/old", "old/old"}
    assert result.cells["new/old"].relevant.tolist() == [ROWS // CLASSES] * 6


def test_canaries_agree_with_an_exact_evaluation(gallery, upgrade):
    from onward.evaluation.comparison import evaluate_embeddings

    queries = labelled(embed(SECOND, [f"q-{n}" for n in range(9)], seed=3))
    stored = labelled(gallery.read(SECOND, numbered(ROWS)))
    expected = evaluate_embeddings(queries, stored, exclude_self=True)
    result = ask_canaries(gallery, SECOND, Canaries(queries, require=HALF))
    found = result.cells["new/old"]
    np.testing.assert_array_equal(found.first_hit, expected.first_hit)
    np.testing.assert_array_equal(found.relevant, expected.relevant)
    np.testing.assert_allclose(found.average_precision, expected.average_precision)


def test_canaries_go_by_the_names_of_their_classes(gallery, upgrade):
    names = dict(enumerate("abcd"))
    gallery.update(
        Embeddings(numbered(ROWS), gallery.read(OLD).vectors, OLD, LABELS, names),
        embed(SIDE, numbered(ROWS)),
        same_labels=True,
    )
    upgrade.run()
    plain = asked(gallery, range(6), SECOND)
    turned = Embeddings(
        plain.ids, plain.vectors, SECOND, CLASSES - 1 - plain.labels, dict(enumerate("dcba"))
    )
    result = ask_canaries(gallery, SECOND, Canaries(turned, require=HALF))
    assert result.value == 1.0
    assert result.cells["new/old"].relevant.tolist() == [ROWS // CLASSES] * 6
    with pytest.raises(LabelMismatchError, match="those of the canaries have none"):
        ask_canaries(gallery, SECOND, Canaries(plain, require=HALF))
    stated = ask_canaries(gallery, SECOND, Canaries(plain, require=HALF, same_labels=True))
    assert stated.value == 1.0


def test_a_canary_of_unknown_class_has_nothing_to_find(gallery, upgrade):
    gallery.update(*(embed(space, numbered(2), labels=np.array([-1, -1])) for space in (OLD, SIDE)))
    upgrade.run()
    queries = asked(gallery, [4, 5], SECOND)
    queries = Embeddings(queries.ids, queries.vectors, SECOND, np.array([queries.labels[0], -1]))
    found = ask_canaries(gallery, SECOND, Canaries(queries, require=HALF)).cells["new/old"]
    assert (found.queries, found.skipped) == (1, 1)


def test_a_canary_that_is_an_item_does_not_look_for_itself(gallery, upgrade):
    from onward.evaluation.comparison import evaluate_embeddings

    stored = labelled(gallery.read(SECOND, numbered(ROWS)))
    expected = evaluate_embeddings(stored, stored, exclude_self=True)
    found = ask_canaries(gallery, SECOND, Canaries(stored, require=HALF)).cells["new/old"]
    np.testing.assert_array_equal(found.first_hit, expected.first_hit)
    np.testing.assert_array_equal(found.relevant, expected.relevant)


def test_canaries_may_name_the_items_that_they_should_find(gallery, upgrade):
    queries = asked(gallery, [3, 4], SECOND)
    qrels = {"q-3": {"item-0003": 1}, "q-4": {"item-0005": 1, "not-there": 1}}
    canaries = Canaries(queries, qrels=qrels, require=Requirement.parse("cmc@1 >= 0.6"))
    verification = upgrade.verify(canaries=canaries)
    assert verification.canaries.cells["new/old"].first_hit[0] == 0
    assert verification.canaries.cells["new/old"].relevant.tolist() == [1, 1]
    assert verification.canaries.value == 0.5
    assert not verification.passed
    assert verification.complete
    assert verification.intact
    assert steps_of(verification) == ["backfill"]
    assert "cmc@1 >= 0.6 is NOT met: 50.0 %, required 60.0 % (2 queries" in str(verification)
    with pytest.raises(UpgradeError, match="the verification of its upgrade has failed"):
        upgrade.cut_over(query_model="second")


def test_a_canary_and_an_item_of_the_same_number_are_two_things(gallery, upgrade):
    stored = gallery.read(SECOND, numbered(ROWS)).select([5, 8])
    queries = Embeddings(numbered(2), stored.vectors, SECOND)  # ids of items 0 and 1, at 5 and 8
    first, second = queries.ids
    qrels = {first: {first: 1, numbered(ROWS)[5]: 1}, second: {second: 1}}
    found = ask_canaries(gallery, SECOND, Canaries(queries, qrels=qrels, require=HALF))
    cell = found.cells["new/old"]
    distances = np.linalg.norm(gallery.read(SECOND).vectors - stored.vectors[1], axis=1)
    rank_of_second = int((distances < distances[1]).sum())
    assert cell.relevant.tolist() == [2, 1]
    assert cell.first_hit.tolist() == [0, rank_of_second]


def test_real_queries_are_canaries_by_their_qrels(gallery, upgrade):
    from onward.evaluation.comparison import evaluate_embeddings
    from onward.evaluation.relevance import Relevance

    bare = embed(SECOND, [f"q-{n}" for n in range(9)], seed=3)
    items = numbered(ROWS)
    qrels = {f"q-{n}": {items[n]: 2, items[n + 9]: 1, items[n + 1]: 0} for n in range(7)}
    qrels["q-7"] = {items[0]: 0}  # and of q-8 nothing is said
    with_gone = qrels | {"q-0": {**qrels["q-0"], "gone": 1}}
    canaries = Canaries(bare, qrels=with_gone, require=HALF)
    result = ask_canaries(gallery, SECOND, canaries)
    stored = gallery.read(SECOND, items)
    relevance = Relevance.of_qrels(bare.ids, stored.ids, qrels, exclude_self=False)
    expected = evaluate_embeddings(bare, stored, exclude_self=False, relevance=relevance)
    assert result.cells["new/old"].map == pytest.approx(expected.map)
    assert (result.cells["new/old"].queries, result.cells["new/old"].skipped) == (7, 2)
    assert (result.absent, result.to_json()["absent"]) == (1, 1)
    assert "; 1 that should be found are not there)" in str(result)


def test_canaries_compare_with_the_answers_of_the_old_model(gallery, upgrade):
    rows = list(range(8))
    noise = labelled(embed(OLD, [f"q-{row}" for row in rows], seed=8))
    good = Canaries(asked(gallery, rows, SECOND), noise)
    verification = upgrade.verify(canaries=good)
    assert verification.passed
    assert verification.canaries.limit == verification.canaries.cells["old/old"].map
    bad = Canaries(
        labelled(embed(SECOND, [f"q-{row}" for row in rows], seed=8)),
        asked(gallery, rows, OLD),
        require=Requirement.parse("cmc@1 >= 0.98 * old/old"),
    )
    verification = upgrade.verify(canaries=bad)
    assert (verification.canaries.limit, verification.passed) == (0.98, False)
    entry = gallery.journal()[-1]
    assert (entry["good_enough"], entry["canaries"]["met"]) == (False, False)
    assert entry["canaries"]["requirement"] == "cmc@1 >= 0.98 * old/old"
    assert upgrade.status().verification == "failed"


def test_canaries_that_do_not_fit_are_refused(gallery, upgrade):
    new, old = asked(gallery, [0, 1], SECOND), asked(gallery, [0, 1], OLD)
    bare = Embeddings(new.ids, new.vectors, SECOND)
    unfit = [
        (lambda: Canaries(bare, old), "have no labels, and nothing says what they should find"),
        (lambda: Canaries(new), r"have no old embeddings to compare with; give the same"),
        (
            lambda: Canaries(new, old, require=Requirement.parse("map >= new/new")),
            "canaries cannot tell whether map >= new/new",
        ),
        (
            lambda: Canaries(new, require=Requirement.parse("agreement >= 0.5")),
            "they know cmc@1, cmc@5, map",
        ),
        (
            lambda: upgrade.verify(canaries=Canaries(old, require=HALF)),
            "the canaries are in old@1 .*, the upgrade leads to second@2",
        ),
        (
            lambda: upgrade.verify(canaries=Canaries(new, new)),
            "gallery .* has old@1 .*, side@1 .*; they must be in the space that served",
        ),
        (
            lambda: upgrade.verify(
                canaries=Canaries(
                    bare, qrels={"other": {"item-0000": 1}, "q-1": {"no": 1}}, require=HALF
                )
            ),
            "none of the 2 canaries has anything to find in gallery",
        ),
    ]
    with pytest.raises(EmbeddingsError, match=r"1 queries by the old .* 2 by .* the first 'q-0'"):
        Canaries(new, old.select([1]))
    for call, words in unfit:
        with pytest.raises(UpgradeError, match=words):
            call()


# Ids


def test_ids_are_compared_as_sets(gallery, upgrade):
    gallery.add(embed(OLD, ["legacy"]))
    found = compare_ids(gallery, SECOND)
    assert found == {"rows": ROWS + 1, "repeated": 0, "missing": 1}
    verification = upgrade.verify(leave_out=True)
    assert verification.passed
    assert verification.to_json()["ids"] == {"rows": ROWS + 1, "repeated": 0, "missing": 1}


def test_a_row_that_stands_twice_fails_a_verification(gallery, upgrade, monkeypatch):
    scan = GalleryRows.scan

    def twice(self, spaces, **options):
        yield from scan(self, spaces, **options)
        if not spaces and not options:
            yield from itertools.islice(scan(self, spaces, batch_rows=1), 1)

    monkeypatch.setattr(GalleryRows, "scan", twice)
    verification = upgrade.verify()
    assert (verification.ids["repeated"], verification.complete) == (1, False)
    assert not verification.passed
    assert f"ids        {ROWS}, 1 of them repeated and 0 without a new vector" in str(verification)


# While others write


def test_a_verification_that_went_stale_is_done_again(gallery, upgrade):
    late = iter(["late-1", "late-2", None])

    def disturb(verification):
        if name := next(late):
            gallery.add(embed(OLD, [name]), embed(SIDE, [name]))

    status = verify_and_cut_over(upgrade, query_model="second", tell=disturb)
    assert status.is_cut_over
    assert (status.work.done, status.work.to_do) == (ROWS + 2, 0)
    events = [entry["event"] for entry in gallery.journal()]
    assert events.count("verify") == 3
    assert events.count("build index") == 1


def test_a_run_beside_a_writer_who_never_rests_comes_to_its_end(gallery):
    upgrade = start_upgrade(gallery, TO_SECOND)
    added = itertools.count()

    def add_one(done, total):
        name = f"more-{next(added)}"
        gallery.add(embed(OLD, [name]), embed(SIDE, [name]))
        assert next(added) < 1000, "it follows the writer for ever"

    result = upgrade.run(batch_rows=10, progress=add_one)
    assert result.done >= ROWS
    assert not result.stopped
    assert 0 < result.remaining < 10
    assert upgrade.run().remaining == 0


def test_after_three_stale_verifications_it_gives_up_and_says_what_to_do(gallery, upgrade):
    def disturb(verification):
        gallery.delete([numbered(ROWS)[next(deleted)]])

    deleted = itertools.count()
    words = r"others changed rows during each of 3 verifications\. .* keep rows unchanged for about"
    with pytest.raises(UpgradeError, match=words):
        verify_and_cut_over(upgrade, query_model="second", tell=disturb)
    assert gallery.view().serving == OLD
    assert verify_and_cut_over(upgrade, query_model="second").is_cut_over


def test_a_verification_that_fails_is_not_tried_again(gallery, upgrade):
    gallery.add(embed(OLD, ["legacy"]))
    with pytest.raises(UpgradeError, match="the verification of its upgrade has failed"):
        verify_and_cut_over(upgrade, query_model="second")
    assert [entry["event"] for entry in gallery.journal()].count("verify") == 1
    assert verify_and_cut_over(upgrade, query_model="second", leave_out=True).is_cut_over


# The command line


@pytest.fixture
def on_disk(tmp_path):
    gallery = make_gallery(str(tmp_path / "g.lance"), ROWS, LABELS)
    TO_SECOND.save(tmp_path / "h")
    run_upgrade(gallery, TO_SECOND)
    return gallery, tmp_path


def test_the_command_line_takes_canaries(on_disk):
    gallery, files = on_disk
    rows = list(range(8))
    asked(gallery, rows, SECOND).save(files / "new.parquet")
    asked(gallery, rows[::-1], OLD).save(files / "old.parquet")
    words = ["upgrade", "verify", gallery.url, str(files / "h"), "--all", "--json"]
    given = ["--canaries", str(files / "new.parquet")]
    old = ["--canaries-old", str(files / "old.parquet")]
    run = CliRunner().invoke(app, [*words, *given, *old])
    verified = json.loads(run.stdout)
    assert run.exit_code == (0 if verified["passed"] else 1)
    assert verified["checked"] == ROWS
    assert verified["canaries"]["requirement"] == "map >= old/old"
    run = CliRunner().invoke(app, [*words, *given, *old, "--require", "cmc@1 >= 1.01 * old/old"])
    assert run.exit_code == 1
    assert json.loads(run.stdout)["canaries"]["met"] is False
    run = CliRunner().invoke(app, [*words, *old])
    assert run.exit_code == 1
    assert isinstance(run.exception, ConfigurationError)
    assert "but there are none; add --canaries FILE" in str(run.exception)


def test_the_command_line_takes_real_queries_with_qrels(on_disk):
    gallery, files = on_disk
    rows = list(range(8))
    for space, name in ((SECOND, "new"), (OLD, "old")):
        queries = asked(gallery, rows, space)
        Embeddings(queries.ids, queries.vectors, space).save(files / f"{name}.parquet")
    lines = [f"q-{row} 0 {numbered(ROWS)[row]} 1" for row in rows[:6]]
    (files / "qrels").write_text("\n".join(lines))
    words = ["upgrade", "verify", gallery.url, str(files / "h"), "--json"]
    by_new = ["--queries-new", str(files / "new.parquet")]
    by_old = ["--queries-old", str(files / "old.parquet")]
    qrels = ["--qrels", str(files / "qrels")]
    run = CliRunner().invoke(app, [*words, *by_new, *by_old, *qrels])
    found = json.loads(run.stdout)["canaries"]
    assert (found["requirement"], found["cells"]["new/old"]["queries"]) == ("map >= old/old", 6)
    assert found["value"] == found["limit"] == 1
    assert "2 of 8 queries have no relevant item in " in run.stderr
    alone = CliRunner().invoke(app, [*words, *by_new, *qrels, "--require", "map >= 0.9"])
    assert json.loads(alone.stdout)["passed"]
    refused = {
        (*qrels, *by_old): "but there are none; add --canaries FILE or --queries-new FILE",
        (
            *by_new,
            "--canaries",
            "x",
        ): "--canaries and --queries-new mean the same; give one of the two",
        (*by_new, *by_old, "--canaries-old", "x"): "--canaries-old and --queries-old mean the same",
        (*by_new, *qrels, "--same-labels"): "--same-labels has no effect with --qrels",
        (*by_new, *by_old): "have no labels, and nothing says what they should find; give embed",
        (
            *by_new,
            *qrels,
        ): "no old embeddings to compare with; give the same queries by the old model",
    }
    for more, says in refused.items():
        run = CliRunner().invoke(app, [*words, *more])
        assert says in str(run.exception)
