"""A call of `onward` that is a fork is like the real command: what it prints, and how it ends."""

import os
import subprocess

import pytest
from forks import environment, write_command


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--version", "upgrade --help", "nonsense", "info ."])
def test_the_real_command_and_a_fork_print_the_same_and_end_alike(forks, tmp_path, words):
    write_command(tmp_path, forks)
    command = [str(tmp_path / "onward"), *words.split()]
    runs = [
        subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        for _ in range(2)
    ]
    first, second = ((run.returncode, run.stdout, run.stderr) for run in runs)
    assert first == second
    assert first[0] == {"nonsense": 2, "info .": 1}.get(words, 0)


@pytest.mark.slow
def test_a_fork_has_the_directory_the_streams_and_the_variables_of_its_call(forks, tmp_path):
    write_command(tmp_path, forks)
    (tmp_path / "called").touch()
    (tmp_path / "sub").mkdir()
    script = f"cd sub; ! onward info nothing 2> said; COLUMNS=40 {tmp_path}/onward --help > wide"
    given = environment() | {"PATH": f"{tmp_path}{os.pathsep}{environment()['PATH']}"}
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=given, check=True)
    assert "nothing" in (tmp_path / "sub" / "said").read_text()
    assert max(map(len, (tmp_path / "sub" / "wide").read_text().splitlines())) <= 40
