"""The page at the end of a training run: how it went, in one file that needs nothing else.

    actionrec train --dataset demo --config demo.yaml

writes `report.html` into the run's folder: curves, confusion matrix, accuracy per class, what was
trained and with which settings. Pictures are inside, there is no script, and nothing is loaded
from elsewhere; it can be sent, printed and read on a phone.
"""

import base64
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from actionrec.config import TrainConfig
from actionrec.evaluation.report import confusion_matrix_figure, per_class_figure
from actionrec.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from actionrec.models.complexity import TrainedPart

REPORT = "report.html"
WITH_SPLITS = ("ucf101", "hmdb51", "csv")

CURVE_DPI = 180
TRAINING, VALIDATION, OTHER = "#3d7ab5", "#c0392b", "#555555"
PIXELS_PER_INCH = 80  # of the page, for a picture shown at its full size
FITS_A_PHONE = 560  # pixels; letters can still be read when it is made smaller
MOST_MISTAKES = 10
MOST_NAMED = 5
MOST_BAD_VIDEOS = 100

# From here on a run is worth a remark. They are meant to be rather silent than wrong.
MUCH_WAITING = 0.2  # of the time
WIDE_GAP = 0.25  # Top-1 of training over that of validation
DIVERGED = 1.5, 0.2  # times the lowest training loss, and so much more
RISEN = 1.1, 0.05  # times the lowest validation loss, and so much more
SETTLED = 3  # epochs, all of which must have risen: validation loss is noisy


@dataclass(frozen=True)
class EpochFigures:
    """What an epoch came to; losses in nats, accuracies and `data_wait` in [0, 1].

    Args:
        epoch: From 1.
        train_loss: Mean over the epoch's random clips, while the weights change.
        train_top1: Likewise.
        val_loss: At the epoch's end, one clip a video, as the next two.
        val_top1: Share of clips whose class is ranked first.
        val_top5: Share of clips whose class is among the first five, or all if there are fewer.
        learning_rate: That of the epoch.
        data_wait: Share of the training time that was spent waiting for clips.
    """

    epoch: int
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    val_top5: float
    learning_rate: float
    data_wait: float


def write_training_report(
    folder: Path,
    epochs: Sequence[EpochFigures],
    truths: np.ndarray,
    predictions: np.ndarray,
    labels: Sequence[str],
    parts: "Sequence[TrainedPart]",
) -> None:
    """Write `report.html` into a run's folder, which has `config.yaml`, `results.json` and, where
    videos could not be read, `bad_videos.json`.

    Args:
        folder: The run's folder.
        epochs: All epochs of the run so far, in order, at least one.
        truths: Integers (n,), indices into `labels`: the class of each validation video.
        predictions: Integers (n,), likewise: what the last epoch took its middle clip for.
        labels: Names of the classes.
        parts: Of the network, from `complexity.trained_parts`.

    Raises:
        ActionrecError: the file can't be written.
    """
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    bad_videos = folder / "bad_videos.json"
    bad = json.loads(bad_videos.read_text(encoding="utf-8")) if bad_videos.exists() else []
    best_epoch = results["best"]["epoch"]
    remarks = [
        *remarks_on_curves(epochs),
        *remarks_on_classes(truths, predictions, labels),
        *([f"{_count(len(bad), 'video')} could not be read; listed below."] if bad else []),
    ]
    page = Template(PAGE).substitute(
        title=escape(f"{_network(config)} on {config['dataset']}"),
        folder=escape(str(folder)),
        facts=escape(_facts(config, epochs, truths, labels, parts)),
        figures=_figures(results, epochs, truths, predictions, labels),
        remarks=_list(remarks or ["Nothing in the figures calls for a remark."]),
        curves="".join(
            _picture(figure, text, dpi=CURVE_DPI)
            for figure, text in (
                (loss_figure(epochs, best_epoch), "Loss of training and validation over epochs"),
                (top1_figure(epochs, best_epoch), "Top-1 of training and validation over epochs"),
                (pace_figure(epochs), "Learning rate and waiting for data over epochs"),
            )
        ),
        confusion=_picture(
            confusion_matrix_figure(truths, predictions, labels),
            "Confusion matrix: which share of each true class was taken for which class",
        ),
        mistakes=_mistakes(truths, predictions, labels),
        bars=_picture(
            per_class_figure(truths, predictions, labels),
            "Share of right predictions in each class, the best at the top",
        ),
        parts=_parts(parts, config["freeze_batchnorm"]),
        settings=_settings(config),
        bad=_bad_videos(bad),
    )
    with replacing(folder / REPORT) as temporary:
        # The name of a file need not be of any encoding; then its odd bytes are shown as \udc...
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


# What stands out.


def remarks_on_curves(epochs: Sequence[EpochFigures]) -> list[str]:
    """Plain sentences on what the epochs' figures show: a loss that rises, over-fitting, a run
    that ended too early, waiting for data."""
    last = epochs[-1]
    remarks = []
    strange = [figures.epoch for figures in epochs if not math.isfinite(figures.val_loss)]
    if strange:
        remarks.append(
            f"Validation loss was no finite number in {_count(len(strange), 'epoch')}, epoch "
            f"{strange[0]} first: the network's outputs overflow; try a smaller `--lr`."
        )
    lowest = min(epochs, key=lambda figures: figures.train_loss)
    factor, more = DIVERGED
    if last.train_loss > factor * lowest.train_loss + more:
        remarks.append(
            f"Training loss was lowest in epoch {lowest.epoch} ({lowest.train_loss:.2f}) and is "
            f"{last.train_loss:.2f} now: it diverges; try a smaller `--lr`, `--warmup` or "
            "`--clip-gradient`."
        )
    gap = last.train_top1 - last.val_top1
    finite = [figures for figures in epochs if math.isfinite(figures.val_loss)] or epochs
    lowest = min(finite, key=lambda figures: figures.val_loss)
    factor, more = RISEN
    latest = min(figures.val_loss for figures in epochs[-SETTLED:])
    if last.train_loss < lowest.train_loss and latest > factor * lowest.val_loss + more:
        remarks.append(
            f"Validation loss was lowest in epoch {lowest.epoch} ({lowest.val_loss:.2f}) and is "
            f"{last.val_loss:.2f} now, while training loss fell from {lowest.train_loss:.2f} to "
            f"{last.train_loss:.2f}: a sign of over-fitting; fewer epochs, `--augment`, "
            "`--label-smoothing` or more videos may help."
        )
    elif gap >= WIDE_GAP:
        remarks.append(
            f"Top-1 of training ({last.train_top1:.1%}) is {100 * gap:.0f} points above that of "
            f"validation ({last.val_top1:.1%}): a sign of over-fitting; `--augment`, "
            "`--train-from` or more videos may help."
        )
    # Of several epochs with the same Top-1 the first is the best, as in results.json.
    best = max(epochs, key=lambda figures: figures.val_top1)
    if len(epochs) > SETTLED and best is last and lowest is last:
        remarks.append(
            "The last epoch is the best in Top-1 and in loss: longer training (`--epochs`) may "
            "give more."
        )
    waiting = float(np.median([figures.data_wait for figures in epochs]))
    if waiting >= MUCH_WAITING:
        remarks.append(
            f"Training waited for data {waiting:.0%} of the time (median of the epochs): more "
            "`--workers` or `actionrec data shrink` make it faster."
        )
    return remarks


def remarks_on_classes(
    truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]
) -> list[str]:
    """Plain sentences on chance, on classes that are never right, and on those without a video.

    `truths` and `predictions` are integers (n,), indices into `labels`.
    """
    remarks = []
    n, right = len(truths), int(np.sum(truths == predictions))
    counts = np.bincount(truths, minlength=len(labels))
    chance = counts.max() / n
    if wilson_interval(right, n)[0] <= chance:
        remarks.append(
            f"Top-1 of the last epoch, {right / n:.1%} of {_count(n, 'video')}, is not clearly "
            f"above the {chance:.1%} of always naming the most frequent class."
        )
    taken = np.bincount(predictions, minlength=len(labels))
    favourite = int(taken.argmax())
    if taken[favourite] >= max(n / 2, 2 * counts[favourite]):
        remarks.append(
            f"{taken[favourite]} of {_count(n, 'video')} were taken for {labels[favourite]}, "
            f"which {counts[favourite]} of them are."
        )
    hits = np.bincount(truths[truths == predictions], minlength=len(labels))
    remarks += _named(
        [labels[index] for index in np.flatnonzero((counts > 0) & (hits == 0))],
        f"of {_count(int(np.sum(counts > 0)), 'class', 'classes')} never right",
    )
    remarks += _named(
        [labels[index] for index in np.flatnonzero(counts == 0)],
        f"of {_count(len(labels), 'class', 'classes')} without a validation video",
    )
    return remarks


def _named(names: list[str], what: str) -> list[str]:
    """A sentence that names the first of these classes, or none."""
    if not names:
        return []
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return [f"{len(names)} {what}: {', '.join(names[:MOST_NAMED])}{more}."]


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """95 % confidence for a share of which `right` of `n` > 0 independent cases were seen.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    z = 1.959964
    middle = (right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(right * (n - right) / n + z * z / 4)
    return middle - half, middle + half


# Curves.


def loss_figure(epochs: Sequence[EpochFigures], best_epoch: int) -> "Figure":
    """The loss of training and validation over epochs."""
    figure, axes = _curves("loss")
    _training_and_validation(
        axes, epochs, best_epoch, lambda of: of.train_loss, lambda of: of.val_loss
    )
    losses = [loss for of in epochs for loss in (of.train_loss, of.val_loss)]
    finite = [loss for loss in losses if math.isfinite(loss) and loss > 0]
    # One epoch gone wrong must not press all others onto the axis.
    if finite and max(finite) > 20 * float(np.median(finite)):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.08 * max(finite, default=1))
    return figure


def top1_figure(epochs: Sequence[EpochFigures], best_epoch: int) -> "Figure":
    """Top-1 of training and validation over epochs, in percent."""
    figure, axes = _curves("Top-1, %")
    _training_and_validation(
        axes, epochs, best_epoch, lambda of: 100 * of.train_top1, lambda of: 100 * of.val_top1
    )
    axes.set_ylim(0, 101)
    return figure


def pace_figure(epochs: Sequence[EpochFigures]) -> "Figure":
    """The learning rate, and the share of the time spent waiting for data, over epochs."""
    figure, axes, below = _curves("learning rate", "waited for data, %")
    numbers = [of.epoch for of in epochs]
    rates = [of.learning_rate for of in epochs]
    axes.plot(numbers, rates, ".-", color=OTHER, markersize=_marker(epochs))
    if min(rates) > 0 and max(rates) >= 10 * min(rates):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.1 * max(rates) or 1)
    waits = [100 * of.data_wait for of in epochs]
    below.plot(numbers, waits, ".-", color=OTHER, markersize=_marker(epochs))
    below.set_ylim(0, max(10, 1.1 * max(waits)))
    return figure


def _curves(*names: str) -> "tuple[Figure, *tuple[Axes, ...]]":
    """A figure with axes one above the other, a quantity over epochs each."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    all_axes = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(all_axes, names, strict=True):
        axes.set_ylabel(name)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[-1].set_xlabel("epoch")
    all_axes[-1].xaxis.set_major_locator(
        MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    return figure, *all_axes


def _training_and_validation(
    axes: "Axes",
    epochs: Sequence[EpochFigures],
    best_epoch: int,
    training: Callable[[EpochFigures], float],
    validation: Callable[[EpochFigures], float],
) -> None:
    numbers = [of.epoch for of in epochs]
    drawn = {"markersize": _marker(epochs)}
    # Dashed, so that they can be told apart in black and white.
    axes.plot(
        numbers, list(map(training, epochs)), ".--", color=TRAINING, label="training", **drawn
    )
    axes.plot(
        numbers, list(map(validation, epochs)), ".-", color=VALIDATION, label="validation", **drawn
    )
    axes.axvline(best_epoch, color="#777777", linewidth=1.2, linestyle=":", label="best epoch")
    axes.figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)


def _marker(epochs: Sequence[EpochFigures]) -> float:
    return 7 if len(epochs) <= 30 else 0


# The page's pieces. Each escapes what it is given.


def _network(config: dict[str, Any]) -> str:
    if config["block"] == "none":
        return config["backbone"]
    stages = " and ".join(map(str, config["stages"]))
    word = "stage" if len(config["stages"]) == 1 else "stages"
    return f"{config['backbone']} with {config['block']} in {word} {stages}"


def _facts(
    config: dict[str, Any],
    epochs: Sequence[EpochFigures],
    truths: np.ndarray,
    labels: Sequence[str],
    parts: "Sequence[TrainedPart]",
) -> str:
    """One paragraph: what was trained on what."""
    start = "from scratch" if config["weights"] == "none" else f"from {config['weights']}"
    whole, trained = sum(part.parameters for part in parts), sum(part.trained for part in parts)
    share = "all" if trained == whole else f"{trained / 1e6:.2f} of"
    split = f" (split {config['split']})" if config["dataset"] in WITH_SPLITS else ""
    return (
        f"Trained {start}, {share} {whole / 1e6:.2f} M parameters, "
        f"on clips of {config['clip_length']} frames of {config['crop']}×{config['crop']} pixels "
        f"from {config['root'] or config['dataset']}{split}: "
        f"{_count(len(labels), 'class', 'classes')}, "
        f"{_count(len(truths), 'validation video')}; "
        f"{epochs[-1].epoch} of {_count(config['epochs'], 'epoch')}."
    )


def _figures(
    results: dict[str, Any],
    epochs: Sequence[EpochFigures],
    truths: np.ndarray,
    predictions: np.ndarray,
    labels: Sequence[str],
) -> str:
    """Two tiles, the last epoch and the best one, and how far to trust them."""
    by_number = {figures.epoch: figures for figures in epochs}
    tiles = []
    for which, file in (("last", "last.safetensors"), ("best", "model.safetensors")):
        result, figures = results[which], by_number[results[which]["epoch"]]
        # Among five classes or fewer, the true one is always among the first five.
        top5 = f"<span>Top-5 {result['clip']['top5']:.1%},</span> " if len(labels) > 5 else ""
        tiles.append(
            f'<div class="tile"><h3>{which} epoch, {result["epoch"]}</h3>'
            f'<p><span class="big">{result["clip"]["top1"]:.1%}</span> <span>Top-1</span></p>'
            f"<p>{top5}<span>loss {figures.val_loss:.3f}</span></p>"
            f"<p>in training: <span>Top-1 {figures.train_top1:.1%},</span> "
            f"<span>loss {figures.train_loss:.3f}</span></p>"
            f"<p><code>{file}</code></p></div>"
        )
    n = len(truths)
    low, high = wilson_interval(int(np.sum(truths == predictions)), n)
    return (
        f'<div class="tiles">{"".join(tiles)}</div>'
        f"<p>Clip-level accuracy, one clip, the middle one, of each of "
        f"{_count(results['last']['clip']['n'], 'validation video')}. The best epoch was chosen "
        f"on these very videos, so its figure is optimistic: report that of the last one. "
        f"By the number of videos alone, this one is {low:.1%} to {high:.1%} (95% interval).</p>"
    )


def _picture(figure: "Figure", text: str, dpi: float | None = None) -> str:
    """The figure as a PNG inside the page; those too wide for a phone can be moved there."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi or "figure")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    width = round(figure.get_figwidth() * PIXELS_PER_INCH)
    wide = ' class="wide"' if width > FITS_A_PHONE else ""
    image = f'<img src="data:image/png;base64,{data}" width="{width}" alt="{escape(text)}">'
    return f"<figure{wide}>{image}</figure>"


def _table(rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> str:
    """A table whose first row is its head; the columns in `numbers` are aligned to the right."""
    lines = []
    for place, row in enumerate(rows):
        tag = "td" if place else "th"
        cells = (
            f'<{tag} class="number">{escape(str(value))}</{tag}>'
            if column in numbers
            else f"<{tag}>{escape(str(value))}</{tag}>"
            for column, value in enumerate(row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _list(items: Iterable[str]) -> str:
    """A list; what stands between backticks is set as code."""
    items = (re.sub("`([^`]+)`", r"<code>\1</code>", escape(item)) for item in items)
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _mistakes(truths: np.ndarray, predictions: np.ndarray, labels: Sequence[str]) -> str:
    """The most frequent mistakes; with many classes the matrix can't be read without it."""
    wrong = np.stack([truths, predictions], axis=1)[truths != predictions]
    if not len(wrong):
        return "<p>Every clip was right.</p>"
    pairs, times = np.unique(wrong, axis=0, return_counts=True)
    counts = np.bincount(truths)
    order = np.argsort(-times, kind="stable")[:MOST_MISTAKES]
    rows = [
        (labels[pairs[index, 0]], labels[pairs[index, 1]], f"{times[index]} of {counts[truth]}")
        for index, truth in zip(order, pairs[order, 0], strict=True)
    ]
    title = "<h3>Most frequent mistakes</h3>"
    return title + _table([("true class", "taken for", "videos"), *rows], numbers=[2])


def _parts(parts: "Sequence[TrainedPart]", freeze_batchnorm: bool) -> str:
    rows = [
        (
            part.name,
            f"{part.parameters:,}",
            part.training(),
            part.normalisation(freeze_batchnorm),
        )
        for part in parts
    ]
    whole, trained = sum(part.parameters for part in parts), sum(part.trained for part in parts)
    head = "part", "parameters", "training", "batch normalisation"
    return _table([head, *rows, ("all", f"{whole:,}", f"{trained:,} trained", "")], numbers=[1])


def _settings(config: dict[str, Any]) -> str:
    """The settings that are not the defaults, then the others."""
    defaults = asdict(TrainConfig(dataset=config["dataset"]))
    # There is no default data set.
    defaults["dataset"] = None
    changed = {key: value for key, value in config.items() if value != defaults.get(key)}
    rows = [(key, _value(value), _value(defaults.get(key))) for key, value in changed.items()]
    others = [(key, _value(value)) for key, value in config.items() if key not in changed]
    return (
        "<h3>Other than the defaults</h3>"
        + _table([("setting", "value", "default"), *rows])
        + "<h3>As by default</h3>"
        + f'<p class="others">{"; ".join(f"{escape(k)}: {escape(v)}" for k, v in others)}</p>'
    )


def _value(value: Any) -> str:
    """A setting as its flag takes it; a dash where it is not set."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return " ".join(map(_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bad_videos(bad: list[dict[str, str]]) -> str:
    if not bad:
        return ""
    more = len(bad) - MOST_BAD_VIDEOS
    rest = f"<p>And {more} more, in <code>bad_videos.json</code>.</p>" if more > 0 else ""
    # Most reasons begin with the video's name.
    rows = [
        (item["video"], item["error"].removeprefix(item["video"]).strip())
        for item in bad[:MOST_BAD_VIDEOS]
    ]
    return (
        f"<section><h2>Left out: {_count(len(bad), 'bad video')}</h2>"
        f"{_table([('video', 'why'), *rows])}{rest}</section>"
    )


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


# The policy forbids a browser to load or run anything, whatever a name may hold.
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; color: #222; background: #fff;
  font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.5rem; }
h2 { margin: 2rem 0 .5rem; padding-top: .5rem; border-top: 1px solid #ddd; font-size: 1.2rem; }
h3 { margin: .8rem 0 .3rem; font-size: 1rem; }
p { margin: .3rem 0; }
code { font-size: .9em; white-space: nowrap; }
.path, .note, .others { color: #555; }
.first { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem 2rem; margin-top: .6rem; }
.first h3 { margin-top: 0; }
ul { margin: 0; padding-left: 1.1rem; }
li { margin-bottom: .25rem; }
.tiles { display: flex; gap: .8rem; }
.tile { flex: 1; padding: .5rem .8rem; border: 1px solid #ccc; border-radius: 6px; }
.tile p { margin: 0; }
.tile span { white-space: nowrap; }
.big { font-size: 1.9rem; font-weight: 600; line-height: 1.2; }
.curves { display: grid; grid-template-columns: repeat(3, 1fr); gap: .8rem; margin-top: .8rem; }
figure { margin: 0; }
img { max-width: 100%; height: auto; }
.curves img { width: 100%; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #e4e4e4; text-align: left;
  vertical-align: top; }
th, .parts td { white-space: nowrap; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
@media (max-width: 50rem) {
  .first { grid-template-columns: 1fr; }
  .curves { grid-template-columns: 1fr; }
  /* A large picture keeps its size and can be moved. */
  .wide { overflow-x: auto; }
  .wide img { max-width: none; }
}
@media print {
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .first { grid-template-columns: 1fr; }
  .curves { grid-template-columns: 1fr 1fr; }
  .scroll, .wide { overflow: visible; }
  .wide img { max-width: 100%; max-height: 240mm; width: auto; }
  figure, tr, .tile { break-inside: avoid; }
  h2, h3, .note { break-after: avoid; }
}
</style>
</head>
<body>
<h1>$title</h1>
<p>$facts</p>
<p class="path">$folder</p>
<div class="first">
<div>$figures</div>
<div><h3>What stands out</h3>
$remarks</div>
</div>
<div class="curves">$curves</div>
<section>
<h2>What is mistaken for what</h2>
<p class="note">The last epoch, the middle clip of each validation video.</p>
$confusion
$mistakes
</section>
<section>
<h2>Every class</h2>
<p class="note">The last epoch, the middle clip of each validation video; the number of videos in
brackets.</p>
$bars
</section>
<section class="parts">
<h2>What was trained</h2>
$parts
</section>
<section>
<h2>Settings</h2>
$settings
</section>
$bad
</body>
</html>
"""
