"""How fast actionrec predicts, beside the same network and sampling in plain PyTorch.

    python scripts/benchmark_prediction.py
    python scripts/benchmark_prediction.py --video video.mp4 --rounds 9
    python scripts/benchmark_prediction.py --backbones i3d r3d50 i3d_r50 --blocks none snl nl
    python scripts/benchmark_prediction.py --device cuda --clip 64x224x224
    python scripts/benchmark_prediction.py --backbones --engines openvino onnxruntime \\
        --files i3d.onnx i3d-int8.xml

Plain is the code of an afternoon: PyAV decodes every frame and `to_ndarray` converts it,
`interpolate` scales whole frames, and the network is in float32, in the default memory order, with
its batch normalisations; I3D's pooling is this project's there, too. Without --video a clip of ten
seconds is made. The ways take turns, in another order in each round; the tables show medians over
the rounds, and the median of the ratios within a round.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import av
import measurements
import numpy as np
import torch
from benchmark_blocks import measure_products, share_of_peak
from panning_video import write_panning_video
from rich.console import Console
from rich.table import Table
from stopwatch import device_name, take_turns
from torch import nn

from actionrec.devices import fastest_device, has_bfloat16
from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.models.exported import RUN_BY, openvino_core
from actionrec.models.inference import InferenceModel
from actionrec.prediction.videos import Prediction, predict_video
from actionrec.video.clips import MOST_CLIPS, ClipReader

PLAIN = "plain PyTorch, float32"
# Rows of the square matrices whose product is the limit.
PRODUCT = 2048


def plain_network(recognizer: VideoClassifier) -> nn.Module:
    """The network as one would write it, without anything that makes it fast."""
    network = copy.deepcopy(recognizer.network).eval()
    return network.to(memory_format=torch.contiguous_format)


@torch.inference_mode()
def plain_predict(
    network: nn.Module, config: ClassifierConfig, path: Path, spent: dict[str, float]
) -> np.ndarray:
    """Mean softmax scores (classes,) of a video's clips, the plain way; adds to `spent`, by step,
    the seconds that it takes."""
    start = time.perf_counter()
    with av.open(str(path)) as container:
        fps = float(container.streams.video[0].average_rate)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    spent["decode"] += time.perf_counter() - start

    preprocessing = config.preprocessing
    mean, std = (torch.tensor(x).view(3, 1, 1, 1) for x in (preprocessing.mean, preprocessing.std))
    height, width, _ = frames[0].shape
    factor = preprocessing.short_side / min(height, width)
    size = (round(height * factor), round(width * factor))
    top, left = ((side - preprocessing.crop) // 2 for side in size)
    scores = []
    for clip in config.sampling.at(fps).covering(len(frames), at_most=MOST_CLIPS):
        start = time.perf_counter()
        pixels = torch.from_numpy(np.stack([frames[index] for index in clip]))
        pixels = pixels.permute(0, 3, 1, 2).float() / 255
        pixels = nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        pixels = pixels[..., top : top + preprocessing.crop, left : left + preprocessing.crop]
        pixels = ((pixels.permute(1, 0, 2, 3) - mean) / std).contiguous()
        spent["scale"] += time.perf_counter() - start
        start = time.perf_counter()
        logits = network(pixels[None].to(next(network.parameters()).device))
        scores.append(logits.softmax(dim=1)[0].cpu().numpy())
        spent["network"] += time.perf_counter() - start
    return np.mean(scores, axis=0)


@dataclass(frozen=True)
class PredictionRow:
    """A way to do something; medians over the rounds, of ratios those within a round."""

    what: str
    clip: str
    way: str
    milliseconds: float
    speed_over_plain: float
    share_of_matrix_product: float | None = None


def row_of(what: str, clip: str, way: str, seconds: Mapping[str, np.ndarray]) -> PredictionRow:
    """The medians of one of the ways that took turns."""
    ratio = float(np.median(seconds[PLAIN] / seconds[way]))
    return PredictionRow(what, clip, way, 1000 * float(np.median(seconds[way])), ratio)


def print_rows(rows: Sequence[PredictionRow]) -> None:
    table = Table("what", "clip", "way", "ms", "speed / plain", "of product")
    for row in rows:
        *texts, milliseconds, speed, share = asdict(row).values()
        shown = "-" if share is None else f"{100 * share:.1f} %"
        table.add_row(*texts, f"{milliseconds:.2f}", f"{speed:.2f}", shown)
    Console().print(table)


def precisions(device: torch.device) -> list[str]:
    return ["float32", "bfloat16"] if has_bfloat16(device) else ["float32"]


def measure_network(
    config: ClassifierConfig,
    clip: str,
    batch: int,
    device: torch.device,
    rounds: int,
    products: Mapping[str, float],
) -> list[PredictionRow]:
    """The forward pass on clips that are on the device already.

    `products` are the device's rates of matrix products, in 1e12 operations a second, by precision.
    """
    recognizer = VideoClassifier(config).to(device).eval()
    sizes = map(int, clip.split("x"))
    pixels = torch.randint(0, 256, (batch, 3, *sizes), dtype=torch.uint8).to(device)
    ways = {PLAIN: forward(plain_network(recognizer), normalised(recognizer, pixels))}
    for precision in precisions(device):
        ready = InferenceModel(recognizer, device, precision)
        ways[f"actionrec, {precision}"] = forward(ready.logits, pixels)
    block = "" if config.block.name == "none" else f"+{config.block.name}"
    what = f"forward of {config.backbone}{block}"
    seconds = take_turns(ways, rounds, what)
    rows = [row_of(what, f"{batch}x3x{clip}", way, seconds) for way in ways]
    return [with_share(row, config, clip, batch, products) for row in rows]


def with_share(
    row: PredictionRow,
    config: ClassifierConfig,
    clip: str,
    batch: int,
    products: Mapping[str, float],
) -> PredictionRow:
    """The row with its share of the rate of matrix products in the precision that it ends with."""
    product = products.get(row.way.rpartition(" ")[2])
    share = share_of_peak(config, clip, 1000 * batch / row.milliseconds, product)
    return replace(row, share_of_matrix_product=share)


def normalised(recognizer: VideoClassifier, pixels: torch.Tensor) -> torch.Tensor:
    return recognizer.config.preprocessing.normalise(pixels).contiguous()


def forward(network: Callable[[torch.Tensor], object], clips: torch.Tensor) -> Callable[[], None]:
    """A forward pass."""

    @torch.inference_mode()
    def run() -> None:
        network(clips)

    return run


def measure_prediction(
    model: VideoClassifier, what: str, path: Path, device: torch.device, rounds: int
) -> list[PredictionRow]:
    """From the file to the labels, all in one process whose models are loaded.

    Prints what the ways found, and where plain PyTorch spends its time.
    """
    config, labels = model.config, model.config.labels
    network = plain_network(model).to(device)
    spent = {"decode": 0.0, "scale": 0.0, "network": 0.0}
    found: dict[str, np.ndarray | Prediction] = {}

    def plain() -> None:
        found[PLAIN] = plain_predict(network, config, path, spent)

    def ours(precision: str) -> Callable[[], None]:
        ready = InferenceModel(model, device, precision)

        def run() -> None:
            found[f"actionrec, {precision}"] = predict_video(ready, path)

        return run

    ways = {PLAIN: plain} | {f"actionrec, {name}": ours(name) for name in precisions(device)}
    reader = ClipReader(config.sampling, config.preprocessing)
    ways["actionrec, reading alone"] = lambda: reader.read(path)
    seconds = take_turns(ways, rounds, "predicting")
    best = int(np.argmax(found[PLAIN]))
    print(f"{PLAIN}: {labels[best]} {found[PLAIN][best]:.4f}")
    for name, result in found.items():
        if isinstance(result, Prediction):
            print(f"{name}: {result.top[0].label} {result.top[0].score:.4f}")
    total = sum(spent.values())
    shares = ", ".join(f"{step} {value / total:.0%}" for step, value in spent.items())
    print(f"Where plain PyTorch spends its time: {shares}")
    size = config.sampling.length, config.preprocessing.crop, config.preprocessing.crop
    clip = "x".join(map(str, size))
    return [row_of(f"predict of {what}", clip, way, seconds) for way in ways]


def measure_engines(
    model: VideoClassifier,
    engines: Sequence[str],
    files: Sequence[Path],
    rounds: int,
    products: Mapping[str, float],
) -> list[PredictionRow]:
    """One clip of the model's size by each engine, and by the libraries alone on exported files."""
    length, crop = model.config.sampling.length, model.config.preprocessing.crop
    clip = torch.randint(0, 256, (1, 3, length, crop, crop), dtype=torch.uint8)
    plain = plain_network(model)
    ways = {PLAIN: forward(plain, normalised(model, clip))}
    for engine, precision in product(["torch", *engines], precisions(torch.device("cpu"))):
        ready = InferenceModel(model, "cpu", precision, engine=engine)
        if ready.engine.name == engine:
            ways[f"{engine}, {precision}"] = forward(ready.logits, clip)
    for file in files:
        ready = InferenceModel.load(file, precision="float32")
        ways[f"{file.name} by actionrec"] = forward(ready.logits, clip)
        for library, session in ALONE.items():
            if library in RUN_BY[file.suffix]:
                run = session(file, tuple(clip.shape))
                ways[f"{file.name} by {library} alone"] = partial(run, clip.numpy())
    seconds = take_turns(ways, rounds, "one clip by each engine")
    size = "x".join(map(str, clip.shape))
    rows = [row_of(f"forward of {model.name}", size, way, seconds) for way in ways]
    frames = f"{length}x{crop}x{crop}"
    return [with_share(row, model.config, frames, 1, products) for row in rows]


def openvino_alone(file: Path, shape: tuple[int, ...]) -> Callable[[np.ndarray], object]:
    core = openvino_core()
    graph = core.read_model(file)
    graph.reshape(shape)
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    return core.compile_model(graph, "CPU", hints)


def onnxruntime_alone(file: Path, shape: tuple[int, ...]) -> Callable[[np.ndarray], object]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda clip: session.run(None, {"clips": clip})


ALONE = {"openvino": openvino_alone, "onnxruntime": onnxruntime_alone}


def measure_command(
    model: str, engines: Sequence[str], files: Sequence[Path], path: Path, rounds: int
) -> None:
    """`actionrec predict` as a whole, with the start of Python and the loading of everything."""
    command = [sys.executable, "-m", "actionrec", "predict", str(path)]

    def run(*more: str) -> Callable[[], None]:
        return lambda: subprocess.run([*command, *more], check=True, capture_output=True)

    ways = {"python -c 'import torch'": run_torch_import}
    for engine, precision in product(["torch", *engines], ["auto", "float32"]):
        flags = ["--engine", engine, "--precision", precision]
        ways[f"actionrec predict {' '.join(flags)}"] = run("--model", model, *flags)
    for file in files:
        ways[f"actionrec predict --model {file.name}"] = run("--model", str(file))
    # What is compiled once is in the cache then.
    for way in ways.values():
        way()
    seconds = take_turns(ways, rounds, "whole commands")
    table = Table("command", "seconds", title="whole commands")
    for name, values in seconds.items():
        table.add_row(name, f"{np.median(values):.2f}")
    Console().print(table)


def run_torch_import() -> None:
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--video", type=Path, help="any video; made if left out")
    parser.add_argument("--model", default="kinetics400-i3d", help="name or model file")
    parser.add_argument("--backbones", nargs="*", default=["i3d"])
    parser.add_argument("--blocks", nargs="+", default=["none"])
    parser.add_argument("--clip", default="16x124x124", help="of the forward passes")
    parser.add_argument("--batch", type=int, default=1, help="clips of a forward pass")
    parser.add_argument("--device", type=torch.device, default=torch.device(fastest_device()))
    parser.add_argument("--engines", nargs="*", default=[], help="beside torch, on the CPU")
    parser.add_argument("--files", nargs="*", type=Path, default=[], help="exported *.onnx, *.xml")
    parser.add_argument("--results", type=Path, help="CSV file to which the rows are appended")
    parser.add_argument("--rounds", type=int, default=5, help="of whole videos; forwards: 3 times")
    options = parser.parse_args()
    print(f"{device_name(options.device)}, PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory() as made:
        path = options.video or Path(made) / "made.mp4"
        if options.video is None:
            # The size of Kinetics.
            write_panning_video(path, (256, 340), 250, "libx264")
        types = precisions(options.device)
        measured = measure_products(PRODUCT, options.device, 5, types)
        products = {row.dtype: row.tera_operations for row in measured}
        rows = []
        for backbone, block in product(options.backbones, options.blocks):
            config = ClassifierConfig(tuple(map(str, range(400))), backbone, BlockConfig(block))
            sizes = options.clip, options.batch
            rows += measure_network(config, *sizes, options.device, 3 * options.rounds, products)
        model = VideoClassifier.load(options.model)
        what = options.video.name if options.video else "a 10-second clip"
        if options.engines or options.files:
            rows += measure_engines(
                model, options.engines, options.files, 3 * options.rounds, products
            )
        rows += measure_prediction(model, what, path, options.device, options.rounds)
        print_rows(rows)
        if options.results:
            for row in rows:
                measurements.append(options.results, asdict(row), options.device)
        measure_command(options.model, options.engines, options.files, path, options.rounds)


if __name__ == "__main__":
    main()
