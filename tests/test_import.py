"""What `import scanside` loads: nothing heavy, and every public name on demand."""

from __future__ import annotations

import subprocess
import sys

import pytest

import scanside

HEAVY = ("torch", "tensorrt", "tensorrt_rtx", "pycuda", "onnxruntime", "cv2", "numpy", "pydicom", "scipy")


def test_importing_scanside_loads_nothing_heavy() -> None:
    code = "import sys, scanside; print(*[m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", [n for n in scanside.__all__ if n != "__version__"])
def test_public_names_come_from_their_home(name: str) -> None:
    assert getattr(scanside, name).__name__ == name
    assert name in dir(scanside)


def test_the_version_is_the_distribution_s() -> None:
    import tomllib
    from pathlib import Path

    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    assert scanside.__version__ == tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["version"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        scanside.nothing  # noqa: B018
