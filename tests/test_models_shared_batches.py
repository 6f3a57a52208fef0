"""Clips of several videos share batches; what ends one of the videos changes no other."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from actionrec.errors import ActionrecError, VideoError
from actionrec.models.inference import InferenceModel
from actionrec.models.shared_batches import MOST_CLIPS, score_videos
from actionrec.processes import Limits
from actionrec.video.clips import ClipReader
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

MARK = 7


class EndingReader(ClipReader):
    """Does, after two clips that are all `MARK`, what the name of the file says.

    Readers and network wait for each other, by files beside the videos, so that the two clips share
    a batch with clips of `a` before the end comes, on a busy machine too.
    """

    def __setstate__(self, state):
        """Begin when both processes have started, which takes no time of a video."""
        vars(self).update(state)
        (self.folder / f"{os.getpid()}.started").touch()
        while len(list(self.folder.glob("*.started"))) < 2:
            time.sleep(0.01)

    def stream_together(self, sources, clips=None, crops=1):
        [path] = sources
        folder, name = path.parent, path.stem
        before = folder / f"{name}.before"
        if name == "a" or name == "killed" and before.exists():
            for number, clip in enumerate(super().stream_together(sources, clips, crops)):
                (folder / f"{name}.{number}.asked").touch()
                if name == "a" and number == 2:
                    wait_for(folder / "marked.given")
                yield clip
            return
        wait_for(folder / "a.1.asked")
        for _, clip in islice(super().stream_together(sources, clips, crops), 2):
            yield 0, replace(clip, pixels=torch.full_like(clip.pixels, MARK))
        (folder / "marked.given").touch()
        wait_for(folder / "shared")
        if name == "killed":
            before.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == "hang":
            time.sleep(600)
        raise VideoError(f"{path} is damaged.")


def wait_for(file):
    while not file.exists():
        time.sleep(0.01)


class CountingReader(ClipReader):
    """Notes in a file beside the video each clip that it reads."""

    def stream_together(self, sources, clips=None, crops=1):
        for clip in super().stream_together(sources, clips, crops):
            with sources[0].with_suffix(".read").open("ab") as file:
                file.write(b".")
            yield clip


@pytest.fixture(scope="module")
def ready(model):
    return InferenceModel.load(model)


def reader_like(kind, ready):
    return kind(ready.clips.sampling, ready.clips.preprocessing)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("killed", None),
        ("crash", "crashes the decoder"),
        ("hang", "was given up after 6 s"),
        ("error", "is damaged"),
    ],
)
def test_what_ends_a_video_in_the_middle_leaves_those_it_shares_batches_with(
    tmp_path, encode, ready, end, reason
):
    paths = [tmp_path / "a.avi", tmp_path / f"{end}.avi"]
    for path in paths:
        encode(path, frames=90)
    alone = ready.scores(ready.clips.read(paths[0], clips=9).pixels)
    batches = []

    def network(clips):
        batches.append((clips == MARK).flatten(1).all(dim=1).tolist())
        if len(batches) == 1:
            wait_for(tmp_path / "a.3.asked")
            wait_for(tmp_path / "marked.given")
            time.sleep(0.5)  # What was given arrives.
        if len(batches) == 2 or len(set(batches[0])) == 2:
            (tmp_path / "shared").touch()
        return ready.scores(clips)

    reader = reader_like(EndingReader, ready)
    vars(reader)["folder"] = tmp_path
    limits = Limits(6 if end == "hang" else 60, 1024)
    results = dict(score_videos([network], reader, paths, 9, workers=2, limits=limits))
    assert set(results) == set(paths)
    assert any(len(set(batch)) == 2 for batch in batches), "no batch was shared"
    np.testing.assert_allclose(results[paths[0]].answers[:, 0], alone, atol=2e-6)
    assert len(results[paths[0]].seconds) == 9
    if reason is None:
        np.testing.assert_allclose(results[paths[1]].answers[:, 0], alone, atol=2e-6)
    else:
        assert reason in str(results[paths[1]])


def test_a_long_video_waits_in_its_process_until_the_network_wants_it(tmp_path, encode):
    path = encode(tmp_path / "long.avi", frames=300)
    note = path.with_suffix(".read")
    ahead, scored = [], 0

    def network(clips):
        nonlocal scored
        if not ahead:
            while note.stat().st_size <= MOST_CLIPS:
                time.sleep(0.01)
            time.sleep(1)  # In which it would read on.
        ahead.append(note.stat().st_size - scored)
        scored += len(clips)
        return np.zeros((len(clips), 3))

    # Larger than what the system keeps of a pipe.
    reader = CountingReader(ClipSampling(length=16), Preprocessing(short_side=128, crop=124))
    [(_, result)] = score_videos([network], reader, [path], 100)
    assert len(result.seconds) == scored == 100
    # In the batch, waiting, and the one that the process holds.
    assert MOST_CLIPS < max(ahead) <= 2 * MOST_CLIPS + 1


def test_crops_stay_with_their_clips(tmp_path, encode, ready):
    path = encode(tmp_path / "wide.avi", frames=40, size=(128, 48))
    [(_, result)] = score_videos([ready.scores], ready.clips, [path], 5, crops=3)
    alone = ready.scores(ready.clips.read(path, 5, 3).pixels)
    np.testing.assert_allclose(result.answers.reshape(alone.shape), alone, atol=2e-6)


def test_a_network_that_fails_is_the_error_of_the_whole_and_ends_the_processes(
    tmp_path, encode, ready
):
    def fail(_):
        raise ActionrecError("The GPU failed.")

    paths = [encode(tmp_path / f"{number}.avi") for number in range(3)]
    with pytest.raises(ActionrecError, match="The GPU failed"):
        list(score_videos([fail, fail], ready.clips, paths))
    assert not multiprocessing.active_children()
