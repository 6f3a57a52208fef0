"""`actionrec predict`, `features`, `timeline` and `watch`: actions in files and streams."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from actionrec.cli.parser import complain
from actionrec.cli.printing import Format, print_predictions, print_timelines
from actionrec.config import DecoderName, NotNegative, Positive
from actionrec.errors import ActionrecError, Failure, UsageError, VideoError
from actionrec.files import require_free, require_suffix
from actionrec.models.registry import EngineName, PrecisionName
from actionrec.prediction.formats import (
    FEATURE_FILES,
    PREDICTION_FORMATS,
    TIMELINE_FORMATS,
    write_timeline,
)
from actionrec.progress import track
from actionrec.text import json_text
from actionrec.video.address import is_address
from actionrec.video.sources import find_videos, missing

if TYPE_CHECKING:
    from actionrec.prediction.cluster_connection import Cluster
    from actionrec.prediction.timeline import Timeline
    from actionrec.prediction.videos import Prediction
    from actionrec.processes import Limits

logger = logging.getLogger("actionrec")

# How argparse reads --output; help names the formats.
PREDICT_OUTPUT = {"metavar": f"FILE{{{','.join(PREDICTION_FORMATS)}}}"}
TIMELINE_OUTPUT = {"metavar": f"FILE{{{','.join(TIMELINE_FORMATS)}}}", "nargs": "+", "default": []}
# The shard that is the whole list.
WHOLE = "1/1"


def predict(
    paths: list[str],
    model: str = "kinetics400-i3d",
    topk: PositiveInt = 5,
    clips: PositiveInt | None = None,
    precision: PrecisionName = "auto",
    engine: EngineName = "auto",
    decoder: DecoderName = "pyav",
    format: Format = "table",
    sort: Literal["none", "uncertainty"] = "none",
    files_from: str | None = None,
    output: str | None = None,
    workers: str | None = None,
    cluster: Literal["ray"] | None = None,
    address: str | None = None,
    gpus_per_worker: Positive | None = None,
    shard: str | None = None,
    timeout: Positive | None = None,
    memory: PositiveInt | None = None,
) -> int:
    """Name the action in each video.

    --output writes each result at once; after an interruption, the same command continues.

    Examples:
        actionrec predict video.mp4
        actionrec predict holiday/ 'more/*.avi' --format csv > actions.csv
        actionrec predict --files-from videos.txt --output actions.jsonl --workers 8
        actionrec predict --files-from s3://lake/list.txt --output s3://lake/out/ --cluster ray

    Args:
        paths: Video files, folders with videos, or patterns in quotes.
        model: Model file, run's folder or name.
        clips: Clips of each video; by default enough to cover it, at most ten.
        precision: auto: bfloat16 on hardware for it (scores within 0.02).
        decoder: Library; decord and torchcodec, extras, are less exact.
        sort: uncertainty: first the videos whose labels teach most.
        files_from: Text file or address, a path on each line; or - for standard input.
        output: File for the results, by its suffix; with --cluster a folder or s3://...
        workers: Processes that read, for --output; with --cluster, workers of the cluster.
        cluster: Predict on a Ray cluster, or with Ray on this machine, to --output.
        address: Ray cluster: auto, host:6379 or ray://host:10001.
        gpus_per_worker: Such as 0.5; by default one if there is a GPU.
        shard: Part of the list for --output, such as 3/8 on the third of eight machines.
        timeout: Limit for reading one video, in seconds; by default 300.
        memory: Limit for reading one video, in MiB; by default 4096.
    """
    if not paths and files_from is None:
        raise UsageError("No paths are given; name videos or folders, or a list with --files-from.")
    if output is None and (workers, shard, timeout, memory) != (None,) * 4:
        raise UsageError(
            "--workers, --shard, --timeout and --memory need --output with a "
            f"*{' or *'.join(PREDICTION_FORMATS)}."
        )
    if output is not None and (format, sort) != ("table", "none"):
        raise UsageError(
            "--output writes to a file and prints nothing; leave out --format and --sort."
        )
    flags = ClusterFlags(cluster, address, workers, gpus_per_worker, shard)
    flags.require_possible(output, PREDICTION_FORMATS)
    if output is not None and cluster is None:
        require_suffix(Path(output), PREDICTION_FORMATS, "--output")

    if cluster is not None:
        # First, because without Ray nothing else matters.
        from actionrec.prediction.cluster import run_to_folder
        from actionrec.prediction.tasks import Predictions
    from actionrec.prediction.batch import list_videos, predict_to_file
    from actionrec.prediction.journal import Settings

    limits = _limits(timeout, memory)
    settings = Settings(model, None, topk, clips, precision, decoder, shard or WHOLE)
    if cluster is not None:
        task, where = Predictions(settings), flags.cluster()
        # The list has no name here, so that it goes as its videos are done.
        failed = run_to_folder(
            list_videos(paths, files_from), output, task, where, limits, engine, complain
        )
        return 1 if failed else 0
    videos = list_videos(paths, files_from, shard or WHOLE)
    if output is not None:
        most = flags.range[1]
        failed = predict_to_file(videos, Path(output), settings, most, limits, engine, complain)
        return 1 if failed else 0

    from actionrec.models.inference import InferenceModel, read_model
    from actionrec.prediction.videos import predict_videos

    network = read_model(model)
    # A mistyped path is told before seconds go into making the network ready.
    videos = [video if isinstance(video, Failure) else missing(video) or video for video in videos]
    if videos and all(isinstance(video, Failure) for video in videos):
        for failure in videos:
            complain(failure.error)
        print_predictions(iter(videos), format)
        return 1
    ready = InferenceModel(network, precision=precision, decoder=decoder, topk=topk, engine=engine)
    failures: list[Failure] = []

    def results() -> "Iterator[Prediction | Failure]":
        for result in track(predict_videos(ready, videos, clips), "predicting", len(videos)):
            if isinstance(result, Failure):
                failures.append(result)
                complain(result.error)
            yield result

    ordered = results()
    if sort == "uncertainty":
        predicted = [each for each in ordered if not isinstance(each, Failure)]
        predicted.sort(key=lambda each: -each.uncertainty)
        ordered = iter([*predicted, *failures])
    print_predictions(ordered, format, ready.decision.multi_label)
    return 1 if failures else 0


def features(
    paths: list[str],
    output: str,
    model: str = "kinetics400-i3d",
    hop: Positive | None = None,
    clips: PositiveInt | None = None,
    precision: PrecisionName = "auto",
    engine: EngineName = "auto",
    decoder: DecoderName = "pyav",
    files_from: str | None = None,
    workers: str | None = None,
    cluster: Literal["ray"] | None = None,
    address: str | None = None,
    gpus_per_worker: Positive | None = None,
    shard: str | None = None,
    timeout: Positive | None = None,
    memory: PositiveInt | None = None,
) -> int:
    """Write the features of videos, for a classifier, search or clustering of your own.

    Features are the network's last feature map, averaged over time and space: a row of numbers for
    each clip. After an interruption, the same command continues.

    Examples:
        actionrec features holiday/ --output features.npz
        actionrec features --files-from videos.txt --hop 0.5 --output features/
        actionrec features 'more/*.avi' --model r2plus1d_r50 --output features.parquet
        actionrec features --files-from s3://lake/list.txt --output s3://lake/out/ --cluster ray

    Args:
        paths: Video files, folders with videos, or patterns in quotes.
        output: FILE.npz, FILE.parquet, or a folder, which gets a file NAME.npy for each video; with
            --cluster a folder or address, such as s3://..., which gets Parquet files.
        model: Model file, run's folder or name.
        decoder: Library; decord and torchcodec, extras, are less exact.
        hop: Seconds between clips that slide over the whole video.
        clips: Clips spread over each video; by default enough to cover it, at most ten.
        files_from: Text file or address, a path on each line; or - for standard input.
        workers: Processes that read; with --cluster, workers of the cluster.
        cluster: Read on a Ray cluster, or with Ray on this machine.
        address: Ray cluster: auto, host:6379 or ray://host:10001.
        gpus_per_worker: Such as 0.5; by default one if there is a GPU.
        shard: Part of the list, such as 3/8 on the third of eight machines.
        timeout: Limit for reading one video, in seconds; by default 300.
        memory: Limit for reading one video, in MiB; by default 4096.
    """
    if not paths and files_from is None:
        raise UsageError("No paths are given; name videos or folders, or a list with --files-from.")
    if hop is not None and clips is not None:
        raise UsageError("--hop and --clips are two ways to choose clips; leave out one of them.")
    flags = ClusterFlags(cluster, address, workers, gpus_per_worker, shard)
    flags.require_possible(output, FEATURE_FILES)
    is_folder = output.endswith("/") or Path(output).is_dir() or not Path(output).suffix
    if cluster is None and not is_folder and Path(output).suffix.lower() not in FEATURE_FILES:
        raise UsageError(
            f"--output {output} must end in {' or '.join(FEATURE_FILES)}, or in / for a folder."
        )

    if cluster is not None:
        # First, because without Ray nothing else matters.
        from actionrec.prediction.cluster import run_to_folder
        from actionrec.prediction.tasks import Features
    from actionrec.prediction.batch import list_videos
    from actionrec.prediction.features import features_to_file
    from actionrec.prediction.journal import FeatureSettings

    limits = _limits(timeout, memory)
    settings = FeatureSettings(model, None, clips, hop, precision, decoder, shard or WHOLE)
    if cluster is not None:
        task, where = Features(settings), flags.cluster()
        # The list has no name here, so that it goes as its videos are done.
        failed = run_to_folder(
            list_videos(paths, files_from), output, task, where, limits, engine, complain
        )
        return 1 if failed else 0
    videos = list_videos(paths, files_from, shard or WHOLE)
    most = flags.range[1]
    failed = features_to_file(videos, Path(output), settings, most, limits, engine, complain)
    return 1 if failed else 0


@dataclass(frozen=True)
class ClusterFlags:
    """The flags that say where a list of videos is read."""

    name: str | None
    address: str | None
    workers: str | None
    gpus: float | None
    shard: str | None

    def require_possible(self, output: str | None, files: Sequence[str]) -> None:
        """Raise UsageError if the flags do not go together with each other or with an output.

        Args:
            files: Suffixes of outputs that are files, which a cluster can't write.
        """
        least, most = self.range
        if self.name is None:
            if (self.address, self.gpus) != (None, None):
                raise UsageError("--address and --gpus-per-worker need --cluster ray.")
            if least != most:
                raise UsageError(f"--workers {self.workers}, a range, needs --cluster ray.")
            if output is not None and is_address(output):
                raise UsageError(
                    f"--output {output} is an address, which needs --cluster ray; without it, name "
                    "a file or folder of this machine."
                )
            return
        if output is None or Path(output).suffix.lower() in files:
            raise UsageError(
                "--cluster needs --output with a folder, such as actions/ or s3://bucket/actions; "
                "it is filled with Parquet files."
            )
        if self.shard is not None:
            raise UsageError("--cluster divides the list by itself; leave out --shard.")

    @property
    def range(self) -> tuple[int | None, int | None]:
        """The fewest and the most workers; None for those by default."""
        return _worker_range(self.workers)

    def cluster(self) -> "Cluster":
        """Where the videos are read."""
        from actionrec.prediction.cluster_connection import Cluster

        least, most = self.range
        return Cluster(self.address, (least, most) if least and most else None, self.gpus)


def _limits(timeout: float | None, memory: int | None) -> "Limits":
    from actionrec.processes import STANDARD_LIMITS, Limits

    return Limits(timeout or STANDARD_LIMITS.timeout, memory or STANDARD_LIMITS.memory)


def _worker_range(text: str | None) -> tuple[int | None, int | None]:
    """The numbers of --workers: 8 is 8:8, the fewest and the most; None for those by default."""
    if text is None:
        return None, None
    found = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", text)
    numbers = [int(number) for number in found.groups() if number] if found else []
    if not numbers or not 1 <= numbers[0] <= numbers[-1]:
        raise UsageError(
            f"--workers is {text}; it must be a whole number from 1 on, or with --cluster ray the "
            "fewest and the most, such as 4:64."
        )
    return numbers[0], numbers[-1]


def timeline(
    paths: list[str],
    model: str = "kinetics400-i3d",
    hop: Positive | None = None,
    smoothing: NotNegative | None = None,
    min_score: ClosedUnitInterval | None = None,
    min_length: NotNegative | None = None,
    bridge: NotNegative | None = None,
    topk: PositiveInt = 5,
    precision: PrecisionName = "auto",
    engine: EngineName = "auto",
    format: Format = "table",
    output: Sequence[str] = (),
    render: str | None = None,
) -> int:
    """Find the actions in long videos, with their start and end.

    A window slides over the whole video; neighbouring windows with the same best class form a
    segment. Ctrl-C ends the scoring and keeps the results so far. Defaults are those that
    `evaluate --timeline` chose for the model.

    Examples:
        actionrec timeline match.mp4
        actionrec timeline match.mp4 --output match.srt match.json --render drawn.mp4
        actionrec timeline recordings/ --min-score 0.5 --format csv > segments.csv

    Args:
        paths: Video files, folders with videos, or patterns in quotes.
        hop: Seconds from one window to the next; by default half a clip.
        min_score: Lowest score of a segment; by default 0.2 or a label's threshold.
        smoothing: Seconds over which scores are averaged.
        min_length: Shortest segment, in seconds.
        bridge: Longest gap between two segments of one class that makes them one, in seconds.
        topk: Number of best classes kept for each window.
        output: Files for the timeline of one video; the suffix selects the format.
        render: File, *.mp4, *.mov or *.mkv, for the video with the timeline drawn on it.
    """
    found = find_videos(paths)
    if len(found) > 1 and (output or render):
        raise UsageError(f"--output and --render are for one video; here are {len(found)}.")
    for name in output:
        require_suffix(Path(name), TIMELINE_FORMATS, "--output")
        require_free(Path(name))

    from actionrec.models.inference import InferenceModel
    from actionrec.prediction import rendering
    from actionrec.prediction.timeline import INTERRUPTED, default_settings, score_timeline
    from actionrec.prediction.timeline_settings import stored_settings

    if render and not isinstance(found[0], Failure):
        rendering.require_rendering(found[0], Path(render))
    ready = InferenceModel.load(model, precision=precision, topk=topk, engine=engine)
    given = {
        "hop": hop,
        "smoothing": smoothing,
        "min_score": min_score,
        "min_length": min_length,
        "bridge": bridge,
    }
    given = {name: value for name, value in given.items() if value is not None}
    stored = stored_settings(model)
    settings = replace(stored or default_settings(ready), **given)
    if stored:
        logger.info("tuned for this model: %s", settings)
    problems: list[str] = []
    scored: Timeline | None = None

    def report(problem: str) -> None:
        problems.append(problem)
        complain(problem)

    def results() -> "Iterator[Timeline | Failure]":
        nonlocal scored
        for video in found:
            try:
                if isinstance(video, Failure):
                    raise VideoError(video.error)
                scored = score_timeline(ready, video, settings)
            except VideoError as error:
                report(str(error))
                yield Failure(video.video if isinstance(video, Failure) else str(video), str(error))
                continue
            for name in output:
                # A full disk must not cost the results of hours.
                try:
                    write_timeline(scored, Path(name))
                except ActionrecError as error:
                    report(str(error))
            yield scored
            if scored.incomplete == INTERRUPTED:
                complain(
                    f"interrupted at {scored.scored_until:.0f} of {scored.duration:.0f} s of "
                    f"{scored.video}; the results up to there are complete."
                )
                return
            if scored.incomplete is not None:
                report(scored.incomplete)

    print_timelines(results(), format)
    reason = scored and scored.incomplete
    if render and scored and reason != INTERRUPTED:
        reason = rendering.render(scored, Path(render), settings.min_score)
        if reason is not None:
            report(f"{reason}; {render} holds the frames up to there.")
    return 130 if reason == INTERRUPTED else 1 if problems else 0


def watch(
    source: str,
    model: str = "kinetics400-i3d",
    hop: Positive | None = None,
    topk: PositiveInt = 5,
    precision: PrecisionName = "auto",
    engine: EngineName = "auto",
) -> int:
    """Name the actions in a camera or stream as they happen.

    Scores the newest clip again and again and prints a line of JSON each time. Opens a broken
    stream again.

    Examples:
        actionrec watch camera:0
        actionrec watch rtsp://192.168.1.20/stream1 --topk 1
        ffmpeg -i match.mp4 -f mpegts - | actionrec watch -

    Args:
        source: camera:0, a URL (rtsp, rtmp, http, tcp, udp, srt) or -, standard input.
        hop: Shortest time from one clip to the next, in seconds; by default half a clip.
    """
    from actionrec.models.inference import InferenceModel
    from actionrec.prediction.live import watch as watch_source

    ready = InferenceModel.load(model, precision=precision, topk=topk, engine=engine)
    for prediction in watch_source(ready, source, hop):
        print(json_text(asdict(prediction)), flush=True)
    return 0
