"""Several processes that train or evaluate together reach what one process reaches."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from actionrec.config import TrainConfig
from actionrec.errors import UsageError
from actionrec.models.classifier import VideoClassifier
from actionrec.training.run import train

pytestmark = pytest.mark.slow

# Trains, and notes the loss of every batch of this process. Without dropout, since each process
# draws masks of its own.
DRIVER = """
import json, sys
from pathlib import Path
import torch
from actionrec import devices
from actionrec.config import TrainConfig
from actionrec.training import module
from actionrec.training.run import train

torch.nn.Dropout.forward = lambda self, x: x
loss_of, losses = module.Training.loss_of, []

def noting(self, batch, index):
    loss = loss_of(self, batch, index)
    losses.append(loss.item())
    return loss

module.Training.loss_of = noting
config = TrainConfig(**json.loads(sys.argv[1]))
train(config)
Path(f"{config.output}-losses{devices.rank()}.json").write_text(json.dumps(losses))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    path = tmp_path_factory.mktemp("driver") / "driver.py"
    path.write_text(DRIVER)
    return path


@pytest.fixture
def config(small_training, tmp_path):
    output = str(tmp_path / "one")
    return replace(small_training, epochs=3, sync_batchnorm=True, output=output)


def one_thread():
    return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def run_alone(losses, monkeypatch):
    """Do in this process as the driver does; return the losses."""
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)

    def run_alone(config):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            train(config)
        finally:
            torch.set_num_threads(threads)
        return losses

    return run_alone


def run_driver(driver, config, launcher=(sys.executable,)):
    words = [*launcher, str(driver), json.dumps(asdict(config))]
    run = subprocess.run(words, capture_output=True, text=True, timeout=300, env=one_thread())
    assert run.returncode == 0, run.stderr
    parts = sorted(Path(config.output).parent.glob(f"{Path(config.output).name}-losses*.json"))
    losses = [json.loads(part.read_text()) for part in parts]
    # The loss of the whole batch is the mean of those of its equal parts.
    return [sum(step) / len(step) for step in zip(*losses, strict=True)]


def weights_of(folder):
    return VideoClassifier.load(folder / "last.safetensors").network.state_dict()


def test_two_processes_have_the_losses_and_weights_of_one_with_the_same_batches(
    driver, run_alone, config, tmp_path
):
    one = run_alone(config)
    assert len(one) == 6
    two = run_driver(driver, replace(config, devices=2, output=str(tmp_path / "two")))
    assert two == pytest.approx(one, rel=1e-5)
    first, second = (weights_of(tmp_path / name) for name in ("one", "two"))
    for name, value in first.items():
        # PyTorchVideo's layer, which stands in on the CPU, counts no batches, and its running
        # variance has no Bessel's correction.
        if not name.endswith(("num_batches_tracked", "running_var")):
            torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-5, msg=name)
    results = [
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")
    ]
    assert results[0]["last"]["clip"]["n"] == results[1]["last"]["clip"]["n"] == 4


def test_i3d_whose_normalisation_has_no_scale_takes_its_statistics_over_all_processes(
    driver, run_alone, config, tmp_path
):
    config = replace(config, backbone="i3d", epochs=1)
    one = run_alone(config)
    two = run_driver(driver, replace(config, devices=2, output=str(tmp_path / "two")))
    # Where the last stages see a handful of values, rounding grows from step to step.
    assert two[0] == pytest.approx(one[0], rel=1e-3)
    first, second = (weights_of(tmp_path / name) for name in ("one", "two"))
    assert first.keys() == second.keys()
    assert second["units.Mixed_5c.branch_0.bn.bias"].any(), "the shift is trained"


def test_torchrun_can_start_the_processes(driver, config, tmp_path):
    config = replace(config, devices=2, epochs=1)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    run_driver(driver, config, launcher)
    assert (tmp_path / "one" / "last.safetensors").exists()


def test_processes_leave_each_other_before_python_ends(tmp_path):
    """A thread of Gloo that runs on aborts a process now and then, after all its work is done."""
    code = f"""
import atexit
from torch import distributed
from actionrec import devices
# What was registered first is called last.
atexit.register(lambda: print(distributed.is_initialized()))
devices.expect(2)
store = distributed.FileStore({str(tmp_path / "store")!r}, 1)
distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
print(distributed.is_initialized())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout.split()) == (0, ["True", "False"]), run.stderr


def test_evaluation_by_two_processes_is_that_of_one_to_the_last_bit(
    command, class_folders, small_recognizer, tmp_path
):
    # Five videos, so that the shares differ.
    root = tmp_path / "videos"
    shutil.copytree(class_folders, root)
    for side in ("train", "val"):
        (root / side / "first").rename(root / side / "a")
        (root / side / "second").rename(root / side / "b")
    shutil.copy(root / "val" / "a" / "first0.avi", root / "val" / "a" / "third.avi")
    model = tmp_path / "model.safetensors"
    small_recognizer.save(model)
    printed = []
    for devices in (1, 2):
        run = command(
            *("evaluate", "--model", model, "--dataset", "folder", "--root", root, "--clips", 3),
            *("--workers", 0, "--devices", devices, "--format", "json"),
            *("--save-logits", tmp_path / f"logits{devices}.safetensors"),
            env=one_thread(),
        )
        assert run.returncode == 0, run.stderr
        printed.append(run.stdout)
    assert json.loads(printed[0])["video"]["n"] == 5
    assert printed[0] == printed[1]
    logits = [(tmp_path / f"logits{devices}.safetensors").read_bytes() for devices in (1, 2)]
    assert logits[0] == logits[1]


def start_training(commands, config):
    """A training in a process of its own that has finished its first epoch."""
    words = [
        f"--{key.replace('_', '-')}={json.dumps(value) if not isinstance(value, str) else value}"
        for key, value in asdict(config).items()
        if value != getattr(TrainConfig("folder"), key, None)
    ]
    run = commands.start(["train", "--dataset", "folder", *words], env=one_thread())
    while not Path(config.output, "results.json").exists() and run.poll() is None:
        time.sleep(0.05)
    return run


@pytest.mark.skipif(sys.platform != "linux", reason="no list of a process's children")
def test_a_process_that_the_system_kills_is_a_sentence_of_the_other(config, commands):
    for attempt in range(3):
        output = f"{config.output}{attempt}"
        run = start_training(commands, replace(config, devices=2, epochs=200, output=output))
        [child] = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        _, said = run.communicate()
        # Lightning looks every five seconds, and kills all that is left if it is the first to see.
        if run.returncode != -signal.SIGKILL:
            break
    assert run.returncode == 1, said
    assert "actionrec: Process 0 lost another one, which was killed" in said
    assert "Traceback" not in said


def test_a_signal_to_the_first_process_stops_all_and_the_run_goes_on_with_another_number(
    config, commands
):
    config = replace(config, devices=2, epochs=15, resume="auto")
    run = start_training(commands, config)
    os.kill(run.pid, signal.SIGTERM)
    _, said = run.communicate()
    assert run.returncode == 143, said
    assert said.count("--resume auto continues it") == 1
    results = train(replace(config, devices=1))
    assert results["last"]["epoch"] == 15


def test_a_bad_video_of_any_process_is_reported_once_and_too_many_stop_all(
    config, class_folders, tmp_path, command
):
    listing = tmp_path / "videos.csv"
    rows = ["path,label,split"]
    for index in range(2):
        (tmp_path / f"broken{index}.avi").write_bytes(b"RIFF broken")
        rows.append(f"{tmp_path / f'broken{index}.avi'},first,train")
    for side in ("train", "val"):
        rows += [f"{path},{path.parent.name},{side}" for path in class_folders.glob(f"{side}/*/*")]
    listing.write_text("\n".join(rows))
    config = replace(config, dataset="csv", root=str(listing), devices=2, epochs=1, batch_size=2)

    def run(config):
        settings = tmp_path / f"{Path(config.output).name}.yaml"
        settings.write_text(json.dumps(asdict(config)))
        return command("train", "--config", settings, env=one_thread())

    stopped = run(config)
    assert stopped.returncode == 1, stopped.stderr
    assert stopped.stderr.count("Training stopped: ") == 1
    # A video that is bad to one process in one epoch and to the other in the next counts once.
    output = str(tmp_path / "tolerant")
    tolerant = run(replace(config, epochs=4, max_bad=0.2, output=output))
    assert tolerant.returncode == 0, tolerant.stderr
    report = json.loads((tmp_path / "tolerant" / "bad_videos.json").read_text())
    assert len(report) == 2
    assert tolerant.stderr.count("left out: /") == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"devices": 2, "batch_size": 3}, "choose a multiple of 2"),
        ({"devices": 5, "batch_size": 5}, "5 processes can't share 4 videos"),
    ],
)
def test_processes_that_cannot_share_the_work_are_wrong_usage(config, change, words):
    with pytest.raises(UsageError, match=words):
        train(replace(config, **change))


@pytest.mark.parametrize(
    "told",
    [
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        | {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "1"},
        # No numbers: an empty variable, and one of another program.
        {"RANK": "", "LOCAL_RANK": "x", "SLURM_PROCID": "-", "JSM_NAMESPACE_RANK": ""},
        # Slurm, MPI, LSF and a TPU, none of which may speak for a process that was not told so.
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job"}
        | {
            "PMI_RANK": "1",
            "PMI_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": "1",
            "OMPI_COMM_WORLD_SIZE": "2",
        }
        | {"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_RANK": "1"}
        | {"JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_LOCAL_RANK": "1", "TPU_WORKER_ID": "1"}
        | {"PJRT_DEVICE": "TPU", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "9", "NODE_RANK": "1"},
    ],
)
def test_a_process_of_many_that_was_not_told_of_the_others_works_alone(config, tmp_path, told):
    settings = tmp_path / "settings.yaml"
    settings.write_text(json.dumps(asdict(replace(config, epochs=1))))
    verbs = [
        ["train", "--config", str(settings)],
        ["evaluate", "--model", str(tmp_path / "one"), "--dataset", "folder", "--clips", "1"]
        + ["--root", config.root, "--format", "json"],
    ]
    # Lightning reads the variables while it is imported.
    program = f"from actionrec.cli.main import main\nfor words in {verbs}: assert main(words) == 0"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        env=one_thread() | told,
    )
    assert done.returncode == 0, done.stderr
    assert "best epoch (1)" in done.stdout and "epoch 1 of 1" in done.stderr
    left = {path.name for path in (tmp_path / "one").iterdir()}
    assert left >= {"config.yaml", "last.ckpt", "logs", "model.safetensors", "report.html"}
    assert (tmp_path / "one" / "logs" / "metrics.csv").exists()
    assert json.loads(done.stdout[done.stdout.index("{") :])["video"]["n"] == 4


OTHER_DATA = "Process 0 and process 1 differ in the "


@pytest.mark.parametrize(
    ("verb", "differing", "words"),
    [
        ("train", "videos", OTHER_DATA + "number of training videos: 8 and 7;"),
        ("evaluate", "videos", OTHER_DATA + "number of validation videos: 4 and 3;"),
        ("train", "classes", OTHER_DATA + "names of videos and classes; give all"),
        ("train", "epochs", OTHER_DATA + "setting epochs: 3 and 4;"),
    ],
)
def test_two_machines_with_other_data_or_settings_are_a_sentence_and_no_hang(
    config, commands, class_folders, small_recognizer, tmp_path, verb, differing, words
):
    roots = [tmp_path / f"host{host}" for host in range(2)]
    for root in roots:
        shutil.copytree(class_folders, root)
    if differing == "videos":
        (roots[1] / ("train" if verb == "train" else "val") / "first" / "first0.avi").unlink()
    if differing == "classes":
        for side in ("train", "val"):
            (roots[1] / side / "second").rename(roots[1] / side / "third")
    labels = replace(small_recognizer.config, labels=("first", "second", "third"))
    VideoClassifier(labels).save(tmp_path / "model.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hosts = []
    for host, root in enumerate(roots):
        settings = tmp_path / f"host{host}.yaml"
        epochs = 3 + host * (differing == "epochs")
        own = replace(config, nodes=2, root=str(root), epochs=epochs)
        settings.write_text(json.dumps(asdict(own)))
        run = ["train", "--config", str(settings)]
        if verb == "evaluate":
            run = ["evaluate", "--model", str(tmp_path / "model.safetensors"), "--nodes", "2"]
            run += ["--dataset", "folder", "--root", str(root)]
        hosts.append(commands.start(run, env=one_thread() | by_torchrun(host, port)))
    said = [host.communicate()[1] for host in hosts]
    assert f"actionrec: {words}" in said[0]
    assert hosts[0].returncode == 1


def by_torchrun(host, port):
    """What torchrun tells the one process of each of two machines."""
    told = {"RANK": host, "GROUP_RANK": host, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    told |= {"WORLD_SIZE": 2, "GROUP_WORLD_SIZE": 2, "TORCHELASTIC_RUN_ID": "none"}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in told.items()}
