"""Requests to stop: Ctrl-C and SIGTERM, once gently and then at once."""

import os
import signal
import threading

import pytest

from actionrec.signals import STOP_SIGNALS, sigterm_as_interrupt, stop_requests


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_asks_and_the_second_interrupts(number, caplog):
    before = signal.getsignal(number)
    told = []
    with pytest.raises(KeyboardInterrupt):
        with stop_requests("Stopping.", told.append) as requested:
            assert requested() == 0
            with caplog.at_level("INFO", "actionrec"):
                os.kill(os.getpid(), number)
            assert requested() == number and told == [number] and "Stopping." in caplog.text
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_sigterm_interrupts_while_the_block_runs():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_nothing_is_asked_and_nothing_fails():
    asked = []

    def work():
        with stop_requests() as requested, sigterm_as_interrupt():
            asked.append(requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [0]
