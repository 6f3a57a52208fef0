"""A recognizer: everything that one does with a trained network and videos, in one object."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import overload

from actionrec.errors import Failure
from actionrec.explanation.heat_maps import explain_video
from actionrec.models.inference import InferenceModel
from actionrec.prediction.live import watch
from actionrec.prediction.timeline import Timeline, default_settings, score_timeline
from actionrec.prediction.timeline_settings import stored_settings
from actionrec.prediction.videos import Prediction, predict_video, predict_videos, video_features
from actionrec.video.address import Address, VideoPath, video_path


class Recognizer(InferenceModel):
    """A network made ready once, with its labels, preprocessing and sampling.

    Example:
        recognizer = Recognizer.load("kinetics400-i3d", precision="float32", topk=3)
        prediction = recognizer.predict("video.mp4")
        for label_score in prediction.top:
            print(label_score.label, label_score.score)
    """

    @overload
    def predict(self, videos: str | VideoPath, clips: int | None = None) -> Prediction: ...

    @overload
    def predict(
        self, videos: Iterable[str | VideoPath], clips: int | None = None
    ) -> Iterator[Prediction | Failure]: ...

    def predict(
        self, videos: str | VideoPath | Iterable[str | VideoPath], clips: int | None = None
    ) -> Prediction | Iterator[Prediction | Failure]:
        """Name the action in one video file, or in each of several.

        Args:
            videos: A file or an address (https://, s3://, ...); or several, which give an iterator:
                the next one is read while one is being scored, and one that can't be read is a
                Failure in its place.
            clips: Clips spread over a video; by default as many as cover it, ten at most.

        Raises:
            VideoError: the only video can't be read.
        """
        if isinstance(videos, str | Path | Address):
            return predict_video(self, videos, clips)
        return predict_videos(self, map(video_path, videos), clips)

    def timeline(
        self, video: str | VideoPath, hop: float | None = None, min_score: float | None = None
    ) -> Timeline:
        """Find which action begins and ends when in a video of any length.

        Args:
            video: A file or an address.
            hop: Seconds from one window to the next; by default half a clip, or what `actionrec
                evaluate --timeline` has chosen for the model.
            min_score: Labels that score less in a step have no segment there; by default 0.2, or
                what was chosen for the model, or the label's threshold where a video may have
                several.

        Raises:
            VideoError: the video can't be read at all.
        """
        settings = stored_settings(self.name) or default_settings(self)
        if hop is not None:
            settings = replace(settings, hop=hop)
        if min_score is not None:
            settings = replace(settings, min_score=min_score)
        return score_timeline(self, video, settings)

    # Functions of an InferenceModel, as methods.
    watch = watch
    features = video_features
    explain = explain_video
