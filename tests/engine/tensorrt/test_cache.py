"""The plan cache: private, sealed, atomic, bounded."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scanside.engine.tensorrt.cache import PlanCache, default_folder, rebuild_command
from scanside.engine.tensorrt.plan import BuildOptions, BuildRecord, Layer, PlanKey, StoredPlan, plan_key
from scanside.errors import EngineError, OutputError

RECORD = BuildRecord(1.5, 100, (10, 20), 3, (Layer("conv", "convolution", "float"),))


def a_key(**changes: str) -> PlanKey:
    options = BuildOptions(())
    key = plan_key(
        "segmenter",
        "fp32",
        b"graph",
        options,
        module="tensorrt_rtx",
        module_version="1.7.1.116",
        compute_capability="8.6",
        driver="any",
    )
    return replace(key, **changes)


def stored(cache: PlanCache, data: bytes = b"plan", **changes: str) -> StoredPlan:
    return cache.store(a_key(**changes), data, RECORD, ["INFO built"])


def test_a_plan_comes_back_as_it_was(plan_cache: PlanCache) -> None:
    plan = stored(plan_cache)
    found = plan_cache.find(a_key())
    assert found == plan
    assert found is not None
    assert plan_cache.read(found) == b"plan"
    assert found.log_path.read_text() == "INFO built\n"
    assert plan_cache.find(a_key(driver="13.0")) is None


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_only_this_user_can_read_it(plan_cache: PlanCache) -> None:
    stored(plan_cache)
    modes = {path: path.stat().st_mode & 0o777 for path in plan_cache.folder.rglob("*")}
    assert plan_cache.folder.stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600, 0o700}
    assert [path.name for path, mode in modes.items() if mode == 0o700] == ["locks"]
    plan_cache.folder.chmod(0o755)
    stored(plan_cache)
    assert plan_cache.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", [b"pla", b"plaN", b""])
def test_a_truncated_or_changed_plan_is_refused_with_the_command(plan_cache: PlanCache, content: bytes) -> None:
    plan = stored(plan_cache)
    plan.path.write_bytes(content)
    with pytest.raises(EngineError, match="the plan was changed or truncated") as caught:
        plan_cache.read(plan)
    assert "scanside build [PACK] --target SM86 --precision fp32" in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_changed_or_truncated_sidecar_is_no_sidecar(plan_cache: PlanCache) -> None:
    plan = stored(plan_cache)
    sidecar = plan.path.with_suffix(".json")
    text = sidecar.read_text()
    for changed in (text.replace('"any"', '"13.0"'), text[:-20], "", "[]", "null", '{"seal": 1}'):
        sidecar.write_text(changed)
        assert plan_cache.find(a_key()) is None
        assert plan_cache.plans() == ()


def test_a_plan_of_another_user_is_foreign(tmp_path: Path, plan_cache: PlanCache) -> None:
    other = PlanCache(tmp_path / "other")
    theirs = stored(other)
    stored(plan_cache, driver="13.0")
    for suffix in (".plan", ".json", ".log"):
        shutil.copy(theirs.path.with_suffix(suffix), plan_cache.folder)
    assert plan_cache.find(a_key()) is None
    with pytest.raises(EngineError, match="a plan of unknown origin"):
        plan_cache.described(plan_cache.folder / theirs.path.name)
    with pytest.raises(EngineError, match="a plan of unknown origin"):
        plan_cache.described(theirs.path)
    with pytest.raises(EngineError, match="no such plan"):
        plan_cache.described(plan_cache.folder / "other.plan")


def test_a_full_disk_leaves_nothing(plan_cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = stored(plan_cache, driver="13.0")
    before = sorted(plan_cache.folder.iterdir())
    synced = os.fsync
    writes = iter([False, True])  # the log still fits, the plan does not

    def full(descriptor: int) -> None:
        if next(writes, True):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(descriptor)

    monkeypatch.setattr("scanside.exam.write.os.fsync", full)
    monkeypatch.setattr("scanside.exam.write._sync_folder", lambda folder: None)
    with pytest.raises(OutputError, match="No space left on device"):
        stored(plan_cache)
    assert sorted(plan_cache.folder.iterdir()) == before
    assert plan_cache.find(kept.key) is not None


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path / "plans", max_bytes=25)
    plans = [stored(cache, b"x" * 10, driver=str(k)) for k in range(2)]
    for age, plan in enumerate(plans):
        os.utime(plan.path.with_suffix(".json"), (age, age))
    cache.store_blob(plans[1].path.with_suffix(".kernels").name, b"compiled")
    cache.read(plans[0])  # a use: now the other one is the oldest
    third = stored(cache, b"x" * 10, driver="2")
    assert {plan.key.driver for plan in cache.plans()} == {"0", "2"}
    assert not plans[1].path.exists()
    assert not plans[1].log_path.exists()
    assert not plans[1].path.with_suffix(".kernels").exists()
    huge = stored(cache, b"x" * 100, driver="3")
    assert [plan.key for plan in cache.plans()] == [huge.key]
    assert not third.path.exists()


def test_what_a_killed_process_left_is_swept(plan_cache: PlanCache) -> None:
    stored(plan_cache)
    left = plan_cache.folder / ".segmenter.plan.99-abcd.part"
    left.write_bytes(b"half")
    stored(plan_cache)
    assert not left.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"driver": "12.9"},
        {"module_version": "1.6.0"},
        {"compute_capability": "8.9"},
        {"graph_sha256": "0" * 64},
        {"options": '{"profiles":[],"workspace_mb":64}'},
        {"system": "win32-amd64"},
    ],
)
def test_a_mismatch_names_the_field(plan_cache: PlanCache, changes: dict[str, str]) -> None:
    plan = stored(plan_cache)
    wanted = a_key(**changes)
    assert plan_cache.nearest(wanted) == plan
    assert wanted.fields_apart(plan.key) == tuple(changes)
    (line,) = wanted.differences(plan.key)
    assert line.startswith(f"{next(iter(changes))} ")
    assert plan_cache.find(wanted) is None


def test_blobs_are_sealed(plan_cache: PlanCache) -> None:
    assert plan_cache.blob("kernels") == b""
    plan_cache.store_blob("kernels", b"compiled")
    with plan_cache.locked_blob("kernels") as content:
        assert content == b"compiled"
    file = plan_cache.folder / "kernels"
    file.write_bytes(file.read_bytes()[:-1])
    assert plan_cache.blob("kernels") == b""


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCANSIDE_CACHE_DIR", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine" / "plans"
    monkeypatch.delenv("SCANSIDE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if os.uname().sysname == "Linux":
        assert default_folder() == tmp_path / "xdg" / "scanside" / "plans"


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(EngineError, match="the plan cache needs filelock") as caught:
        PlanCache(tmp_path).store(a_key(), b"plan", RECORD, [])
    assert "scanside[plans]" in str(caught.value)


def test_a_cache_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="the plan cache cannot be made") as caught:
        stored(PlanCache(tmp_path / "file" / "plans"))
    assert "SCANSIDE_CACHE_DIR" in str(caught.value)


def test_the_command_that_rebuilds() -> None:
    assert rebuild_command(a_key()) == "scanside build [PACK] --target SM86 --precision fp32"
    assert rebuild_command(a_key(driver="13.0", precision="int8")).endswith("--target current --precision int8")
