"""Which clips a training sees: repeated, balanced and erased ones too."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from actionrec import devices
from actionrec.config import TrainConfig
from actionrec.datasets.registry import open_dataset
from actionrec.errors import UsageError
from actionrec.training.clips import EpochSampler, Progress, TrainingClips, collate
from actionrec.training.run import check_dataset, train
from actionrec.video.clips import ClipReader
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing, erase

READER = ClipReader(ClipSampling(8), Preprocessing(36, 32))
# 40 videos of the first class, 7 of the second, 1 of the third.
UNBALANCED = [0] * 40 + [1] * 7 + [2]


def test_the_order_of_a_plain_epoch_is_what_it_was():
    expected = np.random.default_rng((3, 5)).permutation(20)
    sampler = EpochSampler(20, seed=3)
    sampler.set_epoch(5)
    assert list(sampler) == [(5, int(index)) for index in expected]


def test_balanced_sampling_draws_classes_equally_and_videos_of_a_class_too():
    sampler = EpochSampler(48, seed=0, labels=UNBALANCED)
    videos = [index % 48 for _, index in sampler]
    assert len(sampler) == len(videos) == 48
    assert Counter(UNBALANCED[video] for video in videos) == {0: 16, 1: 16, 2: 16}
    times = Counter(videos)
    assert {times[video] for video in range(40)} == {0, 1}
    assert {times[video] for video in range(40, 47)} == {2, 3}
    assert times[47] == 16
    # Each draw of a video is another clip.
    assert len(set(sampler)) == 48
    sampler.set_epoch(1)
    assert [index % 48 for _, index in sampler] != videos


def test_a_remainder_of_a_balanced_epoch_goes_to_other_classes_each_time():
    labels = [0, 0, 0, 1, 2]
    more = set()
    for epoch in range(20):
        sampler = EpochSampler(5, seed=0, labels=labels)
        sampler.set_epoch(epoch)
        counts = Counter(labels[index % 5] for _, index in sampler)
        assert sorted(counts.values()) == [1, 2, 2]
        more.add(frozenset(counts.items()))
    assert len(more) == 3


def test_repeated_augmentation_has_the_clips_of_a_video_side_by_side():
    plain = [index for _, index in EpochSampler(10, seed=2)]
    sampler = EpochSampler(10, seed=2, repeats=3)
    indices = [index for _, index in sampler]
    assert len(sampler) == 30
    assert [index % 10 for index in indices] == [video for video in plain for _ in range(3)]
    assert [index // 10 for index in indices] == [0, 1, 2] * 10


@pytest.mark.parametrize("stopped", [0, 4, 37])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_together_and_a_continued_run_draw_what_one_draws(
    monkeypatch, stopped, processes
):
    settings = {"repeats": 2, "labels": UNBALANCED}
    whole = list(EpochSampler(48, 7, **settings))
    parts = []
    for rank in range(processes):
        monkeypatch.setattr(devices, "world_size", lambda: processes)
        monkeypatch.setattr(devices, "rank", lambda rank=rank: rank)
        parts.append(list(EpochSampler(48, 7, Progress(0, stopped), **settings)))
    assert len({len(part) for part in parts}) == 1
    together = [key for keys in zip(*parts, strict=True) for key in keys]
    assert together == whole[stopped : stopped + len(together)]
    assert len(whole) - stopped - len(together) < processes


@pytest.mark.parametrize("workers", [0, 2])
def test_repeated_and_erased_clips_do_not_depend_on_the_workers(class_folders, workers):
    dataset = open_dataset("folder", class_folders)
    config = TrainConfig("folder", seed=3, erasing=0.5)
    clips = TrainingClips(dataset.train, READER, config, flip=True)
    sampler = EpochSampler(len(clips), seed=3, repeats=2)
    loader = torch.utils.data.DataLoader(
        clips, 4, sampler=sampler, num_workers=workers, collate_fn=collate
    )
    expected = [clips[key] for key in sampler]
    assert torch.equal(
        torch.cat([batch.clips for batch in loader]), torch.stack([x.clip for x in expected])
    )
    for first, second in zip(expected[::2], expected[1::2], strict=True):
        assert first.video == second.video
        assert not torch.equal(first.clip, second.clip)


def test_a_box_is_the_same_in_all_frames_and_has_the_mean_colour():
    clip = torch.full((3, 5, 40, 60), 200, dtype=torch.uint8)
    shares, ratios = [], []
    for seed in range(60):
        erased = erase(clip, (10, 20, 30), np.random.default_rng(seed))
        assert erased.shape == clip.shape and erased.dtype == clip.dtype
        box = erased[0] == 10
        assert torch.equal(box, box[:1].expand_as(box))
        rows, columns = box[0].any(1).nonzero(), box[0].any(0).nonzero()
        inside = erased[:, 0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert torch.equal(inside, torch.tensor([10, 20, 30]).view(3, 1, 1).expand_as(inside))
        assert (erased[:, ~box] == 200).all()
        shares.append(box[0].double().mean().item())
        ratios.append(len(rows.unique()) / len(columns.unique()))
    assert 0.01 < min(shares) < 0.1 and 0.25 < max(shares) < 0.36
    assert min(ratios) < 0.6 and max(ratios) > 1.6
    assert (clip == 200).all()


@pytest.mark.parametrize("gamma", [1.0, 0.4])
def test_the_colour_of_a_box_is_about_0_to_the_network(gamma):
    preprocessing = Preprocessing(36, 32, (0.43, 0.39, 0.37), (0.22, 0.22, 0.21), gamma=gamma)
    colour = torch.tensor(preprocessing.mean_colour).view(1, 3, 1, 1, 1)
    assert preprocessing.normalise(colour).abs().max() < 0.04


def test_erasing_comes_as_often_as_asked_and_changes_no_other_choice(class_folders):
    dataset = open_dataset("folder", class_folders)

    def read(erasing):
        config = TrainConfig("folder", erasing=erasing)
        clips = TrainingClips(dataset.train, READER, config, flip=True)
        return [clips[0, index].clip for index in range(40)]

    never, sometimes = read(0.0), read(0.5)
    changed = sum(not torch.equal(a, b) for a, b in zip(never, sometimes, strict=True))
    assert 10 < changed < 30
    for before, after in zip(never, sometimes, strict=True):
        same = (before == after).all(dim=0).all(dim=0)
        # What differs is a box.
        rows, columns = (~same).any(1).nonzero(), (~same).any(0).nonzero()
        if len(rows):
            box = ~same[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert box.double().mean() > 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"repeated_augmentation": 3}, "batch_size of 4 can't hold 3 clips of each"),
        ({"class_weights": {"frist": 2.0}}, "names 'frist', which is no class; did you mean first"),
        ({"drop_path": 0.1}, "no drop path"),
        ({"erasing": 0.5, "train_from": "head"}, "without steps; leave out --erasing"),
        ({"patience": 3, "train_from": "head"}, "without steps; leave out --patience"),
        ({"mix": "mixup", "train_from": "head"}, "without steps; leave out --mix"),
        ({"augment": "color", "train_from": "head"}, "without steps; leave out --augment"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(
    small_training, tmp_path, settings, words
):
    if settings.get("train_from") == "head":
        settings = settings | {"block": "none"}
    with pytest.raises(UsageError, match=words):
        train(replace(small_training, output=str(tmp_path / "run"), **settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", [{"balanced_sampling": True}, {"class_weights": "inverse"}])
def test_a_class_without_training_videos_is_a_sentence(small_training, class_folders, settings):
    """As in a part of a public data set."""
    dataset = open_dataset("folder", class_folders)
    of_the_first = tuple(video for video in dataset.train if video.label == 0)
    with pytest.raises(UsageError, match="every class, and 'second' has none; add videos"):
        check_dataset(replace(dataset, train=of_the_first), replace(small_training, **settings))
    check_dataset(replace(dataset, train=of_the_first), small_training)
