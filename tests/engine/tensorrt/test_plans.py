"""Plans of a pack, and the `build` verb."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from scanside.cli import app
from scanside.engine.tensorrt import plans
from scanside.engine.tensorrt.cache import PlanCache
from scanside.engine.tensorrt.module import TensorRt
from scanside.engine.tensorrt.plan import BuildOptions
from scanside.engine.tensorrt.plans import Target, build_pack, ensure_plan, key_of, require_plan, targets_from
from scanside.errors import EngineError, PackError, UsageError
from scanside.pack import load_pack

if TYPE_CHECKING:
    from tests.engine.tensorrt.conftest import Fake

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command line in this process, with a plan cache of its own."""
    monkeypatch.setenv("SCANSIDE_CACHE_DIR", str(tmp_path / "cache"))
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def one_message(result: Result) -> str:
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.strip().splitlines()
    return line


def files(folder: Path) -> list[str]:
    """What lies in a plan cache, locks and the key aside."""
    return sorted(p.name for p in folder.glob("*") if p.is_file() and not p.name.startswith("seal"))


@pytest.fixture
def toy_key(fake: Callable[..., Fake], toy_graph: bytes, toy_options: BuildOptions) -> Any:
    """What `ensure_plan` needs for the toy graph: (trt, key, graph, options, target)."""

    def make(trt: TensorRt, target: Target | None = None) -> tuple[Any, ...]:
        target = target or Target("current", "8.6", "13.0")
        return trt, key_of(trt, target, "segmenter", "fp32", toy_graph, toy_options), toy_graph, toy_options, target

    return make


def ensure(cache: PlanCache, parts: tuple[Any, ...], **how: Any) -> tuple[Any, bool]:
    trt, key, graph, options, target = parts
    return ensure_plan(trt, cache, key, graph, options, target, **how)


# --- the library ---


def test_both_networks_are_built_for_every_target(rtx: TensorRt, tiny_pack: Path, plan_cache: PlanCache) -> None:
    told: list[tuple[str, int, int]] = []
    how: dict[str, Any] = {"targets": ("SM86", "SM120"), "precision": "fp32", "cache": plan_cache}
    rows = list(build_pack(load_pack(tiny_pack), progress=lambda *step: told.append(step), **how))
    assert [(r.plan.key.network, r.plan.key.compute_capability, r.reused) for r in rows] == [
        ("segmenter", "8.6", False),
        ("classifier", "8.6", False),
        ("segmenter", "12.0", False),
        ("classifier", "12.0", False),
    ]
    assert all(plan_cache.read(row.plan) and row.plan.log_path.is_file() for row in rows)
    stages = {stage for stage, _, _ in told}
    assert stages == {f"{network} fp32 {chip}" for network in ("segmenter", "classifier") for chip in ("SM86", "SM120")}
    for stage in stages:
        done = [step for name, step, total in told if name == stage and total == 100]
        assert done == sorted(set(done))
        assert done[-1] == 100
    again = list(build_pack(load_pack(tiny_pack), **how))
    assert [row.reused for row in again] == [True] * 4
    assert [row.plan for row in again] == [row.plan for row in rows]


def test_a_damaged_plan_is_built_again(rtx: TensorRt, tiny_pack: Path, plan_cache: PlanCache) -> None:
    how: dict[str, Any] = {"targets": ("SM86",), "precision": "fp32", "cache": plan_cache}
    damaged, whole = (row.plan for row in build_pack(load_pack(tiny_pack), **how))
    damaged.path.write_bytes(damaged.path.read_bytes()[:100])
    again = list(build_pack(load_pack(tiny_pack), **how))
    assert [row.reused for row in again] == [False, True]
    assert plan_cache.read(again[0].plan)
    assert again[1].plan == whole


def test_fp16_plans_are_built_from_the_derived_graphs(rtx: TensorRt, tiny_pack: Path, plan_cache: PlanCache) -> None:
    pack = load_pack(tiny_pack)
    rows = list(build_pack(pack, targets=("SM86",), cache=plan_cache))
    assert [row.plan.key.precision for row in rows] == ["fp32", "fp32", "fp16", "fp16"]
    with pytest.raises(PackError, match="int8"):
        list(build_pack(pack, targets=("SM86",), precision="int8", cache=plan_cache))


def test_the_timing_cache_lives_between_builds(fake: Callable[..., Fake], plan_cache: PlanCache, toy_key: Any) -> None:
    machine = fake()
    ensure(plan_cache, toy_key(machine.trt))
    plan, reused = ensure(plan_cache, toy_key(machine.trt, Target("current", "8.6", "13.1")))
    assert not reused
    assert machine.api.timing_given == [b"", b""]  # another driver is another cache
    plan.path.unlink()
    ensure(plan_cache, toy_key(machine.trt, Target("current", "8.6", "13.1")))
    assert machine.api.timing_given[-1] == b"measured;"
    assert len(list(plan_cache.folder.glob("timing-tensorrt-11.4.0.106-8.6-*.cache"))) == 2


def test_a_mismatch_names_the_field_and_the_command(
    fake: Callable[..., Fake], plan_cache: PlanCache, toy_key: Any
) -> None:
    machine = fake()
    _, key, *_ = parts = toy_key(machine.trt)
    with pytest.raises(EngineError, match="none built yet") as none:
        require_plan(plan_cache, key)
    assert "`scanside build [PACK] --target current --precision fp32`" in str(none.value)
    ensure(plan_cache, parts)
    assert require_plan(plan_cache, key).key == key
    newer = replace(key, module_version="11.5.0", driver="13.2")
    with pytest.raises(EngineError) as caught:
        require_plan(plan_cache, newer)
    text = str(caught.value)
    assert "module_version 11.5.0 (there: 11.4.0.106)" in text
    assert "driver 13.2 (there: 13.0)" in text
    assert "scanside build" in text
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("text", ["", "sm86", "86", "SM86;SM89", "SM", "SMxy", "gpu"])
def test_a_target_that_makes_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="--target makes no sense"):
        targets_from(text)


def test_targets_from_text() -> None:
    assert targets_from("SM86, SM120,SM86") == ("SM86", "SM120")
    assert targets_from("current") == ("current",)


# --- the verb ---


def test_the_table_and_the_json(rtx: TensorRt, run: Run, tiny_pack: Path, tmp_path: Path) -> None:
    words = ("build", tiny_pack, "--target", "SM86", "--precision", "fp32", "--batch", "1:2:4", "--workspace", "256")
    shown = run(*words)
    assert shown.exit_code == 0, shown.stderr
    assert "segmenter fp32 SM86  100/100" in shown.stderr
    assert [line.split()[:3] for line in shown.stdout.splitlines() if "SM86" in line] == [
        ["segmenter", "fp32", "SM86"],
        ["classifier", "fp32", "SM86"],
    ]
    as_json = run(*words, "--json", "--quiet")
    assert as_json.stderr == ""
    content = json.loads(as_json.stdout)
    assert content["schema"] == "scanside-build/1"
    first = content["plans"][0]
    assert first["reused"] is True
    assert first["key"]["options"]["workspace_mb"] == 256
    assert first["key"]["options"]["profiles"][0]["pixels"][2][0] == 4
    assert (tmp_path / "cache" / "plans" / first["plan"]["file"]).stat().st_size == first["plan"]["bytes"]


def test_without_the_extra_it_is_one_error(run: Run, monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    monkeypatch.setattr("scanside.engine.tensorrt.module.MODULES", ())
    monkeypatch.setattr("scanside.engine.tensorrt.module.installed", lambda: ())
    result = run("build", tiny_pack, "--target", "SM86")
    assert result.exit_code == 4
    assert "no TensorRT" in one_message(result)
    assert 'ip install "scanside[plans]"' in one_message(result)


def test_current_without_a_gpu_names_the_others(rtx: TensorRt, run: Run, tiny_pack: Path) -> None:
    pytest.importorskip("scanside.engine.capabilities")
    from scanside.engine.capabilities import tensorrt_runtime

    if tensorrt_runtime()[0]:
        pytest.skip("a GPU answers here")
    result = run("build", tiny_pack)
    assert result.exit_code == 4
    assert "--target SM86,SM89,SM120" in one_message(result)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--target", "turing"), 2, "--target makes no sense"),
        (("--batch", "9:1:2"), 2, "--batch makes no sense"),
        (("--target", "SM37"), 4, "does not build for SM37"),
        (("--target", "SM86", "--precision", "int8"), 4, "int8"),
    ],
)
def test_what_cannot_be_built_is_one_error(
    rtx: TensorRt, run: Run, tiny_pack: Path, tmp_path: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    result = run("build", tiny_pack, *words)
    assert result.exit_code == code
    assert text in one_message(result)
    assert files(tmp_path / "cache" / "plans") == []


def test_a_disk_that_fills_up_during_a_build_leaves_nothing(
    rtx: TensorRt, run: Run, tiny_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = plans.PlanCache.store

    def store(self: PlanCache, *args: Any) -> Any:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("scanside.exam.write.os.fsync", full)
            return write(self, *args)

    monkeypatch.setattr(plans.PlanCache, "store", store)
    result = run("build", tiny_pack, "--target", "SM86", "-q")
    assert result.exit_code == 4
    assert "No space left on device" in one_message(result)
    assert files(tmp_path / "cache" / "plans") == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_a_build_leaves_nothing(
    rtx: TensorRt,
    run: Run,
    tiny_pack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    in_percent = plans._in_percent

    def signalling(progress: Any, stage: str) -> Any:
        step = in_percent(progress, stage)
        sent: list[bool] = []

        def once(fraction: float) -> None:
            step(fraction)
            if not sent:
                sent.append(True)
                os.kill(os.getpid(), number)

        return once

    monkeypatch.setattr(plans, "_in_percent", signalling)
    result = run("build", tiny_pack, "--target", "SM86", "-q")
    assert result.exit_code == code
    assert one_message(result) == "stopped: interrupted; nothing half-written is left"
    assert files(tmp_path / "cache" / "plans") == []


def test_two_builds_at_once_share_one_plan(rtx: TensorRt, tiny_pack: Path, tmp_path: Path) -> None:
    environment = os.environ | {"SCANSIDE_CACHE_DIR": str(tmp_path / "cache")}
    words = [sys.executable, "-m", "scanside", "build", str(tiny_pack), "--target", "SM86", "--json", "-q"]
    both = [
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    rows = [json.loads(out)["plans"] for out, _ in told]
    for first, second in zip(*rows, strict=True):
        assert first["plan"] == second["plan"]
        assert {first["reused"], second["reused"]} == {True, False}


# --- inspect FILE.plan ---


def test_inspecting_a_plan(rtx: TensorRt, run: Run, tiny_pack: Path, tmp_path: Path) -> None:
    assert run("build", tiny_pack, "--target", "SM86", "-q").exit_code == 0
    plan = next((tmp_path / "cache" / "plans").glob("segmenter-fp32-*.plan"))
    shown = run("inspect", plan)
    assert shown.exit_code == 0, shown.stderr
    assert "compute capability 8.6, driver any" in shown.stdout
    assert "1 8-bit weights unfolded before building" in shown.stdout
    content = json.loads(run("inspect", plan, "--json").stdout)
    assert content["schema"] == "scanside-plan-inspect/1"
    assert {"kind": "convolution", "type": "float", "count": 1} in content["counts"]
    assert (content["quantize"], content["dequantize"]) == (0, 0)
    assert content["build"]["weight_bytes"] > 0
    assert content["engine_layers"] or content["remark"].startswith("the fused layers need")


@pytest.mark.parametrize("damage", ["foreign", "changed", "missing"])
def test_a_plan_that_is_not_ours_is_not_opened(
    rtx: TensorRt, run: Run, tiny_pack: Path, tmp_path: Path, damage: str
) -> None:
    assert run("build", tiny_pack, "--target", "SM86", "-q").exit_code == 0
    plan = next((tmp_path / "cache" / "plans").glob("segmenter-fp32-*.plan"))
    if damage == "foreign":  # a whole cache of another user, its key included, is as foreign as one plan
        plan = Path(shutil.copytree(plan.parent, tmp_path / "elsewhere")) / plan.name
    elif damage == "changed":
        plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    else:
        plan = plan.with_name("other.plan")
    result = run("inspect", plan)
    texts = {"foreign": "a plan of unknown origin", "changed": "changed or truncated", "missing": "no such plan"}
    assert result.exit_code == 4
    assert texts[damage] in one_message(result)
