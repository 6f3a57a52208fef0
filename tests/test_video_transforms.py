"""From frames to input: the right pixels are cut out, mirrored and normalised."""

import numpy as np
import pytest
import torch

from actionrec.errors import UsageError
from actionrec.video.reader import VideoReader
from actionrec.video.transforms import (
    Preprocessing,
    augment,
    channels_first,
    mix,
    random_area,
    stack_clips,
)

SMALL = Preprocessing(short_side=20, crop=16)


def coordinates(height, width, frames=3):
    """Frames (T, H, W, 3) whose pixels hold their row, column and frame."""
    time, rows, columns = np.indices((frames, height, width))
    return np.stack([rows, columns, time], axis=-1).astype(np.uint8)


def expected(frames, top, left, size=16):
    square = frames[:, top : top + size, left : left + size]
    return torch.tensor(square.tolist(), dtype=torch.uint8).permute(3, 0, 1, 2)


def test_the_default_is_the_input_of_the_paper_and_of_i3d():
    assert Preprocessing() == Preprocessing(128, 124, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(("short_side", "crop"), [(112, 113), (128, 0), (128, -1)])
def test_a_crop_that_does_not_fit_is_wrong_usage(short_side, crop):
    with pytest.raises(UsageError, match=f"A crop of {crop} .* short side of {short_side}"):
        Preprocessing(short_side=short_side, crop=crop)


def cut(frames, crop):
    top, left, height, width = crop
    return frames[:, top : top + height, left : left + width]


def test_the_square_is_the_centre():
    assert SMALL.square((20, 30)) == (2, 7, 16, 16)
    assert SMALL.square((30, 20)) == (7, 2, 16, 16)


def test_the_square_is_as_large_as_if_the_frame_had_been_scaled_first():
    # 240 -> 128 pixels, of which 124 are seen: 232.5 of the 240.
    assert Preprocessing().square((240, 320)) == (4, 44, 232, 232)
    assert Preprocessing(256, 224).square((240, 320)) == (15, 55, 210, 210)
    assert Preprocessing(short_side=20, crop=20).square((9, 7)) == (1, 0, 7, 7)


@pytest.mark.parametrize(
    ("size", "strip", "corners"),
    [
        ((20, 30), (2, 0, 16, 30), [(2, 0), (2, 7), (2, 14)]),
        ((30, 20), (0, 2, 30, 16), [(0, 2), (7, 2), (14, 2)]),
        ((20, 20), (2, 0, 16, 20), [(2, 0), (2, 2), (2, 4)]),
    ],
)
def test_three_crops_lie_along_the_longer_side(size, strip, corners):
    frames = coordinates(*size)
    assert SMALL.strip(size) == strip
    squares = SMALL.squares(cut(frames, strip))
    assert (squares.shape, squares.dtype) == ((3, 3, 3, 16, 16), torch.uint8)
    for square, (top, left) in zip(squares, corners, strict=True):
        assert torch.equal(square, expected(frames, top, left))


def test_a_random_square_comes_from_anywhere_and_is_of_every_scale_up_to_a_quarter_more():
    generator = np.random.default_rng(0)
    drawn = [SMALL.random_square((40, 44), generator) for _ in range(4000)]
    sides = {side for _, _, side, _ in drawn}
    assert sides == {round(40 * 16 / short_side) for short_side in range(20, 26)}
    for top, left, height, width in drawn:
        assert height == width and 0 <= top <= 40 - height and 0 <= left <= 44 - width
    largest = {(top, left) for top, left, side, _ in drawn if side == 32}
    assert largest == {(top, left) for top in range(9) for left in range(13)}


def test_a_square_of_a_tiny_frame_is_inside_it():
    generator = np.random.default_rng(0)
    for size in ((1, 1), (2, 5), (5, 2)):
        for crop in (SMALL.square(size), SMALL.strip(size), SMALL.random_square(size, generator)):
            top, left, height, width = crop
            assert height >= 1 and width >= 1 and min(top, left) >= 0
            assert top + height <= size[0] and left + width <= size[1]


def test_a_random_area_has_its_share_of_the_frame_and_its_shape():
    generator = np.random.default_rng(0)
    drawn = [random_area((240, 320), (0.3, 0.6), generator) for _ in range(300)]
    shares = [height * width / (240 * 320) for _, _, height, width in drawn]
    ratios = [width / height for _, _, height, width in drawn]
    assert 0.29 < min(shares) < 0.33 and 0.57 < max(shares) < 0.61
    assert 0.73 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.36
    assert len({(top, left) for top, left, _, _ in drawn}) > 250


def test_random_crops_are_those_of_their_seed_and_leave_pytorchs_generator_alone():
    before = torch.random.get_rng_state()
    for draw in (
        lambda generator: SMALL.random_square((40, 60), generator),
        lambda generator: random_area((40, 60), (0.1, 1), generator),
    ):
        first, again, other = (
            [draw(np.random.default_rng((seed, number))) for number in range(5)]
            for seed in (0, 0, 1)
        )
        assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["color", "randaugment"])
def test_augmenting_changes_all_frames_of_a_clip_alike_and_each_clip_differently(name):
    picture = torch.randint(0, 256, (3, 1, 24, 24), dtype=torch.uint8)
    clips = picture.expand(6, 3, 5, 24, 24)
    before = torch.random.get_rng_state()
    changed = augment(clips, name, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (changed.shape, changed.dtype) == (clips.shape, torch.uint8)
    assert torch.equal(changed, changed[:, :, :1].expand_as(changed))
    assert len({clip.numpy().tobytes() for clip in changed}) > 3
    assert torch.equal(changed, augment(clips, name, seed=1))
    assert not torch.equal(changed, augment(clips, name, seed=2))


@pytest.mark.parametrize("name", ["mixup", "cutmix", "both"])
def test_a_mixed_label_says_how_much_of_which_clip_is_there(name):
    # Every clip is of one value, its label's, so that what is seen says what it is made of.
    labels = torch.tensor([0, 2, 1, 4, 3])
    clips = (50 * labels.to(torch.uint8)).view(5, 1, 1, 1, 1).expand(5, 3, 4, 24, 24)
    before = torch.random.get_rng_state()
    mixed, shares = mix(clips, labels, name, classes=6, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (mixed.shape, mixed.dtype, type(mixed)) == (clips.shape, torch.float32, torch.Tensor)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5))
    values = 50 * torch.arange(6.0)
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3, 4)), shares @ values, rtol=1e-4, atol=1e-3)
    assert 0 < (shares > 0).sum() - 5, "nothing was mixed"
    again, _ = mix(clips, labels, name, classes=6, seed=3)
    assert torch.equal(mixed, again)
    assert torch.equal(mixed, mixed[:, :, :1].expand_as(mixed)), "a frame differs from the others"
    inside = {"mixup": 1, "cutmix": 2}.get(name)
    if inside:
        assert all(len(clip.unique()) == inside for clip in mixed[shares.max(dim=1).values < 1])


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


def test_a_batch_keeps_the_channels_last_in_memory():
    frames = [coordinates(4, 6), coordinates(4, 6)[:, :, ::-1]]
    batch = stack_clips([channels_first(each) for each in frames])
    assert batch.shape == (2, 3, 3, 4, 6)
    assert batch.is_contiguous(memory_format=torch.channels_last_3d)
    for clip, each in zip(batch, frames, strict=True):
        assert torch.equal(clip, torch.tensor(each.tolist()).permute(3, 0, 1, 2))


@pytest.mark.parametrize("size", [(64, 48), (48, 64)])
def test_cutting_before_scaling_gives_the_picture_of_scaling_before_cutting(encode, tmp_path, size):
    preprocessing = Preprocessing(short_side=32, crop=28)
    video = VideoReader(encode(tmp_path / "v.avi", frames=8, size=size))
    scaled = video.read(range(8), 32)
    top, left = (scaled.shape[1] - 28) // 2, (scaled.shape[2] - 28) // 2
    reference = cut(scaled, (top, left, 28, 28)).astype(int)
    square = video.read(range(8), (28, 28), preprocessing.square(video.size))
    squares = preprocessing.squares(video.read(range(8), 28, preprocessing.strip(video.size)))
    for picture in (channels_first(square), squares[1]):
        difference = picture.permute(1, 2, 3, 0).numpy().astype(int) - reference
        # The edges of the white columns, where the antialiasing looks across the cut.
        assert np.abs(difference).mean() < 3


def test_a_gamma_below_1_brightens_what_is_dark_and_keeps_black_and_white():
    clips = torch.tensor([0, 16, 255], dtype=torch.uint8).view(1, 3, 1, 1, 1)
    brighter = Preprocessing(gamma=0.4).normalise(clips).flatten()
    torch.testing.assert_close(brighter, torch.tensor([-1.0, 2 * (16 / 255) ** 0.4 - 1, 1.0]))


@pytest.mark.parametrize("gamma", [0, -1])
def test_a_gamma_that_is_no_exponent_is_wrong_usage(gamma):
    with pytest.raises(UsageError, match=f"A gamma of {gamma} is not possible"):
        Preprocessing(gamma=gamma)
