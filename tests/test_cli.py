"""The command line: what it loads, what it says, and how it ends."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import answer, attempt, commands, table
from typer.testing import CliRunner
from worlds import save_shop

from onward.cli import main
from onward.cli.app import app
from onward.cli.options import _docs_of, parse_numbers
from onward.cli.output import COMMANDS as NEXT_COMMANDS
from onward.errors import (
    ArtifactError,
    ConfigurationError,
    EmbeddingsError,
    EvaluationError,
    GalleryError,
)
from onward.gallery import create_gallery, open_gallery
from onward.spaces import Embeddings, Space
from onward.training.settings import FitSettings, Method, Optimization
from onward.transformation import Transformation, linear
from onward.upgrading import UpgradeResult

COMMANDS = list(commands())
NETWORKS = ("auto", "ensemble", "mlp")
OLD, NEW = Space("old@1", 4), Space("new@2", 4)


def run(*arguments: object) -> tuple[int, str, str]:
    """Run the real command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from onward.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def files(tmp_path):
    """Old, upgraded and new embeddings of twelve items, and the transformation between them."""
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0].astype(np.float32)
    save_shop(tmp_path, [f"item-{row}" for row in range(12)], OLD, NEW, turn)
    return tmp_path


@pytest.fixture
def gallery(files):
    url = str(files / "photos.lance")
    answer("gallery", "create", url, files / "old.parquet")
    return url


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(command):
    assert f"Example: onward {command.removesuffix(' all').removesuffix(' run')}" in " ".join(
        answer(*command.split(), "--help").split()
    )


def test_help_lists_every_command():
    listed = answer("--help")
    assert all(command.split()[0] in listed for command in COMMANDS)


def test_help_loads_neither_torch_nor_a_database():
    program = (
        "import sys; sys.argv = ['onward', '--help']\n"
        "from onward.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'lancedb', 'pyarrow', 'onnxruntime', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_what_the_user_can_put_right_ends_with_1_and_one_message(tmp_path):
    code, out, err = run("info", tmp_path / "nothing")
    assert (code, out) == (1, "")
    assert err.startswith("onward: ")
    assert "is not a model, a transformation, embeddings, a gallery or items" in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1


def test_a_refused_file_ends_with_1_and_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("embed", tmp_path / "file" / "model", "digits", tmp_path / "out.parquet")
    assert code == 1
    assert "Traceback" not in err


def test_ctrl_c_ends_with_1_and_one_message(monkeypatch, capsys):
    def interrupt(*anything):
        raise KeyboardInterrupt

    monkeypatch.setattr("onward.cli.gallery._kind_of", interrupt)
    with pytest.raises(SystemExit) as end:
        main(["info", "anything"])
    assert end.value.code == 1
    assert capsys.readouterr().err.strip().startswith("onward: interrupted; nothing was left half")


def test_a_second_ctrl_c_ends_the_process_at_once_without_a_traceback(tmp_path):
    """The first is answered; the second comes while the process waits for a thread at its end."""
    program = (
        "import sys, threading, time\n"
        "import onward.cli.gallery as info\n"
        "from onward.cli import main\n"
        "def interrupt(path):\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    raise KeyboardInterrupt\n"
        "info._kind_of = interrupt\n"
        "main(['info', 'anything'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        first = process.stderr.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert first.startswith("onward: interrupted; nothing was left half written")
    assert (out, err, process.returncode) == ("", "", -signal.SIGINT)


FAULTS = [
    OverflowError("int too large to convert to float"),
    RecursionError("maximum recursion depth exceeded"),
    KeyError("BF16"),
    ZeroDivisionError("division by zero"),
    AssertionError(),
    RuntimeError("first line\nsecond line \x1b[31m"),
    ModuleNotFoundError("No module named 'nowhere'", name="nowhere"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_what_nobody_expected_is_one_message_that_names_a_file_with_the_traceback(
    monkeypatch, capsys, tmp_path, fault
):
    def break_(path):
        raise fault

    monkeypatch.setattr("onward.cli.gallery._kind_of", break_)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as end:
        main(["info", "anything", "--json"])
    out, err = capsys.readouterr()
    assert (end.value.code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"onward: unexpected error: {type(fault).__name__}")
    assert "\x1b" not in err
    (written,) = tmp_path.iterdir()
    assert f"its traceback is in {written}. Please report it" in err
    assert re.fullmatch(r"onward-error-\w{8}\.txt", written.name)
    assert written.stat().st_mode & 0o777 == 0o600
    assert "in break_" in written.read_text()


def test_where_the_traceback_cannot_be_written_the_message_says_so(monkeypatch, capsys, tmp_path):
    def break_(path):
        raise KeyError("BF16")

    monkeypatch.setattr("onward.cli.gallery._kind_of", break_)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not-there"))
    with pytest.raises(SystemExit) as end:
        main(["info", "anything"])
    assert end.value.code == 1
    assert "error: KeyError: 'BF16'; its traceback could not be" in capsys.readouterr().err


def test_too_little_memory_is_one_message(monkeypatch, capsys):
    def fill(path):
        raise MemoryError("Unable to allocate 2.00 PiB")

    monkeypatch.setattr("onward.cli.gallery._kind_of", fill)
    with pytest.raises(SystemExit) as end:
        main(["info", "anything"])
    assert end.value.code == 1
    words = (
        "onward: there is not enough memory for this (Unable to allocate 2.00 PiB); free some, or "
    )
    assert capsys.readouterr().err == f"{words}ask for less at a time\n"


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_command_quietly(gallery, files):
    program = "from onward.cli import main; main()"
    command = [sys.executable, "-c", program, "search", gallery, str(files / "old.parquet")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert (err, process.returncode) == (b"", 1)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["info", "nowhere"], 1), (["gallery", "nothing"], 2)]
)
def test_what_cannot_be_told_still_ends_with_its_code(arguments, code):
    program = "import os; os.close(2); import sys; sys.stderr = None"
    closed = f"{program}; from onward.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", closed, *arguments], check=False)
    assert done.returncode == code


@pytest.mark.slow
def test_characters_that_the_terminal_lacks_are_shown_escaped(tmp_path):
    space = Space("s@1", 2)
    items = Embeddings(("\u65e5\u672c", "\xe9"), np.eye(2, dtype=np.float32), space)
    create_gallery(tmp_path / "g.lance", space, items=[items])
    items.save(tmp_path / "q.parquet")
    done = subprocess.run(
        [sys.executable, "-m", "onward", "search", "g.lance", "q.parquet", "-k", "1"],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines() == [
        rb"\u65e5\u672c: \u65e5\u672c (0.000)",
        b"\xe9: \xe9 (0.000)",
    ]


def test_an_argument_with_a_character_nul_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as end:
        main(["info", "a\0b"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "onward: an argument holds the character NUL; leave it out\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "one"], "Missing argument 'gallery'. (usage: onward evaluate --help)"),
        (["gallery", "nope\x1b[2J"], r"No such command 'nope\x1b[2J'. (usage: onward gallery --h"),
        (["info", "x", "--\x1b]0;y\x07"], r"No such option: --\x1b]0;y\x07 (usage: onward info --"),
        (["search", "g", "q", "-k", "\x9b31m"], "Invalid value for '-k': "),
    ],
)
def test_wrong_usage_is_one_message_without_control_characters(capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert all(character.isprintable() for character in err.rstrip("\n"))


@pytest.mark.parametrize("words", [["upgrade", "verfy"], ["upgrade", "stats"], ["backfill", "pln"]])
def test_a_command_that_is_mistyped_is_not_taken_for_a_gallery(words):
    result = attempt(*words, "photos.lance", "h")
    assert isinstance(result.exception, ConfigurationError)
    said = f"{words[1]!r} is neither a command nor a gallery that is there; the command may be "
    assert str(result.exception).startswith(said)


def test_nothing_asked_for_is_answered_by_the_help(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "Usage: onward" in "".join(capsys.readouterr())


@pytest.mark.parametrize("amount", ["inf", "1e300"])
def test_a_time_that_is_none_is_refused(gallery, amount):
    words = r"--keep-minutes \S+ is not a number of minutes; give one such as 7"
    with pytest.raises(ConfigurationError, match=words):
        answer("gallery", "compact", gallery, "--keep-minutes", amount)


def test_the_module_is_the_command_and_prints_its_version():
    asked = [sys.executable, "-m", "onward", "--version"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().count(".") == 2


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-4", (0, 1, 2, 3, 4)),
        ("7", (7,)),
        ("0,2,7-9", (0, 2, 7, 8, 9)),
        ("20261128", (20261128,)),
    ],
)
def test_classes_are_read_as_numbers_and_ranges(text, numbers):
    assert parse_numbers(text, "classes") == numbers


def test_classes_that_are_no_numbers_are_refused_with_an_example():
    with pytest.raises(ConfigurationError, match=r"'cat' in the classes '0,cat' is not a number"):
        parse_numbers("0,cat", "classes")


@pytest.mark.parametrize("part", ["5-3", "0-99999999999", "9" * 5000])
def test_a_range_that_is_backwards_or_endless_is_refused(part):
    words = r"' in the classes '0,.*' is not a range; give the smaller number first, such as 7-9"
    with pytest.raises(ConfigurationError, match=words):
        parse_numbers(f"0,{part}", "classes")


@pytest.mark.slow
def test_upgrade_without_yes_writes_nothing_and_with_yes_does_everything(files, gallery):
    plan = json.loads(answer("upgrade", gallery, files / "h", "--json"))
    assert plan["rows"] == 12
    assert open_gallery(gallery).view().serving == OLD
    answer("upgrade", gallery, files / "h", "--yes", "--unjudged")
    assert open_gallery(gallery).view().serving == NEW
    answer("upgrade", "rollback", gallery, files / "h")
    assert open_gallery(gallery).view().serving == OLD


@pytest.mark.slow
def test_upgrade_step_by_step(files, gallery):
    steps = dict.fromkeys(("plan", "start", "status", "verify", "cutover"), ())
    steps["start"] = ("--unjudged",)
    answers = {
        step: json.loads(answer("upgrade", step, gallery, files / "h", "--json", *given))
        for step, given in steps.items()
    }
    assert all(each["next_steps"] for each in answers.values())
    assert open_gallery(gallery).view().serving == NEW
    logged = [json.loads(line) for line in answer("upgrade", "log", gallery, "--json").splitlines()]
    assert len(logged) >= 4
    assert logged[-1]["next_steps"][0]["command"] == "onward upgrade rollback"


@pytest.mark.parametrize("command", ["start", "all"])
def test_an_upgrade_that_is_interrupted_ends_with_1_and_goes_no_further(
    files, gallery, monkeypatch, command
):
    stopped = UpgradeResult(done=3, skipped=0, remaining=9, seconds=0.1, stopped=True)
    monkeypatch.setattr("onward.upgrading.Upgrade.run", lambda self, progress: stopped)
    yes = ["--yes"] if command == "all" else []
    words = ["upgrade", command, gallery, str(files / "h"), "--json", "--unjudged", *yes]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["next_steps"][0]["command"] == "onward upgrade start"
    assert [entry["event"] for entry in open_gallery(gallery).journal()] == [
        "create",
        "gate",
        "start upgrade",
    ]


@pytest.mark.slow
def test_an_upgrade_is_paused_limited_resumed_and_aborted_by_commands(files, gallery):
    words = [gallery, files / "h", "--json"]
    answer("upgrade", "start", *words, "--unjudged", "--rows-per-second", "5_000")
    assert json.loads(answer("upgrade", "pause", *words))["paused"]
    limited = json.loads(answer("upgrade", "limit", *words, "--rows-per-second", "none"))
    assert (limited["paused"], limited["rows_per_second"]) == (True, None)
    assert not json.loads(answer("upgrade", "resume", *words))["paused"]
    logged = [json.loads(line) for line in answer("upgrade", "log", gallery, "--json").splitlines()]
    assert [one["rows_per_second"] for one in logged if one["event"] == "limit"] == [5000, None]
    refused = CliRunner().invoke(app, ["upgrade", "abort", *map(str, words)])
    assert refused.exit_code == 1
    assert "would drop new@2 (4, l2) with the vectors of 12 rows" in refused.stderr
    assert NEW in open_gallery(gallery).spaces()
    assert not json.loads(answer("upgrade", "abort", *words, "--yes"))["started"]
    assert NEW not in open_gallery(gallery).spaces()


def test_a_start_with_a_limit_that_is_none_writes_nothing(files, gallery):
    words = ["upgrade", "start", gallery, str(files / "h"), "--rows-per-second", "-5"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 1
    assert "a limit of -5 rows a second was asked for" in str(told.exception)
    assert NEW not in open_gallery(gallery).spaces()


def test_every_next_step_names_a_command_that_there_is():
    for command in NEXT_COMMANDS.values():
        for one in command.split(", then "):
            words = one.removeprefix("onward ").partition(" --")[0]
            assert {words, f"{words} run", f"{words} all"} & set(COMMANDS)


@pytest.mark.slow
def test_items_that_would_be_lost_may_be_left_out_by_the_command(files, gallery):
    open_gallery(gallery).add_space(Space("side@1", 2))
    side = linear(
        OLD, Space("side@1", 2), NEW, np.ones((4, 6), np.float32), np.zeros(4), made_by={}
    )
    side.save(files / "with-side")
    words = ["upgrade", "start", gallery, str(files / "with-side"), "--unjudged"]
    started = CliRunner().invoke(app, words)
    assert started.exit_code == 1  # something was not done
    words = ["upgrade", "verify", gallery, str(files / "with-side"), "--json"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 1
    assert "--leave-out" in json.loads(refused.stdout)["next_steps"][0]["why"]
    assert json.loads(answer(*words, "--leave-out"))["passed"]


@pytest.mark.slow
def test_upgraded_gallery_is_searched_exported_and_compared(files, gallery):
    answer("upgrade", gallery, files / "h", "--yes", "--unjudged")
    found = json.loads(answer("search", gallery, files / "new.parquet", "-k", "2", "--json"))
    assert found["queries"][0]["items"][0]["id"] == found["queries"][0]["id"]
    answer("gallery", "export", gallery, files / "exported.parquet")
    compared = json.loads(
        answer(
            *("compare", "--old", files / "old.parquet", "--upgraded", files / "exported.parquet"),
            *("--new", files / "new.parquet", "--exclude-self", "--json"),
        )
    )
    assert compared["cells"]["new/old"] == compared["cells"]["new/new"]
    scored = json.loads(
        answer(
            "evaluate",
            files / "new.parquet",
            files / "exported.parquet",
            "--exclude-self",
            "--json",
        )
    )
    assert scored == compared["cells"]["new/old"] | {"next_steps": []}


def test_files_of_other_items_or_of_one_model_are_not_compared(files):
    old = Embeddings.load(files / "old.parquet")
    old.select(range(11)).save(files / "fewer.parquet")
    words = ["compare", "--upgraded", files / "upgraded.parquet", "--exclude-self"]
    with pytest.raises(EvaluationError, match=r"1 items are in only one of .*, the first"):
        answer(*words, "--old", files / "fewer.parquet", "--new", files / "new.parquet")
    with pytest.raises(EvaluationError, match=r"are both in new@2 .*; give .* with --old"):
        answer(*words, "--old", files / "new.parquet", "--new", files / "new.parquet")
    Embeddings.load(files / "new.parquet").select(range(11)).save(files / "new-fewer.parquet")
    with pytest.raises(EvaluationError, match="are in only one of"):
        answer(*words, "--old", files / "old.parquet", "--new", files / "new-fewer.parquet")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EmbeddingsError, match="must end in"):
        answer("embed", tmp_path / "no-model", "digits", tmp_path / "out.npy")
    with pytest.raises(ArtifactError, match=r"cannot be written: .*file is not a directory"):
        answer("embed", tmp_path / "no-model", "digits", tmp_path / "file" / "out.parquet")


def test_something_else_in_the_way_is_refused_before_the_work(files):
    with pytest.raises(ArtifactError, match="holds no embedding-model; it was left as it is"):
        answer("train", "no-such-data", files / "h")
    with pytest.raises(ArtifactError, match="holds no transformation; it was left as it is"):
        answer("fit", files / "none.parquet", files / "none.parquet", files / "old.parquet")


@pytest.fixture
def pairs(tmp_path):
    """Old and new embeddings of forty items; the new ones are the old ones turned."""
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0].astype(np.float32)
    ids, labels = tuple(f"item-{row}" for row in range(40)), np.arange(40) % 4
    Embeddings(ids, vectors, OLD, labels).save(tmp_path / "old-train.parquet")
    Embeddings(ids, vectors @ turn, NEW, labels).save(tmp_path / "new-train.parquet")
    return tmp_path / "old-train.parquet", tmp_path / "new-train.parquet"


def test_options_are_those_of_the_settings_with_their_ranges_and_docs():
    options = inspect.signature(table()["fit"].callback).parameters
    kind, _ = get_args(options["method"].annotation)
    assert set(get_args(get_args(kind)[0])) == set(get_args(Method))
    kind, said = get_args(options["networks"].annotation)
    assert (get_args(kind)[0], options["networks"].default) == (int, None)
    assert (said.min, said.show_default) == (1, str(FitSettings().networks))
    assert said.help.startswith("How many FCT networks learn, each from first weights")
    assert said.help.endswith("their mean stands for the network.")
    options = inspect.signature(table()["train"].callback).parameters
    _, said = get_args(options["epochs"].annotation)
    assert said.help == "Times that every item is seen."
    assert set(Optimization.model_fields) < set(_docs_of(FitSettings))


def test_what_an_option_does_not_say_is_left_to_the_settings(pairs, tmp_path):
    asked = ("--method", "ridge", "--gallery-classes", "seen", "--json")
    settings = json.loads(answer("fit", *pairs, tmp_path / "h", *asked))["made_by"]["settings"]
    own = FitSettings(method="ridge", gallery_classes="seen").model_dump(mode="json")
    assert settings == {name: own[name] for name in settings}


@pytest.mark.parametrize("method", ["procrustes", "ridge"])
def test_fit_fits_by_the_method_that_is_named(pairs, tmp_path, method):
    made = json.loads(answer("fit", *pairs, tmp_path / "h", "--method", method, "--json"))
    assert made["made_by"]["method"] == method
    assert made["digest"] == Transformation.load(tmp_path / "h").digest


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(one, marks=[pytest.mark.slow] if one in NETWORKS else [])
        for one in get_args(Method)
    ],
)
def test_fit_learns_how_unsure_it_is_by_every_method(pairs, tmp_path, method):
    asked = ("--method", method, "--epochs", 1, "--uncertainty", "--json")
    made = json.loads(answer("fit", *pairs, tmp_path / "h", *asked))
    assert made["uncertainty"] is True
    unsure = Transformation.load(tmp_path / "h").uncertainties(Embeddings.load(pairs[0]))
    assert np.isfinite(unsure).all()
    assert len(set(unsure.tolist())) > 1


def test_fit_brings_files_of_the_same_items_into_one_order(pairs, tmp_path):
    old, new = (Embeddings.load(path) for path in pairs)
    new.align(new.ids[::-1]).save(tmp_path / "turned.parquet")
    for name, file in {"one": pairs[1], "other": tmp_path / "turned.parquet"}.items():
        answer("fit", pairs[0], file, tmp_path / name, "--method", "ridge")
    one, other = (Transformation.load(tmp_path / name).apply(old) for name in ("one", "other"))
    np.testing.assert_array_equal(one.vectors, other.vectors)
    new.select(range(39)).save(tmp_path / "fewer.parquet")
    with pytest.raises(EvaluationError, match=r"1 items are in only one of .*; give files of the"):
        answer("fit", pairs[0], tmp_path / "fewer.parquet", tmp_path / "h")


def test_fit_holds_out_what_a_column_says(pairs, tmp_path):
    old = pq.read_table(pairs[0])
    people = [None if row < 4 else f"person {row // 3}" for row in range(40)]
    named = old.append_column("person", pa.array(people))
    pq.write_table(named, tmp_path / "named.parquet")
    ask = ("fit", tmp_path / "named.parquet", pairs[1], tmp_path / "h", "--method", "ridge")
    made = json.loads(answer(*ask, "--group-column", "person", "--json"))["made_by"]
    assert (made["held_out"], made["groups"]) == ("groups", 4 + 13)
    assert made["judged_on"] == "classes that h has not seen (groups that were given)"
    with pytest.raises(
        ConfigurationError, match=r"neither .*named\.parquet nor .* has a column 'owner'; give the"
    ):
        answer(*ask, "--group-column", "owner", "--overwrite")
    with pytest.raises(ConfigurationError, match="gallery_classes is 'seen', by which items are"):
        answer(*ask, "--group-column", "person", "--gallery-classes", "seen", "--overwrite")


def test_fit_tells_the_table_and_the_line_that_says_why(pairs, tmp_path):
    code, _, err = run("fit", *pairs, tmp_path / "h", "--method", "ridge")
    assert code == 0
    lines = err.splitlines()
    heading = "judged by label on 3 folds of 4 classes: 40 items, 40 queries that count, in percent"
    assert heading in lines
    assert lines[lines.index(heading) + 1].split() == ["cmc@1", "map"]
    assert "judged on classes that h has not seen: it was asked for by name; its penalty" in err
    code, _, err = run(
        "fit", *pairs, tmp_path / "s", "--method", "ridge", "--gallery-classes", "seen"
    )
    assert code == 0
    assert "judged on further items of classes that h has seen" in err


def test_fit_chooses_what_to_serve_by_real_queries(pairs, tmp_path):
    asked = []
    for name, path in zip(("old", "new"), pairs, strict=True):
        items = Embeddings.load(path).select(np.arange(30))
        file = tmp_path / f"queries-{name}.parquet"
        Embeddings(tuple(f"q{item}" for item in items.ids), items.vectors, items.space).save(file)
        asked += [f"--queries-{name}", file]
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("".join(f"q{item} 0 {item} 1\n" for item in items.ids))
    asked += ["--qrels", qrels]
    out = json.loads(answer("fit", *pairs, tmp_path / "h", "--method", "ridge", *asked, "--json"))
    serving = out["made_by"]["serving"]
    assert (serving["asked"], serving["judged_by"]) == ("real queries", "judgements")
    assert (serving["queries"], serving["values"]["old"]) == (30, {"ndcg@10": 1.0})
    (step,) = out["next_steps"]
    assert step["command"].endswith(" ".join(map(str, asked)))
    ask = ("fit", *pairs, tmp_path / "h2", "--method", "ridge")
    with pytest.raises(ConfigurationError, match="--qrels is about real queries, and there are"):
        answer(*ask, "--qrels", qrels)
    with pytest.raises(ConfigurationError, match="give the queries by both models, --queries-old"):
        answer(*ask, *asked[:2])
    assert not (tmp_path / "h2").exists()


def test_fit_learns_from_a_gallery_sample_too(pairs, tmp_path):
    old, new = (Embeddings.load(path) for path in pairs)
    ids = tuple(f"g{number}" for number in range(30))
    turned = old.vectors[:30] + 1, new.vectors[:30] + 1
    url, again = f"memory:{tmp_path}", tmp_path / "again.parquet"
    create_gallery(url, old.space, items=[Embeddings(ids, turned[0], old.space)])
    Embeddings(ids[5:], turned[1][5:], new.space).save(again)
    sample = ("--sample-share", 1, "--gallery", url, "--sample", again)
    out = tmp_path / "h"
    made = json.loads(answer("fit", *pairs, out, "--method", "ridge", *sample, "--json"))["made_by"]
    assert (made["judged_by"], made["sample"]["items"]) == ("agreement", 25)
    with pytest.raises(ConfigurationError, match="give both --gallery and --sample"):
        answer("fit", *pairs, out, *sample[:2], "--overwrite")


def test_a_negative_seed_is_wrong_usage(pairs, tmp_path):
    code, _, err = run("fit", *pairs, tmp_path / "h", "--seed", -1)
    assert code == 2
    assert "--seed" in err


def test_fit_refuses_options_that_do_not_go_together(pairs, tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"--paper is the network .* --method is ridge; give"
    ):
        answer("fit", *pairs, tmp_path / "h", "--paper", "--method", "ridge")
    with pytest.raises(ConfigurationError, match=r"networks is 2, .* method is 'ridge'; choose"):
        answer("fit", *pairs, tmp_path / "h", "--networks", 2, "--method", "ridge")


@pytest.mark.slow
def test_queries_of_the_wrong_model_are_refused_by_the_command(files, gallery):
    code, _, err = run("search", gallery, files / "new.parquet")
    assert code == 1
    assert "old@1" in err
    assert "new@2" in err


def test_payloads_come_from_json_lines(files):
    lines = [json.dumps({"id": f"item-{row}", "path": f"{row}.jpg"}) for row in range(12)]
    (files / "payloads.jsonl").write_text("\n".join(lines))
    url = str(files / "with-payloads.lance")
    answer("gallery", "create", url, files / "old.parquet", "--payloads", files / "payloads.jsonl")
    assert open_gallery(url).view().rows == 12


def test_a_payload_that_is_missing_is_named(files):
    (files / "payloads.jsonl").write_text(json.dumps({"id": "item-0"}))
    url = files / "with-payloads.lance"
    code, _, err = run(
        "gallery", "create", url, files / "old.parquet", "--payloads", files / "payloads.jsonl"
    )
    assert code == 1
    assert "no payload for 11 of 12 items, the first 'item-1'" in err
    assert not url.exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param(b'{"id": "item-0"', r"line 1 of .* is not JSON: ", id="torn"),
        pytest.param(b"\n[1]", r"line 2 of .* is not a JSON object with a string", id="list"),
        pytest.param(b'"x"', "is not a JSON object with a string as `id`", id="string"),
        pytest.param(b'{"id": {"a": 1}}', "is not a JSON object with a string", id="id-no-string"),
        pytest.param(b"\xff\xfe{", "is not text in UTF-8", id="no-text"),
        pytest.param(b'{"id": "a"}\n{"id": "a"}', "line 2 .* second one for item 'a'", id="twice"),
    ],
)
def test_payloads_that_cannot_be_read_name_the_line(files, lines, message):
    (files / "payloads.jsonl").write_bytes(lines)
    url = files / "with-payloads.lance"
    with pytest.raises(GalleryError, match=message):
        answer(
            *("gallery", "create", url, files / "old.parquet"),
            *("--payloads", files / "payloads.jsonl"),
        )
    assert not url.exists()


def test_a_payload_may_hold_a_line_separator_of_another_script(files):
    lines = [
        json.dumps({"id": f"item-{row}", "text": "a\u2028b"}, ensure_ascii=False)
        for row in range(12)
    ]
    (files / "payloads.jsonl").write_text("\n".join(lines), encoding="utf-8")
    url = str(files / "with-payloads.lance")
    answer("gallery", "create", url, files / "old.parquet", "--payloads", files / "payloads.jsonl")
    assert open_gallery(url).payloads(["item-3"]) == [{"text": "a\u2028b"}]


def test_a_gallery_that_could_not_be_filled_is_not_made(files):
    old = Embeddings.load(files / "old.parquet")
    side = Embeddings(old.ids[::-1], old.vectors, Space("side@1", 4))
    side.save(files / "side.parquet")
    url = files / "new.lance"
    with pytest.raises(GalleryError, match="the same items in different order"):
        answer("gallery", "create", url, files / "old.parquet", files / "side.parquet")
    assert not url.exists()


def test_items_are_added_and_deleted(files, gallery):
    more = Embeddings(("late",), np.ones((1, 4), np.float32), OLD, np.array([1]))
    more.save(files / "more.parquet")
    answer("gallery", "add", gallery, files / "more.parquet")
    assert json.loads(answer("gallery", "describe", gallery, "--json"))["rows"] == 13
    assert (
        json.loads(answer("gallery", "delete", gallery, "late", "gone", "--json"))["deleted"] == 1
    )


@pytest.mark.slow
def test_layers_are_trained_embedded_and_described_in_a_smaller_format(tmp_path):
    model, old, side = tmp_path / "model", tmp_path / "old.parquet", tmp_path / "side.parquet"
    settings = "--size 8 --channels 1 --dim 8 --width 4 --epochs 1 --no-flip --device cpu"
    layers = "--layers 6 --layers-format int8 --layers-grid 1 --layers-stages 1-2"
    answer("train", "digits", model, *f"{settings} {layers}".split())
    made_by = json.loads(answer("info", model, "--json"))["made_by"]["layers"]
    chosen = {name: made_by[name] for name in ("dim", "grid", "format", "stages")}
    assert chosen == {"dim": 6, "grid": 1, "format": "int8", "stages": [1, 2]}
    assert "6 dimensions, int8, 6 bytes an item" in answer("info", model)
    answer("embed", model, "digits", old, "--side-out", side, "--split", "test", "--device", "cpu")
    assert "6 bytes an item (int8)" in answer("info", side)
    made = json.loads(answer("gallery", "create", tmp_path / "g.lance", old, side, "--json"))
    assert [(one["format"], one["bytes"]) for one in made["spaces"]] == [
        ("float32", 32),
        ("int8", 6),
    ]


@pytest.mark.parametrize(
    "option", [("--layers-format", "int8"), ("--layers-grid", 1), ("--layers-stages", "0-1")]
)
def test_how_layers_are_read_needs_how_many_dimensions(tmp_path, option):
    with pytest.raises(ConfigurationError, match=rf"{option[0]} says how .* add --layers DIM, suc"):
        answer("train", "digits", tmp_path / "model", *option)


def test_info_says_what_things_are(files, gallery):
    kinds = {
        path: json.loads(answer("info", path, "--json"))["kind"]
        for path in (files / "old.parquet", files / "h", Path(gallery))
    }
    assert list(kinds.values()) == ["embeddings", "transformation", "gallery"]
