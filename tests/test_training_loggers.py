"""The loggers of a run by name, what they need, and what they must not write."""

import importlib.util
import sys
from dataclasses import replace

import pytest
import yaml

from actionrec.errors import ActionrecError, UsageError
from actionrec.training import loggers
from actionrec.training.loggers import SERVICES
from actionrec.training.run import train


@pytest.fixture
def config(small_training, tmp_path):
    return replace(small_training, epochs=1, output=str(tmp_path / "run"))


@pytest.mark.parametrize("name", SERVICES)
def test_a_logger_without_its_package_is_a_sentence_before_anything_is_written(
    config, tmp_path, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, SERVICES[name].module, None)
    with pytest.raises(UsageError, match=f"--logger {name} .*'actionrec.{name}.'. installs it"):
        train(replace(config, logger=name))
    assert not (tmp_path / "run").exists()


def test_only_the_first_process_of_several_writes_logs(config, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers.devices, "is_first", lambda: False)
    assert loggers.build_loggers(config, tmp_path / "run") == []
    assert not (tmp_path / "run").exists()


def test_csv_alone_and_tensorboard_beside_it(config, tmp_path):
    pytest.importorskip("tensorboard")
    for name, events in (("csv", 0), ("tensorboard", 1), ("auto", 1)):
        output = tmp_path / name
        train(replace(config, logger=name, output=str(output)))
        assert (output / "logs" / "metrics.csv").is_file()
        assert len(list((output / "logs").glob("events.*"))) == events


def test_a_service_that_does_not_answer_is_a_sentence_without_its_password(
    config, tmp_path, monkeypatch
):
    def fails(*_):
        raise OSError("postgresql://me:se@cret@host/api does not answer.\nTraceback")

    monkeypatch.setitem(SERVICES, "wandb", loggers.Service("json", fails))
    with pytest.raises(
        ActionrecError, match=r"wandb can't be used \(postgresql://host/api does not"
    ):
        train(replace(config, logger="wandb"))


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_goes_on_under_its_identity_and_no_file_of_ours_has_the_key(
    config, tmp_path, monkeypatch
):
    key = "0123456789" * 4
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", key)
    train(replace(config, logger="wandb"))
    identity = (tmp_path / "run" / "logs" / "wandb.txt").read_text()
    loggers.build_loggers(replace(config, logger="wandb", patience=3), tmp_path / "run")
    assert (tmp_path / "run" / "logs" / "wandb.txt").read_text() == identity
    settings = (tmp_path / "run" / "config.yaml").read_text()
    assert key not in settings and yaml.safe_load(settings)["logger"] == "wandb"


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_has_the_figures_and_settings_of_a_run(config, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train(replace(config, logger="mlflow"))
    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'logs' / 'mlflow.db'}")
    again = replace(config, logger="mlflow", patience=3)
    _, continued = loggers.build_loggers(again, tmp_path / "run")
    continued.log_metrics({"val_top1": 0.75}, step=9)
    run = client.get_run((tmp_path / "run" / "logs" / "mlflow.txt").read_text().strip())
    assert run.data.params["backbone"] == "c3d_small" and run.data.metrics["val_top1"] == 0.75
    assert len(client.get_metric_history(run.info.run_id, "val_top1")) == 2
