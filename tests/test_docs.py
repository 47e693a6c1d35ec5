"""The README and the documentation tell the truth: their code runs, their links lead somewhere."""

import ast
import functools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from blocks import FENCE, READ, ROOT, RUN, blocks_of, name_of, run_page
from commands import commands

import onward

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
LINKED = [*PAGES, *sorted(ROOT.glob("C*.md")), *sorted((ROOT / "lab").glob("*.md"))]

LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$")

# Words that the glossary forbids and that mean nothing else here. Those with a second, innocent
# meaning (sample, point, key, label, score, feature ...) are left to the reader.
FORBIDDEN = {
    "probe": r"\bprobes?\b",
    "corpus": r"\bcorp(us|ora)\b(?!-id\b|\.jsonl\b)",
    "migrate": r"\bmigrat(e|es|ed|ing|ion|ions)\b",
    "re-index": r"\bre-?index(es|ed|ing)?\b",
    "old_new": r"\b(old_new|new_old)\b",
    "similarity": r"\bsimilarit(y|ies)\b",
    "feature vector": r"\bfeature (vectors?|space)\b",
}


def prose_of(page: Path) -> str:
    """The page without its blocks and without code in the line."""
    kept, fence = [], None
    for line in page.read_text().splitlines():
        opened = FENCE.match(line)
        if fence is None and opened:
            fence = opened[2]
        elif fence is not None:
            fence = None if line.strip() == fence else fence
        else:
            kept.append(line)
    return "\n".join(kept)


def anchors_of(page: Path) -> set[str]:
    from markdown.extensions.toc import slugify

    headings = (HEADING.match(line) for line in prose_of(page).splitlines())
    return {slugify(re.sub(r"[`*]", "", found[1]), "-") for found in headings if found}


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PAGES_THAT_RUN = [
    page
    for page in PAGES
    if page.parent.name != "howto"  # these go on with one another's files: see test_howto.py
    and any(b.page == page and b.language in RUN for b in BLOCKS)
]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=name_of)
def test_the_code_of_a_page_runs_in_order_in_a_fresh_directory(page, forks, tmp_path):
    run_page(page, tmp_path, forks)


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    loads = r"""<(?:script|img|iframe|link rel="(?:stylesheet|preconnect|icon)")[^>]*"https?://"""
    for page in tmp_path.rglob("*.html"):
        assert not re.search(loads, page.read_text()), f"{page.name} loads something from outside"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_run_or_read_or_says_why_not(block):
    assert block.language in (*RUN, *READ), f"{block} is {block.language!r}; say what it is"
    assert block.not_run is None or len(block.not_run) > 5, f"{block} gives no reason"
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "python":
        ast.parse(block.text)


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_internal_link_leads_somewhere(page):
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}, which is not there"
        if anchor and file.suffix == ".md":
            assert anchor in anchors_of(file), f"{name_of(page)} links to {target}: no such heading"


def test_every_page_stands_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"[\w/-]+\.md", navigation))
    present = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert listed == present


def code_of(page: Path) -> str:
    """What the page shows as code: its blocks, and code in the line."""
    return "\n".join([*(b.text for b in blocks_of(page)), *re.findall(r"`[^`]+`", prose_of(page))])


@pytest.mark.parametrize("name", onward.__all__)
def test_every_public_name_is_documented(name):
    code = "\n".join(code_of(page) for page in PAGES)
    assert re.search(rf"\b{name}\b", code), f"onward.{name} is in no code of README.md or docs/"


def test_every_command_is_documented():
    text = "\n".join(code_of(page) for page in PAGES)
    undocumented = [
        command for command in commands() if not re.search(rf"\bonward {command}\b", text)
    ]
    assert not undocumented, f"these are in no code of README.md or docs/: {undocumented}"


@functools.cache
def sentences_of(module: Path) -> list[tuple[int, str]]:
    """Docstrings and every other string with a space in it: what people read."""
    return [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]


@pytest.mark.parametrize("word", FORBIDDEN)
def test_docstrings_and_messages_keep_to_the_glossary(word):
    pattern = re.compile(FORBIDDEN[word], re.IGNORECASE)
    found = [
        f"{name_of(module)}:{line}"
        for module in sorted((ROOT / "src").rglob("*.py"))
        for line, text in sentences_of(module)
        if pattern.search(text)
    ]
    assert not found, f"the glossary (docs/glossary.md) has another word for {word!r}: {found}"


@pytest.mark.parametrize("word", FORBIDDEN)
def test_the_documentation_keeps_to_the_glossary(word):
    pattern = re.compile(FORBIDDEN[word], re.IGNORECASE)
    found = [
        name_of(page)
        for page in LINKED
        if page.name != "glossary.md" and pattern.search(page.read_text())
    ]
    assert not found, f"docs/glossary.md has another word for {word!r}: {found}"


def test_a_block_is_found_with_its_language_and_its_reason(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n```bash\ntrue\n```\n\n"
        "<!-- not run: it needs a GPU -->\n```python\nx = 1\n```\n\n"
        "1. in a list\n\n   ```text\n   as it is\n   ```\n"
    )
    found = [(b.line, b.language, b.text, b.not_run) for b in blocks_of(page)]
    assert found == [
        (3, "bash", "true\n", None),
        (8, "python", "x = 1\n", "it needs a GPU"),
        (14, "text", "as it is\n", None),
    ]


def test_a_reason_that_stands_before_no_block_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: it needs a GPU -->\n\nSome words.\n\n```bash\ntrue\n```\n")
    with pytest.raises(AssertionError, match="stands before no block"):
        blocks_of(page)


def test_the_modules_that_the_architecture_names_are_there():
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / "architecture.md").read_text()))
    assert len(named) > 20
    places = (ROOT / "src" / "onward", ROOT)
    assert [one for one in sorted(named) if not any((at / one).exists() for at in places)] == []
