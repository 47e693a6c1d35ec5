"""The code blocks of the documentation's pages: found, run, and compared with what is shown."""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from forks import environment, write_command

ROOT = Path(__file__).parent.parent
RUN, READ = ("bash", "python"), ("text", "json", "toml")

FENCE = re.compile(r"^( *)(`{3,}|~{3,}) *(\S*)")
NOT_RUN = re.compile(r"^\s*<!-- *not run:(.*?)-->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, what language, what it says, why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    blocks: list[Block] = []
    reason: str | None = None
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if found := NOT_RUN.match(line):
            reason = found[1].strip()
        elif opened := FENCE.match(line):
            indent, fence, language = opened.groups()
            begun = number
            while lines[number].strip() != fence:  # IndexError: a fence that nobody closed
                number += 1
            body = [text.removeprefix(indent) for text in lines[begun:number]]
            blocks.append(Block(page, begun, language, "\n".join(body) + "\n", reason))
            number += 1
            reason = None
        elif line.strip():
            assert reason is None, f"{page}:{number}: 'not run' stands before no block"
    return blocks


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run_page(page: Path, directory: Path, forks: str, *, compare: bool = False) -> None:
    """Run a page's blocks in order in a directory, each to end with 0.

    The first `onward` is the real command, others are forks of what listens at the address `forks`.
    With `compare`, every line of a text block must be in what the block before it printed, but for
    digits, digests and blanks; `...` stands for anything.
    """
    with tempfile.TemporaryDirectory(prefix="onward-page-") as commands:
        write_command(Path(commands), forks)
        variables = environment()
        variables["PATH"] = f"{commands}{os.pathsep}{variables['PATH']}"
        run_blocks(blocks_of(page), directory, variables, compare=compare)


def run_blocks(
    blocks: list[Block], directory: Path, variables: dict[str, str], *, compare: bool
) -> None:
    printed = ""
    for block in blocks:
        if block.language == "text" and compare:
            check_shown(block, printed)
        if block.language not in RUN:
            continue
        if block.not_run is not None:
            print(f"{block} is not run: {block.not_run}")  # noqa: T201 (the reason is to be seen)
            continue
        bash = ["bash", "-euo", "pipefail", "-c", block.text]
        command = bash if block.language == "bash" else [sys.executable, "-c", block.text]
        done = subprocess.run(
            command, cwd=directory, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (
            f"{block} exits with {done.returncode}\n{block.text}\n"
            f"--- stdout\n{done.stdout[-4000:]}\n--- stderr\n{done.stderr[-4000:]}"
        )
        printed = done.stdout + done.stderr


def check_shown(block: Block, printed: str) -> None:
    lines = [_shape(line) for line in printed.splitlines()]
    for line in filter(None, map(_shape, block.text.splitlines())):
        pattern = ".*".join(re.escape(part.strip()) for part in line.split("..."))
        assert any(re.search(pattern, one) for one in lines), (
            f"{block} shows {line!r}, which was not printed; it was:\n{printed}"
        )


def _shape(line: str) -> str:
    """The line without what differs from run to run: digests, numbers, how far things are apart."""
    line = re.sub(r"\b[0-9a-f]{8}\b", "#", line)
    return " ".join(re.sub(r"\d[\d,.:]*", "#", line).split())
