from __future__ import annotations

import os
import signal

import pytest

from scanside.console.stop import Stop
from scanside.errors import Cancelled

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_sets_the_event_and_raises_with_its_exit_code(number: signal.Signals, code: int) -> None:
    stop = Stop()
    with pytest.raises(Cancelled, match="nothing half-written is left") as caught, stop:
        os.kill(os.getpid(), number)
    assert stop.event.is_set()
    assert caught.value.exit_code == code


def test_an_error_that_the_stop_caused_elsewhere_still_counts_as_the_stop() -> None:
    def fall_over() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise RuntimeError("a worker fell over while stopping")

    with pytest.raises(Cancelled) as caught, Stop():
        fall_over()
    assert caught.value.exit_code == 143


def test_no_code_inside_takes_a_signal_for_a_failure_of_its_own() -> None:
    taken: list[Exception] = []

    def as_around_the_creation_of_a_thread() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            taken.append(error)

    with pytest.raises(Cancelled), Stop():
        as_around_the_creation_of_a_thread()
    assert not taken


def test_without_a_signal_errors_pass_as_they_are() -> None:
    with pytest.raises(ValueError, match="mine"), Stop():
        raise ValueError("mine")


def test_the_earlier_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
