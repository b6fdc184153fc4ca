from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scanside import doctor
from scanside.doctor import SCHEMA, Check, Examination, State, examine
from scanside.engine.capabilities import Capabilities


def machine(**changes: object) -> Capabilities:
    base = {
        "processor": "a processor",
        "cores": 2,
        "flags": frozenset({"avx2", "fma"}),
        "packages": {"onnxruntime": "1.32.0"},
        "providers": ("CPUExecutionProvider",),
        "openvino": False,
        "openvino_remark": "the OpenVINO plug-in offers no device for this processor",
    }
    return Capabilities(**(base | changes))  # type: ignore[arg-type]


def found(examination: Examination, name: str) -> Check:
    return next(check for check in examination.checks if check.name == name)


def test_a_working_machine_is_healthy(tiny_pack: Path) -> None:
    examination = examine(tiny_pack)
    assert examination.healthy, examination.checks
    assert found(examination, "model pack").detail.startswith("tiny 1: ")
    assert found(examination, "will run").detail.startswith("onnxruntime/")
    assert {check.group for check in examination.checks} == {"machine", "runtime", "pack", "codecs", "gpu"}


def test_the_json_form_is_complete_and_plain(tiny_pack: Path) -> None:
    shown = json.loads(json.dumps(examine(tiny_pack).to_json()))
    assert shown["schema"] == SCHEMA
    assert shown["healthy"] is True
    assert set(shown["software"]) >= {"python", "numpy", "onnxruntime", "pydicom"}
    assert all(set(check) == {"group", "name", "state", "detail", "remedy"} for check in shown["checks"])
    assert {check["state"] for check in shown["checks"]} <= {"ok", "absent", "unconfirmed", "problem"}


def test_two_builds_of_onnxruntime_are_a_problem(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    both = machine(packages={"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"})
    monkeypatch.setattr(doctor, "capabilities", lambda: both)
    check = found(examine(tiny_pack), "onnxruntime")
    assert check.state is State.PROBLEM
    assert "overwrite each other" in check.detail
    assert check.remedy is not None
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in check.remedy


def test_a_gpu_provider_is_labelled_unconfirmed(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    monkeypatch.setattr(
        doctor, "capabilities", lambda: machine(providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    )
    check = found(examine(tiny_pack), "will run")
    assert check.state is State.UNCONFIRMED
    assert "no GPU has confirmed this version yet" in check.detail


def test_no_gpu_is_absent_and_no_problem(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    monkeypatch.setattr(doctor, "_lines", lambda path: [])
    monkeypatch.setattr(doctor.ctypes.util, "find_library", lambda name: None)
    examination = examine(tiny_pack)
    assert found(examination, "NVIDIA driver").state is State.ABSENT
    assert examination.healthy


def test_a_missing_plugin_has_a_remedy_where_it_would_gain(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    remark = "onnxruntime-ep-openvino is not installed"
    wide = machine(flags=frozenset({"avx512f"}), openvino_remark=remark)
    monkeypatch.setattr(doctor, "capabilities", lambda: wide)
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    check = found(examine(tiny_pack), "openvino plug-in")
    assert (check.state, check.detail) == (State.ABSENT, remark)
    assert check.remedy == "pip install onnxruntime-ep-openvino"


def test_openvino_itself_stands_in_for_a_plug_in_that_offers_no_device(
    monkeypatch: pytest.MonkeyPatch, tiny_pack: Path
) -> None:
    without = machine(packages={"onnxruntime-ep-openvino": "1.8.1"})
    monkeypatch.setattr(doctor, "capabilities", lambda: without)
    check = found(examine(tiny_pack), "openvino")
    assert (check.state, check.remedy) == (
        State.ABSENT,
        'for 8 bits on this processor: pip install "scanside[openvino]"',
    )
    with_it = replace(without, openvino_api=True, packages={**without.packages, "openvino": "2026.4.1"})
    monkeypatch.setattr(doctor, "capabilities", lambda: with_it)
    check = found(examine(tiny_pack), "openvino")
    assert (check.state, check.detail.partition(":")[0]) == (State.OK, "2026.4.1")


def test_little_memory_is_a_problem(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    monkeypatch.setattr(doctor, "_lines", lambda path: ["MemAvailable:  524288 kB"] if "meminfo" in path else [])
    check = found(examine(tiny_pack), "memory")
    assert (check.state, check.detail) == (State.PROBLEM, "0.5 GiB available")


def test_a_missing_codec_names_its_package(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    real = doctor.util.find_spec
    monkeypatch.setattr(doctor.util, "find_spec", lambda name: None if name == "gdcm" else real(name))
    check = found(examine(tiny_pack), "JPEG Lossless")
    assert (check.state, check.remedy) == (State.PROBLEM, "pip install python-gdcm")


def test_a_damaged_pack_is_a_finding(tiny_pack_copy: Path) -> None:
    graph = tiny_pack_copy / "segmenter.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x7f")
    examination = examine(tiny_pack_copy)
    check = found(examination, "model pack")
    assert check.state is State.PROBLEM
    assert "segmenter.onnx" in check.detail
    assert not examination.healthy


def test_a_broken_runtime_is_a_finding(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    def broken() -> Capabilities:
        raise ImportError("libfoo.so.3 is missing")

    monkeypatch.setattr(doctor, "capabilities", broken)
    examination = examine(tiny_pack)
    assert not examination.healthy
    problems = [check for check in examination.checks if check.state is State.PROBLEM]
    assert [problem.group for problem in problems] == ["runtime"]
    assert "libfoo.so.3" in problems[0].detail


def test_device_cuda_says_what_it_would_run(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    monkeypatch.setattr(doctor, "capabilities", lambda: machine(ask_tensorrt=lambda: ("", "PyCUDA is not installed")))
    check = found(examine(tiny_pack), "--device cuda")
    assert check.state is State.ABSENT
    assert "PyCUDA is not installed" in check.detail
    monkeypatch.setattr(doctor, "capabilities", lambda: machine(ask_tensorrt=lambda: ("tensorrt-rtx/cuda", "")))
    check = found(examine(tiny_pack), "--device cuda")
    assert check.state is State.UNCONFIRMED
    assert check.detail.startswith("tensorrt-rtx/cuda: ")
    assert "no GPU has confirmed this version yet" in check.detail


def test_the_plan_cache_is_counted(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("SCANSIDE_CACHE_DIR", str(tmp_path))
    check = found(examine(tiny_pack), "plan cache")
    assert check.state is State.ABSENT
    assert check.detail.startswith("0 plans")
    assert str(tmp_path) in check.detail
    assert check.remedy is not None
    assert "scanside build" in check.remedy
    assert list(tmp_path.iterdir()) == []  # looking makes nothing
