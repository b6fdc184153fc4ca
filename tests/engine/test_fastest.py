"""The fastest precision, by a clock that the test turns."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scanside.engine.capabilities import capabilities
from scanside.engine.choice import fastest_choice
from scanside.engine.fastest import ROUNDS, Run, fastest, memory_file
from scanside.engine.onnxruntime import CPU, Choice
from scanside.engine.parity import Allowed
from scanside.errors import EngineError
from scanside.pack import load_pack


class Bench:
    """Networks of known cost a batch; counts what was loaded and run."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.loaded: list[str] = []
        self.closed: list[str] = []
        self.ran: list[str] = []

    def clock(self) -> float:
        return self.now

    @contextmanager
    def load(self, precision: str) -> Iterator[Run]:
        self.loaded.append(precision)

        def run() -> None:
            first = precision not in self.ran
            self.ran.append(precision)
            self.now += self.seconds[precision] * (100 if first else 1)

        yield run
        self.closed.append(precision)

    def choose(self, **subject: object) -> str:
        precision, remarks = fastest(tuple(self.seconds), self.load, subject, clock=self.clock)
        assert remarks == ()
        return precision


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SCANSIDE_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_the_median_batch_decides_and_the_first_does_not_count() -> None:
    bench = Bench(fp32=3.0, bf16=1.0, int8=2.0)
    assert bench.choose(pack="a") == "bf16"
    assert bench.ran[3:] == ["fp32", "bf16", "int8"] * ROUNDS  # in turn
    assert sorted(bench.closed) == sorted(bench.loaded)


def test_a_draw_goes_to_the_first() -> None:
    assert Bench(fp32=1.0, bf16=1.0).choose() == "fp32"


def test_what_is_remembered_loads_nothing() -> None:
    Bench(fp32=3.0, bf16=1.0).choose(pack="a", threads=2)
    again = Bench(fp32=1.0, bf16=3.0)
    assert again.choose(pack="a", threads=2) == "bf16"
    assert again.loaded == []
    assert again.choose(pack="a", threads=1) == "fp32"  # another subject is measured


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": "scanside-precision/1"}'])
def test_a_damaged_memory_is_measured_again(damage: bytes) -> None:
    Bench(fp32=3.0, bf16=1.0).choose(pack="a")
    file = memory_file({"pack": "a"})
    file.write_bytes(damage)
    assert Bench(fp32=1.0, bf16=2.0).choose(pack="a") == "fp32"
    assert json.loads(file.read_text())["precision"] == "fp32"


def test_a_memory_of_another_subject_or_candidate_does_not_count() -> None:
    Bench(fp32=3.0, bf16=1.0).choose(pack="a")
    memory_file({"pack": "a"}).replace(memory_file({"pack": "b"}))
    assert Bench(fp32=1.0, bf16=3.0).choose(pack="b") == "fp32"
    Bench(fp32=3.0, bf16=1.0).choose(pack="c")
    assert Bench(fp32=3.0, int8=1.0).choose(pack="c") == "int8"


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCANSIDE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        bench = Bench(fp32=3.0, bf16=1.0)
        assert bench.choose(pack="a") == "bf16"
        assert bench.loaded


def test_what_does_not_run_is_said_and_not_remembered(cache: Path) -> None:
    bench = Bench(fp32=3.0, int8=1.0, bf16=2.0)

    @contextmanager
    def load(precision: str) -> Iterator[Run]:
        if precision == "int8":
            raise EngineError("no plan of this network", where="/home/doe")
        with bench.load(precision) as run:
            yield run

    for _ in range(2):
        found = fastest(("fp32", "int8", "bf16"), load, {}, clock=bench.clock)
        assert found == ("bf16", ("int8 is certified and does not run: no plan of this network",))
    assert not (cache / "precisions").exists()
    with pytest.raises(EngineError):
        fastest(("int8", "bf16"), load, {}, clock=bench.clock)


def test_two_at_once_leave_one_whole_file(cache: Path) -> None:
    threads = [threading.Thread(target=lambda: Bench(fp32=3.0, bf16=1.0).choose(pack="a")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [file.suffix for file in (cache / "precisions").iterdir()] == [".json"]
    assert Bench(fp32=1.0, bf16=3.0).choose(pack="a") == "bf16"


def test_a_packs_networks_are_measured_and_remembered(
    tiny_pack: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two names for one runtime: real networks are loaded and run, whichever wins is remembered."""
    monkeypatch.setattr("scanside.engine.onnxruntime.choose", lambda *given: Choice(CPU, given[2], ""))
    pack = load_pack(tiny_pack)
    choices = tuple(Choice(CPU, precision, "") for precision in ("fp32", "bf16"))
    for network in ("segmenter", "classifier"):
        each = Allowed(network, choices)
        first = fastest_choice(pack, capabilities(), each, device="cpu", threads=1)
        assert fastest_choice(pack, capabilities(), each, device="cpu", threads=1) == first
    assert len(list((cache / "precisions").iterdir())) == 2


def test_one_candidate_is_not_measured(tiny_pack: Path, cache: Path) -> None:
    only = Choice("no such runtime", "fp32", "")
    chosen = fastest_choice(
        load_pack(tiny_pack), capabilities(), Allowed("segmenter", (only,)), device="cpu", threads=1
    )
    assert chosen == (only, ())
    assert not (cache / "precisions").exists()
