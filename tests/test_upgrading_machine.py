"""Any order of steps of upgrades, on every store."""

import pytest

from onward.gallery.lance.fragments import Filler
from onward.testing import upgrade_machine
from onward.testing.machine import STEPS

EVENTS = (
    *("add", "update", "delete", "backfill", "passed", "abort", "pause", "complete"),
    *(f"{name} refused" for name in ("start", "run", "verify", "cut over", "abort", "complete")),
    *("cut over by force", "cut over when verified", "roll back", "1 dropped by complete"),
    *("verification is passed", "verification is stale"),
    *("late batch", "late batch in part", "late batch refused"),
    *("kill during run", "write during run", "kill during abort"),
    *("from a space to a pair", "from a pair to a space", "from a pair to a pair"),
)
"""What must have happened, or the steps were too few or too much alike."""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # three minutes of a core
def test_in_any_order_of_steps_no_row_in_memory_is_lost_reborn_or_wrong(request, record_property):
    examples = request.config.getoption("--examples") or 80
    counts = upgrade_machine(lambda directory: f"memory:{directory}", examples=examples)
    record_property("counts", dict(counts))
    assert counts["step"] >= 42 * examples  # 3,360 of them
    assert [event for event in EVENTS if not counts[event]] == []
    for what in ("kill", "write"):  # at a call to the store in the midst of a step
        found = [counts[f"{what} during {name}"] for name in STEPS]
        assert sum(found) >= 20
        assert sum(count > 0 for count in found) >= 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_in_any_order_of_steps_no_row_in_lancedb_is_lost_reborn_or_wrong(request, monkeypatch):
    filled, fill = [], Filler.fill

    def counting(filler):
        for rows in fill(filler):
            filled.append(rows)
            yield rows

    monkeypatch.setattr(Filler, "fill", counting)
    monkeypatch.setattr("onward.gallery.lance.fragments.FEWEST_ROWS", 2)
    examples = request.config.getoption("--examples") or 6
    counts = upgrade_machine(lambda directory: directory / "g.lance", examples=examples)
    assert counts["step"] >= 42 * examples
    assert sum(filled) > 0  # rows in whole parts
