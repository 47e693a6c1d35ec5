"""Shapes and types in signatures are checked at run time in every test."""

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import build_commands_once
from forks import server_of_forks
from signatures import check_signatures

check_signatures()
build_commands_once()


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=7, help="how often a process is killed")
    parser.addoption("--examples", type=int, help="of some 50 steps of the state machine")


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heard() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and so would its children."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What Onward keeps for its user, such as the log of LanceDB, lies in a place of the tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(params=["memory", pytest.param("lancedb", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a gallery may be created: a place in every store, of which a test has its own."""
    return f"memory:{tmp_path}" if request.param == "memory" else str(tmp_path / "g.lance")


@pytest.fixture(scope="session")
def forks() -> Iterator[str]:
    """The address of the process whose forks are calls of `onward`."""
    with server_of_forks() as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("the report is checked in Chromium, which is not installed here")
        pytest.skip("Chromium is not installed; the report is not looked at in a browser")
    from playwright.sync_api import sync_playwright

    quiet = ["background-networking", "component-update", "sync"]
    args = ["--no-sandbox", "--disable-gpu", "--no-first-run", *(f"--disable-{x}" for x in quiet)]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=args)
        yield chromium
        chromium.close()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the collector from looking through what imports make, which is never garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
