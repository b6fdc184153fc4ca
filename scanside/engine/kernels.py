"""The kernels as PTX, which the driver of any GPU from SM75 on compiles; and how that PTX is made from CUDA C.

``python -m scanside.engine.kernels`` makes it again with NVRTC, which needs no GPU. The package never does.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from importlib import resources
from pathlib import Path

from scanside.errors import EngineError

SECTION_KERNEL = "section_kernel"
OLDEST_GPU = 75
_PTX_VERSION = "6.3"
"""The first that knows SM75. NVRTC writes its own, which only drivers of its own age take."""


def ptx(name: str) -> bytes:
    """The PTX of the kernels in ``name.cu``."""
    return (resources.files("scanside.engine") / f"{name}.ptx").read_bytes()


def compiled(name: str, nvrtc: ctypes.CDLL) -> bytes:
    """The PTX that NVRTC makes of ``name.cu``. Products and sums are kept apart: every GPU rounds alike.

    Raises
    ------
    EngineError
        NVRTC refuses the source.
    """
    source = (resources.files("scanside.engine") / f"{name}.cu").read_bytes()
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, f"{name}.cu".encode(), 0, None, None)
    wanted = (f"--gpu-architecture=compute_{OLDEST_GPU}", "--fmad=false")
    options = (ctypes.c_char_p * len(wanted))(*(option.encode() for option in wanted))
    if nvrtc.nvrtcCompileProgram(program, len(wanted), options) != 0:
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        raise EngineError("NVRTC refuses a kernel", where=f"{name}.cu", found=log.decode())
    made = _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program).decode()
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    body = re.sub(r"^//.*\n", "", made, flags=re.MULTILINE)  # comments that name NVRTC's build
    return re.sub(r"\.version \d+\.\d+", f".version {_PTX_VERSION}", body).strip().encode() + b"\n"


def find_nvrtc() -> ctypes.CDLL:
    """NVRTC of CUDA's wheels (PyTorch brings them) or of the system.

    Raises
    ------
    EngineError
        There is none.
    """
    found = importlib.util.find_spec("nvidia")
    places = [] if found is None else found.submodule_search_locations or []
    folders = sorted(folder for place in places for folder in Path(place).glob("*/lib"))
    for builtins in (file for folder in folders for file in folder.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(builtins))  # NVRTC opens it by name, which finds what is loaded
    for name in (*(str(file) for folder in folders for file in folder.glob("libnvrtc.so.*")), "libnvrtc.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise EngineError("NVRTC is not installed", expected="libnvrtc", remedy="pip install nvidia-cuda-nvrtc")


def _text(size_of, copy, program: ctypes.c_void_p) -> bytes:  # type: ignore[no-untyped-def]
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    copy(program, text)
    return text.value


def main() -> None:
    """Write the PTX beside its source."""
    (Path(__file__).parent / f"{SECTION_KERNEL}.ptx").write_bytes(compiled(SECTION_KERNEL, find_nvrtc()))


if __name__ == "__main__":
    main()
