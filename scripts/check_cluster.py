"""Show what a job on a Ray cluster survives, and what it costs beside a run on one machine.

    python scripts/check_cluster.py --videos 5000 --folder check > check.log 2>&1 &
    python scripts/check_cluster.py --videos 5000 --folder check --phase speed

Two nodes of Ray on this machine, of one core each, predict copies of one short video with a network
of drawn weights. The phases:

    speed      good videos by the local pool and by the cluster in turns, each alone on the machine
    peace      all videos, with 20 broken ones, 3 that crash the decoder and 2 that hang it
    disturbed  the same, while a process that reads, an actor, a node and the driver are killed, and
               a node is added
    long       a list of a million paths is begun

A phase that is done is kept in FOLDER/check.json and not done again; one that was interrupted
starts anew. The last line of each half minute tells the progress. At the end there is a table, and
the exit code is 1 if a row is missing, double or wrong.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
import psutil
from drawn_model import make_model
from pyarrow import parquet

from actionrec.text import plain_table

try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:  # help needs none
    ray = Cluster = None

PROJECT = Path(__file__).parents[1]
FAULTY = {"broken": 20, "crash": 3, "hang": 2}
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
TIMEOUT = 5  # seconds for a video
ROUNDS = 2  # of the speeds


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


class Job:
    """A run of `actionrec predict` in a folder of videos, and the most memory it has taken.

    Args:
        folder: With the videos.
        output: A folder of parts there, or a file of lines.
        count: Videos of the list, for the line of progress.
        words: Further flags.
        listed: The list.
    """

    def __init__(
        self, folder: Path, output: str, count: int, words: list[str], listed: str = "list.txt"
    ) -> None:
        command = [sys.executable, "-m", "actionrec", "predict", "--files-from", listed]
        command += ["--model", "model.safetensors", "--timeout", str(TIMEOUT), "--output", output]
        self.output, self.count, self.said = folder / output, count, folder / f"{output}.log"
        self.begin = self.told = time.monotonic()
        with self.said.open("a") as log:
            self.process = subprocess.Popen([*command, *words], cwd=folder, stderr=log)
        self.memory: list[int] = []
        self.store: list[int] = []

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def rows(self) -> int:
        return lines_in(self.output) if self.output.suffix else rows_in(self.output)

    def watch(self, until: Callable[[int], bool], every: float = 0.5) -> int:
        """Until it ends or the number of its rows is enough; returns the number."""
        while self.runs and not until(rows := self.rows()):
            # None once it has ended.
            with suppress(psutil.Error):
                if memory := psutil.Process(self.process.pid).memory_info().rss >> 20:
                    self.memory.append(memory)
            self.store.append(used_store())
            if time.monotonic() > self.told + 30:
                self.told = time.monotonic()
                print(
                    f"{self.output.name}: {rows} of {self.count} rows after "
                    f"{self.told - self.begin:.0f} s, driver {self.memory[-1]} MiB",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(every)
        return self.rows()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def flatness(self) -> dict:
        """Memory of the driver at a quarter of the time and at the end, and of the store."""
        quarter = self.memory[len(self.memory) // 4]
        return {"driver MiB": [quarter, self.memory[-1]], "store MiB, most": max(self.store)}


def rows_in(output: Path) -> int:
    return sum(parquet.read_metadata(part).num_rows for part in output.glob("part-*.parquet"))


def check(job: "Job", count: int) -> list[str]:
    """What is wrong with a job that has ended, and its last words if anything is."""
    code = job.process.wait()
    wrong = [] if code == 1 else [f"exit code {code}"]
    wrong += wrong_rows(job.output, count) if job.rows() else ["no rows"]
    return [*wrong, *job.said.read_text().splitlines()[-1:]] if wrong else []


def wrong_rows(output: Path, count: int) -> list[str]:
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


def speed(folder: Path, words: list[str], count: int) -> dict:
    """The speeds of the local pool and of the cluster, in turns, each where it is in full swing."""
    good = (folder / "good.txt").read_text().splitlines()[: count // (2 * ROUNDS)]
    (folder / "speed.txt").write_text("\n".join(good))
    speeds: dict[str, list[float]] = {"local pool": [], "cluster": []}
    first: dict[str, list[float]] = {"local pool": [], "cluster": []}
    for number in range(ROUNDS):
        for name, output, flags in (
            ("local pool", f"speed{number}.jsonl", ["--workers", "2"]),
            ("cluster", f"speed{number}", words),
        ):
            job = Job(folder, output, len(good), flags, "speed.txt")
            samples: list[tuple[float, int]] = []

            def note(rows: int, samples: list[tuple[float, int]] = samples) -> bool:
                if rows and (not samples or rows > samples[-1][1]):
                    samples.append((time.monotonic(), rows))
                return False

            note(job.watch(note, every=0.1))
            first[name].append(round(samples[0][0] - job.begin, 1))
            within = [s for s in samples if 0.1 * len(good) <= s[1] <= 0.9 * len(good)]
            if len(within) > 1:
                (begin, before), (end, after) = within[0], within[-1]
                speeds[name].append((after - before) / (end - begin))
    means = {name: sum(each) / len(each) if each else 0.0 for name, each in speeds.items()}
    return {
        "videos/s": {name: [round(s, 2) for s in each] for name, each in speeds.items()},
        "ratio": round(means["cluster"] / means["local pool"], 3) if all(means.values()) else None,
        "seconds to the first row": first,
    }


def peace(folder: Path, words: list[str], count: int) -> dict:
    """A job that nothing disturbs but its videos."""
    job = Job(folder, "peace", count, words)
    job.watch(lambda rows: False)
    wrong = check(job, count)
    seconds = round(time.monotonic() - job.begin)
    return {"rows": job.rows(), "wrong": wrong, "seconds": seconds, **job.flatness()}


def processes(part: str) -> list[psutil.Process]:
    """The processes of this machine whose command holds a word."""
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if part in " ".join(each.info["cmdline"] or [])]


def children_that_read() -> list[psutil.Process]:
    actors = processes("ray::VideoWorker")
    return [c for actor in actors for server in actor.children() for c in server.children()]


def used_store() -> int:
    """MiB of the cluster's object stores that are in use."""
    name = "object_store_memory"
    free = ray.available_resources().get(name, 0)
    return int(ray.cluster_resources().get(name, 0) - free) >> 20


def kill_one(find: Callable[[], list[psutil.Process]]) -> None:
    """Kill -9 the first of some processes, as soon as there is one."""
    while not (found := find()):
        time.sleep(0.2)
    found[0].send_signal(signal.SIGKILL)


def disturbed(folder: Path, words: list[str], count: int, cluster: Cluster) -> dict:
    """A job in which everything dies once."""
    job = Job(folder, "disturbed", count, words)

    def until(share: float) -> None:
        job.watch(lambda rows: rows >= share * count)
        if not job.runs:
            sys.exit(f"The job has ended too early: {job.said.read_text()}")

    until(0.1)
    kill_one(children_that_read)
    until(0.2)
    kill_one(lambda: processes("ray::VideoWorker"))
    until(0.35)
    [other] = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
    cluster.remove_node(other, allow_graceful=False)
    until(0.5)
    cluster.add_node(**NODE)
    until(0.65)
    job.kill()
    done, flatness = job.rows(), job.flatness()
    # Also with another number of workers.
    job = Job(folder, "disturbed", count, [*words, "--workers", "1:1"])
    job.watch(lambda rows: False)
    wrong = check(job, count)
    told = {"rows": job.rows(), "wrong": wrong, "rows when the driver was killed": done}
    return told | flatness


def long(folder: Path, words: list[str], count: int) -> dict:
    """How soon a job with a long list has its first rows, and with how much memory."""
    (folder / "long.txt").write_text("\n".join(f"videos/{n:09}.mp4" for n in range(count)))
    job = Job(folder, "long", count, words, "long.txt")
    job.watch(lambda rows: rows > 0, every=0.1)
    seconds = time.monotonic() - job.begin
    status = Path(f"/proc/{job.process.pid}/status").read_text()
    most = int(status.partition("VmHWM:")[2].split()[0]) >> 10
    job.kill()
    return {"paths": count, "seconds to the first rows": round(seconds, 1), "driver MiB": most}


def table(found: dict) -> str:
    """What was found, a line each."""
    rows = [
        (phase, name, value if value != [] else "nothing")
        for phase, result in found.items()
        for name, value in (result.items() if isinstance(result, dict) else [("", result)])
    ]
    return plain_table(rows, ("phase", "what", "found"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--videos", type=int, default=5000)
    parser.add_argument("--paths", type=int, default=1_000_000, help="of the long list")
    parser.add_argument("--phase", choices=PHASES, action="append", help="by default all")
    parser.add_argument("--folder", type=Path, help="for the videos, results and check.json")
    options = parser.parse_args()
    if ray is None:
        sys.exit("This check needs Ray; pip install 'actionrec[ray]'.")
    with tempfile.TemporaryDirectory() as name:
        return run(options, (options.folder or Path(name)).resolve())


def run(options: argparse.Namespace, folder: Path) -> int:
    kept = folder / "check.json"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict = json.loads(kept.read_text()) if kept.exists() else {"videos": options.videos}
    if found["videos"] != options.videos:
        sys.exit(f"{folder} is of a check of {found['videos']} videos; choose another --folder.")
    if not (folder / "model.safetensors").exists():
        make_videos(folder, options.videos)
        make_model(folder / "model.safetensors")
    faulty = str(PROJECT / "scripts" / "faulty_decoder")
    os.environ["PYTHONPATH"] = os.pathsep.join([faulty, str(PROJECT)])
    # Ray's workers let everything else go first, and a comparison with others would tell nothing.
    os.environ["RAY_worker_niceness"] = "0"
    # What else takes the machine's memory is not this check's subject.
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"
    for phase in options.phase or PHASES:
        if phase in found:
            continue
        for left in folder.glob(f"{phase}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        cluster.add_node(**NODE)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        words = ["--cluster", "ray", "--address", cluster.address]
        more = {"disturbed": {"cluster": cluster}}.get(phase, {})
        count = options.paths if phase == "long" else options.videos
        print(f"{phase} begins", file=sys.stderr, flush=True)
        # What Ray says of the machine that is removed is long.
        with patch("ray._private.worker.print_to_stdstream", create=True):
            found[phase] = PHASES[phase](folder, words, count, **more)
        ray.shutdown()
        cluster.shutdown()
        kept.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    return 1 if any(found.get(phase, {}).get("wrong") for phase in PHASES) else 0


PHASES: dict[str, Callable[..., dict]] = {
    "speed": speed,
    "peace": peace,
    "disturbed": disturbed,
    "long": long,
}

if __name__ == "__main__":
    sys.exit(main())
