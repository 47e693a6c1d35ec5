import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from onward.artifacts import WRITER, digest_arrays
from onward.errors import ConfigurationError, DataError, MissingExtraError, ModelError
from onward.training.devices import seeded
from onward.training.loop import Batches, Objective, Timetable, forget_checkpoint, train
from onward.training.settings import Optimization, RunSettings

SETTINGS = Optimization(epochs=4, batch_size=8, lr=0.1, running_statistics_from=0.75)
CPU = RunSettings(device="cpu")


class Points(Batches):
    """Rows of numbers with a number each."""

    def __init__(self, x, y, ahead):
        self.x, self.y, self.ahead = x, y, ahead
        self.digest = digest_arrays({"x": x.numpy(), "y": y.numpy()})

    def __len__(self):
        return len(self.x)

    def read(self, rows, epoch):
        return self.x[rows], self.y[rows]


class Regression(Objective):
    """A small network with BatchNorm and dropout, so that modes and random draws matter."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1)
        )

    def forward(self, *batch):
        x, y = batch
        return nn.functional.mse_loss(self.layers(x)[:, 0], y)


def points(items=21, ahead=0):
    rng = np.random.default_rng(7)
    x = torch.from_numpy(rng.normal(size=(items, 3)).astype(np.float32))
    return Points(x, x.sum(dim=1), ahead)


def trained(run=CPU, *, settings=SETTINGS, data=None, seed=0, objective=None):
    with seeded(seed, "first weights"):
        objective = Regression() if objective is None else objective
    train(objective, data or points(), settings, seed=seed, what={"task": "test"}, run=run)
    return objective


def digest(objective):
    return digest_arrays({n: t.numpy() for n, t in objective.state_dict().items()})


# --- the timetable ---


def test_the_learning_rate_warms_up_and_falls_to_zero():
    timetable = Timetable(40, Optimization(epochs=2, batch_size=4, lr=1.0, warmup=0.2), seed=0)
    assert timetable.steps == 20
    rates = [timetable.lr(step) for step in range(20)]
    np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(rates[12], 0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert timetable.lr(20) == pytest.approx(0)


def test_every_epoch_shows_each_item_once_in_an_order_of_its_own():
    timetable = Timetable(10, Optimization(epochs=2, batch_size=4), seed=3)
    rows = [rows for _, rows in timetable.batches(0)]
    first, second = np.concatenate(rows[:3]), np.concatenate(rows[3:])
    assert [len(batch) for batch in rows] == [4, 4, 2, 4, 4, 2]
    odd = Timetable(9, Optimization(epochs=1, batch_size=4), seed=0)  # one item is left over
    assert ([len(rows) for _, rows in odd.batches(0)], odd.steps_in_epoch) == ([4, 4], 2)
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_beginning_in_the_middle_gives_the_same_batches():
    timetable = Timetable(10, Optimization(epochs=3, batch_size=3), seed=1)
    whole, rest = list(timetable.batches(0)), list(timetable.batches(4))
    assert [(step, rows.tolist()) for step, rows in whole[4:]] == [
        (step, rows.tolist()) for step, rows in rest
    ]


def test_devices_share_a_batch_evenly_and_without_overlap():
    timetable = Timetable(11, Optimization(epochs=1, batch_size=6), seed=1, devices=2)
    shares = [list(timetable.batches(0, rank)) for rank in (0, 1)]
    assert [[len(rows) for _, rows in share] for share in shares] == [[3, 2], [3, 2]]
    together = np.concatenate([rows for share in shares for _, rows in share])
    assert len(set(together)) == 10


def test_too_few_items_for_batchnorm_say_so():
    with pytest.raises(DataError, match=r"there are 1 items in batches of 4 on 1 device"):
        Timetable(1, Optimization(batch_size=4), seed=0)


# --- the result ---


def test_training_learns_and_ends_in_eval_mode_without_gradients():
    objective = trained(settings=SETTINGS.model_copy(update={"epochs": 60}))
    data = points()
    assert not objective.training
    assert not any(weight.requires_grad for weight in objective.parameters())
    assert float(objective(data.x, data.y)) < 0.4 * float(data.y.var())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    assert digest(trained()) == digest(trained()) != digest(trained(seed=1))


def test_what_ran_before_in_the_process_changes_nothing():
    first = digest(trained())
    torch.manual_seed(99)
    torch.rand(5)
    trained(seed=5, settings=SETTINGS.model_copy(update={"optimizer": "adam"}))
    assert digest(trained()) == first


def test_training_leaves_the_generators_and_switches_of_the_process_alone():
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    trained()
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert not torch.are_deterministic_algorithms_enabled()


def test_reading_ahead_in_threads_changes_nothing():
    assert digest(trained(data=points(ahead=3))) == digest(trained())


def test_batchnorm_uses_its_running_statistics_in_the_last_share_of_the_epochs():
    objective = Regression()
    seen = []
    objective.layers[1].register_forward_pre_hook(lambda module, _: seen.append(module.training))
    dropout = []
    objective.layers[3].register_forward_pre_hook(lambda module, _: dropout.append(module.training))
    trained(objective=objective)
    assert seen == [True] * 9 + [False] * 3
    assert all(dropout)


def test_progress_is_told_after_every_step():
    told = []
    trained(RunSettings(device="cpu", progress=lambda done, total: told.append((done, total))))
    assert told == [(step, 12) for step in range(1, 13)]


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_helps():
    with pytest.raises(ModelError, match=r"the loss is (nan|inf) after step \d+ of .*lower lr"):
        trained(settings=SETTINGS.model_copy(update={"lr": 1e30}))


def test_asking_for_a_gpu_that_is_not_there_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"asks for 1 GPU\(s\), this machine has 0"):
        trained(RunSettings(device="cuda"))


def test_bfloat16_runs_and_keeps_weights_in_float32():
    objective = trained(RunSettings(device="cpu", precision="bf16-mixed"))
    assert objective.layers[0].weight.dtype == torch.float32


def test_lightning_fabric_is_needed_for_several_devices_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    trained()
    with pytest.raises(MissingExtraError, match=r"pip install 'onward\[train\]'"):
        trained(RunSettings(device="cpu", devices=2))


# --- TensorBoard ---


def test_tensorboard_that_is_not_installed_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'onward\[tensorboard\]'"):
        trained(RunSettings(device="cpu", tensorboard=tmp_path))


def test_tensorboard_gets_event_files(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra onward[tensorboard] is not installed")
    trained(RunSettings(device="cpu", tensorboard=tmp_path / "events"))
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))


# --- checkpoints ---


class Stopped(Exception):
    pass


def stop_after(step):
    def progress(done, total):
        if done == step:
            raise Stopped

    return progress


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("step", [1, 3, 5, 11])
def test_a_run_that_stopped_at_any_step_ends_with_the_same_bytes(tmp_path, optimizer, step):
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    path = tmp_path / "checkpoint.safetensors"
    keep = {"device": "cpu", "checkpoint": path, "checkpoint_seconds": 0.0}
    with pytest.raises(Stopped):
        trained(RunSettings(progress=stop_after(step), **keep), settings=settings)
    told = []
    run = RunSettings(progress=lambda done, total: told.append(done), **keep)
    assert digest(trained(run, settings=settings)) == digest(trained(settings=settings))
    assert told[0] == step + 1


def test_a_checkpoint_of_an_older_program_is_taken_up(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    keep = {"device": "cpu", "checkpoint": path, "checkpoint_seconds": 0.0}
    with pytest.raises(Stopped):
        trained(RunSettings(progress=stop_after(3), **keep))
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert '"batch_size"' in metadata["run"]
    older = metadata | {"run": metadata["run"].replace('"batch_size"', '"batch_items"')}
    save_file(tensors, path, older)
    assert digest(trained(RunSettings(**keep))) == digest(trained())


def test_a_finished_run_is_done_at_once_until_its_checkpoint_is_forgotten(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    told = []
    run = RunSettings(device="cpu", checkpoint=path, progress=lambda done, _: told.append(done))
    first = digest(trained(run))
    assert len(told) == 12
    assert digest(trained(run)) == first
    assert len(told) == 12
    left = path.with_name(".checkpoint.safetensors.0123456789abcdef.aside")
    left.mkdir()
    (left / WRITER).touch()  # of a run that was killed while it wrote
    forget_checkpoint(path)
    assert list(tmp_path.iterdir()) == []
    forget_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "first weights was .*; seed was 0, is 1"),
        ({"settings": SETTINGS.model_copy(update={"lr": 0.2})}, "settings.lr was 0.1, is 0.2"),
        ({"data": points(20)}, "data was .*, is "),
    ],
)
def test_the_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path, change, words):
    run = RunSettings(device="cpu", checkpoint=tmp_path / "c.safetensors")
    trained(run)
    with pytest.raises(ConfigurationError, match=f"checkpoint of another run: .*{words}"):
        trained(run, **change)
    with pytest.raises(ConfigurationError, match="or remove it to start over"):
        trained(run, **change)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    from onward.errors import ArtifactError

    path = tmp_path / "c.safetensors"
    path.write_bytes(b"something else")
    with pytest.raises(ArtifactError, match=r"is not a checkpoint of a training .*remove it"):
        trained(RunSettings(device="cpu", checkpoint=path))


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
from safetensors.torch import save_file
from test_training_loop import SETTINGS, CPU, trained, points
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run = replace(CPU, checkpoint=folder / "c.safetensors", checkpoint_seconds=0.0,
                  devices=int(sys.argv[2]))
    settings = SETTINGS.model_copy(update={{"epochs": int(sys.argv[3]), "optimizer": "adam"}})
    objective = trained(run, settings=settings)
    save_file(objective.state_dict(), folder / "done.safetensors")
"""


def start(folder, devices=1, epochs=120):
    from pathlib import Path

    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent))))
    arguments = [str(script), str(folder), str(devices), str(epochs)]
    return subprocess.Popen([sys.executable, *arguments])


@pytest.mark.slow
def test_killed_at_random_moments_the_weights_are_the_same_bytes(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert start(whole).wait() == 0
    rng = random.Random(0)
    kills = 0
    for _ in range(5):
        process = start(killed)
        before = (killed / "c.safetensors").exists()
        while not before and process.poll() is None and not (killed / "c.safetensors").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3) + (2.5 if before else 0.0))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 2
    assert start(killed).wait() == 0
    results = [(folder / "done.safetensors").read_bytes() for folder in (whole, killed)]
    assert results[0] == results[1]


@pytest.mark.slow
def test_two_processes_share_the_batches_and_agree_with_themselves(tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        assert start(folder, devices=2, epochs=10).wait() == 0
    results = [(folder / "done.safetensors").read_bytes() for folder in folders]
    assert results[0] == results[1]
