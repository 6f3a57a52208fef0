"""Make docs/images/timeline.png: a rendered timeline above a heat map, from the demo videos.

    actionrec train --config demo.yaml --root demo_videos
    python scripts/make_readme_picture.py demo_videos runs/demo/model.safetensors

Four validation clips of different classes become one video. `actionrec timeline --render` draws
its labels and scores, `actionrec explain` the evidence for the predicted class.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from actionrec.video.reader import VideoReader
from actionrec.video.writer import VideoWriter

# Of the validation groups, 1 to 7, with the whole disc in the middle of the clip.
CLIPS = (
    "MoveRight/v_MoveRight_g03_c01.avi",
    "Expand/v_Expand_g04_c01.avi",
    "TurnClockwise/v_TurnClockwise_g05_c02.avi",
    "MoveUp/v_MoveUp_g01_c02.avi",
)
WIDTH = 1200  # pixels of the picture


def join(paths: list[Path], joined: Path) -> None:
    """Write the videos one after the other into one file."""
    videos = [VideoReader(path) for path in paths]
    with VideoWriter(joined, videos[0].size, videos[0].fps) as writer:
        for video in videos:
            for frame in video.read(range(len(video))):
                writer.write(frame)


def actionrec(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "actionrec", *map(str, arguments)], check=True)


def strip(video: Path, count: int) -> Image.Image:
    """`count` evenly spread frames of a video side by side."""
    reader = VideoReader(video)
    moments = [round((index + 0.5) * len(reader) / count) for index in range(count)]
    return Image.fromarray(np.concatenate(list(reader.read(moments)), axis=1))


def below_each_other(pictures: list[Image.Image]) -> Image.Image:
    """The pictures at the same width, one below the other, in 256 colours."""
    scaled = [
        picture.convert("RGB").resize((WIDTH, round(picture.height * WIDTH / picture.width)))
        for picture in pictures
    ]
    joined = Image.fromarray(np.concatenate([np.asarray(picture) for picture in scaled]))
    return joined.quantize(palette=joined.quantize(), dither=Image.Dither.FLOYDSTEINBERG)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("videos", type=Path, help="Folder of the demo videos.")
    parser.add_argument("model", type=Path, help="Model trained on them.")
    parser.add_argument("--output", type=Path, default=Path("docs/images/timeline.png"))
    options = parser.parse_args()
    clips = [options.videos / name for name in CLIPS]
    with tempfile.TemporaryDirectory() as folder:
        joined, drawn, sheet = (Path(folder, name) for name in ("demo.mp4", "drawn.mp4", "s.png"))
        join(clips, joined)
        actionrec("timeline", joined, "--model", options.model, "--render", drawn)
        actionrec(
            *("explain", clips[0], "--model", options.model),
            *("--method", "hirescam", "--output", sheet),
        )
        picture = below_each_other([strip(drawn, len(CLIPS)), Image.open(sheet)])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.output, optimize=True)
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
