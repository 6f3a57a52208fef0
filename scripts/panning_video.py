"""Videos of a texture that pans, which compress about as real ones do, for the benchmarks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from actionrec.video.writer import VideoWriter


def write_panning_video(
    path: Path,
    size: tuple[int, int],
    frames: int,
    codec: str,
    options: Mapping[str, str] | None = None,
    noise: int = 0,
    seed: int = 0,
) -> None:
    """Encode a video of 25 frames/s.

    Args:
        path: The file; its suffix names the container.
        size: (height, width) of a frame.
        frames: Their number.
        codec: FFmpeg's name of the encoder.
        options: Of the encoder.
        noise: Levels of grey that are added to each pixel at random.
        seed: The video depends on nothing else.
    """
    generator = np.random.default_rng(seed)
    height, width = size
    coarse = torch.from_numpy(generator.uniform(0, 255, (1, 3, 60, 80)))
    texture = torch.nn.functional.interpolate(coarse, (3 * height, 3 * width), mode="bicubic")[0]
    picture = texture.clamp(0, 255).byte().permute(1, 2, 0).numpy()
    with VideoWriter(path, size, 25, codec, options or {}) as writer:
        if path.suffix == ".avi":
            writer.stream.codec_context.codec_tag = "XVID"
        for index in range(frames):
            down, right = (0.5 + 0.4 * np.sin(index / rate) for rate in (31.0, 23.0))
            top, left = int(2 * height * down), int(2 * width * right)
            shown = picture[top : top + height, left : left + width]
            if noise:
                grain = generator.integers(0, noise, (height, width, 1), dtype=np.uint8)
                shown = shown // 2 + 60 + grain
            writer.write(shown)
