"""The how-to pages run as they are read: first the index makes models and files, then any page."""

import re
import shutil

import pytest
from blocks import ROOT, RUN, Block, blocks_of, check_shown, name_of, run_page

PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
INDEX = ROOT / "docs" / "howto" / "index.md"


@pytest.fixture(scope="session")
def made(tmp_path_factory, forks):
    """What the index makes; every page begins with a copy of it."""
    path = tmp_path_factory.mktemp("howto")
    run_page(INDEX, path, forks, compare=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != INDEX], ids=name_of)
def test_a_page_runs_after_the_index_and_prints_what_it_shows(page, made, forks, tmp_path):
    here = tmp_path / "here"
    shutil.copytree(made, here)
    run_page(page, here, forks, compare=True)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_command_that_is_to_fail_is_the_last_of_its_block(page):
    for block in (block for block in blocks_of(page) if block.language == "bash"):
        negated = [at.start() for at in re.finditer(r"^! ", block.text, re.MULTILINE)]
        last = block.text.replace("\\\n", "").rstrip().rsplit("\n", 1)[-1]
        assert len(negated) <= 1, f"{block}: bash looks at the last command alone"
        assert not negated or last.startswith("! "), f"{block}: bash would not notice"


@pytest.mark.parametrize("page", [page for page in PAGES if page != INDEX], ids=name_of)
def test_a_page_begins_with_when_you_need_it(page):
    heading, blank, first, *_ = page.read_text().splitlines()
    assert heading.startswith("# ")
    assert not blank
    assert first.startswith("You need this ")


def test_what_is_shown_and_was_not_printed_is_found(tmp_path):
    block = Block(INDEX, 1, "text", "map 80.1 of old@12345678 ... done\n", None)
    check_shown(block, "first\nmap   7.5 of old@abcdef01, at last all done\n")
    with pytest.raises(AssertionError, match="which was not printed"):
        check_shown(block, "map 80.1 of new@12345678 done\n")
    assert block.language not in RUN
