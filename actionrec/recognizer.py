"""A recognizer: everything that one does with a trained network and videos, in one object."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import overload

from actionrec.errors import Failure
from actionrec.explanation.heat_maps import explain_video
from actionrec.models.inference import InferenceModel
from actionrec.prediction.live import watch
from actionrec.prediction.timeline import Timeline, score_timeline
from actionrec.prediction.videos import Prediction, predict_video, predict_videos, video_features


class Recognizer(InferenceModel):
    """A network made ready once, with its labels, preprocessing and sampling.

    Example:
        recognizer = Recognizer.load("kinetics400-i3d", precision="float32", topk=3)
        prediction = recognizer.predict("video.mp4")
        for label_score in prediction.top:
            print(label_score.label, label_score.score)
    """

    @overload
    def predict(self, videos: str | Path, clips: int | None = None) -> Prediction: ...

    @overload
    def predict(
        self, videos: Iterable[str | Path], clips: int | None = None
    ) -> Iterator[Prediction | Failure]: ...

    def predict(
        self, videos: str | Path | Iterable[str | Path], clips: int | None = None
    ) -> Prediction | Iterator[Prediction | Failure]:
        """Name the action in one video file, or in each of several.

        Args:
            videos: A file; or several, which give an iterator: the next one is read while one is
                being scored, and one that can't be read is a Failure in its place.
            clips: Clips spread over a video; by default as many as cover it, ten at most.

        Raises:
            VideoError: the only video can't be read.
        """
        if isinstance(videos, str | Path):
            return predict_video(self, videos, clips)
        return predict_videos(self, map(Path, videos), clips)

    def timeline(
        self, video: str | Path, hop: float | None = None, min_score: float | None = None
    ) -> Timeline:
        """Find which action begins and ends when in a video of any length.

        Args:
            video: A file.
            hop: Seconds from one window to the next; by default half a clip.
            min_score: Labels that score less in a step have no segment there; by default 0.2, or
                the label's threshold where a video may have several labels.

        Raises:
            VideoError: the video can't be read at all.
        """
        return score_timeline(self, video, hop, min_score)

    # Functions of an InferenceModel, as methods.
    watch = watch
    features = video_features
    explain = explain_video
