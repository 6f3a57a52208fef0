"""What went wrong, to look at: which videos of an evaluation are worth a look, and their frames.

    actionrec evaluate --model model.safetensors --dataset demo --output report

writes it into report/report.html.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from actionrec.errors import VideoError
from actionrec.evaluation.logits import ClipLogits
from actionrec.progress import track
from actionrec.video.decoders import open_source
from actionrec.video.parts import VideoSource

MOST_CASES = 12
MOST_PAIRS = 12
MOST_OF_PAIR = 6
FRAMES, FRAME_HEIGHT = 6, 96  # of a strip; pixels
WIDEST_FRAME = 200  # pixels
JPEG_QUALITY = 80


@dataclass(frozen=True)
class Case:
    """A video worth a look.

    Attributes:
        video: Its index among the scored videos.
        true: Its labels, as indices; empty for none.
        given: The labels that it is given, likewise.
        about: The label that is in question: the one that is given and wrong, or missed.
        score: The score of that label, in [0, 1].
        order: The surer, or the stranger, the higher.
    """

    video: int
    true: tuple[int, ...]
    given: tuple[int, ...]
    about: int
    score: float
    order: float


@dataclass(frozen=True)
class Gallery:
    """The videos of an evaluation that are worth a look.

    Attributes:
        mistakes: The surest mistakes, the surest first.
        hits: The right answers that were least sure, the least sure first.
        labels: Videos whose true label scores far below what it scores where it is given by the
            data set, while another scores as high as where that one is: the label may be wrong.
        pairs: The most frequent confusions: true label, given label, and their videos. A label of
            -1 is none.
    """

    mistakes: list[Case]
    hits: list[Case]
    labels: list[Case]
    pairs: list[tuple[int, int, list[Case]]]

    @property
    def videos(self) -> list[int]:
        """The indices of all videos in it, each once."""
        of_pairs = [case for _, _, cases in self.pairs for case in cases[:MOST_OF_PAIR]]
        cases = [*self.mistakes, *self.hits, *self.labels, *of_pairs]
        return sorted({case.video for case in cases})


def gallery_of(logits: ClipLogits) -> Gallery:
    """The gallery that follows from the logits of an evaluation."""
    cases = mistakes_of(logits)
    pairs: dict[tuple[int, int], list[Case]] = {}
    for case in cases:
        for pair in confusions(case):
            pairs.setdefault(pair, []).append(case)
    ordered = sorted(pairs.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return Gallery(
        mistakes=cases[:MOST_CASES],
        hits=unsure_hits(logits)[:MOST_CASES],
        labels=doubtful_labels(logits)[:MOST_CASES],
        pairs=[(true, given, of_pair) for (true, given), of_pair in ordered[:MOST_PAIRS]],
    )


def true_labels(logits: ClipLogits, video: int) -> tuple[int, ...]:
    """The true labels of a video."""
    truth = logits.truths[video]
    return tuple(np.flatnonzero(truth).tolist()) if logits.multi_label else (int(truth),)


def given_labels(logits: ClipLogits, video: int) -> tuple[int, ...]:
    """The labels that a video is given, best first."""
    return tuple(logits.decision.given(logits.video_scores[video]).tolist())


def margins(logits: ClipLogits) -> np.ndarray:
    """How far each score (videos, classes) is from a change of the answer, above 0 for what is
    given: from the best other score or, with several labels, from the threshold, as a share of the
    room there."""
    scores = logits.video_scores.astype(np.float64)
    if logits.multi_label:
        least = logits.decision.least_scores(scores.shape[1])
        return (scores - least) / np.where(scores < least, least, 1 - least)
    if scores.shape[1] == 1:
        return scores
    ordered = np.sort(scores, axis=1)
    best_other = np.where(scores == ordered[:, -1:], ordered[:, -2:-1], ordered[:, -1:])
    return scores - best_other


def mistakes_of(logits: ClipLogits) -> list[Case]:
    """All wrong answers, the surest first; with several labels, one a video: its surest mistake."""
    margin = margins(logits)
    cases = []
    for video in range(len(logits.videos)):
        true, given = true_labels(logits, video), given_labels(logits, video)
        wrong = [label for label in given if label not in true]
        missed = [label for label in true if label not in given] if logits.multi_label else []
        if not wrong and not missed:
            continue
        about = max(wrong + missed, key=lambda label: abs(margin[video, label]))
        score = float(logits.video_scores[video, about])
        cases.append(Case(video, true, given, about, score, abs(float(margin[video, about]))))
    return sorted(cases, key=lambda case: -case.order)


def unsure_hits(logits: ClipLogits) -> list[Case]:
    """All right answers, the least sure first."""
    margin = margins(logits)
    cases = []
    for video in range(len(logits.videos)):
        true, given = true_labels(logits, video), given_labels(logits, video)
        if set(true) != set(given):
            continue
        of_video = np.abs(margin[video]) if logits.multi_label else margin[video]
        about = int(np.argmin(of_video)) if logits.multi_label else true[0]
        score = float(logits.video_scores[video, about])
        cases.append(Case(video, true, given, about, score, -float(of_video[about])))
    return sorted(cases, key=lambda case: -case.order)


def doubtful_labels(logits: ClipLogits) -> list[Case]:
    """Videos whose label may be wrong, the most doubtful first.

    As in confident learning (Northcutt et al. 2021): a label's usual score is its mean over the
    videos that have it. Doubtful is a video whose label scores less than usual while another that
    it lacks scores at least as usual; the order is the sum of both differences. The scores must be
    of videos that were not trained on.
    """
    scores = logits.video_scores.astype(np.float64)
    videos, classes = scores.shape
    has = logits.truths.astype(bool) if logits.multi_label else np.eye(classes, dtype=bool)[
        logits.truths
    ]  # fmt: skip
    counts = has.sum(axis=0)
    usual = np.where(counts, (scores * has).sum(axis=0) / np.maximum(counts, 1), np.inf)
    cases = []
    for video in range(videos):
        true, row = true_labels(logits, video), scores[video]
        others = [label for label in np.flatnonzero(row >= usual).tolist() if label not in true]
        low = [usual[label] - row[label] for label in true if row[label] < usual[label]]
        # A video without a label has none that could score too little.
        if not others or (true and not low):
            continue
        about = max(others, key=lambda label: row[label] - usual[label])
        order = float(row[about] - usual[about] + max(low, default=0.0))
        given = given_labels(logits, video)
        cases.append(Case(video, true, given, about, float(row[about]), order))
    return sorted(cases, key=lambda case: -case.order)


def confusions(case: Case) -> list[tuple[int, int]]:
    """The pairs of a true and a given label that a mistake counts for; -1 is none."""
    wrong = [label for label in case.given if label not in case.true]
    missed = [label for label in case.true if label not in case.given]
    return [(true, given) for true in missed or [-1] for given in wrong or [-1]]


def strip(source: VideoSource) -> str | None:
    """Frames spread over a video, side by side, as a JPEG in base64; None if it can't be read."""
    try:
        video = open_source(source)
        shown = min(FRAMES, len(video))
        indices = ((np.arange(shown) + 0.5) * len(video) / shown).astype(int)
        height, width = video.size
        scaled = min(WIDEST_FRAME, max(1, round(width * FRAME_HEIGHT / height)))
        frames = video.read(indices.tolist(), (FRAME_HEIGHT, scaled))
    except VideoError:
        return None
    gap = np.full((FRAME_HEIGHT, 2, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (gap, frame)][1:]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(parts, axis=1)).save(file, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")


def strips(gallery: Gallery, sources: Sequence[VideoSource]) -> dict[int, str | None]:
    """The strip of each video in a gallery, by its index."""
    videos = gallery.videos
    return {video: strip(sources[video]) for video in track(videos, "frames of the report")}
