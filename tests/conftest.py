"""Real video files for the tests, made with PyAV."""

from fractions import Fraction

import av
import numpy as np
import pytest


@pytest.fixture(scope="session")
def encode():
    """Encode a video whose frames carry their index.

    A frame is eight columns; column b is white where bit b of the frame's index is 1. The file's
    suffix names the container. `times`, in milliseconds, makes the frame rate variable.
    """

    def encode(path, codec="mpeg4", frames=30, size=(64, 48), fps=25, options=None, times=None):
        width, height = size
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=fps, options=options or {})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for index in range(frames):
                bits = (index >> np.arange(width) * 8 // width) & 1
                picture = np.tile((30 + 190 * bits[:, None]).astype(np.uint8), (height, 1, 3))
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = index if times is None else times[index]
                if times is not None:
                    frame.time_base = Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return encode
