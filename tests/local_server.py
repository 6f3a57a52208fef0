"""A web server on this machine for tests of downloads, which can fail in many ways."""

import select
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files` (path -> bytes), and `default` at every other path."""

    daemon_threads = True

    def __init__(self, default=None, context=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self.url = f"https://localhost:{self.server_port}"
        self.default = default
        self.files = {}
        self.asked = []  # (path, first byte)
        self.sent = 0  # bytes
        self.tag = '"first"'
        self.break_after = None  # bytes of an answer after which the connection breaks
        self.end = None  # the first byte that is never sent
        self.pause = 0  # seconds after each 16 kB
        self.ranges = True
        self.conditions = True  # knows If-Range
        self.length = True  # sends Content-Length
        self.statuses = []  # of the next answers
        self.moved = {}  # path -> address
        self.announced = None  # the size that the server says files have
        self.hangs = False  # before the first byte
        self.released = threading.Event()  # ends the hanging
        self.password = None  # the Authorization header that is necessary

    def handle_error(self, request, client_address):
        pass  # clients that refuse the certificate or go away


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        part = self.headers.get("Range")
        first, _, last = (part or "bytes=0-").removeprefix("bytes=").partition("-")
        start = int(first)
        server.asked.append((self.path, start))
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        if self.path in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[self.path])
            return self.end_headers()
        if server.password and self.headers.get("Authorization") != server.password:
            return self.send_error(401)
        data = server.files.get(self.path, server.default)
        if data is None:
            return self.send_error(404)
        other_version = self.headers.get("If-Range", server.tag) != server.tag
        if not server.ranges or (server.conditions and other_version):
            start, last = 0, ""
        size = server.announced or len(data)
        if start >= size > 0:
            return self.send_error(416)
        until = min(int(last) + 1, size) if last else size
        is_part = start or last
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{until - 1}/{size}")
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "x/y")
        if server.length:
            self.send_header("Content-Length", str(until - start))
        self.end_headers()
        end = until if server.end is None else min(until, server.end)
        if server.break_after is not None and not self.path.endswith("/"):
            end = min(end, start + server.break_after)
        if server.hangs:
            server.released.wait(60)
        for position in range(start, min(end, len(data)), 1 << 14):
            chunk = data[position : min(end, position + (1 << 14))]
            server.sent += len(chunk)
            self.wfile.write(chunk)
            time.sleep(server.pause)

    def do_CONNECT(self):
        """As a proxy, pass on the bytes from either side."""
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            self.send_response(200)
            self.end_headers()
            sides = {self.connection: other, other: self.connection}
            while True:
                for side in select.select(list(sides), [], [])[0]:
                    if not (data := side.recv(1 << 16)):
                        return
                    sides[side].sendall(data)

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(default=None, context=None):
    """A running server."""
    with Server(default, context) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
