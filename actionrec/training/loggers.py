"""Where the figures of a run go beside its files: a logger of Lightning by name.

    actionrec train --dataset folder --root my_videos --logger wandb

Keys, projects and addresses are those of the service's own environment variables or login, such as
WANDB_API_KEY or MLFLOW_TRACKING_URI; no file of a run holds them.
"""

import csv
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import (
    CometLogger,
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment

from actionrec import devices
from actionrec.config import TrainConfig
from actionrec.errors import ActionrecError, UsageError, reason_of
from actionrec.files import write_whole


class RunTable(CSVLogger):
    """The figures of a run's epochs in logs/metrics.csv; a continued run keeps those of the first
    `epochs`, where Lightning's own logger begins an empty file."""

    def __init__(self, output: Path, epochs: int) -> None:
        super().__init__(output, "", "logs")
        self.epochs = epochs

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            file = Path(self.log_dir, ExperimentWriter.NAME_METRICS_FILE)
            kept = rows_of_epochs(file, self.epochs)
            # This deletes the file.
            writer = super().experiment
            writer.metrics = kept
            writer.save()
        return self._experiment


def rows_of_epochs(file: Path, epochs: int) -> list[dict[str, Any]]:
    """The rows of the first epochs in a table of figures."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        return [row for row in rows if float(row["epoch"]) < epochs]
    # A power cut may have torn it; the checkpoint has the figures too.
    except (OSError, ValueError, TypeError, KeyError):
        return []


def tensorboard(output: Path, identity: str | None) -> Logger:
    return TensorBoardLogger(output, "", "logs")


def wandb(output: Path, identity: str | None) -> Logger:
    return WandbLogger(output.name, output / "logs", id=identity or uuid.uuid4().hex)


def mlflow(output: Path, identity: str | None) -> Logger:
    database = f"sqlite:///{(output / 'logs' / 'mlflow.db').absolute()}"
    return MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", "actionrec"),
        output.name,
        os.environ.get("MLFLOW_TRACKING_URI", database),
        run_id=identity,
    )


def comet(output: Path, identity: str | None) -> Logger:
    key = identity or uuid.uuid4().hex
    return CometLogger(experiment_key=key, mode="get_or_create", name=output.name)


@dataclass(frozen=True)
class Service:
    """A logger beside the CSV files: the module that it needs, and a function that builds it from
    the run's folder and the identity under which the service knows the run, None if it is new."""

    module: str
    build: Callable[[Path, str | None], Logger]


SERVICES = {
    "tensorboard": Service("tensorboard", tensorboard),
    "wandb": Service("wandb", wandb),
    "mlflow": Service("mlflow", mlflow),
    "comet": Service("comet_ml", comet),
}


def require_logger(name: str) -> None:
    """Raise UsageError if the package of the logger is not installed."""
    if name in SERVICES and find_spec(SERVICES[name].module) is None:
        raise UsageError(
            f"--logger {name} needs a package; `pip install 'actionrec[{name}]'` installs it."
        )


def build_loggers(config: TrainConfig, output: Path, epochs: int = 0) -> list[Logger]:
    """The loggers of a run in the folder `output`, of which so many `epochs` are done: CSV, and the
    chosen one.

    A continued run goes on under its identity at the service, which is kept in `logs/`. Of several
    processes only the first has loggers: another may be here before the first has checked that the
    folder is free.

    Raises:
        ActionrecError: the service can't be used.
    """
    if not devices.is_first():
        return []
    chosen: list[Logger] = [RunTable(output, epochs)]
    name = config.logger
    if name == "auto":
        name = "tensorboard" if find_spec("tensorboard") else "csv"
    if name == "csv":
        return chosen
    noted = output / "logs" / f"{name}.txt"
    noted.parent.mkdir(parents=True, exist_ok=True)
    identity = noted.read_text(encoding="utf-8").strip() if noted.is_file() else None
    try:
        service = SERVICES[name].build(output, identity)
        if name != "tensorboard":
            # It is the first use that finds out whether the service answers.
            _ = service.experiment
            # MLflow refuses other settings in a continued run.
            if identity is None:
                service.log_hyperparams(asdict(config))
            write_whole(noted, f"{service.run_id if name == 'mlflow' else service.version}\n")
    # Every service has errors of its own.
    except Exception as error:
        raise ActionrecError(
            f"The logger {name} can't be used ({reason_of(error)}); see its documentation for its "
            "key and address, or leave out --logger."
        ) from error
    return [*chosen, service]
