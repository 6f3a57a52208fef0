"""Read many videos over HTTP and S3 from servers that fail in every way, and count what happened.

    python scripts/check_remote.py VIDEOS --model model.safetensors --count 200

The videos of a folder are served by this machine, each at an address with a fault. Every one must
be predicted, with the same result as from the disk, or have its reason. Then they are predicted
again: what lies in the cache is not fetched a second time. S3 needs moto (`pip install
'moto[server]'`).
"""

import argparse
import json
import logging
import os
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, islice
from pathlib import Path

from actionrec.cli.main import main
from actionrec.files import scan

# Each name is a folder of an address. What must come of it: the result, or an error.
HTTP_FAULTS = {
    "plain": "result",
    "busy": "result",  # two answers of 503
    "broken": "result",  # the first answer with a part breaks off
    "moved": "result",  # a redirect
    "whole": "result",  # no parts
    "untold": "result",  # no parts and no length
    "untagged": "result",  # neither ETag nor date
    "always-broken": "error",
    "missing": "error",  # 404
    "expired": "error",  # 403 after the first part
    "changed": "error",  # another ETag with the first part
    "longer": "error",  # twice the length is announced
}
S3_FAULTS = {
    name: HTTP_FAULTS[name] for name in ("plain", "busy", "broken", "always-broken", "missing")
}
# Waits for half a minute three times.
SLOW_FAULTS = {"hanging": "error"}


class Server(ThreadingHTTPServer):
    """Serves `files` (name -> bytes), or what the server at `behind` (host:port) serves."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], behind: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.behind = files, behind
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: Counter[str] = Counter()
        self.sent: defaultdict[str, int] = defaultdict(int)  # bytes, by path
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: socket.socket, client_address: object) -> None:
        pass  # clients that go away


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        *_, fault, name = path.split("/")
        server = self.server
        has_part = "Range" in self.headers and self.headers["Range"] != "bytes=0-0"
        server.asked[path] += has_part
        asked = server.asked[path]
        if fault == "busy" and has_part and asked <= 2:
            return self.send_error(503)
        if fault == "missing":
            return self.send_error(404)
        if fault == "expired" and has_part:
            return self.send_error(403)
        if fault == "moved":
            self.send_response(302)
            self.send_header("Location", f"{server.url}/plain/{name}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if fault == "hanging" and has_part:
            return time.sleep(60)
        status, headers, body = self._answer(fault, name)
        breaks = has_part and (fault == "always-broken" or fault == "broken" and asked == 1)
        if fault == "changed" and has_part:
            headers["ETag"] = f'"{asked + 1}"'
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        part = body[: len(body) // 2] if breaks else body
        server.sent[path] += len(part)
        self.wfile.write(part)
        if breaks or fault == "longer" or "Content-Length" not in headers:
            self.close_connection = True

    def _answer(self, fault: str, name: str) -> tuple[int, dict[str, str], bytes]:
        if self.server.behind:
            connection = HTTPConnection(self.server.behind)
            # Each file lies in the bucket once.
            connection.request(self.command, f"/videos/{name}", headers=dict(self.headers))
            answer = connection.getresponse()
            body = answer.read()
            kept = {"content-length", "content-range", "etag", "last-modified", "content-type"}
            return (
                answer.status,
                {key: value for key, value in answer.getheaders() if key.lower() in kept},
                body,
            )
        data = self.server.files[name]
        size = 2 * len(data) if fault == "longer" else len(data)
        headers = {"ETag": '"1"'} if fault != "untagged" else {}
        if headers.get("ETag", "") == self.headers.get("If-None-Match"):
            return 304, headers, b""
        asked = self.headers.get("Range", "")
        if not asked or fault in ("whole", "untold"):
            if fault != "untold":
                headers["Content-Length"] = str(size)
            return 200, headers, data
        begin, end = (int(number) for number in asked.removeprefix("bytes=").split("-"))
        end = min(end, size - 1)
        headers |= {
            "Content-Range": f"bytes {begin}-{end}/{size}",
            "Content-Length": str(end + 1 - begin),
        }
        return 206, headers, data[begin : end + 1]

    def log_message(self, *_: object) -> None:
        pass


def predict(videos: list[str], model: str, output: Path) -> dict[str, dict]:
    """Rows of the command line, by video."""
    listed = output.with_suffix(".txt")
    listed.write_text("\n".join(videos))
    arguments = ["--files-from", str(listed), "--model", model, "--output", str(output)]
    main(["predict", *arguments])
    return {row["video"]: row for row in map(json.loads, output.read_text().splitlines())}


def check(
    name: str,
    server: Server,
    prefix: str,
    faults: dict,
    local: list[Path],
    args: argparse.Namespace,
) -> bool:
    """Predict the videos at addresses twice, print the figures, and tell whether all is right."""
    addresses = {}
    for number, (path, fault) in enumerate(
        islice(zip(cycle(local), cycle(faults), strict=False), args.count)
    ):
        addresses[f"{prefix}/{number}/{fault}/{path.name}"] = (fault, path)
    here = predict([str(path) for path in local], args.model, args.folder / f"{name}-disk.jsonl")
    came: Counter[tuple[str, str]] = Counter()
    wrong = []
    size = sum(path.stat().st_size for fault, path in addresses.values() if fault != "missing")
    for turn in ("first", "second"):
        server.sent.clear()
        begin = time.monotonic()
        rows = predict(list(addresses), args.model, args.folder / f"{name}-{turn}.jsonl")
        for address, (fault, path) in addresses.items():
            row = rows.get(address, {})
            outcome = "error" if "error" in row else "result" if row else "nothing"
            came[fault, outcome] += turn == "first"
            same = outcome == "error" or row.get("clips") == here[str(path)].get("clips")
            if not same or outcome == "nothing" or faults[fault] != outcome:
                wrong.append((turn, fault, row))
        fetched = sum(server.sent.values())
        by_fault: Counter[str] = Counter()
        for path, count in server.sent.items():
            by_fault[path.split("/")[-2]] += count
        print(
            f"{name}, {turn} pass: {len(rows)} of {len(addresses)} videos have a row, "
            f"{sum('error' in row for row in rows.values())} of them a reason; {fetched:,} bytes "
            f"fetched of files of {size:,} ({fetched / size:.2%}); {time.monotonic() - begin:.0f} s"
        )
        print("  by fault:", ", ".join(f"{k} {v:,}" for k, v in sorted(by_fault.items())))
    for (fault, outcome), count in sorted(came.items()):
        print(f"  {fault:14} {outcome:8} {count}")
    for each in wrong[:10]:
        print("  WRONG:", each, flush=True)
    return not wrong


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, help="Folder with videos.")
    parser.add_argument("--model", required=True, help="Model file or name.")
    parser.add_argument("--count", type=int, default=200, help="Addresses for each kind of server.")
    parser.add_argument("--slow", action="store_true", help="With servers that hang, too.")
    return parser.parse_args()


def run() -> int:
    args = parse()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    by_name = {path.name: path for path in scan(args.videos).videos}
    local = list(by_name.values())[: args.count]
    files = {path.name: path.read_bytes() for path in local}
    slow = SLOW_FAULTS if args.slow else {}
    with tempfile.TemporaryDirectory() as folder, bucket(files) as in_bucket:
        args.folder = Path(folder)
        # Before the first process that reads is started.
        os.environ["ACTIONREC_CACHE"] = folder
        server = Server(files)
        right = check("HTTP", server, server.url, HTTP_FAULTS | slow, local, args)
        if in_bucket is None:
            print("S3 is left out: moto and s3fs are not installed")
        else:
            right &= check("S3", in_bucket, "s3://videos", S3_FAULTS, local, args)
    return 0 if right else 1


@contextmanager
def bucket(files: dict[str, bytes]) -> Iterator[Server | None]:
    """A server in front of moto's, whose bucket `videos` has any key that ends in a file's name."""
    try:
        import boto3
        import s3fs  # noqa: F401
        from moto.server import ThreadedMotoServer
    except ImportError:
        yield None
        return
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    behind = "{}:{}".format(*moto.get_host_and_port())
    server = Server({}, behind)
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": server.url}
    client = boto3.client("s3", endpoint_url=f"http://{behind}")
    client.create_bucket(Bucket="videos")
    for name, data in files.items():
        client.put_object(Bucket="videos", Key=name, Body=data)
    yield server
    moto.stop()


if __name__ == "__main__":
    sys.exit(run())
