"""All that a GPU is needed for, in pieces of minutes: measures, stops in time, goes on when called
again.

    python scripts/measure_gpu.py --minutes 9 --data FOLDER
    python scripts/measure_gpu.py --minutes 9 --data FOLDER --dry-run
    python scripts/measure_gpu.py --minutes 9 --only blocks training
    python scripts/measure_gpu.py --minutes 1 --device cpu --output elsewhere

The slices, the most valuable first:

    tests       tests of the suite that compute on the GPU
    precision   logits and gradients against float64 on the CPU
    blocks      time and memory of the nonlocal blocks
    training    training steps and `actionrec train`, with the share of the GPU's matrix products
    prediction  forward passes and the prediction of a video
    table7      scripts/table7.py on the videos in FOLDER: weizmann/weizmann.csv, fights/fights.csv
                and arid6/arid6.csv, seed after seed

Every measurement is appended to a CSV file in OUTPUT (results/); nothing there is rewritten. A part
that has ended becomes a row of OUTPUT/measure_gpu.csv, done or failed, and is not repeated on the
same device with the same versions; one that failed or was stopped is tried once more, after all
others. A part begins only if its estimate fits into the minutes. Each runs in a process of its own,
so that no crash ends the others. Nothing is downloaded. With --device cpu everything is tiny, to
try the script itself.

The exit code is 0 if nothing is left, 1 if nothing is left but failures, 3 if the same command has
more to do.
"""

import argparse
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from xml.etree import ElementTree

import benchmark_blocks
import benchmark_prediction
import benchmark_training
import check_precision
import measurements
import torch
from panning_video import write_panning_video

from actionrec.errors import ActionrecError
from actionrec.models.catalogue import list_weights
from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.models.registry import BACKBONES
from actionrec.signals import sigterm_as_interrupt
from actionrec.training.run import quiet_lightning

PROJECT = Path(__file__).parents[1]
WEIGHTS = "kinetics400-i3d"
# Tests that compute on the GPU where there is one.
TESTS = (
    "test_models_i3d.py",
    "test_models_inference.py",
    "test_training_precision.py",
    "test_training_run.py",
    "test_evaluation_scoring.py",
    "test_prediction_videos.py",
    "test_prediction_timeline.py",
    "test_explanation_heat_maps.py",
    "test_devices.py",
)
BLOCKS = ("nl", "ns", "a2", "cgnl", "snl")
# The data sets and their splits for table7.py; the configurations have the same names.
DATA = {"weizmann": ["group"], "fights": ["1", "2", "3", "4", "5"], "arid6": []}
SEEDS = 10
SECONDS_TO_END = 10
ATTEMPTS = 2
ENDED = ("done", "failed", "stopped")


@dataclass(frozen=True)
class Part:
    """A piece of a slice.

    Attributes:
        measure: Called with the seconds that are left; appends rows, and returns a remark.
        seconds: Estimate on a GPU; a part whose pieces are resumed needs the least that is worth
            a beginning.
    """

    slice: str
    name: str
    seconds: float
    measure: Callable[[float], str]


class Unfinished(ActionrecError):
    """A part stopped in time and goes on in the next call."""


# The slices.


@dataclass(frozen=True)
class Plan:
    """What to measure, and on what scale.

    Attributes:
        output: Folder of the CSV files.
        work: Folder of trainings that go on in the next call.
        data: Folder of the real data sets.
    """

    device: str
    output: Path
    work: Path
    data: Path | None

    @property
    def is_tiny(self) -> bool:
        return self.device == "cpu"

    def parts(self) -> Iterator[Part]:
        """All parts, the most valuable first."""
        tiny = self.is_tiny
        for file in TESTS[:1] if tiny else TESTS:
            yield Part("tests", file, 60, partial(self.run_tests, file))
        for backbone, block in product(["c3d_small"] if tiny else BACKBONES, ("none", "snl")):
            measure = partial(self.precision, backbone, block)
            yield Part("precision", f"{backbone} {block}", 15, measure)
        clips = ["4x32x32"] if tiny else ["16x112x112", "16x224x224", "32x224x224"]
        for clip, stage in product(clips, [4] if tiny else [4, 3, 2]):
            measure = partial(self.blocks, clip, stage)
            yield Part("blocks", f"{clip} stage {stage}", 40, measure)
        yield Part("training", "matrix products", 10, self.matrix_products)
        for backbone in ["c3d_small"] if tiny else ["i3d", "r3d50"]:
            yield Part("training", f"steps of {backbone}", 40, partial(self.steps, backbone))
        networks = [("c3d_small", "snl")]
        if not tiny:
            networks = [("i3d", "none"), ("i3d", "snl"), ("r3d50", "none")]
        for backbone, block in networks:
            measure = partial(self.training, backbone, block)
            yield Part("training", f"train {backbone} {block}", 60, measure)
        networks = ["c3d_small"] if tiny else ["i3d", "r3d50", "i3d_r50"]
        for backbone, batch in product(networks, (1, 2) if tiny else (1, 32)):
            measure = partial(self.forward, backbone, batch)
            yield Part("prediction", f"forward of {batch} clips, {backbone}", 20, measure)
        yield Part("prediction", "a video", 30, self.prediction)
        for seed, name in product(range(1 if tiny else SEEDS), DATA if self.data else ()):
            yield Part("table7", f"{name} seed {seed}", 60, partial(self.table7, name, seed))

    def append(self, kind: str, row: object) -> None:
        measurements.append(self.output / f"{kind}.csv", asdict(row), self.device)

    def products(self) -> dict[str, float]:
        """The device's rates of matrix products that were measured, by type of number."""
        here = measurements.machine(self.device)
        return {
            row["dtype"]: float(row["tera_operations"])
            for row in measurements.read(self.output / "matrix_products.csv")
            if here.items() <= row.items()
        }

    def run_tests(self, file: str, seconds: float) -> str:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "report.xml")
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
            command += [f"tests/{file}", f"--junitxml={report}", "-m", "not slow and not network"]
            command += ["-k", "gradient_of_its_own_shape"] if self.is_tiny else []
            # Without it the tests hide the GPU.
            environment = os.environ | {"ACTIONREC_TESTS": "gpu"}
            run = subprocess.run(
                command, cwd=PROJECT, capture_output=True, text=True, env=environment
            )
            if not report.exists():
                lines = (run.stderr or run.stdout).strip().splitlines()
                raise ActionrecError(f"pytest gave no report: {lines[-1] if lines else ''}")
            cases = list(ElementTree.parse(report).iter("testcase"))
        outcomes = {case.get("name"): {child.tag for child in case} for case in cases}
        failed = [name for name, tags in outcomes.items() if tags & {"failure", "error"}]
        skipped = [name for name, tags in outcomes.items() if "skipped" in tags]
        row = {
            "file": file,
            "passed": len(cases) - len(failed) - len(skipped),
            "failed": len(failed),
            "skipped": len(skipped),
            "failures": " ".join(failed),
        }
        measurements.append(self.output / "tests.csv", row, self.device)
        if failed:
            raise ActionrecError(f"{len(failed)} tests failed: {' '.join(failed)}")
        return f"{row['passed']} passed, {row['skipped']} skipped"

    def precision(self, backbone: str, block: str, seconds: float) -> str:
        clip = "4x32x32" if self.is_tiny else "16x112x112"
        device = torch.device(self.device)
        for row in check_precision.measure_precision(backbone, block, clip, 2, device):
            self.append("precision", row)
        return ""

    def blocks(self, clip: str, stage: int, seconds: float) -> str:
        batch, turns, limit = ("1", "1", "1") if self.is_tiny else ("8", "15", "2")
        words = ["--device", self.device, "--batch", batch, "--repeats", turns, "--seconds", limit]
        words += ["--dtype", "float32" if self.is_tiny else "bfloat16"]
        arguments = benchmark_blocks.parse_arguments(words)
        site = benchmark_blocks.Site(clip, stage, arguments.batch, arguments.reduction)
        for name, backward in product(BLOCKS, (False, True)):
            for row in benchmark_blocks.measure_block(name, site, backward, arguments):
                self.append("blocks", row)
        return ""

    def matrix_products(self, seconds: float) -> str:
        size = 256 if self.is_tiny else 8192
        device = torch.device(self.device)
        for row in benchmark_blocks.measure_products(size, device, 10):
            self.append("matrix_products", row)
        return ""

    def steps(self, backbone: str, seconds: float) -> str:
        batch, turns, limit = ("1", "1", "1") if self.is_tiny else ("32", "10", "15")
        words = ["--device", self.device, "--batch", batch, "--repeats", turns, "--seconds", limit]
        words += ["--dtype", "float32" if self.is_tiny else "bfloat16"]
        arguments = benchmark_blocks.parse_arguments([*words, "--blocks", *BLOCKS])
        clip = "4x32x32" if self.is_tiny else "16x112x112"
        peak = self.products().get(arguments.dtype)
        for row in benchmark_blocks.measure_training_steps(backbone, clip, arguments, peak):
            self.append("training_steps", row)
        return ""

    def training(self, backbone: str, block: str, seconds: float) -> str:
        quiet_lightning()
        words = ["--backbones", backbone, "--blocks", block]
        words += ["--workers", "0" if self.is_tiny else str(workers())]
        if self.is_tiny:
            words += "--clip-length 4 --crop 32 --batch-size 2 --steps 2 --turns 1".split()
        else:
            words += "--batch-size 32 --steps 25 --turns 2".split()
        arguments = benchmark_training.parse_arguments(words)
        for row in benchmark_training.measure_networks(arguments, self.products()):
            self.append("training", row)
        return ""

    def forward(self, backbone: str, batch: int, seconds: float) -> str:
        labels = tuple(map(str, range(400)))
        config = ClassifierConfig(labels, backbone, BlockConfig("none"))
        clip = "4x32x32" if self.is_tiny else "16x112x112"
        device, products = torch.device(self.device), self.products()
        rounds = 2 if self.is_tiny else 20
        for row in benchmark_prediction.measure_network(
            config, clip, batch, device, rounds, products
        ):
            self.append("prediction", row)
        return ""

    def prediction(self, seconds: float) -> str:
        if self.is_tiny:
            frames = 12
            labels = tuple(map(str, range(400)))
            model = VideoClassifier(ClassifierConfig(labels, "c3d_small", BlockConfig("none")))
        else:
            frames = 250
            require_weights()
            model = VideoClassifier.load(WEIGHTS)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "made.mp4")
            # The size of Kinetics.
            write_panning_video(path, (256, 340), frames, "libx264")
            what = f"a clip of {frames / 25:.3g} seconds"
            device = torch.device(self.device)
            for row in benchmark_prediction.measure_prediction(model, what, path, device, 5):
                self.append("prediction", row)
        return ""

    def table7(self, name: str, seed: int, seconds: float) -> str:
        listing = self.data / name / f"{name}.csv"
        if not listing.is_file():
            raise ActionrecError(f"There is no {listing}.")
        command = [sys.executable, PROJECT / "scripts" / "table7.py"]
        command += ["--config", f"table7/{name}.yaml", "--root", listing, "--seeds", seed]
        command += ["--clips", "1" if self.is_tiny else "3", "--jobs", jobs(self.is_tiny)]
        command += ["--minutes", max(1, seconds - 10) / 60, "--output", self.work / name]
        command += ["--results", self.output / "table7_runs.csv"]
        command += ["--split", *DATA[name]] if DATA[name] else []
        if self.is_tiny:
            command += ["--rows", "snl", "--", "--weights", "none", "--workers", "0"]
            command += "--backbone c3d_small --clip-length 4 --stride 1 --crop 32".split()
            command += "--short-side 36 --epochs 1 --batch-size 2".split()
        else:
            require_weights()
            command += ["--", "--workers", workers() // jobs(False)]
        run = subprocess.run([str(word) for word in command], stderr=subprocess.PIPE, text=True)
        if run.returncode == 3:
            raise Unfinished("the minutes are over")
        if run.returncode < 0:
            raise ActionrecError(f"table7.py was ended by signal {-run.returncode}.")
        if run.returncode:
            lines = [line for line in run.stderr.splitlines() if line.strip()]
            raise ActionrecError(lines[-1] if lines else f"exit code {run.returncode}")
        return ""


def require_weights() -> None:
    """Raise ActionrecError unless the Kinetics weights are in the cache: nothing is downloaded."""
    [cached] = [each["cached"] for each in list_weights() if each["name"] == WEIGHTS]
    if not cached:
        raise ActionrecError(
            f"The weights are not in the cache; run `actionrec weights download {WEIGHTS}` first."
        )


def workers() -> int:
    """Processes that read videos for a training."""
    return max(1, (os.cpu_count() or 1) - 2)


def jobs(is_tiny: bool) -> int:
    """Trainings at the same time: one of a small network leaves most of a GPU idle."""
    return 1 if is_tiny else min(3, workers())


# Running them.


def work_on(part: Part, seconds: float, connection: Connection) -> None:
    """Measure a part in this process, in a session of its own, and send how it ended."""
    os.setsid()
    try:
        connection.send(("done", part.measure(seconds)))
    except Unfinished as error:
        connection.send(("goes on", str(error)))
    except Exception as error:  # whatever fails, the other parts go on
        reason = " ".join(str(error).split()) or type(error).__name__
        connection.send(("failed", reason[:500]))


def finish(part: Part, seconds: float) -> tuple[str, str]:
    """Measure a part within `seconds` in a process of its own; returns how it ended, and a remark.

    "done", "failed", "stopped" where it took too long, or "goes on" where it stopped by itself.
    """
    context = multiprocessing.get_context("forkserver")
    ours, its = context.Pipe(duplex=False)
    process = context.Process(target=work_on, args=(part, seconds, its))
    process.start()
    its.close()
    try:
        if not ours.poll(seconds):
            return "stopped", f"not done after {seconds:.0f} seconds"
        return ours.recv()
    except EOFError:
        process.join()
        return "failed", f"the process ended with exit code {process.exitcode}"
    finally:
        end(process)


def end(process: multiprocessing.Process) -> None:
    """End a process with all that it has started."""
    process.join(1)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def attempts(plan: Plan) -> dict[tuple[str, str], list[str]]:
    """How the parts that were tried on this device with these versions ended, by slice and part."""
    here = measurements.machine(plan.device)
    tried: dict[tuple[str, str], list[str]] = {}
    for row in measurements.read(plan.output / "measure_gpu.csv"):
        if here.items() <= row.items() and row["outcome"] in ENDED:
            tried.setdefault((row["slice"], row["part"]), []).append(row["outcome"])
    return tried


def pending(parts: Sequence[Part], tried: dict[tuple[str, str], list[str]]) -> list[Part]:
    """The parts that are left: untried ones, then those to be tried once more."""
    ends = {part: tried.get((part.slice, part.name), []) for part in parts}
    left = [part for part, end in ends.items() if "done" not in end and len(end) < ATTEMPTS]
    return sorted(left, key=lambda part: len(ends[part]))


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    slices = ("tests", "precision", "blocks", "training", "prediction", "table7")
    parser.add_argument("--minutes", type=float, default=9, help="for all of this call")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of the real data sets")
    parser.add_argument("--only", nargs="+", choices=slices, default=slices, metavar="SLICE")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--output", type=Path, default=PROJECT / "results")
    parser.add_argument("--dry-run", action="store_true", help="print the plan")
    arguments = parser.parse_args(words)
    if not arguments.minutes > 0:
        parser.error("--minutes must be above 0")
    if arguments.data and not arguments.data.is_dir():
        parser.error(f"--data {arguments.data} is not a folder")
    if arguments.device == "cuda" and not arguments.dry_run and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --device cpu tries the script with tiny sizes")
    return arguments


def print_plan(parts: Sequence[Part], left: Sequence[Part]) -> None:
    for part in parts:
        state = f"about {part.seconds / 60:4.1f} min" if part in left else "over"
        if part in left and part.slice == "table7":
            state = "as long as there is time"
        print(f"{part.slice:11}{part.name:40}{state}")
    known = sum(part.seconds for part in left if part.slice != "table7")
    print(f"about {known / 60:.0f} minutes are left, and those of table7")


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failures, 2 wrong usage, 3 parts are left."""
    start = time.monotonic()
    arguments = parse_arguments(words)
    if arguments.device == "cpu":
        # Trainings take a GPU where they see one.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    device = arguments.device if torch.cuda.is_available() else "cpu"
    name = "-".join(measurements.machine(device).values())
    output = arguments.output.resolve()
    work = output.parent / "runs" / "measure_gpu" / re.sub(r"[^\w.+-]+", "-", name)
    plan = Plan(arguments.device, output, work, arguments.data)
    parts = [part for part in plan.parts() if part.slice in arguments.only]
    try:
        if arguments.dry_run:
            print_plan(parts, pending(parts, attempts(plan)) if device == plan.device else parts)
            return 0
        with sigterm_as_interrupt():
            return run_parts(plan, parts, start + 60 * arguments.minutes - SECONDS_TO_END)
    except ActionrecError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here.")
        return 130


def run_parts(plan: Plan, parts: Sequence[Part], deadline: float) -> int:
    """Finish as many parts as the time allows; returns the exit code."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["torch", "pytorch_lightning", "av", "scipy.stats"]
    )
    for part in pending(parts, attempts(plan)):
        left = deadline - time.monotonic()
        if left < (1 if plan.is_tiny else part.seconds):
            say(f"{part.slice}: {part.name} waits for the next call")
            continue
        begun = time.monotonic()
        limit = left if part.slice == "table7" else min(left, 10 * part.seconds)
        outcome, remark = finish(part, limit)
        if (part.slice, outcome) == ("table7", "stopped"):
            # Its trainings are resumed, so it is no attempt that was lost.
            outcome = "goes on"
        taken = time.monotonic() - begun
        say(f"{part.slice}: {part.name}: {outcome} in {taken:.0f} s{remark and ': '}{remark}")
        row = {"slice": part.slice, "part": part.name, "outcome": outcome, "remark": remark}
        row["seconds"] = round(taken, 1)
        measurements.append(plan.output / "measure_gpu.csv", row, plan.device)
    tried = attempts(plan)
    if pending(parts, tried):
        say("the same command goes on from here")
        return 3
    ends = [tried[part.slice, part.name] for part in parts]
    return 0 if all("done" in end for end in ends) else 1


def say(message: str) -> None:
    print(f"measure_gpu: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
