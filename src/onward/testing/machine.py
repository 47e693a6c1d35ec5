"""Any order of steps of upgrades on a store, with writers, slow workers and sudden deaths.

After each step every row is compared with a dict that says what the gallery must hold: none lost,
none reborn, every upgraded vector what a transformation makes of what is stored, one space that
answers. Here a process is killed between two of its calls to the store; that a call is atomic has
to be tried where real processes are killed.
"""

import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from onward.errors import GalleryError, UpgradeError
from onward.fusion import Fusion
from onward.gallery import Gallery, Place, open_gallery
from onward.spaces import Space
from onward.testing.watching import (
    ITEMS,
    MODELS,
    NEW,
    NEXT,
    OLD,
    SERVES,
    SIDE,
    SPACES,
    WAYS,
    KilledError,
    Process,
    Row,
    Stated,
    Watched,
    pair_of,
    spaces_of,
    vectors_of,
)
from onward.upgrading import BackfillResult, Routes, Upgrade
from onward.upgrading.backfill import Budget, EmbeddedItems, backfill
from onward.upgrading.routes import pending, transform
from onward.upgrading.verify import verification_state

GIVEN = {
    "old side": (OLD, SIDE),
    "old": (OLD,),
    "side": (SIDE,),
    "new": (NEW,),
    "old side new": (OLD, SIDE, NEW),
    "old next": (OLD, NEXT),
}
STEPS = (
    *("start", "run", "verify", "verify fused", "cut over", "cut over fused", "roll back"),
    *("backfill", "abort", "complete"),
)
SERVING = ("run", "verify fused", "cut over", "cut over fused", "roll back", "complete")
"""Steps on the way to another answer."""
GIVING_UP = ("abort", "complete")
"""Steps that drop spaces."""
LATE = ("delete", "add", "update", "delete", "backfill", "abort", "start again")
"""What happens between a slow worker's reading and its writing."""
EVERY_BATCH = 2 * len(ITEMS)

some = st.lists(st.sampled_from(ITEMS), min_size=1, max_size=4, unique=True).map("".join)
given = st.sampled_from(sorted(GIVEN))
kinds = st.sampled_from(["add", "update", "delete"])
ways = st.sampled_from(sorted(WAYS))
serves = st.sampled_from(SERVES)
calls = st.sampled_from([*range(20), *range(20, 52, 8)])  # no step calls its store more often
EVENTS = ("add", "kill", "update", "kill", "delete", "kill")
seldom = st.integers(0, 9).map(lambda drawn: drawn == 9)

Take = Callable[[Upgrade], Any]
After = Callable[[Routes], Stated | None]
"""What the record says after a step; None if the step is refused."""
Options = dict[str, Any]


def upgrade_machine(
    new_place: Callable[[Path], str | Path | Place], *, examples: int = 48
) -> Counter[str]:
    """Take steps of upgrades on galleries in a store, in any order, and check every row each time.

    Args:
        new_place: gives where the gallery of an example may be created; a directory that is
            deleted after the example is there for it.
        examples: how many galleries are tried, each by some 50 steps; the same for the same number.

    Returns:
        How often each kind of step and event came to pass.

    Raises:
        AssertionError: by the first step after which something is wrong.
    """
    counts = Counter[str]()

    class Machine(UpgradeMachine):
        def __init__(self) -> None:
            super().__init__(new_place, counts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onward.upgrading.run.LOOK_SECONDS", 0.0)  # of a run that is paused
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=50,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[Phase.generate],  # and Phase.shrink for a shorter failure, minutes later
                suppress_health_check=list(HealthCheck),
            ),
        )
    return counts


def upgrade_of(gallery: Gallery, way: str) -> Upgrade:
    """Return an upgrade of a gallery."""
    return Upgrade(gallery, *WAYS[way].transformations)


def serving(routes: Routes, pair: Fusion | None) -> Options:
    """Return how a step is told what is to answer."""
    told = routes.first.serving
    is_told = told is not None and told.fusion == pair
    return {} if pair is None else {"serve": "fused", "fusion": None if is_told else pair}


def backfill_all(
    gallery: Gallery, space: Space, items: Sequence[str], batch_rows: int = 2
) -> BackfillResult:
    """Let the model of a space embed items as their payloads say they are."""

    def embed(ids: Sequence[str], payloads: Sequence[Mapping[str, Any] | None]) -> EmbeddedItems:
        there = [(i, payload) for i, payload in zip(ids, payloads, strict=True) if payload]
        versions = {item: payload["version"] for item, payload in there}
        gone = {item: "it is gone" for item in ids if item not in versions}
        return EmbeddedItems(vectors_of(space, versions), gone)

    asked = itertools.count()
    return backfill(
        gallery,
        space,
        embed,
        budget=Budget(share=1.0),
        order="random",
        ids=items,
        batch_rows=batch_rows,
        stop=lambda: next(asked) > EVERY_BATCH,  # it would wait while the upgrade is paused
    )


def kind_of(answering: Space | Fusion | None) -> str:
    """Return what is counted of what answers."""
    return "a pair" if isinstance(answering, Fusion) else "a space"


def die(_: Gallery) -> None:
    """End as a killed process does."""
    raise KilledError


class UpgradeMachine(RuleBasedStateMachine):
    """Steps of an upgrade, of its writers and of fate, in any order."""

    def __init__(
        self, new_place: Callable[[Path], str | Path | Place], counts: Counter[str]
    ) -> None:
        super().__init__()
        self.counts = counts
        self.directory = Path(tempfile.mkdtemp(prefix="onward-machine-"))
        self.watched = Watched(new_place(self.directory))
        self.rows: dict[str, Row] = {}
        self.maybe: set[tuple[Space, str]] = set()
        self.versions = itertools.count(1)

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    def count(self, *names: str) -> None:
        self.counts.update(names)

    @initialize(items=some, way=ways, steps=st.integers(0, 5), serve=serves)
    def begin(self, items: str, way: str, steps: int, serve: str) -> None:
        self.write("add", (OLD, SIDE), items)
        self.everything_is_as_the_dict_says()
        self.do_what_is_said_to_be_next(way, steps, -1, serve)

    @invariant()
    def everything_is_as_the_dict_says(self) -> None:
        self.count("step")
        self.watched.check(self.rows, self.maybe)
        for routes in WAYS.values():
            self.count(f"verification is {self.watched.verification(routes, self.rows)}")
        self.maybe = set()

    # What others do

    def writing(
        self, kind: str, spaces: Sequence[Space], items: Sequence[str]
    ) -> Callable[[Gallery], None]:
        """Note what a writer does; return what does it to a gallery."""
        there = [item for item in items if item in self.rows]
        if kind == "delete":
            self.rows = {item: row for item, row in self.rows.items() if item not in items}

            def delete(gallery: Gallery) -> None:
                assert gallery.delete(items) == len(there)

            return delete
        right = there if kind == "update" else [item for item in items if item not in self.rows]
        versions = {item: next(self.versions) for item in right}
        changed = {item: Row(at, frozenset(spaces)) for item, at in versions.items()}
        self.rows = {**self.rows, **changed}

        def write(gallery: Gallery) -> None:
            verb = getattr(gallery, kind)
            wrong = len(items) - len(right)
            if wrong:
                everything = dict.fromkeys(items, 0)
                with pytest.raises(GalleryError, match=f"{wrong} of {len(items)} items are"):
                    verb(*(vectors_of(space, everything) for space in spaces))
            if right:
                payloads = [{"version": version} for version in versions.values()]
                verb(*(vectors_of(space, versions) for space in spaces), payloads=payloads)

        return write

    def is_unknown(self, *spaces: Space) -> bool:
        return any(space not in self.watched.stated.made_by for space in spaces)

    @rule(kind=kinds, given=given, items=some)
    def others_write(self, kind: str, given: str, items: str) -> None:
        self.write(kind, GIVEN[given], items)

    def write(self, kind: str, spaces: Sequence[Space], items: Sequence[str]) -> None:
        self.count(kind)
        gallery = self.watched.gallery
        if kind != "delete" and self.is_unknown(*spaces):
            with pytest.raises(GalleryError, match="has no space"):
                getattr(gallery, kind)(*(vectors_of(s, {"a": 0}) for s in spaces))
            return
        self.writing(kind, spaces, items)(gallery)

    @rule(at=st.integers(1, 3), items=some)
    def others_embed(self, at: int, items: str) -> None:
        """Side-information that is collected later, or a backfill."""
        space = SPACES[at]
        if self.is_unknown(space):
            return
        self.count("backfill")
        there = {item for item in items if item in self.rows}
        done = {item for item, _ in self.watched.embedded[space] if item in there}
        result = backfill_all(self.watched.gallery, space, items)
        waits = any(WAYS[way].new == space for way in self.watched.paused)
        assert (result.done, result.changed) == (0 if waits else len(there - done), 0)
        self.maybe |= {(space, item) for item in items}

    # What an upgrade does

    def step(self, name: str, way: str, take: Take, after: After) -> None:
        """Take a step; the record then says what is `after` it, or the step is refused."""
        self.count(name)
        one = self.watched
        expected, one.dropped = after(WAYS[way]), set()
        if expected is None:
            self.count(f"{name} refused")
            with pytest.raises(UpgradeError):
                take(upgrade_of(one.gallery, way))
        else:
            take(upgrade_of(one.gallery, way))
            one.stated = expected.without(*one.dropped)
        assert Stated.of(one.gallery) == one.stated

    def if_started(self, routes: Routes) -> Stated | None:
        return self.watched.stated if self.watched.stated.is_started(routes) else None

    def after_start(self, routes: Routes) -> Stated | None:
        stated = self.watched.stated
        made_by = stated.made_by
        if not stated.can_be(routes) or made_by.get(routes.new) not in (None, routes.digest):
            return None
        return stated._replace(made_by={**made_by, routes.new: routes.digest})

    def if_can_serve(self, routes: Routes, pair: Fusion | None) -> Stated | None:
        stated = self.if_started(routes)
        return stated if stated and (pair is None or pair.old in stated.made_by) else None

    def after_cut_over(self, routes: Routes, pair: Fusion | None = None) -> Stated | None:
        stated, answering = self.if_can_serve(routes, pair), pair or routes.new
        if stated is None:
            return None
        if stated.space == routes.new:
            return stated._replace(serving=answering)
        return stated._replace(serving=answering, previous=stated.serving)

    def after_roll_back(self, routes: Routes) -> Stated | None:
        stated = self.watched.stated
        if not stated.can_be(routes):
            return None
        if stated.space != routes.new or stated.previous is None:
            return stated
        return stated._replace(serving=stated.previous, previous=None)

    def after_abort(self, routes: Routes) -> Stated | None:
        stated = self.if_started(routes)
        if stated is None:
            return None
        if routes.new in (*spaces_of(stated.serving), *spaces_of(stated.previous)):
            return None
        return stated.without(routes.new)

    def after_complete(self, routes: Routes) -> Stated | None:
        stated = self.if_started(routes)
        is_cut_over = stated is not None and stated.space == routes.new
        return stated._replace(previous=None) if stated and is_cut_over else None

    @rule(way=ways)
    def start(self, way: str) -> None:
        if self.is_source_of_orphans(WAYS[way].new):
            return
        self.step("start", way, lambda upgrade: upgrade.start(), self.after_start)

    @rule(way=ways, batch_rows=st.integers(1, 9), batches=st.sampled_from([1, 2, 3, EVERY_BATCH]))
    def run(self, way: str, batch_rows: int, batches: int) -> None:
        def take(upgrade: Upgrade) -> None:
            asked = itertools.count()
            result = upgrade.run(batch_rows=batch_rows, stop=lambda: next(asked) >= batches)
            assert result.done + result.remaining == len(self.watched.to_do(WAYS[way]))
            assert result.done <= batches * batch_rows
            assert not result.done or way not in self.watched.paused
            assert result.stopped == bool(result.remaining)

        self.step("run", way, take, self.if_started)

    @rule(way=ways, paused=st.booleans())
    def pause_or_resume(self, way: str, paused: bool) -> None:
        def take(upgrade: Upgrade) -> None:
            status = upgrade.pause() if paused else upgrade.resume()
            assert status.control.paused == paused
            others = self.watched.paused - {way}
            self.watched.paused = {*others, way} if paused else others

        self.step("pause", way, take, self.if_started)

    @rule(way=ways, leave_out=st.booleans(), serve=serves)
    def verify(self, way: str, leave_out: bool, serve: str) -> None:
        pair = pair_of(WAYS[way], serve)

        def take(upgrade: Upgrade) -> None:
            one, routes = self.watched, WAYS[way]
            options = serving(routes, pair)
            verification = upgrade.verify(sample_rows=None, leave_out=leave_out, **options)
            to_do, lost = one.to_do(routes), one.lost(routes, pair)
            if one.filled_from(routes.new) <= set(one.stated.made_by):
                assert not verification.wrong
            right = not (verification.wrong or to_do)
            assert verification.work.to_do == len(to_do)
            assert verification.passed == (right and (leave_out or not lost))
            one.verified[routes.digest, pair] = verification.passed, one.seen(self.rows)
            self.count("passed" if verification.passed else "failed")

        self.step("verify", way, take, lambda routes: self.if_can_serve(routes, pair))

    @rule(way=ways, force=st.booleans(), serve=serves)
    def cut_over(self, way: str, force: bool, serve: str) -> None:
        pair = pair_of(WAYS[way], serve)

        def after(routes: Routes) -> Stated | None:
            stated = self.if_can_serve(routes, pair)
            known = self.watched.verification(routes, self.rows, pair)
            if known is None and stated is not None:
                known = verification_state(self.watched.gallery.view(), routes, pair)
            is_cut = stated is not None and stated.serving == (pair or routes.new)
            is_open = force or known == "passed" or is_cut
            return self.after_cut_over(routes, pair) if is_open else None

        def take(upgrade: Upgrade) -> None:
            options = self.cutting_over(way, pair)
            before = self.watched.stated.serving
            assert upgrade.cut_over(force=force, **options).is_cut_over
            self.count("cut over by force" if force else "cut over when verified")
            if before != (pair or WAYS[way].new):
                self.count(f"from {kind_of(before)} to {kind_of(pair)}")

        self.step("cut over", way, take, after)

    def cutting_over(self, way: str, pair: Fusion | None) -> Options:
        """Return what a step is told that cuts over."""
        models = {"query_model": MODELS[WAYS[way].new]}
        if pair is not None:
            models["old_query_model"] = MODELS[pair.old]
        return models | serving(WAYS[way], pair)

    @rule(way=ways, leave_out=st.booleans())
    def roll_back(self, way: str, leave_out: bool) -> None:
        def after(routes: Routes) -> Stated | None:
            expected, stated = self.after_roll_back(routes), self.watched.stated
            is_back = expected not in (None, stated)
            before = spaces_of(stated.previous)
            natives = is_back and self.watched.natives(routes.new, *before)
            return None if natives and not leave_out else expected

        def take(upgrade: Upgrade) -> None:
            stated = self.watched.stated
            if stated.space == WAYS[way].new and stated.previous is None:
                with pytest.raises(GalleryError, match="nothing to roll back to"):
                    upgrade.roll_back(leave_out=leave_out)
            else:
                upgrade.roll_back(leave_out=leave_out)

        self.step("roll back", way, take, after)

    def is_source_of_orphans(self, space: Space) -> bool:
        """Say whether rows were made of what is, or would be, gone: they cannot be made again."""
        return bool(self.watched.upgraded[NEXT]) and space == NEW

    def forget(self, dropped: Collection[Space]) -> None:
        """Forget what was given in spaces that are gone."""
        one = self.watched
        one.generation += bool(dropped)
        gone = {routes.digest for routes in WAYS.values() if routes.new in dropped}
        one.verified = {of: found for of, found in one.verified.items() if of[0] not in gone}
        one.paused = {way for way in one.paused if WAYS[way].new not in dropped}
        for space in dropped:
            assert space not in one.stated.made_by
            one.upgraded[space], one.embedded[space] = set(), set()
        self.rows = {i: Row(r.version, r.given - set(dropped)) for i, r in self.rows.items()}

    @rule(way=ways, leave_out=st.booleans())
    def abort(self, way: str, leave_out: bool) -> None:
        new = WAYS[way].new
        if self.is_source_of_orphans(new):
            return

        def after(routes: Routes) -> Stated | None:
            natives = self.watched.natives(new, *(space for space in SPACES if space != new))
            return None if natives and not leave_out else self.after_abort(routes)

        was_unknown = self.is_unknown(new)
        self.step("abort", way, lambda upgrade: upgrade.abort(leave_out=leave_out), after)
        if self.is_unknown(new) and not was_unknown:
            self.forget([new])

    @rule(way=ways, at_once=st.booleans(), drop_original=seldom)
    def complete(self, way: str, at_once: bool, drop_original: bool) -> None:
        one = self.watched

        def after(routes: Routes) -> Stated | None:
            is_over = at_once or one.stated.previous is None
            is_needed = drop_original and isinstance(one.stated.serving, Fusion)
            return self.after_complete(routes) if is_over and not is_needed else None

        def take(upgrade: Upgrade) -> None:
            window = timedelta(days=1)
            completion = upgrade.complete(
                now=at_once, rollback_window=window, drop_original=drop_original, leave_out=True
            )
            one.dropped = set(completion.dropped)
            left = {item for item, held in one.held.items() if held and held <= one.dropped}
            unreachable = completion.unreachable
            assert (unreachable.rows if unreachable else 0) == len(left)
            assert drop_original or not left | (one.dropped & {OLD, SIDE})
            self.count(f"{len(one.dropped)} dropped by complete")

        self.step("complete", way, take, after)
        self.forget(one.dropped)

    @rule(way=ways)
    def ask_for_the_status(self, way: str) -> None:
        def take(upgrade: Upgrade) -> None:
            one, status, routes = self.watched, upgrade.status(), WAYS[way]
            assert status.started == one.stated.is_started(routes)
            assert status.is_cut_over == (one.stated.space == routes.new)
            assert (status.fusion or status.serving) == one.stated.serving
            assert status.work.to_do == len(one.to_do(routes))
            if status.verified != "fused":
                assert one.verification(routes, self.rows) in (None, status.verification)

        def after(routes: Routes) -> Stated | None:
            return self.watched.stated if self.watched.stated.can_be(routes) else None

        self.step("status", way, take, after)

    @rule(way=ways, steps=st.integers(1, 5), at=st.sampled_from([0, -1]), serve=serves)
    def do_what_is_said_to_be_next(
        self, way: str, steps: int, at: int, serve: str, until: str | None = None
    ) -> None:
        follow = {
            "start": lambda: self.start(way),
            "resume": lambda: self.pause_or_resume(way, False),
            "run": lambda: self.run(way, 3, EVERY_BATCH),
            "verify": lambda: self.verify(way, True, serve),
            "cut_over": lambda: self.cut_over(way, False, SERVES[0]),
            "cut_over_fused": lambda: self.cut_over(way, False, serve),
            "complete": lambda: self.complete(way, True, False),
        }
        for _ in range(steps):
            if not self.watched.stated.can_be(WAYS[way]):
                return
            said = upgrade_of(self.watched.gallery, way).status().to_json()["next_steps"]
            if not said or said[at]["step"] not in follow or said[at]["step"] == until:
                return
            follow[said[at]["step"]]()
            self.everything_is_as_the_dict_says()

    @rule(way=ways, order=st.lists(serves, min_size=2, max_size=4))
    def one_thing_after_another_answers(self, way: str, order: list[str]) -> None:
        """To the pair, to its new space alone, to another pair: what may be returned to stays."""
        self.do_what_is_said_to_be_next(way, 4, 0, order[0], until="complete")
        for serve in order[1:]:
            if self.watched.stated.space == WAYS[way].new:
                self.cut_over(way, True, serve)
                self.everything_is_as_the_dict_says()

    @rule(given=st.sampled_from(["old", "old side", "new"]), items=some, serve=serves)
    def another_upgrade_follows(self, given: str, items: str, serve: str) -> None:
        """From what answers now, with rows that only some of its spaces have."""
        way = "next or by new"
        if self.watched.stated.space != NEW:
            return
        self.write("add", GIVEN[given], items)
        self.everything_is_as_the_dict_says()
        self.start(way)
        self.run(way, 3, EVERY_BATCH)
        self.everything_is_as_the_dict_says()
        self.verify(way, False, serve)
        self.cut_over(way, True, serve)
        self.write("update", GIVEN["old"], items)
        self.everything_is_as_the_dict_says()
        self.ask_for_the_status(way)
        self.roll_back(way, False)

    # What fate does

    def take(self, name: str, way: str) -> tuple[Take, After]:
        """Return a step, and what the record may say after it."""
        new, asked = WAYS[way].new, itertools.count()
        pair = pair_of(WAYS[way], SERVES[1])
        to_pair = self.cutting_over(way, pair)
        steps: dict[str, tuple[Take, After]] = {
            "start": (lambda u: u.start(), self.after_start),
            "run": (
                lambda u: u.run(batch_rows=2, stop=lambda: next(asked) > EVERY_BATCH),
                self.if_started,
            ),
            "verify": (lambda u: u.verify(sample_rows=None), self.if_started),
            "verify fused": (
                lambda u: u.verify(sample_rows=None, serve="fused"),
                lambda routes: self.if_can_serve(routes, pair),
            ),
            "cut over": (lambda u: u.cut_over(query_model=MODELS[new]), self.after_cut_over),
            "cut over fused": (
                lambda u: u.cut_over(**to_pair),
                lambda routes: self.after_cut_over(routes, pair),
            ),
            "roll back": (lambda u: u.roll_back(leave_out=True), self.after_roll_back),
            "backfill": (lambda u: backfill_all(u.gallery, new, ITEMS), self.if_started),
            "abort": (lambda u: u.abort(leave_out=True), self.after_abort),
            "complete": (lambda u: u.complete(now=True, leave_out=True), self.after_complete),
        }
        return steps[name]

    @rule(
        way=ways,
        name=st.sampled_from(STEPS),
        at=calls,
        event=st.tuples(st.sampled_from(EVENTS), given, some),
    )
    def something_happens_during(
        self, way: str, name: str, at: int, event: tuple[str, str, str]
    ) -> None:
        """Kill a process in the midst of a step, or let others write then."""
        serve = SERVES["fused" in name]
        until = name.replace(" ", "_").removesuffix("_fused" * name.startswith("verify"))
        self.do_what_is_said_to_be_next(way, 4, 0, serve, until=until)
        (kind, given, items), one, routes = event, self.watched, WAYS[way]
        kind = "kill" if name in GIVING_UP else kind
        if name in ("start", *GIVING_UP) and self.is_source_of_orphans(routes.new):
            return
        take, after = self.take(name, way)
        expected = after(routes)
        write: Callable[[Gallery], None] = die
        if kind != "kill":
            fits = (OLD,) if self.is_unknown(*GIVEN[given]) else GIVEN[given]
            if self.is_unknown(*fits):
                return
            write = self.writing(kind, fits, items)
        happened = self.disturb(take, way, at, write)
        self.count(*[f"{'kill' if kind == 'kill' else 'write'} during {name}"] * happened)
        if kind == "kill":
            one.reopen()
        elif not happened:
            write(one.gallery)
        if name in GIVING_UP:  # what was killed in the midst is done again
            with suppress(UpgradeError):
                take(upgrade_of(one.gallery, way))
        self.find_dropped(expected)
        now = one.stated
        if name.startswith("verify") and now.is_started(routes):
            one.verified[routes.digest, pair_of(routes, serve)] = None, None
        if name == "backfill":
            self.maybe |= {(routes.new, item) for item in ITEMS}

    @rule(way=ways, name=st.sampled_from(SERVING), at=st.integers(0, 40), kills=st.booleans())
    def something_happens_when_it_is_to_answer(
        self, way: str, name: str, at: int, kills: bool
    ) -> None:
        """Where what answers changes, at any call."""
        event = ("kill", "old side", "a") if kills else ("update", "old side", "abc")
        self.something_happens_during(way, name, at, event)

    def find_dropped(self, expected: Stated | None) -> None:
        """Note what the record says now: what it said, or what is expected, without some spaces."""
        one = self.watched
        before, one.stated = one.stated, Stated.of(one.gallery)
        one.dropped = set(before.made_by) - set(one.stated.made_by)
        allowed = [before, *([] if expected is None else [expected])]
        assert one.stated in [each.without(*one.dropped) for each in allowed]
        assert not one.dropped & {OLD, SIDE, *spaces_of(before.serving)}
        self.forget(one.dropped)

    def disturb(self, take: Take, way: str, at: int, happens: Callable[[Gallery], None]) -> int:
        """Take a step; return 1 if it came to the call at which something happens, else 0."""
        happened = []

        def happens_once() -> None:
            happened.append(True)
            happens(open_gallery(self.watched.place))

        process: Any = Process(self.watched.gallery._store, at, happens_once)
        with suppress(KilledError, GalleryError, UpgradeError):
            take(upgrade_of(Gallery(process), way))
        return len(happened)

    @rule(
        way=ways,
        batch_rows=st.integers(1, 9),
        late=st.sampled_from(LATE),
        given=given,
        items=some,
    )
    def a_slow_worker_is_late(
        self, way: str, batch_rows: int, late: str, given: str, items: str
    ) -> None:
        """Something happens after a worker has read a batch and before it writes."""
        self.start(way)
        self.others_write("update", "old side", items)
        self.everything_is_as_the_dict_says()
        one, routes, read = self.watched, WAYS[way], None
        if one.stated.is_started(routes):
            read = next(iter(pending(one.gallery, routes, batch_rows)), None)
        if read is None:
            return
        transformation, batch = read
        rows = [(item, self.rows[item].version) for item in batch.ids]
        if late == "backfill":
            self.others_embed(SPACES.index(routes.new), items)
        elif late in ("abort", "start again"):
            self.abort(way, True)
            if late == "start again":
                self.start("new")
        else:
            self.others_write(late, given, items)
        self.everything_is_as_the_dict_says()
        made = transform(transformation, batch).embeddings
        options: dict[str, Any] = {"origin": "upgraded", "made_by": routes.digest}
        if not one.stated.is_started(routes):
            self.count("late batch refused")
            with pytest.raises(GalleryError):
                one.gallery.write(made, batch.revisions, **options)
            return
        same = {item for item, at in rows if item in self.rows and self.rows[item].version == at}
        free = same - {item for item, _ in one.embedded[routes.new]}
        assert one.gallery.write(made, batch.revisions, **options) == len(free)
        self.count("late batch", *["late batch in part"] * (len(free) < len(batch)))

    @rule()
    def every_process_is_killed(self) -> None:
        self.watched.reopen()
