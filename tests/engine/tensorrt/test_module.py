from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from scanside.engine.tensorrt import module
from scanside.engine.tensorrt.module import installed, remark, require
from scanside.errors import EngineError


def a_module(name: str, version: str, **parts: object) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(__version__=version, __spec__=SimpleNamespace(name=name), **parts)
    return made


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Neither module is installed."""
    found = module.importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda n: sys.modules.get(n) if n in module.MODULES else found(n)
    )
    for name in module.MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return monkeypatch


def test_without_either_the_remedy_is_an_extra(bare: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="no TensorRT") as caught:
        require()
    assert "scanside[plans]" in str(caught.value)
    assert caught.value.exit_code == 4
    assert installed() == ()


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1", "11.4.0.106"])
def test_full_tensorrt_builds_for_the_gpu_at_hand_only(bare: pytest.MonkeyPatch, version: str) -> None:
    flags = SimpleNamespace(STRONGLY_TYPED=1)
    bare.setitem(sys.modules, "tensorrt", a_module("tensorrt", version, NetworkDefinitionCreationFlag=flags))
    trt = require()
    assert (trt.name, trt.runtime, trt.targets, trt.network_flags) == ("tensorrt", "tensorrt/cuda", (), 2)
    assert trt.has_timing_cache
    assert not trt.has_runtime_cache
    with pytest.raises(EngineError, match="cannot build for SM86 ahead of time"):
        require("SM86")


def test_a_module_without_the_flag_has_no_other_kind_of_network(bare: pytest.MonkeyPatch) -> None:
    bare.setitem(sys.modules, "tensorrt", a_module("tensorrt", "12.0", NetworkDefinitionCreationFlag=SimpleNamespace()))
    assert require().network_flags == 0


def test_an_old_one_and_a_broken_one_are_named(bare: pytest.MonkeyPatch) -> None:
    bare.setitem(sys.modules, "tensorrt", a_module("tensorrt", "8.6.1"))
    bare.setitem(sys.modules, "tensorrt_rtx", a_module("tensorrt_rtx", "nonsense"))
    assert "tensorrt 8.6.1 is older than 10.3" in remark()
    assert "tensorrt_rtx does not load" in remark()
    with pytest.raises(EngineError, match=r"older than 10\.3"):
        require()


def test_rtx_builds_ahead_of_time(rtx: module.TensorRt) -> None:
    assert {"SM86", "SM89", "SM120"} <= set(rtx.targets)
    assert rtx.targets[0] == "SM75"
    assert rtx.has_runtime_cache
    assert not rtx.has_timing_cache
    assert require("SM86").name == "tensorrt_rtx"
    with pytest.raises(EngineError, match="does not build for SM37"):
        require("SM37")
    assert remark() == ""
