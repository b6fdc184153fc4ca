"""What this machine and installation can run, detected once: processor, providers, packages, and their clashes."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from scanside.errors import ScansideError

OPENVINO_EP = "OpenVINOExecutionProvider"
OPENVINO_PACKAGE = "onnxruntime-ep-openvino"
OPENVINO_API_PACKAGE = "openvino"
RUNTIME_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")

_registering = threading.Lock()


def _no_tensorrt() -> tuple[str, str]:
    return "", ""


@dataclass(frozen=True)
class Capabilities:
    """One machine as the engine sees it.

    `flags` are the processor's instruction sets as /proc/cpuinfo names them (empty where the system does not say),
    `packages` the installed versions of the packages that decide, `providers` ONNX Runtime's built-in providers, and
    `openvino` whether the OpenVINO plug-in offers this processor as a device, `openvino_api` whether OpenVINO itself
    is installed.
    """

    processor: str
    cores: int
    flags: frozenset[str]
    packages: Mapping[str, str]
    providers: tuple[str, ...]
    openvino: bool
    openvino_remark: str = ""
    """Why the plug-in does not offer this processor; empty when it does."""
    openvino_api: bool = False
    ask_tensorrt: Callable[[], tuple[str, str]] = _no_tensorrt
    """Asked when `tensorrt` is: a run on the processor never opens the GPU."""

    @property
    def tensorrt(self) -> str:
        """The TensorRT runtime that a GPU answers ("tensorrt-rtx/cuda"); empty when there is none."""
        return self.ask_tensorrt()[0]

    @property
    def tensorrt_remark(self) -> str:
        """Why there is none."""
        return self.ask_tensorrt()[1]

    @property
    def avx512(self) -> bool:
        return "avx512f" in self.flags

    @property
    def bf16(self) -> bool:
        """Whether the processor multiplies bf16 in hardware."""
        return not self.flags.isdisjoint({"amx_bf16", "avx512_bf16"})

    @property
    def dot_products(self) -> bool:
        """Whether the processor has an instruction for dot products of 8-bit numbers; without, sums have 16 bits."""
        return not self.flags.isdisjoint({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})

    @property
    def missing_openvino(self) -> str:
        """What to install for 8 bits where there is none of it: the plug-in, or OpenVINO itself beside it."""
        return '"scanside[openvino]"' if OPENVINO_PACKAGE in self.packages else OPENVINO_PACKAGE

    @property
    def cuda(self) -> bool:
        """Whether ONNX Runtime was built with CUDA; only loading a graph tells whether a GPU answers."""
        return "CUDAExecutionProvider" in self.providers

    @property
    def clash(self) -> tuple[str, ...]:
        """Installed builds of ONNX Runtime that overwrite each other's files; empty when there is one."""
        builds = tuple(name for name in RUNTIME_PACKAGES if name in self.packages)
        return builds if len(builds) > 1 else ()


@cache
def capabilities() -> Capabilities:
    """This machine. Imports ONNX Runtime and registers the OpenVINO plug-in, both once a process."""
    import onnxruntime

    packages = {}
    for name in (*RUNTIME_PACKAGES, OPENVINO_PACKAGE, OPENVINO_API_PACKAGE):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    device, remark = openvino_device()
    return Capabilities(
        processor=processor_name(),
        cores=usable_cores(),
        flags=processor_flags(),
        packages=packages,
        providers=tuple(onnxruntime.get_available_providers()),
        openvino=device is not None,
        openvino_remark=remark,
        openvino_api=OPENVINO_API_PACKAGE in packages,
        ask_tensorrt=tensorrt_runtime,
    )


@cache
def tensorrt_runtime() -> tuple[str, str]:
    """The name of the TensorRT runtime that can run here, or an empty one and why not.

    TensorRT is imported and the GPU asked only where PyCUDA is installed: neither is free.
    """
    if util.find_spec("pycuda") is None:
        return "", "PyCUDA is not installed"
    from scanside.engine.cuda import shared_device
    from scanside.engine.tensorrt.module import require

    try:
        name = require().runtime
        shared_device()
    except ScansideError as error:
        return "", str(error)
    return name, ""


@cache
def openvino_device() -> tuple[Any | None, str]:
    """The plug-in's device for this processor (an OrtEpDevice), or None and why not.

    Version 1.8 offers no device for processors of other makers than Intel (microsoft/onnxruntime#31981).
    """
    import onnxruntime

    try:
        import onnxruntime_ep_openvino
    except ImportError:
        return None, f"{OPENVINO_PACKAGE} is not installed"
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return None, f"onnxruntime {onnxruntime.__version__} takes no plug-ins"
    with _registering:
        found = _openvino_devices(onnxruntime)
        if not found:
            try:
                onnxruntime.register_execution_provider_library(OPENVINO_EP, onnxruntime_ep_openvino.get_library_path())
            except Exception as error:  # a library that does not load raises whatever its loader raises
                return None, f"the OpenVINO plug-in does not load: {_first_line(error)}"
            found = _openvino_devices(onnxruntime)
    if not found:
        return None, "the OpenVINO plug-in offers no device for this processor"
    return found[0], ""


def _openvino_devices(onnxruntime: Any) -> list[Any]:
    cpu = onnxruntime.OrtHardwareDeviceType.CPU
    return [d for d in onnxruntime.get_ep_devices() if d.ep_name == OPENVINO_EP and d.device.type == cpu]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's model name, or its architecture where the system does not say."""
    stated = _cpuinfo("model name")
    return stated or platform.processor() or platform.machine()


def processor_flags() -> frozenset[str]:
    """Instruction sets as /proc/cpuinfo names them."""
    return frozenset((_cpuinfo("flags") or _cpuinfo("Features")).split())


@cache
def _cpuinfo(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
