"""`onward train` is killed at random moments; run again, it ends with the same bytes."""

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [
    *(sys.executable, "-c", "from onward.cli import main; main()", "train", "digits"),
    *("--size", "8", "--channels", "1", "--dim", "16", "--width", "8", "--no-flip"),
    *(
        "--epochs",
        "12",
        "--batch-size",
        "128",
        "--layers",
        "8",
        "--device",
        "cpu",
        "--name",
        "model",
    ),
]


def saved(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, request):
    started = time.monotonic()
    subprocess.run([*COMMAND, tmp_path / "whole"], check=True, capture_output=True)
    longest = time.monotonic() - started
    draw, kills = random.Random(0), 0
    while kills < request.config.getoption("--kills"):
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)  # what is whole is not replaced
        process = subprocess.Popen(
            [*COMMAND, tmp_path / "killed"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            assert process.wait(timeout=draw.uniform(0.4, 1.0) * longest) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    shutil.rmtree(tmp_path / "killed", ignore_errors=True)
    subprocess.run([*COMMAND, tmp_path / "killed"], check=True, capture_output=True)
    assert saved(tmp_path / "killed") == saved(tmp_path / "whole")
    left = [path.name for path in tmp_path.iterdir() if path.name.endswith(".checkpoint")]
    assert left == []
