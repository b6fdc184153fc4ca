"""Sessions by section size: how many stay, and which."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from scanside.engine.networks import Segmenter
from scanside.engine.runtime import DONE, Pending
from scanside.engine.sessions import MOST_SIZES, Sessions
from scanside.errors import EngineError
from scanside.pack import load_pack

if TYPE_CHECKING:
    from scanside.engine.runtime import Runtime


class Session:
    """A runtime that says when it is closed, and whether it was used afterwards."""

    def __init__(self, height: int, width: int) -> None:
        self.size = (height, width)
        self.closed = 0
        self.running = 0
        self.misused = False

    def start(self, gate: threading.Event | None = None) -> Pending:
        self.misused |= self.closed > 0
        self.running += 1
        return Run(self, gate)

    def close(self) -> None:
        self.misused |= self.running > 0
        self.closed += 1


class Run:
    def __init__(self, session: Session, gate: threading.Event | None) -> None:
        self._session, self._gate = session, gate

    def wait(self) -> None:
        if self._gate is not None:
            self._gate.wait()
        self._session.running -= 1


@pytest.fixture
def made() -> list[Session]:
    return []


@pytest.fixture
def sessions(made: list[Session]) -> Sessions:
    def make(height: int, width: int) -> Any:
        made.append(Session(height, width))
        return made[-1]

    return Sessions(make, most=3)


def start(session: Any) -> Pending:
    return session.start()


def sizes(sessions: Sessions) -> list[tuple[int, int]]:
    return [session.size for session in sessions.all]  # type: ignore[attr-defined]


def test_the_least_recently_used_is_closed(sessions: Sessions, made: list[Session]) -> None:
    for width in (1, 2, 3, 1, 4):
        sessions.run(8, width, start).wait()
    assert sizes(sessions) == [(8, 1), (8, 3), (8, 4)]
    assert [session.closed for session in made] == [0, 1, 0, 0]
    sessions.close()
    sessions.close()
    assert [session.closed for session in made] == [1, 1, 1, 1]
    assert sizes(sessions) == []


def test_what_is_in_use_stays_and_goes_when_it_is_not(sessions: Sessions, made: list[Session]) -> None:
    pending = [sessions.run(8, width, start) for width in (1, 2, 3, 4)]
    assert [session.closed for session in made] == [0, 0, 0, 0]
    pending[2].wait()  # one too many: the first that nobody uses goes
    pending[2].wait()
    assert sizes(sessions) == [(8, 1), (8, 2), (8, 4)]
    sessions.run(8, 5, start).wait()
    assert sizes(sessions) == [(8, 1), (8, 2), (8, 4)]
    for one in (*pending[:2], pending[3]):
        one.wait()
    assert sum(session.closed for session in made) == 2
    assert not any(session.misused for session in made)


def test_room_is_made_before_the_next_is(made: list[Session]) -> None:
    def make(height: int, width: int) -> Any:
        assert sum(not session.closed for session in made) < 2
        made.append(Session(height, width))
        return made[-1]

    sessions = Sessions(make, most=2)
    for width in range(5):
        sessions.get(8, width)
    assert sizes(sessions) == [(8, 3), (8, 4)]


def test_a_start_that_fails_holds_nothing(sessions: Sessions, made: list[Session]) -> None:
    def failing(session: Runtime) -> Pending:
        raise EngineError("the graph failed")

    with pytest.raises(EngineError, match="the graph failed"):
        sessions.run(8, 1, failing)
    for width in (2, 3, 4):
        sessions.get(8, width)
    assert made[0].closed == 1


def test_threads_never_meet_a_closed_session(made: list[Session]) -> None:
    lock = threading.Lock()

    def make(height: int, width: int) -> Any:
        with lock:
            made.append(Session(height, width))
            return made[-1]

    def started(session: Any) -> Pending:
        with lock:
            return session.start()

    sessions = Sessions(make, most=2)

    def work(seed: int) -> None:
        for width in np.random.default_rng(seed).integers(0, 6, 200):
            pending = sessions.run(8, int(width), started)
            with lock:
                pending.pending.wait()  # type: ignore[attr-defined]  # the fake's count is no thread's own
            pending.pending = DONE  # type: ignore[attr-defined]
            pending.wait()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(session.misused for session in made)
    assert len(sessions.all) <= 2
    assert len(made) - sum(session.closed for session in made) == len(sessions.all)


def test_a_segmenter_keeps_the_sizes_of_an_exam_and_no_more(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    how = {"device": "cpu", "precision": "fp32", "threads": 1}
    segmenter = Segmenter(pack.graph_bytes("segmenter"), pack.manifest.segmenter, **how)
    multiple = pack.manifest.segmenter.size_multiple
    for n in range(1, MOST_SIZES + 3):
        pixels = np.zeros((1, 1, multiple, multiple * n), np.uint8)
        segmenter.run(pixels, np.empty_like(pixels))
    widths = [runtime.inputs[0].shape[3] for runtime in segmenter.runtimes]
    assert widths == [multiple * n for n in range(3, MOST_SIZES + 3)]
    segmenter.close()
    assert segmenter.runtimes == ()
