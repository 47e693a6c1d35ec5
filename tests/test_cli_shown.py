"""What a person is shown holds no control characters, whatever ids, names and paths hold."""

import json
import math
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import save_shop

from onward.cli import main
from onward.cli.output import Fields, laid_out, message_of, show, tell, to_text
from onward.errors import UpgradeError
from onward.gallery import create_gallery
from onward.progress import progress_bar, visible
from onward.spaces import Embeddings, Space

NASTY = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "rings\x07",
    "over\rwritten",
    "back\x08\x08",
    "\x7fdeleted",
    "\x9b31mC1",
    "next\x85line",
    "\u202etxt.exe",
    "\u2066isolated\u2069",
    "\u200fright",
    "line\u2028separator",
    "two\nlines",
    "passed: everything\nis\nfine\n",
    "tab\tbed",
    "[bold]markup[/nowhere]",
]
HIDDEN = {*"\u061c\u200e\u200f\u2028\u2029", *map(chr, range(0x202A, 0x202F))} | {
    *map(chr, range(0x2066, 0x206A))
}
OLD, NEW = Space("old\x1b[2J@1", 4), Space("new\u202e@2", 4)
IDS = (*NASTY, *(f"item-{number}" for number in range(44)))


def assert_plain(text: str) -> None:
    """Nothing but what is printed, and the ends of lines."""
    bad = [
        c for c in text if c != "\n" and (unicodedata.category(c) in ("Cc", "Cs") or c in HIDDEN)
    ]
    assert not bad, ascii(text)


@given(st.text())
def test_nothing_hidden_is_left_of_any_text(text):
    assert_plain(visible(text, lines=True))
    assert "\n" not in visible(text)
    assert visible(text, lines=True).count("\n") == text.count("\n")
    if all(c.isprintable() for c in text):
        assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("\x07\x08\r\x7f", r"\x07\x08\r\x7f"),
        ("\x85\x9b", r"\x85\x9b"),
        ("\u202e\u2066", r"\u202e\u2066"),
        ("\ud800", r"\ud800"),
        ("a\nb", r"a\nb"),
        ("Ä 猫 💡 é", "Ä 猫 💡 é"),
    ],
)
def test_what_is_hidden_is_shown_as_python_writes_it(text, shown):
    assert visible(text) == shown


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A gallery with such ids, spaces with such names, and files of them."""
    folder = tmp_path_factory.mktemp("shown")
    save_shop(folder, IDS, OLD, NEW, np.eye(4))
    old, new = (Embeddings.load(folder / f"{name}.parquet") for name in ("old", "new"))
    replace(new, ids=(*IDS[:-1], "extra\n\x1b[1m")).save(folder / "off.parquet")
    payloads = [{"path": f"/nowhere/{item}.png"} for item in IDS]
    create_gallery(
        str(folder / "g.lance"),
        OLD,
        serving=OLD,
        query_model="q\x1b[0m",
        items=[old],
        payloads=payloads,
    )
    return folder


CALLS = [
    "search g.lance old.parquet -k 3",
    "gallery describe g.lance",
    "info old.parquet",
    "info h",
    "info g.lance",
    "gallery sample g.lance s.jsonl --count 30 --overwrite",
    "gallery delete g.lance no\x1b[1mid",
    "gallery delete no\x1b[1mgallery.lance x",
    "gallery export g.lance e\x1b[1m.parquet --overwrite",
    "evaluate old.parquet new.parquet --exclude-self",
    "evaluate old.parquet old.parquet --exclude-self",
    "compare --old old.parquet --upgraded off.parquet --new new.parquet --exclude-self",
    "upgrade plan g.lance h --sample new.parquet",
    "upgrade start g.lance h --unjudged",
    "upgrade verify g.lance h",
    "upgrade status g.lance h",
    "upgrade log g.lance",
    "upgrade verify g.lance h --canaries off.parquet",
    "backfill g.lance --embeddings off.parquet",
    "backfill plan g.lance h --sample new.parquet",
    "fit g.lance new\x1b[1m.parquet out",
    "info \u202egnp.exe",
    "train no\x07data out",
]


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS, ids=map(ascii, CALLS))
def test_no_command_shows_a_control_character(world, monkeypatch, capsys, call):
    monkeypatch.chdir(world)
    with pytest.raises(SystemExit) as end:
        main(call.split(" "))
    out, err = capsys.readouterr()
    assert end.value.code in (0, 1)
    assert "unexpected error" not in err
    assert out + err
    assert_plain(out)
    assert_plain(err)
    if end.value.code and not out:
        assert len([line for line in err.splitlines() if line.startswith("onward: ")]) == 1


@pytest.mark.parametrize("call", ["search g.lance old.parquet -k 3", "gallery describe g.lance"])
def test_json_has_them_as_they_are(world, monkeypatch, capsys, call):
    monkeypatch.chdir(world)
    with pytest.raises(SystemExit):
        main([*call.split(), "--json"])
    out = capsys.readouterr().out
    assert_plain(out)
    answer = json.loads(out)
    if "queries" in answer:
        assert [one["id"] for one in answer["queries"]] == list(IDS)
    else:
        assert OLD.name in [space["name"] for space in answer["spaces"]]


def test_a_line_of_an_answer_is_never_an_id_s(world, monkeypatch, capsys):
    """An id cannot pretend to be a line of the answer: a query has one line, whatever its id."""
    monkeypatch.chdir(world)
    with pytest.raises(SystemExit):
        main(["search", "g.lance", "old.parquet", "-k", "60"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(IDS)
    assert lines[IDS.index("two\nlines")].startswith(r"two\nlines: ")


def test_ends_of_lines_that_are_the_layout_s_own_stay():
    class Answer:
        def to_json(self):
            return {"ids": ["a\nb", {"name": "c\x1b\n"}], "rows": ("e\nf\n",)}

        def __str__(self):
            return "head\n a\nb \n c\x1b\n, e\nf\n"

    assert laid_out(Answer()) == "head\n a\\nb \n c\\x1b\\n, e\\nf\\n"


def test_lines_and_fields_that_are_told_are_one_line_each(capsys):
    tell("left out: a\nb\x1b[2J")
    show(Fields({"written": ["a\nb", "c\x07"], "space": "\u202e"}), as_json=False)
    out, err = capsys.readouterr()
    assert err == "left out: a\\nb\\x1b[2J\n"
    assert out == "written  a\\nb, c\\x07\nspace    \\u202e\n"


@pytest.mark.parametrize(
    ("said", "step", "shown"),
    [
        (
            "it was not started; start it first",
            "start",
            "it was not started; start it first (onward upgrade start)",
        ),
        ("to do it, say force=True", None, "to do it, say --force"),
        ("run it, or leave_out=True", "run", "run it, or --leave-out (onward upgrade start)"),
        (
            "say so: read_as='classes', or raise max_pixels=...",
            None,
            "say so: --read-as classes, or raise --max-pixels ...",
        ),
        ("is_forced=True, forced=True, seed=3/a", None, "is_forced=True, forced=True, seed=3/a"),
        ("overwrite=True.lance, force=True/1", None, "overwrite=True.lance, force=True/1"),
        ("to do it, say force=True.", None, "to do it, say --force."),
        ("give force", "a step that no command takes", "give force"),
    ],
)
def test_an_error_is_shown_with_the_command_and_the_options_that_put_it_right(said, step, shown):
    error = UpgradeError(said, step=step)
    assert str(error) == said
    assert message_of(error) == shown


def test_an_id_that_looks_like_an_argument_is_shown_as_it_is(capsys):
    ids = ["force=True", "qrels=...", "order='random'"]
    show(Fields({"written": ids, "path": "overwrite=True/a"}), as_json=False)
    shown = "written  force=True, qrels=..., order='random'\npath     overwrite=True/a\n"
    assert capsys.readouterr().out == shown


def test_an_option_has_the_spellings_that_were_meant_alone(capsys):
    for command in (["upgrade", "verify"], ["search"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
    assert "--as-json" not in (said := capsys.readouterr().out)
    assert "--every" not in said


def test_an_answer_and_its_next_steps_name_options_too(capsys):
    class Answer:
        def to_json(self):
            step = {"step": "start", "why": "only with force=True"}
            return {"remark": "name one: label_column=...", "next_steps": [step]}

        def __str__(self):
            return "name one: label_column=..."

    show(Answer(), as_json=False)
    assert capsys.readouterr().out == "name one: --label-column ...\n"
    show(Answer(), as_json=True)
    assert json.loads(capsys.readouterr().out)["next_steps"][0]["why"] == "only with --force"


def test_a_name_is_no_markup_of_a_progress_bar(capsys):
    with progress_bar("Embed with [/nowhere]\x1b[31m\n[bold]") as progress:
        progress(1, 1)
    err = capsys.readouterr().err
    assert r"Embed with [/nowhere]\x1b[31m\n[bold]" in err
    assert_plain(err)


def test_of_work_that_never_tells_how_far_it_is_no_bar_is_drawn(capsys):
    with progress_bar("Fit"):
        pass
    assert capsys.readouterr().err.strip() == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_null_for_a_number_that_is_not_finite(capsys, value):
    class Answer:
        def to_json(self):
            return {"map": value, "nested": [{"x": (value, 1.5)}]}

    show(Answer(), as_json=True)
    answer = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert answer == {"map": None, "nested": [{"x": [None, 1.5]}], "next_steps": []}
    assert "NaN" not in to_text({"a": value}, indent=None)
