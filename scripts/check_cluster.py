"""Show what a job on a Ray cluster survives, and what it costs beside a run on one machine.

    python scripts/check_cluster.py --videos 5000
    python scripts/check_cluster.py --videos 1000 --paths 0 --output check.json

Two nodes of Ray on this machine predict copies of one short video, 20 broken ones, 3 that crash the
decoder and 2 that hang it, with a network of drawn weights. Then the same again, while a process
that reads, an actor, a node and the driver are killed; and at last a list of a million paths is
begun. It prints a table and exits with 1 if a row is missing, double or wrong.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import psutil
import torch
from pyarrow import parquet

from actionrec.models.classifier import BlockConfig, ClassifierConfig, VideoClassifier
from actionrec.video.sampling import ClipSampling
from actionrec.video.transforms import Preprocessing

try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:  # help needs none
    ray = Cluster = None

PROJECT = Path(__file__).parents[1]
FAULTY = {"broken": 20, "crash": 3, "hang": 2}
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
TIMEOUT = 5  # seconds for a video


def make_videos(folder: Path, count: int) -> None:
    """Write `count` names of one short video and of the faulty ones, and list.txt and good.txt."""
    clip = folder / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for index in range(50):
            picture = np.full((120, 160, 3), 5 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    faulty = [f"{kind}{number}.mp4" for kind, most in FAULTY.items() for number in range(most)]
    good = [f"{number:06}.mp4" for number in range(count - len(faulty))]
    for name in [*good, *faulty]:
        if name.startswith("broken"):
            (folder / name).write_text("no video")
        else:
            (folder / name).hardlink_to(clip)
    names = list(good)
    for number, name in enumerate(faulty):
        names.insert((number + 1) * len(good) // (len(faulty) + 1), name)
    # A video listed twice is done once.
    (folder / "list.txt").write_text("\n".join([*names, *names[:5]]))
    (folder / "good.txt").write_text("\n".join(good))


def make_model(path: Path) -> None:
    """A small network with drawn weights."""
    torch.manual_seed(0)
    config = ClassifierConfig(
        labels=("a", "b", "c"),
        backbone="c3d_small",
        block=BlockConfig("none"),
        sampling=ClipSampling(length=8, stride=2),
        preprocessing=Preprocessing(short_side=64, crop=56),
    )
    VideoClassifier(config, {"note": "drawn"}).eval().save(path)


class Job:
    """A run of `actionrec predict` in a folder of videos, and the most memory it has taken."""

    def __init__(self, folder: Path, *words: str, listed: str = "list.txt") -> None:
        command = [sys.executable, "-m", "actionrec", "predict", "--files-from", listed]
        command += ["--model", "model.safetensors", "--timeout", str(TIMEOUT), *words]
        self.begin = time.monotonic()
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        self.memory: list[int] = []

    def wait(self) -> str:
        """Until it ends; returns what it said."""
        return self.process.communicate()[1]

    def measure(self) -> None:
        self.memory.append(psutil.Process(self.process.pid).memory_info().rss >> 20)


def rows_in(output: Path) -> int:
    return sum(parquet.read_metadata(part).num_rows for part in output.glob("part-*.parquet"))


def check(output: Path, count: int) -> list[str]:
    """What is wrong with the rows of a finished job."""
    rows = parquet.read_table(output, columns=["video", "error"]).to_pylist()
    names = Counter(row["video"] for row in rows)
    wrong = [f"{len(rows)} rows, not {count}"] if len(rows) != count else []
    wrong += [f"{name} has {times} rows" for name, times in names.items() if times > 1]
    reasons = {"broken": "could not be read", "crash": "signal 11", "hang": "was given up after"}
    for row in rows:
        expected = next((r for kind, r in reasons.items() if row["video"].startswith(kind)), None)
        error = row["error"]
        if error is not None if expected is None else expected not in (error or ""):
            wrong.append(f"{row['video']}: {row['error']}")
    return wrong


def lines_in(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def compare(folder: Path, words: list[str], count: int) -> dict:
    """The speeds of a local pool and of the cluster, which run beside each other on the same cores,
    so that whatever else the machine does slows both."""
    local = Job(folder, "--output", "speed.jsonl", "--workers", "2", listed="good.txt")
    cluster = Job(folder, "--output", "speed", *words, listed="good.txt")
    counts = {
        "local pool": lambda: lines_in(folder / "speed.jsonl"),
        "cluster": lambda: rows_in(folder / "speed"),
    }
    first: dict[str, float] = {}
    samples: list[tuple[float, dict[str, int]]] = []
    while local.process.poll() is None and cluster.process.poll() is None:
        now = {name: rows() for name, rows in counts.items()}
        for name in counts:
            if now[name] and name not in first:
                first[name] = round(time.monotonic() - local.begin, 1)
        # Where both work, before either runs out of videos.
        if min(now.values()) >= 0.1 * count and max(now.values()) <= 0.9 * count:
            samples.append((time.monotonic(), now))
        time.sleep(0.2)
    local.wait()
    cluster.wait()
    if len(samples) < 2:
        return {"seconds to the first row": first, "ratio": None}
    (begin, before), (end, after) = samples[0], samples[-1]
    speeds = {name: (after[name] - before[name]) / (end - begin) for name in counts}
    return {
        "seconds to the first row": first,
        "videos/s": {name: round(speed, 2) for name, speed in speeds.items()},
        "ratio": round(speeds["cluster"] / speeds["local pool"], 3),
        "over seconds": round(end - begin),
    }


def processes(part: str) -> list[psutil.Process]:
    """The processes of this machine whose command holds a word."""
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if part in " ".join(each.info["cmdline"] or [])]


def children_that_read() -> list[psutil.Process]:
    actors = processes("ray::_Predictor")
    return [c for actor in actors for server in actor.children() for c in server.children()]


def used_store() -> int:
    """MiB of the cluster's object stores that are in use."""
    name = "object_store_memory"
    free = ray.available_resources().get(name, 0)
    return int(ray.cluster_resources().get(name, 0) - free) >> 20


def chaos(folder: Path, cluster: Cluster, words: list[str], count: int) -> dict:
    """A job in which everything dies once."""
    output = folder / "chaos"
    job = Job(folder, "--output", "chaos", *words)
    store: list[int] = []

    def until(share: float) -> None:
        while rows_in(output) < share * count and job.process.poll() is None:
            job.measure()
            store.append(used_store())
            time.sleep(0.5)
        if job.process.poll() is not None:
            sys.exit(f"The job has ended too early: {job.wait()}")

    def kill(find: Callable[[], list[psutil.Process]]) -> None:
        find()[0].send_signal(signal.SIGKILL)

    until(0.1)
    kill(children_that_read)
    until(0.2)
    kill(lambda: processes("ray::_Predictor"))
    until(0.35)
    [other] = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
    cluster.remove_node(other, allow_graceful=False)
    until(0.5)
    cluster.add_node(**NODE)
    until(0.65)
    memory = job.memory
    job.process.kill()
    job.wait()
    done = rows_in(output)
    job = Job(folder, "--output", "chaos", *words, "--workers", "1:1")
    while job.process.poll() is None and rows_in(output) < 0.9 * count:
        job.measure()
        store.append(used_store())
        time.sleep(0.5)
    said = job.wait()
    return {
        "rows": rows_in(output),
        "rows when the driver was killed": done,
        "wrong": check(output, count) + ([] if job.process.returncode == 1 else [said]),
        "driver MiB, first and last": [memory[len(memory) // 4], memory[-1]],
        "object store MiB, most": max(store),
    }


def million(folder: Path, count: int, words: list[str]) -> dict:
    """How soon a job with a long list has its first rows, and with how much memory."""
    (folder / "million.txt").write_text("\n".join(f"videos/{n:09}.mp4" for n in range(count)))
    job = Job(folder, "--output", "million", *words, listed="million.txt")
    while not rows_in(folder / "million") and job.process.poll() is None:
        time.sleep(0.1)
    seconds = time.monotonic() - job.begin
    status = Path(f"/proc/{job.process.pid}/status").read_text()
    most = int(status.partition("VmHWM:")[2].split()[0]) >> 10
    job.process.kill()
    job.wait()
    return {"paths": count, "seconds to the first rows": round(seconds, 1), "driver MiB": most}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--videos", type=int, default=5000)
    parser.add_argument("--paths", type=int, default=1_000_000, help="of the long list; 0: none")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    if ray is None:
        sys.exit("This check needs Ray; pip install 'actionrec[ray]'.")
    faulty = str(PROJECT / "scripts" / "faulty_decoder")
    os.environ["PYTHONPATH"] = os.pathsep.join([faulty, str(PROJECT)])
    # Ray's workers let everything else go first, and a comparison beside others would tell nothing.
    os.environ["RAY_worker_niceness"] = "0"
    found: dict = {"videos": options.videos, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_videos(folder, options.videos)
        make_model(folder / "model.safetensors")
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        cluster.add_node(**NODE)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        words = ["--cluster", "ray", "--address", cluster.address]
        found["speed"] = compare(folder, words, options.videos)
        print(json.dumps(found), flush=True)
        whole = Job(folder, "--output", "whole", *words)
        whole.wait()
        found["in peace"] = {
            "rows": rows_in(folder / "whole"),
            "wrong": check(folder / "whole", options.videos),
        }
        print(json.dumps(found), flush=True)
        found["all killed once"] = chaos(folder, cluster, words, options.videos)
        print(json.dumps(found), flush=True)
        if options.paths:
            found["long list"] = million(folder, options.paths, words)
        ray.shutdown()
        cluster.shutdown()
    text = json.dumps(found, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    return 1 if found["in peace"]["wrong"] or found["all killed once"]["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
