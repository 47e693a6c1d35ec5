"""The lab's script on galleries of texts, on tiny encoders and a tiny gallery."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from text_encoders import BERT, SENTENCES, WORDS, put_encoder

pytest.importorskip("transformers", reason="the extra onward[text] is not installed")

from onward.data import open_items
from onward.models import EmbeddingModel
from onward.spaces import Embeddings, Space
from onward.training.fit.closed_forms import solve_ridge
from onward.training.fit.pairs import Examples, Pairs

ROOT = Path(__file__).parent.parent
LAB = ROOT / "lab"
ABSTRACTS, CLAIMS = 90, 24


@pytest.fixture(scope="module")
def lab():
    """The script, as one that lies beside those that it imports finds them."""
    sys.path.insert(0, str(LAB))
    yield importlib.import_module("text")
    sys.path.remove(str(LAB))
    del sys.modules["text"], sys.modules["fused_texts"]


@pytest.fixture(scope="module")
def scifact(tmp_path_factory):
    """Abstracts of 12 words; each claim has some words of the one that it looks for."""
    folder, random = tmp_path_factory.mktemp("scifact"), np.random.default_rng(0)
    words = random.choice(WORDS, size=(ABSTRACTS, 12))
    corpus = [
        {"_id": f"{row}", "title": each[0], "text": " ".join(each[1:])}
        for row, each in enumerate(words)
    ]
    claims = [{"_id": f"c{row}", "text": " ".join(words[row, :5])} for row in range(CLAIMS)]
    for name, said in (("corpus", corpus), ("queries", claims)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in said))
    for name, rows in (("train", range(14)), ("test", range(14, CLAIMS))):
        judged = "".join(f"c{row}\t{row}\t1\n" for row in rows)
        (folder / f"qrels_{name}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return folder


@pytest.fixture(scope="module")
def descriptions(tmp_path_factory):
    """What 40 packages are said to be; and one of a single line, and one that says the same."""
    random, file = np.random.default_rng(1), tmp_path_factory.mktemp("apt") / "descriptions.txt"
    said = [
        f"Package: p{row}\nDescription-md5: 0\nDescription-en: {' '.join(words[:3])}\n"
        f" {' '.join(words[3:9])}\n .\n  * {' '.join(words[9:])}\n"
        for row, words in enumerate(random.choice(WORDS, size=(40, 12)))
    ]
    alike = said[0].replace("p0", "p0-dbg")
    file.write_text("\n".join([*said, "Package: short\nDescription-en: ice\n", alike]))
    return file


def run(lab, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["text.py", *map(str, words)])
    lab.main()


@pytest.fixture
def embedded(lab, scifact, descriptions, tmp_path, monkeypatch):
    """The folder of what two encoders made of 30 descriptions and all abstracts."""
    monkeypatch.setattr(lab, "LAYERS_DIM", 8)
    monkeypatch.setattr(lab, "LOT", 25)
    wide = {**BERT, "hidden_size": 24}
    for name, config, seed in (("minilm", BERT, 0), ("mpnet", wide, 1)):
        model = put_encoder(tmp_path / name, seed, config=config, modules=SENTENCES)
        monkeypatch.setattr(lab, "TOKENS", 12)
        words = ("--model", model, "--scifact", scifact, "--descriptions", descriptions)
        run(lab, monkeypatch, "embed", tmp_path / "out", name, *words, "--most", 30)
    return tmp_path / "out"


def test_descriptions_are_kept_once_and_in_an_order_of_their_own(lab, descriptions, tmp_path):
    items = lab.open_descriptions(descriptions, tmp_path / "lines.jsonl")
    assert len(items) == 40
    assert {"short", "p0-dbg"}.isdisjoint(items.ids)
    first = descriptions.read_text().partition("\n\n")[0].split("\n")[2:]
    said = " ".join(first).removeprefix("Description-en: ").replace(" . ", " ").split()
    assert items.text(items.ids.index("p0")).split() == said
    assert list(items.ids) != sorted(items.ids)


@pytest.mark.slow
def test_what_is_embedded_already_is_not_made_again(
    lab, embedded, scifact, descriptions, monkeypatch
):
    files = {
        name: Embeddings.load(embedded / f"{name}.parquet")
        for name in ("scifact/minilm-items", "scifact/minilm-layers-items", "scifact/mpnet-queries")
    }
    assert [len(one) for one in files.values()] == [ABSTRACTS, ABSTRACTS, CLAIMS]
    assert files["scifact/minilm-layers-items"].space.format == "int8"
    model = EmbeddingModel.load(embedded / "minilm-model")
    abstracts = open_items(scifact)
    for made, kept in zip(model.embed_with_side(abstracts), files.values(), strict=False):
        assert (made.ids, made.space) == (kept.ids, kept.space)
        np.testing.assert_allclose(made.vectors, kept.vectors, atol=1)
    others = embedded / "descriptions/mpnet-items.parquet"
    before = Embeddings.load(others)
    embedded_rows = []
    embed = EmbeddingModel.embed
    monkeypatch.setattr(
        EmbeddingModel,
        "embed",
        lambda self, items: embedded_rows.append(len(items)) or embed(self, items),
    )
    model = embedded.parent / "mpnet"
    words = ("--model", model, "--scifact", scifact, "--descriptions", descriptions)
    run(lab, monkeypatch, "embed", embedded, "mpnet", *words, "--most", 37)
    after = Embeddings.load(others)
    assert embedded_rows == [1, 7]  # one abstract, to see what the encoder gives
    assert (len(before), len(after)) == (30, 37)
    np.testing.assert_array_equal(after.vectors[:30], before.vectors)


@pytest.mark.slow
def test_cases_are_measured_once_and_printed(lab, embedded, tmp_path, monkeypatch, capsys):
    file = tmp_path / "found.json"
    words = ("--json", file, "--pair", "minilm-mpnet", "--seeds", 1)
    monkeypatch.setattr(lab, "RATIOS", (1.0, 10.0))
    run(lab, monkeypatch, "measure", embedded, *words, "--shares", 0, 0.3)
    found = json.loads(file.read_text())["minilm-mpnet"]
    cases = {
        f"{by}; {sampled} descriptions"
        for by in lab.MAPS[:3]
        for sampled in ("0 % sampled; 30", "30 % sampled; 0", "30 % sampled; 30")
    }
    assert found.keys() == {"references", *cases}
    nothing = found["references"]["doing nothing"]
    assert nothing["all"]["beside doing nothing"] == [0, 0, 0]
    assert nothing["all"]["ndcg@10"] != nothing["test"]["ndcg@10"]
    for case in cases:
        assert found[case]["advised"]["serve"][0][0][:3] in ("old", "new", "fus")
        for rows in found[case].values():
            estimate, low, high = rows["all"]["beside doing nothing"]
            assert low <= estimate <= high
            gained = rows["all"]["ndcg@10"] - nothing["all"]["ndcg@10"]
            assert estimate == pytest.approx(gained)
    not_asked = found["layers; 0 % sampled; 30 descriptions"]["advised"]
    assert not_asked["serve"] == [["old", "old"]]
    assert not_asked["all"] == nothing["all"]
    for most in (30, 0):  # without descriptions nothing else is left to measure
        run(lab, monkeypatch, "measure", embedded, *words, "--shares", 0, 0.3, "--most", most)
        assert json.loads(file.read_text())["minilm-mpnet"] == found
    capsys.readouterr()
    run(lab, monkeypatch, "table", file)
    printed = capsys.readouterr().out
    assert printed.count("| layers; 30 % sampled; 0 descriptions |") == 2
    assert f"| doing nothing | {100 * nothing['all']['ndcg@10']:.1f} | | |" in printed


def examples():
    random = np.random.default_rng(0)
    old, side = random.normal(size=(60, 5)), random.normal(size=(60, 3))
    new = old @ random.normal(size=(5, 4)) + side @ random.normal(size=(3, 4))
    ids = tuple(f"{row}" for row in range(60))
    given = (("old", old), ("side", side), ("new", new + random.normal(size=new.shape)))
    made = [Embeddings(ids, np.float32(x), Space(name, x.shape[1])) for name, x in given]
    return Pairs(*made)


def test_two_penalties_are_one_where_they_are_alike_and_leave_side_out_at_last(lab):
    pairs, method = examples(), {"method": "ridge", "penalty": 0.3}
    alone = Examples.of(Pairs(pairs.old, None, pairs.new))

    def apply(h):
        return h.apply(pairs.old, pairs.side if h.side is not None else None).vectors

    one = apply(solve_ridge(Examples.of(pairs))(method))
    np.testing.assert_allclose(
        apply(lab.solve_blocks(Examples.of(pairs), 1.0)(method)), one, atol=1e-6
    )
    without = apply(solve_ridge(alone)(method))
    hardly = apply(lab.solve_blocks(Examples.of(pairs), 1e8)(method))
    np.testing.assert_allclose(hardly, without, atol=1e-5)
    assert np.abs(one - without).max() > 0.3


def test_the_page_on_real_models_says_what_was_measured(lab):
    page = (ROOT / "docs" / "real-models.md").read_text()
    for line in lab.lines(lab.read(LAB / "text.json")):
        assert line in page
