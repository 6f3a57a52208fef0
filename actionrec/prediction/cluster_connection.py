"""Reach a Ray cluster, or start Ray on this machine, and divide its machines between workers.

with connected(Cluster("10.0.0.1:6379")):
    print(share_of(Cluster("10.0.0.1:6379")))
"""

import logging
import os
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from actionrec.errors import ActionrecError, UsageError
from actionrec.processes import cores

try:
    # Ray looks for a cluster twenty times as long otherwise: ten minutes.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
except ImportError as error:
    raise ActionrecError(
        "A cluster needs Ray, which is not installed; `pip install 'actionrec[ray]'`."
    ) from error

ANSWER_TIMEOUT = 5.0  # seconds, in which a cluster has to say that it is one
MOST_CORES = 8  # of a worker without a GPU
OBJECT_STORE = 256 * 2**20  # bytes, of a local Ray
TOKEN = "token"
# A method of the service that answers at an address of either form. It is called with an empty
# message: any answer but that there is no such method is Ray's.
METHODS = {
    "ray://": "/ray.rpc.RayletDriver/ClusterInfo",
    "": "/ray.rpc.NodeInfoGcsService/GetClusterId",
}


@dataclass(frozen=True)
class Cluster:
    """Where to predict.

    Attributes:
        address: Of the cluster: auto, host:port or ray://host:port. None: $RAY_ADDRESS, or else a
            Ray of its own on this machine.
        workers: Fewest and most workers; None for as many as the machines hold.
        gpus: GPUs of each worker, such as 0.5; None for one if a machine has a GPU.
    """

    address: str | None = None
    workers: tuple[int, int] | None = None
    gpus: float | None = None


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """Be connected to the cluster while the block runs; one that was connected before stays.

    Raises:
        ActionrecError: there is no such cluster, or its versions are others.
    """
    if ray.is_initialized():
        yield
        return
    connect(cluster)
    # There is one view of the progress: what Ray says of lost machines stands in its own logs.
    with patch("ray._private.worker.print_to_stdstream", create=True):
        try:
            yield
        finally:
            ray.shutdown()


def connect(cluster: Cluster) -> None:
    """Connect to a cluster, or start Ray on this machine.

    Raises:
        ActionrecError: there is no such cluster, or its versions are others.
    """
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
        options["num_cpus"] = cores()
        # Else whatever runs beside them goes first (a niceness of 15), which is no worker of Ray.
        os.environ.setdefault("RAY_worker_niceness", "0")
    else:
        _require_cluster(address)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # What Ray warns of before it fails, the error says too.
            warnings.simplefilter("ignore")
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:
        text = " ".join(str(error).split())
        if "nauthenticated" in text:
            raise _refused_token(address) from error
        if found := re.search(r"[Vv]ersion mismatch.*", text):
            raise ActionrecError(
                f"The cluster at {address} runs other versions of Ray or Python than this machine "
                f"({found[0][:300].rstrip('.')}); install the same on all."
            ) from error
        if address == "local":
            raise ActionrecError(f"Ray can't be started on this machine ({text[:300]}).") from error
        raise _no_cluster(address, text[:200].rstrip(".")) from error


def _require_cluster(address: str) -> None:
    """Raise ActionrecError if no Ray cluster answers at an address: Ray would wait for a minute."""
    found = _found_address() if address == "auto" else address
    scheme, separator, place = found.rpartition("://")
    host, colon, port = place.partition("/")[0].rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if scheme + separator not in METHODS or not (colon and host and is_port):
        raise UsageError(
            f"--address {address} is no address of a Ray cluster; write auto, host:6379 or "
            "ray://host:10001."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_TIMEOUT).close()
        problem = _problem_at(f"{host}:{port}", METHODS[scheme + separator])
    except OSError as error:
        problem = error.strerror or str(error)
    # With auto, Ray finds the token of this machine by itself.
    if problem == TOKEN and address != "auto":
        raise _refused_token(address)
    if problem not in (None, TOKEN):
        raise _no_cluster(address, problem)


def _found_address() -> str:
    """The address that auto stands for, maybe of a cluster that has ended since.

    Raises:
        ActionrecError: there is none.
    """
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address("auto")
    except ConnectionError as error:
        raise _no_cluster("auto", "none runs on this machine") from error


def _problem_at(target: str, method: str) -> str | None:
    """Why what answers at HOST:PORT is not the service of Ray that has a method; None if it may
    be."""
    try:
        # What Ray connects with, and so with the same certificates and token.
        import grpc
        from ray._private.grpc_utils import init_grpc_channel
    except ImportError:
        return None
    codes = grpc.StatusCode
    with init_grpc_channel(target) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=ANSWER_TIMEOUT)
        except grpc.RpcError as error:
            if error.code() == codes.UNIMPLEMENTED:
                return "another service answers there; has `ray://` to be added or left out?"
            if error.code() == codes.UNAUTHENTICATED:
                return TOKEN
            if error.code() == codes.UNAVAILABLE or not _is_open(channel):
                return "the port is open, and what answers there is no Ray"
    return None


def _is_open(channel: Any) -> bool:
    """Whether the other side of a gRPC channel speaks gRPC, if late."""
    import grpc

    with suppress(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(timeout=0.1)
        return True
    return False


def _refused_token(address: str) -> ActionrecError:
    return ActionrecError(
        f"The Ray cluster at {address} wants its token; set RAY_AUTH_MODE=token, and "
        "RAY_AUTH_TOKEN to what ~/.ray/auth_token holds on its head."
    )


def _no_cluster(address: str, reason: str) -> ActionrecError:
    return ActionrecError(
        f"There is no Ray cluster at {address} ({reason}); start one with `ray start --head`, or "
        "leave out --address to use this machine."
    )


@dataclass(frozen=True)
class Share:
    """What each worker gets of its machine, and how many workers there are, at least and at
    most."""

    cores: int
    gpus: float
    workers: tuple[int, int]


def share_of(cluster: Cluster) -> Share:
    """Divide the machines of the connected cluster.

    Raises:
        ActionrecError: no machine has the GPUs or a core.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpu = [machine for machine in machines if machine.get("GPU", 0) > 0]
    gpus = cluster.gpus
    if gpus is None:
        gpus = 1.0 if with_gpu else 0.0
    fitting = [m for m in machines if m.get("GPU", 0) >= gpus and m.get("CPU", 0) >= 1]
    if not fitting and not _may_grow():
        if gpus:
            most = max((machine.get("GPU", 0) for machine in machines), default=0)
            raise ActionrecError(
                f"--gpus-per-worker {gpus:g} is more than any machine of the cluster has: the most "
                f"is {most:g}."
            )
        raise ActionrecError("No machine of the cluster has a core to offer.")
    if gpus:
        shares = [int(m["CPU"] * gpus / m["GPU"]) for m in fitting]
        count = sum(int(m["GPU"] / gpus) for m in fitting)
        each = max(1, min(shares, default=MOST_CORES))
    else:
        each = max(1, min(MOST_CORES, min((int(m["CPU"]) for m in fitting), default=MOST_CORES)))
        count = sum(int(m["CPU"] / each) for m in fitting)
    return Share(each, gpus, cluster.workers or (1, max(1, count)))


def _may_grow() -> bool:
    """Whether the cluster starts machines by itself."""
    # Ray has no public word for it.
    with suppress(ImportError, AttributeError):
        from ray._private.state import state

        return state.get_max_resources_from_cluster_config() is not None
    return True
