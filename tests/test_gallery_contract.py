"""Every store keeps the contract; a store that breaks one promise of it does not."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from broken_stores import BROKEN, Reborn, place_of

from onward.errors import MissingExtraError
from onward.gallery.memory import MemoryStore
from onward.testing import StoreContract, upgrade_machine


class TestMemory(StoreContract):
    @pytest.fixture
    def place(self, tmp_path):
        return f"memory:{tmp_path}"


@pytest.mark.slow
class TestLanceDB(StoreContract):
    @pytest.fixture
    def place(self, tmp_path):
        return tmp_path / "g.lance"


SUITE = """
import pytest
from broken_stores import BROKEN, place_of
from onward.errors import MissingExtraError
from onward.gallery.memory import MemoryStore
from onward.testing import StoreContract

for each in (MemoryStore, *BROKEN):
    class Contract(StoreContract):
        store = each

        @pytest.fixture
        def place(self, tmp_path):
            return place_of(self.store, str(tmp_path))

    globals()[f"Test{each.__name__}"] = Contract
"""


@pytest.mark.slow
def test_a_store_that_breaks_a_promise_fails_the_test_of_that_promise_and_no_sound_one_does(
    tmp_path,
):
    (tmp_path / "test_stores.py").write_text(SUITE)
    named = [(store.__name__, store.found_by) for store in BROKEN]
    nodes = [f"test_stores.py::Test{n}::{t}" for name, t in named for n in (name, "MemoryStore")]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=line", *dict.fromkeys(nodes)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line.split("::")[1:] for line in done.stdout.splitlines() if line[:6] == "FAILED"]
    found = {
        (name.removeprefix("Test"), test.partition("[")[0].split()[0]) for name, test in failed
    }
    assert found == set(named), done.stdout
    assert "error" not in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_machine_finds_a_row_that_is_born_again():
    with pytest.raises(AssertionError):
        upgrade_machine(lambda directory: place_of(Reborn, str(directory)), examples=10)
    upgrade_machine(lambda directory: place_of(MemoryStore, str(directory)), examples=1)


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("onward.testing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(MissingExtraError, match=r"hypothesis is not installed.*onward\[testing\]"):
        importlib.import_module("onward.testing")
