"""The page at the end of a training run, read as a browser would."""

import base64
import io
import json
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from PIL import Image

from actionrec.config import TrainConfig
from actionrec.models.complexity import TrainedPart
from actionrec.training.figures import EpochFigures, mean_class_accuracy
from actionrec.training.report import MOST_BAD_VIDEOS, write_training_report
from actionrec.training.run import fill_in

LABELS = ["jump", "run", "sit", "stand", "throw", "walk"]
TRUTHS = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4, 5])
PREDICTIONS = np.array([0, 0, 1, 1, 1, 0, 0, 3, 4, 5])
PARTS = [
    TrainedPart("stem", 1_000, 0, "backbone"),
    TrainedPart("stage 4: a to b", 20_000, 20_000, "backbone"),
    TrainedPart("block before b", 3_000, 3_000, "block"),
    TrainedPart("head", 400, 400),
]
EPOCHS = [
    EpochFigures(1, 2.125, 0.31, 2.25, 0.5, 0.75, 0.01, 0.04),
    EpochFigures(2, 1.375, 0.42, 1.625, 0.8, 1.0, 0.01, 0.03),
    EpochFigures(3, 0.875, 0.63, 1.75, 0.7, 0.9, 0.001, 0.05),
]
AWKWARD = [
    "<script>alert(1)</script>",
    "<img src=https://example.org/a.png>",
    "R&D \"quoted\" 'single'",
    "$x^2$ ${title} $facts",
    "Häkeln über Straße",
    "x</td>&lt;`",
]


class Page(HTMLParser):
    """The elements of a page, each with its attributes, and its visible text."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.open, self.words, self.rows = [], [], [], []
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


@pytest.fixture
def write(tmp_path):
    """Write the report of a run and read it; the best epoch is the first of the best Top-1."""

    def write(
        epochs=EPOCHS,
        truths=TRUTHS,
        predictions=PREDICTIONS,
        labels=LABELS,
        bad=None,
        planned=None,
        videos=None,
        **settings,
    ):
        settings = {"dataset": "folder", "root": "videos"} | settings
        settings["epochs"] = planned or len(epochs)
        results = {
            name: {
                "epoch": of.epoch,
                "clip": {"top1": of.val_top1, "top5": of.val_top5, "n": len(truths)}
                | ({"mean_class": mean_class_accuracy(truths, predictions)} if videos else {}),
            }
            for name, of in {
                "best": max(epochs, key=lambda of: of.val_top1),
                "last": epochs[-1],
            }.items()
        }
        config = asdict(fill_in(TrainConfig(**{"recipe": "paper"} | settings)))
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (tmp_path / "results.json").write_text(json.dumps(results))
        if bad is not None:
            (tmp_path / "bad_videos.json").write_text(json.dumps(bad))
        write_training_report(tmp_path, epochs, truths, predictions, labels, PARTS, videos=videos)
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return write


def pictures(page):
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    head = "data:image/png;base64,"
    assert all(source.startswith(head) for source in sources)
    data = [base64.b64decode(source.removeprefix(head), validate=True) for source in sources]
    return [Image.open(io.BytesIO(each)).convert("L") for each in data]


def test_the_page_tells_what_was_trained_and_how_the_best_and_the_last_epoch_did(write):
    page = write(weights="none", train_from="stage4", clip_length=8, crop=112)
    assert (
        "Trained from scratch, 0.02 of 0.02 M parameters, on clips of 8 frames of 112×112 pixels "
        "from videos: 6 classes, 10 validation videos; 3 of 3 epochs."
    ) in page.text
    last, best = page.text.split("last epoch, 3 ")[1].split("best epoch, 2 ")
    assert last.startswith(
        "70.0% Top-1 Top-5 90.0%, loss 1.750 in training: Top-1 63.0%, loss 0.875 last.safetensors"
    )
    assert best.startswith(
        "80.0% Top-1 Top-5 100.0%, loss 1.625 in training: Top-1 42.0%, loss 1.375 "
        "model.safetensors"
    )
    assert "each of 10 validation videos. The best epoch was chosen on these very videos" in best
    # Wilson's interval of 7 of 10, as in the literature.
    assert "95% interval, from the number of videos alone, is 39.7% to 89.2%." in best


def test_all_five_pictures_are_inside_the_page_and_show_something(write):
    found = pictures(write())
    assert len(found) == 5
    for picture in found:
        assert min(picture.size) > 200
        assert picture.getextrema()[0] < 120, "nothing dark is drawn"
    assert len({picture.tobytes() for picture in found}) == 5


@pytest.mark.parametrize("labels", [LABELS, AWKWARD])
def test_nothing_is_run_or_loaded_from_elsewhere(write, labels):
    bad = [{"video": label, "error": label} for label in AWKWARD]
    page = write(labels=labels, bad=bad, root=AWKWARD[1])
    assert not {"script", "link", "iframe", "object", "svg"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name, value in attributes.items():
            assert name not in ("href", "srcset", "action", "style", "background")
            assert name != "src" or value.startswith("data:image/png;base64,")
            assert "//" not in value or name == "src"
    assert ("meta", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in [
        (tag, attributes.get("content")) for tag, attributes in page.elements
    ]


def test_the_style_loads_nothing(write, tmp_path):
    write()
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    style = source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_awkward_labels_and_paths_are_shown_as_they_are(write):
    # Every class is once taken for the next one, and the last class is never right.
    truths = np.append(np.arange(6).repeat(2), 5)
    predictions = np.append(np.stack([np.arange(6), (np.arange(6) + 1) % 6], axis=1).ravel(), 0)
    predictions[10] = 0
    bad = [{"video": label, "error": f"{label} & more"} for label in AWKWARD]
    page = write(
        labels=AWKWARD, truths=truths, predictions=predictions, bad=bad, root="<b>Ü & $root</b>"
    )
    for index, label in enumerate(AWKWARD):
        assert any(row[:2] == [label, AWKWARD[(index + 1) % 6]] for row in page.rows)
        assert [label, "& more"] in page.rows
    assert f"1 of 6 classes never right: {AWKWARD[5]}." in page.text
    assert ["root", "<b>Ü & $root</b>", "–"] in page.rows
    assert "from <b>Ü & $root</b>: 6 classes" in page.text
    assert not page.open
    assert not {"b", "script"} & {tag for tag, _ in page.elements}


def test_a_file_name_of_no_encoding_is_shown_with_its_odd_bytes(write):
    page = write(bad=[{"video": "v\udce4.avi", "error": "v\udce4.avi is empty."}])
    assert ["v\\udce4.avi", "is empty."] in page.rows


def test_the_most_frequent_mistakes_come_first(write):
    rows = write().rows
    start = rows.index(["true class", "predicted as", "videos"])
    assert rows[start + 1 : start + 3] == [["sit", "jump", "2 of 2"], ["jump", "run", "1 of 3"]]
    assert rows[start + 3][0] == "part"
    page = write(predictions=TRUTHS)
    assert "Every clip was right." in page.text
    assert ["true class", "predicted as", "videos"] not in page.rows


@pytest.mark.parametrize(("freeze", "stage_4"), [(False, "updated"), (True, "frozen")])
def test_every_part_is_listed_with_what_is_frozen_of_it(write, freeze, stage_4):
    rows = write(freeze_batchnorm=freeze).rows
    assert ["stem", "1,000", "frozen", "frozen"] in rows
    assert ["stage 4: a to b", "20,000", "trained", stage_4] in rows
    assert ["block before b", "3,000", "trained", "updated"] in rows
    assert ["head", "400", "trained", "-"] in rows
    assert ["all", "24,400", "23,400 trained", ""] in rows


def test_settings_other_than_the_defaults_come_first_beside_them(write):
    page = write(lr=0.3, stages=[3, 4], freeze_batchnorm=True)
    changed = page.rows[page.rows.index(["setting", "value", "default"]) + 1 :]
    assert changed == [
        ["dataset", "folder", "–"],
        ["root", "videos", "–"],
        ["recipe", "paper", "auto"],
        ["stages", "3 4", "4"],
        ["epochs", "3", "100"],
        ["lr", "0.3", "0.01"],
        ["freeze_batchnorm", "true", "false"],
    ]
    others = page.text.split(" Defaults ")[1]
    names = {item.split(":")[0].strip() for item in others.split(";")}
    assert names | {row[0] for row in changed} == set(asdict(TrainConfig(dataset="folder")))
    assert "momentum: 0.9;" in others and "crop_area: –;" in others


def test_bad_videos_are_listed_where_there_are_any(write):
    assert "bad video" not in write().text
    bad = [{"video": f"{n}.avi", "error": f"{n}.avi is empty."} for n in range(103)]
    page = write(bad=bad)
    assert "103 videos could not be read; listed below." in page.text
    assert "Left out: 103 bad videos" in page.text
    assert sum(row[1:] == ["is empty."] for row in page.rows) == MOST_BAD_VIDEOS
    assert "And 3 more, in bad_videos.json" in page.text


UNBALANCED = [200, 20, 9, 30, 40, 50]


def test_classes_with_few_videos_are_told_where_nothing_was_done_about_them(write):
    page = write(videos=UNBALANCED)
    assert (
        "The classes are unbalanced: jump has 200 training videos, sit 9, and nothing was done "
        "about it; --balanced-sampling true, --class-weights inverse or --focal-gamma 2 may help"
    ) in page.text
    start = page.rows.index(["class", "training videos", "right in validation"])
    assert page.rows[start + 1 : start + 3] == [["sit", "9", "0 of 2"], ["run", "20", "2 of 2"]]
    assert "unbalanced" not in write(videos=[90, *UNBALANCED[1:]]).text
    # A class without any is told of elsewhere.
    assert "sit 9, and nothing" in write(videos=[200, 0, *UNBALANCED[2:]]).text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"balanced_sampling": True}, "Clips of every class are drawn equally often."),
        ({"class_weights": "inverse"}, "The loss has inverse weights of the classes; validation"),
        ({"class_weights": {"sit": 2.0}}, "The loss has given weights of the classes; validation"),
        ({"focal_gamma": 2.0}, "The loss is focal, with gamma 2; validation loss is neither"),
    ],
)
def test_what_was_done_for_classes_with_few_videos_stands_beside_mean_class_accuracy(
    write, settings, words
):
    page = write(videos=UNBALANCED, **settings)
    assert "loss 1.750 mean class accuracy 77.8% in training" in page.text
    assert f"Mean class accuracy counts every class alike, Top-1 every video. {words}" in page.text
    assert "unbalanced" not in page.text


def test_top5_is_left_out_where_it_says_nothing(write):
    few = np.minimum(TRUTHS, 1)
    assert "Top-5" not in write(truths=few, predictions=few, labels=["a", "b"]).text


def test_a_run_of_one_epoch_has_its_report(write):
    page = write(epochs=EPOCHS[:1])
    assert "1 of 1 epoch." in page.text
    assert len(pictures(page)) == 5


def test_a_run_that_is_not_over_says_so(write):
    assert "3 of 20 epochs." in write(planned=20).text


def test_a_better_looking_best_epoch_does_not_hide_the_last_one(write):
    epochs = [replace(of, val_top1=top1) for of, top1 in zip(EPOCHS, (0.9, 0.3, 0.1), strict=True)]
    text = write(epochs=epochs).text
    assert text.index("last epoch, 3 10.0%") < text.index("best epoch, 1 90.0%")
