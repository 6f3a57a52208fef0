"""From videos to logits: `actionrec evaluate --model FILE --dataset demo`.

Several processes can share the videos; their results are gathered in the data set's order.
"""

import os
from collections import ChainMap
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actionrec import devices
from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.errors import ActionrecError, Failure, VideoError
from actionrec.evaluation.logits import ClipLogits
from actionrec.evaluation.several_labels import multi_hot
from actionrec.models import shared_batches
from actionrec.models.classifier import ClassifierConfig
from actionrec.models.decision import Decision
from actionrec.models.inference import InferenceModel
from actionrec.models.shared_batches import threads_of
from actionrec.processes import WorkerError
from actionrec.progress import track
from actionrec.video.address import Address
from actionrec.video.decoders import require_decoder
from actionrec.video.segments import VideoSource


def score_dataset(
    model: InferenceModel,
    dataset: VideoDataset,
    clips: int = 10,
    crops: int = 1,
    workers: int = 2,
    known_bad: Sequence[Failure] = (),
) -> ClipLogits:
    """The logits of the validation videos of `dataset`, the same in all processes that share them.

    Args:
        model: The model to evaluate; it must know all classes of the data set.
        dataset: Its `val` videos are scored.
        clips: Clips of a video, evenly spread over it.
        crops: 1, the centre, or 3 along the longer side; a clip's score is their mean.
        workers: Processes that read videos, at least one.
        known_bad: The validation videos that are skipped unread.

    Raises:
        ActionrecError: a class of the data set is unknown to the model, or no video could be read.
    """
    require_known_classes(model.labels, dataset)
    require_decoder(model.clips.decoder)
    devices.require_same(dataset.facts())
    # No video is scored twice, so the number of processes changes no accuracy.
    failed = {failure.video: failure for failure in known_bad}
    sources = dict.fromkeys(video.source for video in dataset.val)
    skipped = {source: failed[str(source)] for source in sources if str(source) in failed}
    todo = [source for source in sources if source not in skipped]
    own = todo[devices.rank() :: devices.world_size()]
    own_results = score_videos(model, own, clips, crops, workers)
    protocol = describe_protocol(model.config, dataset, clips, crops)
    # Of the logits of the labels alone, which say nothing of a detector.
    decision = replace(model.decision, detector=False, least_confidence=0.0)
    with devices.lost_processes_as_errors():
        results = ChainMap(skipped, *devices.gather(own_results))
    return collect(results, dataset, model.labels, protocol, decision)


def require_known_classes(labels: tuple[str, ...], dataset: VideoDataset) -> None:
    """Raise ActionrecError if a class of the data set is none of a model's labels."""
    unknown = sorted(set(dataset.labels) - set(labels))
    if unknown:
        raise ActionrecError(
            f"The model does not know {len(unknown)} of the {len(dataset.labels)} classes of "
            f"{dataset.name}, {unknown[0]!r} first; take a model that was trained on them."
        )


def score_videos(
    model: InferenceModel, videos: Sequence[VideoSource], clips: int, crops: int, workers: int
) -> dict[VideoSource, np.ndarray | Failure]:
    """The float32 logits (clips, crops, classes) of each video, or why it has none."""
    networks = [lambda pixels: model.logits(pixels).numpy()] * threads_of(model)
    scored = shared_batches.score_videos(
        networks, model.clips, videos, clips, crops, max(1, workers)
    )
    results: dict[VideoSource, np.ndarray | Failure] = {}
    quiet = not devices.is_first()
    with closing(scored):
        for source, result in track(scored, "evaluating videos", len(videos), disable=quiet):
            if isinstance(result, VideoError | WorkerError):
                results[source] = Failure(str(source), str(result))
            elif isinstance(result, ActionrecError):
                raise result
            else:
                results[source] = result.answers
    return results


def collect(
    results: Mapping[VideoSource, np.ndarray | Failure],
    dataset: VideoDataset,
    labels: tuple[str, ...],
    protocol: dict[str, Any],
    decision: Decision = Decision(),  # noqa: B008
) -> ClipLogits:
    """Put the results of `score_videos` for all validation videos into the data set's order."""
    in_order = [(video, results[video.source]) for video in dataset.val]
    skipped = [result for _, result in in_order if isinstance(result, Failure)]
    scored = [pair for pair in in_order if not isinstance(pair[1], Failure)]
    if not scored:
        reason = skipped[0].error if skipped else f"{dataset.name} has no validation videos."
        raise ActionrecError(f"None of {len(skipped)} videos could be scored: {reason}")
    counts = np.array([len(logits) for _, logits in scored], dtype=np.int64)
    padded_shape = len(scored), counts.max(), *scored[0][1].shape[1:]
    padded = np.full(padded_shape, np.nan, dtype=np.float32)
    for row, (_, logits) in zip(padded, scored, strict=True):
        row[: len(logits)] = logits
    place = [labels.index(label) for label in dataset.labels]
    if dataset.multi_label:
        own = [tuple(place[label] for label in video.labels) for video, _ in scored]
        truths = multi_hot(own, len(labels)).astype(np.int64)
        if not truths.any():
            raise ActionrecError(
                f"None of the {len(scored)} scored videos of {dataset.name} has a label, so "
                "nothing can be measured; add some that have one."
            )
    else:
        truths = np.array([place[video.label] for video, _ in scored], dtype=np.int64)
    return ClipLogits(
        logits=padded,
        counts=counts,
        truths=truths,
        videos=relative_names([video for video, _ in scored], dataset),
        segments=tuple(v.segment for v, _ in scored) if dataset.has_segments else None,
        labels=labels,
        protocol=protocol,
        skipped=skipped,
        decision=decision,
    )


def relative_names(videos: Sequence[LabelledVideo], dataset: VideoDataset) -> tuple[str, ...]:
    """The files of `videos`, relative to the deepest folder that holds the whole data set.

    The names are then the same wherever the data set lies. A data set of both absolute and
    relative paths, or with addresses, has no such folder; its paths stay as they are.
    """
    if any(isinstance(each.path, Address) for each in dataset.train + dataset.val):
        return tuple(str(video.path) for video in videos)
    try:
        folder = os.path.commonpath([each.path.parent for each in dataset.train + dataset.val])
    except ValueError:
        return tuple(str(video.path) for video in videos)
    return tuple(Path(os.path.relpath(video.path, folder or ".")).as_posix() for video in videos)


def describe_protocol(
    config: ClassifierConfig, dataset: VideoDataset, clips: int, crops: int
) -> dict[str, Any]:
    """Everything but the weights that accuracies depend on, as values of JSON."""
    return {
        "dataset": dataset.name,
        "videos": len(dataset.val),
        "clips": clips,
        "crops": crops,
        "clip_length": config.sampling.length,
        "stride": config.sampling.stride,
        "fps": config.sampling.fps,
        "short_side": config.preprocessing.short_side,
        "crop": config.preprocessing.crop,
        "clip_score": f"{config.decision.name}, mean over crops",
        "video_score": "mean of clip scores",
    }
