"""The shipped PTX is its source's, every GPU takes it, and its arithmetic is the stand-in's and the processor's."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scanside.engine.kernels as kernels
from scanside.engine.device_volume import DeviceSections, DeviceVolume
from scanside.engine.sections import Window, padded_shape
from scanside.errors import EngineError
from scanside.exam.geometry import Geometry
from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE
from scanside.exam.planes import Plane, SectionGrid
from scanside.pack import load_pack
from tests.engine.cuda_stand_in import StandInDevice

SOURCE = Path(kernels.__file__).with_name("section_kernel.cu")

HOST = """
#include <math.h>
#define __global__
#define __device__
#define min(a, b) ((a) < (b) ? (a) : (b))
static struct { int x, y; } blockIdx, blockDim, threadIdx;
"""

LOOPS = """
void run(int across, int down, int width, int height, void **a)
{
    blockDim.x = width; blockDim.y = height;
    for (blockIdx.y = 0; blockIdx.y < down; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < across; ++blockIdx.x)
    for (threadIdx.y = 0; threadIdx.y < height; ++threadIdx.y)
    for (threadIdx.x = 0; threadIdx.x < width; ++threadIdx.x)
        cut_section(*(void **)a[0], *(void **)a[1],
            *(void **)a[2], *(void **)a[3], *(int *)a[4], *(int *)a[5], *(long long *)a[6],
            *(void **)a[7], *(void **)a[8], *(int *)a[9], *(int *)a[10], *(long long *)a[11],
            *(int *)a[12], *(int *)a[13], *(int *)a[14], *(int *)a[15], *(int *)a[16], *(int *)a[17], *(int *)a[18],
            *(int *)a[19], *(int *)a[20]);
}
"""


def test_the_ptx_is_made_of_its_source() -> None:
    try:
        nvrtc = kernels.find_nvrtc()
    except EngineError as error:
        pytest.skip(str(error))
    assert kernels.compiled("section_kernel", nvrtc) == kernels.ptx("section_kernel")


def test_what_nvrtc_refuses_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        nvrtc = kernels.find_nvrtc()
    except EngineError as error:
        pytest.skip(str(error))
    (tmp_path / "broken.cu").write_text('extern "C" __global__ void broken() { nonsense; }')
    monkeypatch.setattr(kernels.resources, "files", lambda package: tmp_path)
    with pytest.raises(EngineError, match=r"broken\.cu: NVRTC refuses a kernel.*nonsense"):
        kernels.compiled("broken", nvrtc)


@pytest.mark.parametrize("chip", [75, 80, 86, 89, 90, 100, 120])
def test_the_ptx_assembles_for_every_gpu(chip: int) -> None:
    """By nvJitLink, which holds the assembler that is in a driver."""
    found = importlib.util.find_spec("nvidia")
    places = [] if found is None else found.submodule_search_locations or []
    libraries = [file for place in places for file in Path(place).glob("*/lib/libnvJitLink.so*")]
    if not libraries:
        pytest.skip("nvJitLink is not installed")
    linker, content = ctypes.CDLL(str(libraries[0])), kernels.ptx("section_kernel")
    handle, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = (ctypes.c_char_p * 1)(f"-arch=sm_{chip}".encode())
    assert linker.nvJitLinkCreate(ctypes.byref(handle), 1, options) == 0
    assert linker.nvJitLinkAddData(handle, 2, content, ctypes.c_size_t(len(content)), b"section_kernel") == 0
    assert linker.nvJitLinkComplete(handle) == 0
    assert linker.nvJitLinkGetLinkedCubinSize(handle, ctypes.byref(size)) == 0
    assert size.value > 1000
    linker.nvJitLinkDestroy(ctypes.byref(handle))


@pytest.fixture(scope="module")
def as_c(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernel's source as C: a loop goes over blocks and threads."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("kernel")
    source = HOST + SOURCE.read_text().replace('extern "C" ', "") + LOOPS
    (folder / "kernel.c").write_text(source)
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-ffp-contract=off",
        "-o",
        folder / "kernel.so",
        folder / "kernel.c",
    ]
    subprocess.run([*map(str, command), "-lm"], check=True)
    return ctypes.CDLL(str(folder / "kernel.so"))


class Launched:
    """Takes the place of the stand-in's kernel and runs the source itself on the same memory."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def launch(self, stream: object, grid: tuple, block: tuple, arguments: tuple) -> None:
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        self._library.run(*grid, *block, pointers)

    def free(self) -> None:
        pass


def cut_both_ways(as_c: ctypes.CDLL, grid: SectionGrid, voxels: np.ndarray, window: Window) -> list[np.ndarray]:
    """A window's sections as the stand-in cuts them, and as the source does."""
    device, made = StandInDevice(), []
    with device.active():
        volume = DeviceVolume(device, {grid.plane: grid})
        volume.begin(voxels)
        volume.upload(0, len(voxels))
        volume._uploaded.synchronize()
        stream = device.stream()
        sections = DeviceSections(volume, window, tuple(grid.indices[list(window.sections)].tolist()))
        for kernel in (volume._kernel, Launched(as_c)):
            out = device.allocate(int(np.prod(sections.shape)))
            volume._kernel = kernel  # type: ignore[assignment]
            sections.make(out, stream)
            stream.synchronize()
            made.append(out.content.reshape(sections.shape)[:, 0].copy())
        volume.close()
    return made


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*(st.integers(1, 50) for _ in range(3))),
    spacing=st.tuples(*(st.floats(0.05, 2.0) for _ in range(3))),
    pitch=st.floats(0.2, 1.5),
    plane=st.sampled_from(list(Plane)),
    seed=st.integers(0, 10),
    data=st.data(),
)
def test_the_source_the_stand_in_and_the_processor_cut_alike(
    as_c: ctypes.CDLL,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    pitch: float,
    plane: Plane,
    seed: int,
    data: st.DataObject,
) -> None:
    grid = SectionGrid.over(Geometry(shape, spacing), plane, pitch, 0.7)
    voxels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    corner = tuple(data.draw(st.integers(0, size - 1)) for size in grid.shape)
    most = padded_shape(grid.shape, 8)
    if corner == (0, 0):
        size = most
    else:
        size = tuple(data.draw(st.integers(1, n - first)) for n, first in zip(grid.shape, corner, strict=True))
    numbers = tuple(range(0, len(grid), max(1, len(grid) // 3)))
    window = Window(plane, numbers, corner, size)  # type: ignore[arg-type]
    made = cut_both_ways(as_c, grid, voxels, window)
    assert np.array_equal(*made)
    rows, columns = (min(n, whole) for n, whole in zip(size, grid.shape, strict=True))
    for number, section in zip(numbers, made[0], strict=True):
        expected = np.zeros(size, int)
        part = grid.section(voxels, number)[corner[0] :, corner[1] :][:rows, :columns]
        expected[:rows, :columns] = part
        assert np.abs(section - expected).max() <= 1


@pytest.mark.parametrize("plane", list(Plane))
def test_a_standard_exam_is_cut_exactly_as_on_the_processor(as_c: ctypes.CDLL, plane: Plane) -> None:
    shape = tuple(12 if axis == plane.normal else size for axis, size in enumerate(STANDARD_SHAPE))
    spacing = tuple(mm / size for mm, size in zip(STANDARD_EXTENT_MM, STANDARD_SHAPE, strict=True))
    spec = load_pack().manifest.segmenter
    grid = SectionGrid.over(Geometry(shape, spacing), plane, spec.pitch_mm, spec.every_mm)  # type: ignore[arg-type]
    voxels = np.random.default_rng(2).integers(0, 256, shape, np.uint8)  # noise: every rounding occurs
    size = padded_shape(grid.shape, spec.size_multiple)
    one, other = cut_both_ways(as_c, grid, voxels, Window(plane, (0, 1), (0, 0), size))
    for number, section in enumerate(one):
        assert np.array_equal(section, other[number])
        assert np.array_equal(section[: grid.shape[0], : grid.shape[1]], grid.section(voxels, number))
