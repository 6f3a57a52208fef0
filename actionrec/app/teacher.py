"""What a project teaches: features computed in the background, a head fitted in seconds, the figure
that it earns, and what to label next.

The features are those of `actionrec train --train-from head`, in the same cache, so that command
starts from them.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from actionrec.app.labelling import labelling_order
from actionrec.app.project import Example, Project
from actionrec.datasets.check import FileState
from actionrec.datasets.dataset import LabelledVideo, deal_groups
from actionrec.errors import ActionrecError
from actionrec.models.classifier import VideoClassifier
from actionrec.models.exported import ExportedModel
from actionrec.models.inference import InferenceModel, read_model
from actionrec.models.shared_batches import ScoredVideo, score_videos, threads_of
from actionrec.prediction.videos import Prediction, prediction
from actionrec.recipes import HEAD_ALONE
from actionrec.training.figures import CrossValidation, wilson_interval
from actionrec.training.head import (
    CLIPS,
    FOLDS,
    PENALTIES,
    SAVE_EVERY,
    ClipFeatures,
    FeatureCache,
    cross_validate,
    logistic_regression,
)
from actionrec.video.parts import VideoSegment, VideoSource
from actionrec.video.sampling import ClipSampling

logger = logging.getLogger(__name__)

AT_ONCE = 8  # videos between two looks at the table
FEW = 5  # examples of a class, below which a figure says little
DEFAULT = "kinetics400-i3d"
# From the settings of a training to those of a clip.
CLIP_SETTINGS = {"clip_length": "length", "stride": "stride", "fps": "fps"}
Part = tuple[str, float | None, float | None]


@dataclass(frozen=True)
class Figure:
    """How many examples a head named rightly that was fitted without their groups.

    Attributes:
        right, examples: Numbers of examples.
        groups: Number of groups that they are of.
        low, high: The 95 % interval of the share, as if each group were one example.
    """

    right: int
    examples: int
    groups: int
    low: float
    high: float


@dataclass(frozen=True)
class Judgement:
    """What a head that was fitted without an example's group says of it.

    Attributes:
        label: The best class.
        score: Its score.
        own: The score of the example's own class.
    """

    label: str
    score: float
    own: float


@dataclass(frozen=True)
class Suggestion:
    """What the head says of an unlabelled video."""

    path: str
    label: str
    score: float


@dataclass(frozen=True)
class Lesson:
    """What was learnt from the table of a certain revision.

    Attributes:
        revision: Of the project.
        words: What the figure is worth, or why there is none.
        labels: Names of the classes of the head.
        weight, bias: The head, float64 (classes, features) and (classes,); None if there is none.
        figure: None while nothing can be judged.
        judgements: By the part of a video that an example is.
        suggestions: For unlabelled videos; the first helps most when it is labelled.
    """

    revision: int = -1
    words: str = "Name two classes and add videos to each."
    labels: tuple[str, ...] = ()
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    figure: Figure | None = None
    judgements: dict[Part, Judgement] = field(default_factory=dict)
    suggestions: tuple[Suggestion, ...] = ()


def teaching_base(model: str) -> VideoClassifier:
    """The model whose features a project uses, with the clips of `--train-from head`.

    Raises:
        ActionrecError: there is no such model, or it is an exported file.
    """
    classifier = read_model(model)
    if isinstance(classifier, ExportedModel):
        raise ActionrecError(
            f"{model} is an exported file, which gives no features to learn from; start the page "
            "with the model that it was made from."
        )
    if model == DEFAULT:
        sampling = ClipSampling(
            **{name: HEAD_ALONE[setting] for setting, name in CLIP_SETTINGS.items()}
        )
        pixels = replace(
            classifier.config.preprocessing,
            short_side=HEAD_ALONE["short_side"],
            crop=HEAD_ALONE["crop"],
        )
        config = replace(classifier.config, sampling=sampling, preprocessing=pixels)
        classifier.config = config
    return classifier


class Teacher:
    """Learns from a project in a thread of its own.

    Args:
        project: The project.
        base: The model whose features are used.
        changed: Called after each step with what the page should know.

    Attributes:
        lesson: The newest.
        doing: What is being done, and the share of it that is done.
    """

    def __init__(
        self, project: Project, base: VideoClassifier, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.project, self.base, self.changed = project, base, changed
        self.model = InferenceModel(base)
        self.cache = FeatureCache.of(self.model)
        self.lesson = Lesson()
        # By the same keys as features: a file that is replaced is tried again.
        self._failures: dict[str, str] = {}
        self.doing: tuple[str, float] | None = None
        self._awake, self._closed = threading.Event(), threading.Event()
        self._network = threading.Lock()
        self._unsaved = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to learn."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, and return when it has ended."""
        self._closed.set()
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Look at the table again."""
        self._awake.set()

    def is_known(self, part: Part) -> bool:
        """Whether the features of a part of a video are there."""
        return self.cache.key(self.source(part)) in self.cache.known

    def failure(self, part: Part) -> str | None:
        """Why a part of a video can't be learnt from, if it can't."""
        if FileState.of(self.project.folder / part[0]) == FileState():
            return f"{part[0]} is not there any more; put it back, or drop it."
        return self._failures.get(self.cache.key(self.source(part)))

    def predict(self, video: Path) -> Prediction:
        """Name the action in a video, as `actionrec predict` does with the downloaded model.

        Raises:
            ActionrecError: nothing is learnt yet, or the video can't be read.
        """
        model = InferenceModel(self.classifier())
        with self._network:
            networks = [model.scores] * threads_of(model)
            with closing(score_videos(networks, model.clips, [video])) as results:
                [(_, result)] = results
        if not isinstance(result, ScoredVideo):
            raise result
        return prediction(model, video, result.seconds, result.answers[:, 0])

    def classifier(self) -> VideoClassifier:
        """The base with the newest head.

        Raises:
            ActionrecError: nothing is learnt yet.
        """
        lesson = self.lesson
        if lesson.weight is None or lesson.bias is None:
            raise ActionrecError(f"Nothing is learnt yet. {lesson.words}")
        classifier = VideoClassifier(replace(self.base.config, labels=lesson.labels))
        classifier.load_pretrained(self.base.network.state_dict(), self.base.name)
        with torch.no_grad():
            classifier.network.head.weight.copy_(lesson.weight)
            classifier.network.head.bias.copy_(lesson.bias)
        figure = lesson.figure
        classifier.training_record = {
            "project": self.project.folder.name,
            "head fitted to the frozen features of": self.base.name,
            "cross-validation": figure and {"right": figure.right, "of": figure.examples},
        }
        return classifier.eval()

    def head_without(
        self, held_out: Sequence[Part], examples: Sequence[Example], labels: Sequence[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of a head of `labels` that is fitted to the other examples."""
        left_out = set(held_out)
        fitted = [x for x in examples if x.part not in left_out and self.is_known(x.part)]
        features, videos = self._lesson_of(fitted, labels)
        found = cross_validate(features, videos, len(labels))
        truth = np.array([video.label for video in videos])[features.videos]
        return logistic_regression(features.values, truth, len(labels), penalty_of(found))

    # The thread

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                busy = self._step()
            except ActionrecError as error:
                self._stumble(str(error))
                busy = False
            except Exception:
                logger.exception("The project could not be learnt from.")
                self._stumble("Something unforeseen went wrong; the terminal says what.")
                busy = False
            if not busy:
                self._doing(None)
                # A table that is edited by hand wakes nobody.
                self._awake.wait(timeout=2)
                self._awake.clear()

    def _stumble(self, words: str) -> None:
        """Say why nothing is learnt now; it is tried again."""
        if self.lesson.words != words:
            self.lesson = replace(self.lesson, words=words, revision=-1)
            self.changed()

    def _step(self) -> bool:
        """Compute some features, and fit the head; whether there is more to do."""
        table = self.project.table()
        labelled = [example.part for example in table.examples]
        wanted = labelled + [(path, None, None) for path in self.project.unlabelled()]
        missing = [x for x in wanted if not self.failure(x) and not self.is_known(x)]
        now = missing[:AT_ONCE]
        if now:
            self._compute(now, len(wanted) - len(missing), len(wanted))
        is_last = len(missing) == len(now)
        if self._unsaved >= SAVE_EVERY or self._unsaved and (is_last or self._closed.is_set()):
            # The whole file is written.
            self.cache.save()
            self._unsaved = 0
        if self.project.revision != self.lesson.revision or set(now) & set(labelled):
            self._fit()
        elif now and self.lesson.weight is not None:
            # More unlabelled videos change nothing else.
            self.lesson = replace(self.lesson, suggestions=self._suggestions(self.lesson))
            self.changed()
        return not is_last

    def _compute(self, parts: Sequence[Part], done: int, total: int) -> None:
        sources = {self.source(part): self.cache.key(self.source(part)) for part in parts}
        self._doing((f"Looking at video {done + 1} of {total}", done / total))
        with self._network:
            networks = [self.model.clip_features] * threads_of(self.model)
            with closing(score_videos(networks, self.model.clips, list(sources), CLIPS)) as results:
                for source, result in results:
                    if self._closed.is_set():
                        break
                    if isinstance(result, ScoredVideo):
                        self.cache.known[sources[source]] = result.answers[:, 0]
                        self._unsaved += 1
                    else:
                        self._failures[sources[source]] = str(result)
                    done += 1
                    self._doing(
                        (f"Looking at video {min(done + 1, total)} of {total}", done / total)
                    )

    def _fit(self) -> None:
        table, revision = self.project.table(), self.project.revision
        examples = [x for x in table.examples if self.is_known(x.part)]
        labels = tuple(sorted({example.label for example in examples}))
        if len(labels) < 2:
            words = Lesson.words
            if labels:
                words = f"All examples are {labels[0]!r}; add some of another class."
            self.lesson = Lesson(revision, words)
            self.changed()
            return
        features, videos = self._lesson_of(examples, labels)
        found = cross_validate(features, videos, len(labels))
        penalty = penalty_of(found)
        truth = np.array([video.label for video in videos])[features.videos]
        weight, bias = logistic_regression(features.values, truth, len(labels), penalty)
        scores = held_out_scores(features, videos, len(labels), penalty) if found else {}
        judgements, right, groups = {}, 0, set()
        for number, of_classes in scores.items():
            best = int(of_classes.argmax())
            right += int(best == videos[number].label)
            groups.add(examples[number].group)
            judgements[examples[number].part] = Judgement(
                labels[best], float(of_classes[best]), float(of_classes[videos[number].label])
            )
        figure = figure_of(right, len(scores), len(groups)) if scores else None
        words = words_on(examples, labels, found)
        lesson = Lesson(revision, words, labels, weight, bias, figure, judgements)
        self.lesson = replace(lesson, suggestions=self._suggestions(lesson))
        self.changed()

    def _lesson_of(
        self, examples: Sequence[Example], labels: Sequence[str]
    ) -> tuple[ClipFeatures, list[LabelledVideo]]:
        index = {label: number for number, label in enumerate(labels)}
        values = [self.features(example.part) for example in examples]
        features = ClipFeatures(
            np.concatenate(values),
            np.concatenate([np.full(len(each), n) for n, each in enumerate(values)]),
        )
        return features, [LabelledVideo(Path(x.path), index[x.label], x.group) for x in examples]

    def _suggestions(self, lesson: Lesson) -> tuple[Suggestion, ...]:
        """What the head of a lesson says of the unlabelled videos."""
        paths = [path for path in self.project.unlabelled() if self.is_known((path, None, None))]
        if not paths:
            return ()
        values = [self.features((path, None, None)) for path in paths]
        scores = np.stack([scores_of(each, lesson.weight, lesson.bias) for each in values])
        return tuple(
            Suggestion(paths[n], lesson.labels[int(scores[n].argmax())], float(scores[n].max()))
            for n in labelling_order(scores)
        )

    def source(self, part: Part) -> VideoSource:
        """What the clips of a part of a video are read from."""
        path, start, end = part
        whole = self.project.folder / path
        return whole if start is None or end is None else VideoSegment(whole, start, end)

    def features(self, part: Part) -> np.ndarray:
        """The features (clips, C) of a part of a video that is known."""
        return self.cache.known[self.cache.key(self.source(part))]

    def _doing(self, what: tuple[str, float] | None) -> None:
        if what != self.doing:
            self.doing = what
            self.changed()


def figure_of(right: int, examples: int, groups: int) -> Figure:
    """The share of examples that is right, with an interval that counts groups."""
    share = right / examples
    low, high = wilson_interval(round(share * groups), groups)
    return Figure(right, examples, groups, min(low, share), max(high, share))


def penalty_of(found: CrossValidation | None) -> float:
    """The penalty that cross-validation chose, or the middle one without it."""
    return found.penalties[found.best] if found else PENALTIES[len(PENALTIES) // 2]


def scores_of(features: np.ndarray, weight: torch.Tensor, bias: torch.Tensor) -> np.ndarray:
    """Softmax scores (classes,) of a video: the mean over the features (clips, C) of its clips."""
    logits = torch.from_numpy(features).double() @ weight.T + bias
    return logits.softmax(dim=1).mean(dim=0).numpy()


def held_out_scores(
    features: ClipFeatures, videos: Sequence[LabelledVideo], classes: int, penalty: float
) -> dict[int, np.ndarray]:
    """Scores (classes,) of each video, by its position, of heads fitted without its group."""
    groups = [video.group for video in videos]
    labels = np.array([video.label for video in videos])
    folds = min(FOLDS, len(set(groups)))
    dealt = np.array(deal_groups(groups, list(map(str, labels)), folds))
    scores = {}
    for fold in range(folds):
        held_out = np.flatnonzero(dealt == fold)
        fitted = dealt[features.videos] != fold
        if not len(held_out) or not fitted.any():
            continue
        weight, bias = logistic_regression(
            features.values[fitted], labels[features.videos[fitted]], classes, penalty
        )
        for number in held_out:
            scores[int(number)] = scores_of(
                features.values[features.videos == number], weight, bias
            )
    return scores


def words_on(
    examples: Sequence[Example], labels: Sequence[str], found: CrossValidation | None
) -> str:
    """What the figure is worth, or why there is none."""
    if found is None:
        return (
            "All examples are of one group, so nothing can be judged on another; name the groups "
            "(persons, places or recordings), or add videos of another one."
        )
    alone = [
        label
        for label in labels
        if len({example.group for example in examples if example.label == label}) < 2
    ]
    if alone:
        return (
            f"All examples of {alone[0]!r} are of one group, so they are always judged without "
            "having been learnt; add some of another person, place or recording."
        )
    counts = {label: sum(example.label == label for example in examples) for label in labels}
    fewest = min(counts, key=counts.__getitem__)
    if counts[fewest] < FEW:
        number = counts[fewest]
        return (
            f"{fewest!r} has {number} example{'s' * (number > 1)} only; the figure will change a "
            "lot with more."
        )
    if not found.groups or len({example.group for example in examples}) == len(examples):
        return (
            "Each video is judged as a recording of its own. If the same persons or places come "
            "up again, name them as groups, or the figure flatters."
        )
    return "Judged on groups that were not learnt from."
