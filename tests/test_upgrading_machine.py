"""Any order of steps, with writers, slow workers and sudden deaths in between, on every store.

After each step every row is compared with a dict that says what the gallery must hold: none lost,
none reborn, every upgraded vector what a transformation makes of what is stored, one space that
answers. Here a process is killed between two of its calls to the store; that a call is atomic is
tested where real processes are killed.
"""

import itertools
import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

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
from watching import (
    ITEMS,
    MODELS,
    NEW,
    NEXT,
    OLD,
    SIDE,
    SPACES,
    WAYS,
    Control,
    KilledError,
    Process,
    Row,
    Watched,
    vectors_of,
)

from onward.errors import GalleryError, UpgradeError
from onward.gallery import Gallery, open_gallery
from onward.gallery.lance.fragments import fill_fragments
from onward.upgrading import Upgrade
from onward.upgrading.backfill import Budget, EmbeddedItems, backfill
from onward.upgrading.routes import pending
from onward.upgrading.routes import transform as carry

GIVEN = {
    "old side": (OLD, SIDE),
    "old": (OLD,),
    "side": (SIDE,),
    "new": (NEW,),
    "old side new": (OLD, SIDE, NEW),
    "old next": (OLD, NEXT),
}
STEPS = ("start", "run", "verify", "cut over", "roll back", "backfill")
EVERY_BATCH = 2 * len(ITEMS)

some = st.lists(st.sampled_from(ITEMS), min_size=1, max_size=4, unique=True).map("".join)
given = st.sampled_from(sorted(GIVEN))
kinds = st.sampled_from(["add", "update", "delete"])
ways = st.sampled_from(sorted(WAYS))
calls = st.sampled_from([*range(20), *range(20, 52, 8)])  # no step calls its store more often
seldom = st.integers(0, 9).map(lambda drawn: drawn == 9)


def transform(transformation, batch):
    """Return the new vectors of a batch, in which every row gets one."""
    return carry(transformation, batch).embeddings


def upgrade_of(gallery, routes):
    return Upgrade(gallery, *routes.transformations)


def embed(space):
    """Return what makes the vectors of items as their payloads say they are."""

    def make(ids, payloads):
        there = [(i, payload) for i, payload in zip(ids, payloads, strict=True) if payload]
        versions = {item: payload["version"] for item, payload in there}
        gone = {item: "it is gone" for item in ids if item not in versions}
        return EmbeddedItems(vectors_of(space, versions), gone)

    return make


def backfill_all(gallery, space, items, batch_rows=2):
    asked = itertools.count()
    return backfill(
        gallery,
        space,
        embed(space),
        budget=Budget(share=1.0),
        order="random",
        ids=items,
        batch_rows=batch_rows,
        stop=lambda: next(asked) > EVERY_BATCH,  # it would wait while the upgrade is paused
    )


class Machine(RuleBasedStateMachine):
    """Steps of an upgrade, of its writers and of fate, in any order."""

    stores = ("memory",)
    counts: ClassVar = Counter()

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="onward-machine-"))
        places = {"memory": f"memory:machine-{next(numbers)}", "lancedb": self.directory / "g"}
        self.watched = [Watched(str(places[store])) for store in self.stores]
        self.rows = {}
        self.maybe = set()
        self.versions = itertools.count(1)

    def teardown(self):
        shutil.rmtree(self.directory)

    def count(self, *names):
        self.counts.update(names)

    @initialize(items=some, way=ways, steps=st.integers(0, 5))
    def begin(self, items, way, steps):
        self.write("add", (OLD, SIDE), items)
        self.everything_is_as_the_dict_says()
        self.do_what_is_said_to_be_next(way, steps, -1)

    @invariant()
    def everything_is_as_the_dict_says(self):
        self.count("step")
        for one in self.watched:
            one.check(self.rows, self.maybe)
            known = (one.verification(routes, self.rows) for routes in WAYS.values())
            self.count(*(f"verification is {one}" for one in known))
        self.maybe = set()

    # What others do

    def writing(self, kind, spaces, items):
        """Take down what a writer does; return what does it to a gallery."""
        there = [item for item in items if item in self.rows]
        if kind == "delete":
            self.rows = {item: row for item, row in self.rows.items() if item not in items}
            return lambda gallery: self.same(gallery.delete(items), len(there))
        right = there if kind == "update" else [item for item in items if item not in self.rows]
        versions = {item: next(self.versions) for item in right}
        changed = {item: Row(at, frozenset(spaces)) for item, at in versions.items()}
        self.rows = {**self.rows, **changed}

        def write(gallery):
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

    def same(self, answer, expected):
        assert answer == expected

    def unknown(self, spaces):
        return any(space not in one.control.made_by for space in spaces for one in self.watched)

    @rule(kind=st.sampled_from(["add", "update"]), given=given, items=some)
    def others_write(self, kind, given, items):
        self.write(kind, GIVEN[given], items)

    def write(self, kind, spaces, items):
        self.count(kind)
        if self.unknown(spaces):
            for one in self.watched:
                with pytest.raises(GalleryError, match="has no space"):
                    getattr(one.gallery, kind)(*(vectors_of(s, {"a": 0}) for s in spaces))
            return
        write = self.writing(kind, spaces, items)
        for one in self.watched:
            write(one.gallery)

    @rule(items=some)
    def others_delete(self, items):
        self.count("delete")
        delete = self.writing("delete", (), items)
        for one in self.watched:
            delete(one.gallery)

    @rule(at=st.integers(1, 3), items=some)
    def others_embed(self, at, items):
        """Side-information that is collected later, or a backfill."""
        if self.unknown([SPACES[at]]):
            return
        for one in self.watched:
            self.count("backfill")
            there = {item for item in items if item in self.rows}
            done = {item for item, _ in one.embedded[SPACES[at]] if item in there}
            result = backfill_all(one.gallery, SPACES[at], items)
            waits = any(WAYS[way].new == SPACES[at] for way in one.paused)
            assert (result.done, result.changed) == (0 if waits else len(there - done), 0)
        self.maybe |= {(SPACES[at], item) for item in items}

    # What an upgrade does

    def step(self, name, way, take, after):
        """Take a step on each gallery; its record then says `after`, or the step is refused."""
        self.count(name)
        routes = WAYS[way]
        for one in self.watched:
            expected, one.dropped = after(one, routes), set()
            if expected is None:
                self.count(f"{name} refused")
                with pytest.raises(UpgradeError):
                    take(upgrade_of(one.gallery, routes), one)
            else:
                take(upgrade_of(one.gallery, routes), one)
                one.control = expected.without(*one.dropped)
            assert Control.of(one.gallery) == one.control

    def unchanged(self, one, routes):
        return one.control if one.control.is_started(routes) else None

    def after_start(self, one, routes):
        made_by = one.control.made_by
        if not one.control.can_be(routes) or made_by.get(routes.new) not in (None, routes.digest):
            return None
        return one.control._replace(made_by={**made_by, routes.new: routes.digest})

    def after_cut_over(self, one, routes):
        if not one.control.is_started(routes):
            return None
        if one.control.serving == routes.new:
            return one.control
        return one.control._replace(serving=routes.new, previous=one.control.serving)

    def after_roll_back(self, one, routes):
        back = one.control.previous
        if not one.control.can_be(routes):
            return None
        if one.control.serving != routes.new or back is None:
            return one.control
        return one.control._replace(serving=back, previous=None)

    def after_abort(self, one, routes):
        if not one.control.is_started(routes):
            return None
        if routes.new in (one.control.serving, one.control.previous):
            return None
        return one.control.without(routes.new)

    @rule(way=ways)
    def start(self, way):
        if self.is_source_of_orphans(WAYS[way].new):
            return
        self.step("start", way, lambda upgrade, _: upgrade.start(), self.after_start)

    @rule(way=ways, batch_rows=st.integers(1, 4), batches=st.integers(1, 3))
    def run_some_batches(self, way, batch_rows, batches):
        self.run(way, batch_rows, batches)

    @rule(way=ways, batch_rows=st.integers(1, 9))
    def run_to_the_end(self, way, batch_rows):
        self.run(way, batch_rows, EVERY_BATCH)

    def run(self, way, batch_rows, batches):
        def take(upgrade, one):
            asked = itertools.count()
            result = upgrade.run(batch_rows=batch_rows, stop=lambda: next(asked) >= batches)
            assert result.done + result.remaining == len(one.to_do(WAYS[way]))
            assert result.done <= batches * batch_rows
            assert not result.done or way not in one.paused
            assert result.stopped == bool(result.remaining)

        self.step("run", way, take, self.unchanged)

    @rule(way=ways, paused=st.booleans())
    def pause_or_resume(self, way, paused):
        def take(upgrade, one):
            status = upgrade.pause() if paused else upgrade.resume()
            assert status.control.paused == paused
            one.paused = one.paused | {way} if paused else one.paused - {way}

        self.step("pause", way, take, self.unchanged)

    @rule(way=ways, leave_out=st.booleans())
    def verify(self, way, leave_out):
        routes = WAYS[way]

        def take(upgrade, one):
            verification = upgrade.verify(sample_rows=None, leave_out=leave_out)
            to_do, lost = one.to_do(routes), one.lost(routes)
            if one.filled_from(routes.new) <= set(one.control.made_by):
                assert not verification.wrong
            right = not (verification.wrong or to_do)
            assert verification.work.to_do == len(to_do)
            assert verification.passed == (right and (leave_out or not lost))
            one.verified[routes.digest] = verification.passed, one.seen(self.rows)
            self.count("passed" if verification.passed else "failed")

        self.step("verify", way, take, self.unchanged)

    @rule(way=ways, force=st.booleans())
    def cut_over(self, way, force):
        def after(one, routes):
            known = one.verification(routes, self.rows)
            if known is None and one.control.is_started(routes):
                known = upgrade_of(one.gallery, routes).status().verification
            if one.control.serving != routes.new and known != "passed" and not force:
                return None
            return self.after_cut_over(one, routes)

        def take(upgrade, one):
            assert upgrade.cut_over(query_model=MODELS[WAYS[way].new], force=force).is_cut_over
            self.count("cut over by force" if force else "cut over when verified")

        self.step("cut over", way, take, after)

    @rule(way=ways, leave_out=st.booleans())
    def roll_back(self, way, leave_out):
        def after(one, routes):
            expected = self.after_roll_back(one, routes)
            is_back = expected not in (None, one.control)
            natives = is_back and one.natives(routes.new, one.control.previous)
            return None if natives and not leave_out else expected

        def take(upgrade, one):
            if one.control.serving == WAYS[way].new and one.control.previous is None:
                with pytest.raises(GalleryError, match="nothing to roll back to"):
                    upgrade.roll_back(leave_out=leave_out)
            else:
                upgrade.roll_back(leave_out=leave_out)

        self.step("roll back", way, take, after)

    def is_source_of_orphans(self, space):
        """Say whether rows were made of what is, or would be, gone: they cannot be made again."""
        return any(one.upgraded[NEXT] and space == NEW for one in self.watched)

    def forget(self, *dropped):
        """Forget what was given in spaces that are gone."""
        for one in self.watched:
            one.generation += bool(dropped)
            one.paused = {way for way in one.paused if WAYS[way].new not in dropped}
            for space in dropped:
                assert space not in one.control.made_by
                one.upgraded[space], one.embedded[space] = set(), set()
        self.rows = {i: Row(r.version, r.given - set(dropped)) for i, r in self.rows.items()}

    @rule(way=ways, leave_out=st.booleans())
    def abort(self, way, leave_out):
        new = WAYS[way].new
        if self.is_source_of_orphans(new):
            return

        def after(one, routes):
            natives = one.natives(new, *(space for space in SPACES if space != new))
            return None if natives and not leave_out else self.after_abort(one, routes)

        self.step("abort", way, lambda upgrade, _: upgrade.abort(leave_out=leave_out), after)
        if self.unknown([new]):
            self.forget(new)

    def do_not_agree(self):
        first, *others = self.watched
        return any(
            (one.upgraded, one.embedded) != (first.upgraded, first.embedded) for one in others
        )

    @rule(way=ways, at_once=st.booleans(), drop_original=seldom)
    def complete(self, way, at_once, drop_original):
        if self.do_not_agree():
            return  # they would not drop the same

        def after(one, routes):
            is_over = at_once or one.control.previous is None
            if not one.control.is_started(routes) or one.control.serving != routes.new:
                return None
            return one.control._replace(previous=None) if is_over else None

        def take(upgrade, one):
            holdover = timedelta(days=1)
            completion = upgrade.complete(
                now=at_once, holdover=holdover, drop_original=drop_original, leave_out=True
            )
            one.dropped = set(completion.dropped)
            left = {item for item, held in one.held.items() if held and held <= one.dropped}
            unreachable = completion.unreachable
            assert (unreachable.rows if unreachable else 0) == len(left)
            assert drop_original or not left | (one.dropped & {OLD, SIDE})
            self.count(f"{len(one.dropped)} dropped by complete")

        self.step("complete", way, take, after)
        self.forget(*self.watched[0].dropped)

    @rule(way=ways)
    def ask_for_the_status(self, way):
        def take(upgrade, one):
            status, routes = upgrade.status(), WAYS[way]
            assert status.started == one.control.is_started(routes)
            assert status.is_cut_over == (one.control.serving == routes.new)
            assert status.work.to_do == len(one.to_do(routes))
            assert one.verification(routes, self.rows) in (None, status.verification)

        def after(one, routes):
            return one.control if one.control.can_be(routes) else None

        self.step("status", way, take, after)

    @rule(way=ways, steps=st.integers(1, 5), at=st.sampled_from([0, -1]))
    def do_what_is_said_to_be_next(self, way, steps, at=0, until=None):
        follow = {
            "start": lambda: self.start(way),
            "resume": lambda: self.pause_or_resume(way, False),
            "run": lambda: self.run_to_the_end(way, 3),
            "verify": lambda: self.verify(way, True),
            "cut_over": lambda: self.cut_over(way, False),
            "complete": lambda: self.complete(way, True, False),
        }
        for _ in range(steps):
            one = self.watched[-1]
            if not one.control.can_be(WAYS[way]):
                return
            said = upgrade_of(one.gallery, WAYS[way]).status().to_json()["next_steps"]
            if not said or said[at]["step"] not in follow or said[at]["step"] == until:
                return
            follow[said[at]["step"]]()
            self.everything_is_as_the_dict_says()

    # What fate does

    def steps(self, way):
        """Return steps, and what a gallery's record may say afterwards."""
        routes, asked = WAYS[way], itertools.count()
        model = MODELS[routes.new]
        same = lambda one, _: one.control  # noqa: E731
        return {
            "start": (lambda u: u.start(), self.after_start),
            "run": (lambda u: u.run(batch_rows=2, stop=lambda: next(asked) > EVERY_BATCH), same),
            "verify": (lambda u: u.verify(sample_rows=None), same),
            "cut over": (lambda u: u.cut_over(query_model=model), self.after_cut_over),
            "roll back": (lambda u: u.roll_back(leave_out=True), self.after_roll_back),
            "backfill": (lambda u: backfill_all(u.gallery, routes.new, ITEMS), same),
        }

    @rule(
        way=ways,
        name=st.sampled_from(STEPS),
        at=calls,
        event=st.just(("kill", "old", "")) | st.tuples(kinds, given, some),
    )
    def something_happens_during(self, way, name, at, event):
        """Kill a process in the midst of a step, or let others write then."""
        self.do_what_is_said_to_be_next(way, 4, until=name.replace(" ", "_"))
        kind, given, items = event
        if name == "start" and self.is_source_of_orphans(WAYS[way].new):
            return
        expected = [self.steps(way)[name][1](one, WAYS[way]) for one in self.watched]
        write = self.die
        if kind != "kill":
            fits = (OLD,) if self.unknown(GIVEN[given]) else GIVEN[given]
            if self.unknown(fits):
                return
            write = self.writing(kind, fits, items)
        for one, expects in zip(self.watched, expected, strict=True):
            happened = self.disturb(one, self.steps(way)[name][0], way, at, write)
            what = "kill" if kind == "kill" else "write"
            self.count(*[f"{what} during {name}"] * happened)
            if kind == "kill":
                one.reopen()
            elif not happened:
                write(one.gallery)
            now = Control.of(one.gallery)
            assert now in (one.control, expects)
            one.control = now
            if name == "verify" and now.is_started(WAYS[way]):
                one.verified[WAYS[way].digest] = None, None
        if name == "backfill":
            self.maybe |= {(WAYS[way].new, item) for item in ITEMS}

    def disturb(self, one, take, way, at, happens):
        """Take a step on a gallery; say whether it came to the call at which something happens."""
        happened = []

        def happens_once():
            happened.append(True)
            happens(open_gallery(one.url))

        gallery = Gallery(Process(one.gallery._store, at, happens_once))
        with suppress(KilledError, GalleryError, UpgradeError):
            take(upgrade_of(gallery, WAYS[way]))
        return len(happened)

    def die(self, gallery):
        raise KilledError

    @rule(way=ways, at=calls, name=st.sampled_from(["abort", "complete"]))
    def killed_while_giving_up_a_space(self, way, at, name):
        """What drops a space is killed in the midst, and done again."""
        if self.do_not_agree() or self.is_source_of_orphans(WAYS[way].new):
            return
        again = {
            "abort": lambda upgrade: upgrade.abort(leave_out=True),
            "complete": lambda upgrade: upgrade.complete(now=True, leave_out=True),
        }[name]
        for one in self.watched:
            happened = self.disturb(one, again, way, at, self.die)
            self.count(*["kill while giving up"] * happened)
            one.reopen()
            with suppress(UpgradeError):
                again(upgrade_of(one.gallery, WAYS[way]))
            before, one.control = one.control, Control.of(one.gallery)
            one.dropped = set(before.made_by) - set(one.control.made_by)
            allowed = [before, before._replace(previous=None)]
            assert one.control in [each.without(*one.dropped) for each in allowed]
            assert not one.dropped & {OLD, SIDE, before.serving}
        self.forget(*self.watched[0].dropped)

    @rule(way=ways, batch_rows=st.integers(1, 9))
    def a_slow_worker_reads_a_batch(self, way, batch_rows):
        self.start(way)
        for one in self.watched:
            found = None
            if one.control.is_started(WAYS[way]):
                found = next(pending(one.gallery, WAYS[way], batch_rows), None)
            versions = found and [self.rows[item].version for item in found[1].ids]
            one.batch = found and (WAYS[way], *found, versions)

    @rule(way=ways, batch_rows=st.integers(1, 9), kind=kinds, given=given, items=some)
    def a_slow_worker_is_late(self, way, batch_rows, kind, given, items):
        self.a_slow_worker_reads_a_batch(way, batch_rows)
        if kind == "delete":
            self.others_delete(items)
        else:
            self.others_write(kind, given, items)
        self.a_slow_worker_writes_its_batch()

    @rule(way=st.sampled_from(["new", "new or without side"]), again=st.booleans())
    def a_slow_worker_writes_after_an_abort(self, way, again):
        self.a_slow_worker_reads_a_batch(way, 3)
        self.abort(way, True)
        if again:
            self.start("new")
        self.a_slow_worker_writes_its_batch()

    @rule()
    def a_slow_worker_writes_its_batch(self):
        for one in self.watched:
            if one.batch is None:
                continue
            (routes, transformation, batch, versions), one.batch = one.batch, None
            made = transform(transformation, batch)
            options = {"origin": "upgraded", "made_by": routes.digest}
            if not one.control.is_started(routes):
                self.count("late batch refused")
                with pytest.raises(GalleryError):
                    one.gallery.write(made, batch.revisions, **options)
                continue
            rows = zip(batch.ids, versions, strict=True)
            same = {
                item for item, at in rows if item in self.rows and self.rows[item].version == at
            }
            free = same - {item for item, _ in one.embedded[routes.new]}
            assert one.gallery.write(made, batch.revisions, **options) == len(free)
            self.count("late batch", *["late batch in part"] * (len(free) < len(batch)))

    @rule()
    def every_process_is_killed(self):
        for one in self.watched:
            one.reopen()


class OnEveryStore(Machine):
    """The same steps on the specification and on LanceDB at once."""

    stores = ("memory", "lancedb")
    counts: ClassVar = Counter()


numbers = itertools.count()
EVENTS = (
    *("add", "update", "delete", "backfill", "passed", "abort", "pause", "complete"),
    *(f"{name} refused" for name in ("start", "run", "verify", "cut over", "abort", "complete")),
    *("cut over by force", "cut over when verified", "roll back", "1 dropped by complete"),
    *("verification is passed", "verification is stale"),
    *("late batch", "late batch in part", "late batch refused", "kill while giving up"),
    *("kill during run", "write during run"),
)
"""What must have happened, or the steps were too few or too much alike."""


def count_what_is_filled(machine, monkeypatch):
    """Count the rows of LanceDB that are filled in whole parts."""

    def counting(*arguments):
        for rows in fill_fragments(*arguments):
            machine.counts["row filled"] += rows
            yield rows

    monkeypatch.setattr("onward.gallery.lance.store.fill_fragments", counting)


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "examples"), [(Machine, 48), (OnEveryStore, 6)])
def test_in_any_order_of_steps_no_row_is_lost_reborn_or_wrong(
    machine, examples, monkeypatch, request, record_property
):
    examples = request.config.getoption("--examples") or examples
    monkeypatch.setattr("onward.upgrading.run.LOOK_SECONDS", 0.0)  # of a run that is paused
    monkeypatch.setattr("onward.gallery.lance.fragments.FEWEST_ROWS", 2)
    machine.counts.clear()
    count_what_is_filled(machine, monkeypatch)
    run_state_machine_as_test(
        machine,
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
    record_property("counts", dict(machine.counts))
    assert machine.counts["step"] >= 42 * examples  # 2,016 of them on the specification
    assert bool(machine.counts["row filled"]) == ("lancedb" in machine.stores)
    if machine is Machine:
        assert [event for event in EVENTS if not machine.counts[event]] == []
        for what in ("kill", "write"):  # at a call to the store in the midst of a step
            found = [machine.counts[f"{what} during {name}"] for name in STEPS]
            assert sum(found) >= 20
            assert sum(count > 0 for count in found) >= 4
