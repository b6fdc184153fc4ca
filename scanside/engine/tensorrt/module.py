"""Which TensorRT is installed and what it can do: the one place that tells `tensorrt` from `tensorrt_rtx`.

Everything else asks a `TensorRt` for its capabilities and uses the API that 10.x, 11.x and RTX share.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from scanside.errors import EngineError

FULL, RTX = "tensorrt", "tensorrt_rtx"
MODULES = (FULL, RTX)
OLDEST = {FULL: (10, 3), RTX: (1, 1)}
"""10.3 is the first with strongly typed networks and caller-owned device memory as used here."""


@dataclass(frozen=True)
class TensorRt:
    """An imported TensorRT. `api` is the module itself, `name` its import name, `version` what it says of itself."""

    api: Any
    name: str
    version: str

    @property
    def runtime(self) -> str:
        """The runtime's name as reports and certificates show it."""
        return "tensorrt-rtx/cuda" if self.name == RTX else "tensorrt/cuda"

    @property
    def targets(self) -> tuple[str, ...]:
        """Compute capabilities that plans can be built for without that GPU ("SM86"); empty for `tensorrt`."""
        known = getattr(self.api, "ComputeCapability", None)
        if known is None:
            return ()
        names = (name for name in dir(known) if name.startswith("SM") and name[2:].isdigit())
        return tuple(sorted(names, key=lambda name: int(name[2:])))

    @property
    def has_timing_cache(self) -> bool:
        """Whether measured kernels can be kept between builds. In RTX the timing cache is a deprecated no-op."""
        return self.name != RTX

    @property
    def has_runtime_cache(self) -> bool:
        """Whether kernels compiled at run time can be kept between processes (RTX)."""
        return hasattr(self.api, "IRuntimeCache")

    @property
    def network_flags(self) -> int:
        """Creation flags of a strongly typed network. 10.x needs the flag, 11.x has no other kind and ignores it."""
        flag = getattr(self.api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    @property
    def numpy_types(self) -> dict[Any, str]:
        """NumPy's name of each tensor type that a graph's inputs and outputs may have."""
        types = self.api.DataType
        pairs = (("UINT8", "uint8"), ("INT8", "int8"), ("FLOAT", "float32"), ("HALF", "float16"), ("INT32", "int32"))
        return {getattr(types, name): dtype for name, dtype in pairs}


def installed(names: tuple[str, ...] = MODULES) -> tuple[TensorRt, ...]:
    """The TensorRT modules that can be imported and are new enough, `tensorrt` first."""
    found = (_load(name) for name in names if importlib.util.find_spec(name) is not None)
    return tuple(module for module in found if isinstance(module, TensorRt))


def remark() -> str:
    """Why `installed` is empty, or the empty string."""
    remarks = []
    for name in MODULES:
        if importlib.util.find_spec(name) is None:
            continue
        found = _load(name)
        if isinstance(found, TensorRt):
            return ""
        remarks.append(found)
    return "; ".join(remarks) or "neither tensorrt nor tensorrt_rtx is installed"


def require(target: str | None = None) -> TensorRt:
    """The module that builds for `target` ("SM86"), or for the GPU at hand when None.

    Raises
    ------
    EngineError
        None is installed, or none builds for that target.
    """
    modules = installed()
    if not modules:
        raise EngineError(
            "no TensorRT",
            expected="tensorrt >= 10.3 or tensorrt_rtx",
            found=remark(),
            remedy='pip install "scanside[plans]" (builds plans without a GPU), or "scanside[gpu]"',
        )
    if target is None:
        return modules[0]
    for module in modules:
        if target in module.targets:
            return module
    ahead = next((module for module in modules if module.targets), None)
    if ahead is None:
        raise EngineError(
            f"this TensorRT cannot build for {target} ahead of time",
            expected="tensorrt_rtx, or --target current on that GPU",
            found=f"{modules[0].name} {modules[0].version}",
            remedy='pip install "scanside[plans]"',
        )
    raise EngineError(
        f"{ahead.name} does not build for {target}",
        expected=", ".join(ahead.targets),
        found=target,
        remedy="run with --target current on that GPU, or with --device cuda and onnxruntime-gpu",
    )


def _load(name: str) -> TensorRt | str:
    try:
        api = importlib.import_module(name)
        version = str(api.__version__)
        numbers = tuple(int(part) for part in version.split(".")[:2])
    except Exception as error:  # a wheel without its libraries raises whatever its loader raises
        return f"{name} does not load: {(str(error) or type(error).__name__).splitlines()[0][:200]}"
    if numbers < OLDEST[name]:
        return f"{name} {version} is older than {'.'.join(map(str, OLDEST[name]))}"
    return TensorRt(api, name, version)
