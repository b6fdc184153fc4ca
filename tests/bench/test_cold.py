"""Starts in fresh processes: their parts, and what stops one is said with its own exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from scanside.bench import cold
from scanside.bench.cold import PARTS, bench_cold, start
from scanside.bench.plan import Plan
from scanside.errors import EngineError, ScansideError, UsageError


def how(pack: Path, **more: Any) -> dict[str, Any]:
    return {"pack": pack, "device": "cpu", "precision": "fp32", "threads": 1, **more}


def test_a_fresh_process_counts_its_parts(tiny_pack: Path) -> None:
    said = start(how(tiny_pack))
    assert tuple(said["parts_ms"]) == PARTS
    assert all(ms > 0 for ms in said["parts_ms"].values())
    assert said["conditions"]["pack"]["name"] == "tiny"
    assert said["conditions"]["threads"] == 1
    assert said["peak_rss_mib"] > 10


def test_what_stops_a_fresh_process_is_heard(tmp_path: Path) -> None:
    with pytest.raises(ScansideError, match="no model pack here") as caught:
        start(how(tmp_path / "none"))
    assert caught.value.exit_code == 4


def test_a_process_that_falls_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho out of luck >&2\nexit 7\n")
    python.chmod(0o755)
    monkeypatch.setattr(cold.sys, "executable", str(python))
    with pytest.raises(EngineError, match="exit code 7: out of luck"):
        start(how(tmp_path))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot forget pages")
def test_cold_forgets_the_files_before_every_start(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    order: list[str] = []
    numbers = iter(range(100))

    def started(_: Any) -> dict[str, Any]:
        order.append("start")
        parts = {part: 1.0 + next(numbers) for part in PARTS}
        return {"parts_ms": parts, "conditions": {"name": "cpu1"}, "peak_rss_mib": 5.0}

    def forget(files: list[Path]) -> None:
        assert tiny_pack / "segmenter.onnx" in files
        assert any(file.name.startswith("onnxruntime") for file in files)
        order.append("forget")

    monkeypatch.setattr(cold, "start", started)
    monkeypatch.setattr(cold, "forget", forget)
    found = bench_cold(how(tiny_pack), Plan.of([50]), cache="cold")
    assert order == ["forget", "start"] * 7  # one to warm up, six timed
    assert found.conditions["cache"] == "cold"
    # Timed starts 1 to 6: parts 5 i + 1 ... 5 i + 5.
    assert list(found.samples_ms) == [sum(5 * i + k for k in range(1, 6)) for i in range(1, 7)]
    assert found.figures["import_ms"] == pytest.approx(5 * 3.5 + 2)


def test_an_unknown_cache(tiny_pack: Path) -> None:
    with pytest.raises(UsageError, match=r"warm \| cold"):
        bench_cold(how(tiny_pack), Plan.of([50]), cache="lukewarm")
