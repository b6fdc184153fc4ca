"""What of this machine will be used, what is missing, and the remedy. Reads; changes nothing; asks no network."""

from __future__ import annotations

import ctypes.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata, util
from pathlib import Path
from typing import Any

from scanside.engine.capabilities import (
    OPENVINO_API_PACKAGE,
    OPENVINO_PACKAGE,
    RUNTIME_PACKAGES,
    Capabilities,
    capabilities,
)
from scanside.errors import ScansideError

SCHEMA = "scanside-doctor/1"
NEEDED_MEMORY_GIB = 1.5
GPU_NOT_CONFIRMED = "no GPU has confirmed this version yet"
NOTABLE_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16",
    "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
CODECS = (
    ("JPEG Baseline", "PIL", "pillow"),
    ("JPEG Lossless", "gdcm", "python-gdcm"),
    ("JPEG-LS", "jpeg_ls", "pyjpegls"),
    ("JPEG 2000", "openjpeg", "pylibjpeg-openjpeg"),
)
"""(transfer syntaxes, module, distribution); native and RLE frames need none."""
TENSORRT = (
    ("tensorrt", "TensorRT", "gpu", "builds plans for the GPU at hand"),
    ("tensorrt_rtx", "TensorRT for RTX", "plans", "builds plans without a GPU, which is tested, and runs them"),
    ("pycuda", "PyCUDA", "rtx", "reaches the GPU"),
)
"""(module, name, the extra that has it, what it does)."""


class State(StrEnum):
    """How a check came out: `absent` is optional and not there, `problem` is needed and missing or broken."""

    OK = "ok"
    ABSENT = "absent"
    UNCONFIRMED = "unconfirmed"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: `group` and `name`, how it came out, what was found, and what to do."""

    group: str
    name: str
    state: State
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class Examination:
    """All checks of one machine, and the versions of the packages that matter."""

    software: dict[str, str]
    checks: tuple[Check, ...]
    schema: str = SCHEMA

    @property
    def healthy(self) -> bool:
        """Whether `scanside analyze` can run here."""
        return not any(check.state is State.PROBLEM for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict: schema, healthy, software, checks[{group, name, state, detail, remedy}]."""
        return {
            "schema": self.schema,
            "healthy": self.healthy,
            "software": self.software,
            "checks": [{**asdict(check), "state": check.state.value} for check in self.checks],
        }


def examine(pack: str | os.PathLike[str] | None = None) -> Examination:
    """Look at this machine and at `pack` (the shipped one if None). What fails is a finding, never an error."""
    runtimes = (*RUNTIME_PACKAGES, OPENVINO_PACKAGE, OPENVINO_API_PACKAGE)
    names = ("scanside", "numpy", *runtimes, "opencv-python-headless", "pydicom")
    software = {"python": platform.python_version(), **_installed(names)}
    looks: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("machine", _memory),
        ("runtime", lambda: _runtime(capabilities())),
        ("pack", lambda: _pack(pack)),
        ("codecs", _codecs),
        ("gpu", _gpu),
    )
    return Examination(software, tuple(check for group, look in looks for check in _guarded(group, look)))


def _guarded(group: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except ScansideError as error:
        yield _problem(group, "check", error)
    except Exception as error:  # a broken wheel or driver raises anything
        remedy = "reinstall scanside in a fresh virtual environment"
        yield Check(group, "check", State.PROBLEM, f"{type(error).__name__}: {error}", remedy)


def _problem(group: str, name: str, error: ScansideError) -> Check:
    detail = ScansideError(error.what, where=error.where, expected=error.expected, found=error.found)
    return Check(group, name, State.PROBLEM, str(detail), error.remedy)


def _memory() -> Iterator[Check]:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable"):
            gib = int(line.split()[1]) / 2**20
            if gib < NEEDED_MEMORY_GIB:
                remedy = f"close other programs: a full exam needs {NEEDED_MEMORY_GIB} GiB"
                yield Check("machine", "memory", State.PROBLEM, f"{gib:.1f} GiB available", remedy)
            else:
                yield Check("machine", "memory", State.OK, f"{gib:.1f} GiB available")


def _openvino_api(machine: Capabilities) -> Check:
    """OpenVINO itself, which stands in for the plug-in."""
    if machine.openvino_api:
        version = machine.packages.get(OPENVINO_API_PACKAGE, "found")
        return Check("runtime", "openvino", State.OK, f"{version}: runs bf16 and int8 in the plug-in's place")
    remedy = None
    if OPENVINO_PACKAGE in machine.packages:  # and does not help here
        remedy = f"for 8 bits on this processor: pip install {machine.missing_openvino}"
    return Check("runtime", "openvino", State.ABSENT, "not installed", remedy)


def _runtime(machine: Capabilities) -> Iterator[Check]:
    from scanside.engine.onnxruntime import choose

    yield Check("machine", "processor", State.OK, f"{machine.processor}, {machine.cores} cores usable")
    flags = [flag for flag in NOTABLE_FLAGS if flag in machine.flags]
    yield Check("machine", "instructions", State.OK, " ".join(flags) or "not stated by this system")
    if machine.clash:
        names = " ".join(machine.clash)
        yield Check(
            "runtime",
            "onnxruntime",
            State.PROBLEM,
            f"{' and '.join(machine.clash)} are both installed and overwrite each other's files",
            f"pip uninstall -y {names}, then install the one you want",
        )
    else:
        yield Check("runtime", "onnxruntime", State.OK, f"providers: {', '.join(machine.providers)}")
    if machine.openvino:
        yield Check("runtime", "openvino plug-in", State.OK, machine.packages.get(OPENVINO_PACKAGE, "found"))
    else:
        wanted = OPENVINO_PACKAGE not in machine.packages and machine.avx512 and sys.platform == "linux"
        remedy = f"pip install {OPENVINO_PACKAGE}" if wanted else None
        yield Check("runtime", "openvino plug-in", State.ABSENT, machine.openvino_remark, remedy)
        yield _openvino_api(machine)
    try:
        choice = choose(machine)
    except ScansideError as error:
        yield _problem("runtime", "will run", error)
        return
    unconfirmed = "cuda" in choice.runtime
    detail = f"{choice.runtime} {choice.precision}: {choice.reason}"
    yield Check(
        "runtime",
        "will run",
        State.UNCONFIRMED if unconfirmed else State.OK,
        f"{detail}; {GPU_NOT_CONFIRMED}" if unconfirmed else detail,
        "--device cpu is what is tested" if unconfirmed else None,
    )
    yield _device_cuda(machine)


def _pack(path: str | os.PathLike[str] | None) -> Iterator[Check]:
    from scanside.pack import load_pack

    try:
        pack = load_pack(path)
    except ScansideError as error:
        yield _problem("pack", "model pack", error)
        return
    files = pack.manifest.files
    megabytes = sum(record.bytes for record in files.values()) / 1e6
    detail = f"{pack.manifest.name} {pack.manifest.version}: {len(files)} files, {megabytes:.1f} MB, verified"
    yield Check("pack", "model pack", State.OK, detail)


def _codecs() -> Iterator[Check]:
    yield Check("codecs", "native, RLE", State.OK, "built in")
    for syntax, module, distribution in CODECS:
        if util.find_spec(module) is None:
            yield Check("codecs", syntax, State.PROBLEM, f"{distribution} is missing", f"pip install {distribution}")
        else:
            yield Check("codecs", syntax, State.OK, f"{distribution} {_version(distribution) or ''}".rstrip())


def _gpu() -> Iterator[Check]:
    driver = _lines("/proc/driver/nvidia/version")
    library = ctypes.util.find_library("cuda") or ctypes.util.find_library("nvcuda")
    if driver or library:
        detail = driver[0].partition(":")[2].strip() if driver else str(library)
        yield Check("gpu", "NVIDIA driver", State.UNCONFIRMED, f"{detail}; {GPU_NOT_CONFIRMED}")
    else:
        yield Check("gpu", "NVIDIA driver", State.ABSENT, "no driver: the processor runs everything")
    if _version("onnxruntime-gpu") is None:
        remedy = "for --device cuda, replace onnxruntime by onnxruntime-gpu (docs/gpu.md)"
        yield Check("gpu", "ONNX Runtime CUDA", State.ABSENT, "onnxruntime-gpu is not installed", remedy)
    else:
        yield Check("gpu", "ONNX Runtime CUDA", State.UNCONFIRMED, f"installed; {GPU_NOT_CONFIRMED}")
    for module, name, extra, means in TENSORRT:
        if util.find_spec(module) is None:
            yield Check("gpu", name, State.ABSENT, "not installed", f'{means}: pip install "scanside[{extra}]"')
        else:
            yield Check("gpu", name, State.UNCONFIRMED, f"{means}; {GPU_NOT_CONFIRMED}")
    yield from _plans()


def _plans() -> Iterator[Check]:
    from scanside.engine.tensorrt.cache import PlanCache

    try:
        cache = PlanCache()
        plans = cache.plans()
    except ScansideError as error:
        yield Check("gpu", "plan cache", State.ABSENT, f"{error.what}: {error.found}", error.remedy)
        return
    megabytes = sum(plan.bytes for plan in plans) / 1e6
    remedy = None if plans else "`scanside build` makes plans"
    detail = f"{len(plans)} plans, {megabytes:.1f} MB, in {cache.folder}"
    yield Check("gpu", "plan cache", State.OK if plans else State.ABSENT, detail, remedy)


def _device_cuda(machine: Capabilities) -> Check:
    """What `--device cuda` would run."""
    from scanside.engine.onnxruntime import choose

    try:
        choice = choose(machine, "cuda")
    except ScansideError as error:
        return Check("runtime", "--device cuda", State.ABSENT, f"an error: {error.what}: {error.found}", error.remedy)
    return Check(
        "runtime", "--device cuda", State.UNCONFIRMED, f"{choice.runtime}: {choice.reason}; {GPU_NOT_CONFIRMED}"
    )


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    return {name: version for name in names if (version := _version(name))}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
