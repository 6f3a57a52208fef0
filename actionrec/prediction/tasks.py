"""What a job on a cluster asks of each video, and the rows of Parquet that answer it.

    Predictions(Settings("kinetics400-i3d"))
    Features(FeatureSettings("kinetics400-i3d", hop=0.5))

Workers send the rows of a video as bytes of Arrow, and whoever collects them makes no more of them
than a table. Another kind of result is another class here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from actionrec.models.classifier import VideoClassifier
from actionrec.models.exported import ExportedModel
from actionrec.models.inference import InferenceModel
from actionrec.models.shared_batches import ScoredVideo
from actionrec.prediction import parquet
from actionrec.prediction.features import require_features, rounded
from actionrec.prediction.journal import FeatureSettings, Settings
from actionrec.prediction.videos import prediction

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Task(ABC):
    """One kind of results.

    Attributes:
        settings: What the results depend on.
        results: What they are called.
        title: Words before the bar of progress.
    """

    settings: Settings | FeatureSettings
    results: ClassVar[str]
    title: ClassVar[str]

    @property
    def topk(self) -> int:
        """Classes of each prediction."""
        return 1

    @property
    def hop(self) -> float | None:
        """Seconds from one clip to the next, in place of a number of clips."""
        return None

    @abstractmethod
    def require(self, model: VideoClassifier | ExportedModel) -> None:
        """Raise ActionrecError if a model can't give such results."""

    @abstractmethod
    def answers(self, model: InferenceModel, clips: Tensor) -> np.ndarray:
        """What the model says of uint8 clips (B, 3, T, H, W), float32 (B, ...)."""

    @abstractmethod
    def schema(self) -> "pyarrow.Schema":
        """The columns."""

    @abstractmethod
    def batch(
        self, model: InferenceModel, video: str, scored: ScoredVideo
    ) -> "pyarrow.RecordBatch":
        """The rows of a video."""

    def rows(self, model: InferenceModel, video: str, scored: ScoredVideo) -> bytes:
        """The rows of a video, for `table`."""
        return self.batch(model, video, scored).serialize().to_pybytes()

    def failed(self, video: str, error: str) -> bytes:
        """The row of a video that failed, for `table`."""
        return parquet.failed_row(video, error, self.schema()).serialize().to_pybytes()

    def table(self, rows: Sequence[bytes]) -> "pyarrow.Table":
        """The rows of several videos, in order."""
        import pyarrow

        columns = self.schema()
        batches = [pyarrow.ipc.read_record_batch(each, columns) for each in rows]
        # Thousands of small pieces are slow to write.
        return pyarrow.Table.from_batches(batches, columns).combine_chunks()


@dataclass(frozen=True)
class Predictions(Task):
    """The best classes of each video: a row a video."""

    settings: Settings
    results: ClassVar[str] = "predictions"
    title: ClassVar[str] = "predicting"

    @property
    def topk(self) -> int:
        return self.settings.topk

    def require(self, model: VideoClassifier | ExportedModel) -> None:
        """Every model can."""

    def answers(self, model: InferenceModel, clips: Tensor) -> np.ndarray:
        return model.scores(clips)

    def schema(self) -> "pyarrow.Schema":
        return parquet.schema()

    def batch(
        self, model: InferenceModel, video: str, scored: ScoredVideo
    ) -> "pyarrow.RecordBatch":
        import pyarrow

        result = prediction(model, video, scored.seconds, scored.answers[:, 0])
        return pyarrow.RecordBatch.from_pylist([parquet.row(asdict(result))], self.schema())


@dataclass(frozen=True)
class Features(Task):
    """The features of each clip: as many rows a video as it has clips."""

    settings: FeatureSettings
    results: ClassVar[str] = "features"
    title: ClassVar[str] = "reading features"

    @property
    def hop(self) -> float | None:
        return self.settings.hop

    def require(self, model: VideoClassifier | ExportedModel) -> None:
        require_features(model, self.settings.model)

    def answers(self, model: InferenceModel, clips: Tensor) -> np.ndarray:
        return model.clip_features(clips)

    def schema(self) -> "pyarrow.Schema":
        return parquet.feature_schema()

    def batch(
        self, model: InferenceModel, video: str, scored: ScoredVideo
    ) -> "pyarrow.RecordBatch":
        seconds = rounded(scored.seconds)
        return parquet.feature_rows(video, model.name, seconds, scored.answers[:, 0])
