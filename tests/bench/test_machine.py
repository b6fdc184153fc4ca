"""Clocks, throttling and memory as /proc and /sys of an invented machine say them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scanside.bench import machine
from scanside.bench.machine import Counters, clocks_mhz, conditions_name, instruction_set, slowdowns


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"avx2", "avx512f", "amx_bf16"}, "avx512amx"),
        ({"avx2", "avx512f"}, "avx512"),
        ({"avx2", "sse4_2"}, "avx2"),
    ],
)
def test_instruction_sets_in_a_word(flags: set[str], word: str) -> None:
    assert instruction_set(frozenset(flags)) == word


def test_results_are_named_by_their_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "processor_flags", lambda: frozenset({"avx512f", "amx_bf16"}))
    monkeypatch.setattr(machine, "gpus", lambda: ({"name": "NVIDIA RTX A2000"},))
    assert conditions_name("cpu", 2, "bf16", "exact") == "cpu2-avx512amx-bf16-exact"
    assert conditions_name("cuda", 2, "fp16", "confirm") == "cuda-rtxa2000-fp16-confirm"


def invent(root: Path, *, throttled: int, thermal: int, steal: int, mhz: int | None) -> tuple[Path, Path]:
    proc, sys_ = root / "proc", root / "sys"
    core = sys_ / "devices/system/cpu/cpu0"
    for folder in (proc, sys_ / "fs/cgroup", core / "thermal_throttle", core / "cpufreq"):
        folder.mkdir(parents=True, exist_ok=True)
    (proc / "stat").write_text(f"cpu  1 2 3 4 5 6 7 {steal} 9 10\ncpu0 1 2 3 4 5 6 7 99 9 10\n")
    (proc / "loadavg").write_text("0.25 0.5 0.75 1/200 4242\n")
    (proc / "cpuinfo").write_text("cpu MHz\t\t: 2593.9\ncpu MHz\t\t: 1200.1\n")
    (sys_ / "fs/cgroup/cpu.stat").write_text(f"usage_usec 5\nnr_throttled {throttled}\nthrottled_usec 9\n")
    (core / "thermal_throttle/core_throttle_count").write_text(f"{thermal}\n")
    if mhz is not None:
        (core / "cpufreq/scaling_cur_freq").write_text(f"{mhz * 1000}\n")
    return proc, sys_


def test_what_slowed_the_machine_down_between_two_readings(tmp_path: Path) -> None:
    before = Counters.read(*invent(tmp_path, throttled=4, thermal=1, steal=100, mhz=3500))
    after = Counters.read(*invent(tmp_path, throttled=9, thermal=3, steal=140, mhz=800))
    assert slowdowns(before, after) == {
        "throttled_by_quota": 5,
        "thermal_throttles": 2,
        "stolen_ticks": 40,
        "clocks_mhz": [800],
        "load_before": 0.25,
    }


def test_without_a_governor_the_clocks_are_those_of_cpuinfo(tmp_path: Path) -> None:
    assert clocks_mhz(*invent(tmp_path, throttled=0, thermal=0, steal=0, mhz=None)) == (2593.9, 1200.1)


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    nothing = Counters.read(tmp_path, tmp_path)
    assert nothing == Counters(None, None, None, (), None)
    assert slowdowns(nothing, nothing)["throttled_by_quota"] is None


def test_peak_memory_sees_an_allocation() -> None:
    machine.restart_peak_memory()
    before = machine.peak_memory_mib()
    block = np.ones(64 * 2**20, np.uint8)
    after = machine.peak_memory_mib()
    assert before is not None
    assert after is not None
    assert after - before > 32
    assert block[0] == 1


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA RTX A2000, 512, 1200, 0x0000000000000004'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == (
        {
            "name": "NVIDIA RTX A2000",
            "memory_mib": "512",
            "clock_mhz": "1200",
            "throttle_reasons": "0x0000000000000004",
        },
    )
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine.gpus() == ()
    tool.unlink()
    assert machine.gpus() == ()
