"""From frames to input: the right pixels are cut out, mirrored and normalised."""

import numpy as np
import pytest
import torch

from actionrec.errors import UsageError
from actionrec.video.reader import VideoReader
from actionrec.video.transforms import Preprocessing, channels_first

SMALL = Preprocessing(short_side=20, crop=16)


def coordinates(height, width, frames=3):
    """Frames (T, H, W, 3) whose pixels hold their row, column and frame."""
    time, rows, columns = np.indices((frames, height, width))
    return np.stack([rows, columns, time], axis=-1).astype(np.uint8)


def corner(square):
    """The row and column of the upper left pixel of a square (3, T, H, W) of `coordinates`."""
    return square[0, 0, 0, 0].item(), square[1, 0, 0, 0].item()


def expected(frames, top, left, size=16):
    square = frames[:, top : top + size, left : left + size]
    return torch.tensor(square.tolist(), dtype=torch.uint8).permute(3, 0, 1, 2)


def test_the_default_is_the_input_of_the_paper_and_of_i3d():
    assert Preprocessing() == Preprocessing(128, 124, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(("short_side", "crop"), [(112, 113), (128, 0), (128, -1)])
def test_a_crop_that_does_not_fit_is_wrong_usage(short_side, crop):
    with pytest.raises(UsageError, match=f"A crop of {crop} .* short side of {short_side}"):
        Preprocessing(short_side=short_side, crop=crop)


def test_one_crop_is_the_centre():
    frames = coordinates(20, 30)
    [square] = SMALL.crops(frames, 1)
    assert torch.equal(square, expected(frames, top=2, left=7))


@pytest.mark.parametrize(
    ("size", "corners"),
    [
        ((20, 30), [(2, 0), (2, 7), (2, 14)]),
        ((30, 20), [(0, 2), (7, 2), (14, 2)]),
        ((20, 20), [(2, 0), (2, 2), (2, 4)]),
    ],
)
def test_three_crops_lie_along_the_longer_side(size, corners):
    frames = coordinates(*size)
    squares = SMALL.crops(frames, 3)
    assert (squares.shape, squares.dtype) == ((3, 3, 3, 16, 16), torch.uint8)
    for square, (top, left) in zip(squares, corners, strict=True):
        assert torch.equal(square, expected(frames, top, left))


def test_a_crop_of_the_whole_frame_is_the_frame():
    frames = coordinates(20, 20)
    whole = Preprocessing(short_side=20, crop=20)
    [square] = whole.crops(frames, 1)
    assert torch.equal(square, expected(frames, 0, 0, size=20))
    drawn = whole.random_crop(frames, np.random.default_rng(0), flip=False)
    assert torch.equal(drawn, square)


def test_a_random_crop_is_one_square_through_all_frames_from_anywhere():
    frames, generator = coordinates(20, 22), np.random.default_rng(0)
    corners = set()
    for _ in range(600):
        square = SMALL.random_crop(frames, generator, flip=False)
        top, left = corner(square)
        assert torch.equal(square, expected(frames, top, left))
        corners.add((top, left))
    assert corners == {(top, left) for top in range(5) for left in range(7)}


def test_a_flip_mirrors_all_frames_half_of_the_time_and_only_left_to_right():
    frames, generator = coordinates(20, 22), np.random.default_rng(0)
    mirrored = 0
    for _ in range(600):
        square = SMALL.random_crop(frames, generator, flip=True)
        if square[1, 0, 0, 0] > square[1, 0, 0, 1]:
            mirrored += 1
            square = square.flip(3)
        assert torch.equal(square, expected(frames, *corner(square)))
    assert abs(mirrored - 300) < 50  # four standard deviations


def test_a_random_crop_is_that_of_its_seed():
    frames = coordinates(40, 60)
    crops = [
        torch.stack(
            [
                SMALL.random_crop(frames, np.random.default_rng((seed, number)), flip=True)
                for number in range(5)
            ]
        )
        for seed in (0, 0, 1)
    ]
    assert torch.equal(crops[0], crops[1]) and not torch.equal(crops[0], crops[2])


def test_a_random_short_side_goes_from_the_given_one_to_a_quarter_more():
    generator = np.random.default_rng(0)
    drawn = {SMALL.random_short_side(generator) for _ in range(200)}
    assert drawn == {20, 21, 22, 23, 24, 25}


def test_i3d_sees_rgb_from_minus_one_to_one():
    clips = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 1, 3).expand(2, 3, 4, 5, 3)
    normalised = Preprocessing().normalise(clips)
    assert (normalised.shape, normalised.dtype) == ((2, 3, 4, 5, 3), torch.float32)
    torch.testing.assert_close(normalised[0, 0, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))


def test_each_colour_has_its_own_mean_and_deviation():
    preprocessing = Preprocessing(mean=(0.0, 0.2, 0.4), std=(1.0, 0.5, 0.25))
    normalised = preprocessing.normalise(torch.full((1, 3, 2, 2, 2), 255, dtype=torch.uint8))
    for channel, value in enumerate((1.0, 1.6, 2.4)):
        expected_channel = torch.full((2, 2, 2), value)
        torch.testing.assert_close(normalised[0, channel], expected_channel)


def test_the_tensor_does_not_share_the_frames_memory():
    frames = coordinates(4, 6)
    tensor = channels_first(frames)
    assert (tensor.shape, tensor.is_contiguous()) == ((3, 3, 4, 6), True)
    frames[:] = 255
    assert tensor[0].max() == 3


@pytest.mark.parametrize("size", [(64, 48), (48, 64)])
def test_a_video_becomes_the_networks_input(encode, tmp_path, size):
    preprocessing = Preprocessing(short_side=32, crop=28)
    video = VideoReader(encode(tmp_path / "v.avi", frames=8, size=size))
    frames = video.read(range(8), preprocessing.short_side)
    squares = preprocessing.crops(frames, 3)
    assert squares.shape == (3, 3, 8, 28, 28)
    top, left = (frames.shape[1] - 28) // 2, (frames.shape[2] - 28) // 2
    assert torch.equal(squares[1], expected(frames, top, left, size=28))
    assert preprocessing.normalise(squares).abs().max() <= 1


def test_a_gamma_below_1_brightens_what_is_dark_and_keeps_black_and_white():
    clips = torch.tensor([0, 16, 255], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    brighter = Preprocessing(gamma=0.4).normalise(clips).flatten()
    torch.testing.assert_close(brighter, torch.tensor([-1.0, 2 * (16 / 255) ** 0.4 - 1, 1.0]))


@pytest.mark.parametrize("gamma", [0, -1])
def test_a_gamma_that_is_no_exponent_is_wrong_usage(gamma):
    with pytest.raises(UsageError, match=f"A gamma of {gamma} is not possible"):
        Preprocessing(gamma=gamma)
