"""Ctrl-C and SIGTERM as a request to stop at the next good moment; a second one stops at once.

with stop_requests() as requested:
    for step in steps:
        if requested():
            break
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger("actionrec")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_FOR_A_STEP = 10


@contextmanager
def stop_requests(
    message: str = "Stopping; Ctrl-C again stops at once.",
    on_request: Callable[[int], None] | None = None,
) -> Iterator[Callable[[], int]]:
    """A function that returns the signal that asked to stop, or 0 if none did.

    Python handles signals in the main thread alone: in any other the function always returns 0.

    Args:
        message: Logged when the first signal comes.
        on_request: Called then with the signal's number.
    """
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler)
        logger.info(message)
        if on_request is not None:
            on_request(number)

    with _handlers(dict.fromkeys(STOP_SIGNALS, ask)):
        yield lambda: asked[0] if asked else 0


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which clusters send before they kill, raise KeyboardInterrupt as Ctrl-C does."""
    with _handlers({signal.SIGTERM: signal.default_int_handler}):
        yield


@contextmanager
def _handlers(handlers: dict[int, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def outlast_stop_signals(_worker: int) -> None:
    """Let a DataLoader's worker outlast a stop signal; a `worker_init_fn`.

    Ctrl-C and a cluster's SIGTERM reach all processes, and the one that trains finishes its step,
    for which it needs its workers. SIGTERM, by which it ends them too, takes effect later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_FOR_A_STEP))
