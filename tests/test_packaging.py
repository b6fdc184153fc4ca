"""What the wheel holds, and that its metadata says the same as the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import scanside

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAX_FILE_BYTES = 95_000_000


@pytest.fixture(scope="module")
def wheel() -> dict[str, Path]:
    """Every file of the wheel by its path in it, and where it comes from."""
    from hatchling.builders.wheel import WheelBuilder

    builder = WheelBuilder(str(ROOT))
    return {file.distribution_path: Path(file.path) for file in builder.recurse_included_files()}


def test_the_wheel_holds_every_source_and_data_file(wheel: dict[str, Path]) -> None:
    kinds = {".py", ".json", ".toml", ".typed", ".onnx", ".npz", ".md"}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "scanside").rglob("*") if path.suffix in kinds}
    assert sources - set(wheel) == set()


@pytest.mark.parametrize(
    "name",
    [
        "scanside/py.typed",
        "scanside/report/report.schema.json",
        "scanside/pack/manifest.schema.json",
        "scanside/engine/section_kernel.ptx",
        "scanside/training/recipes/segmenter.toml",
        "scanside/training/recipes/classifier.toml",
        "scanside/cli.py",
    ],
)
def test_the_wheel_holds(wheel: dict[str, Path], name: str) -> None:
    assert name in wheel


def test_the_wheel_holds_the_whole_shipped_pack(wheel: dict[str, Path]) -> None:
    from scanside.pack import DEFAULT_PACK, load_pack

    pack = load_pack()
    folder = DEFAULT_PACK.relative_to(ROOT).as_posix()
    assert {f"{folder}/{name}" for name in ("manifest.json", *pack.manifest.files)} <= set(wheel)


def test_the_wheel_holds_nothing_else(wheel: dict[str, Path]) -> None:
    kept_out = ("__pycache__", "/tests/", "stand_in")
    strays = [name for name in wheel if not name.startswith("scanside/") or any(part in name for part in kept_out)]
    assert strays == []


def test_no_file_of_the_wheel_is_too_heavy(wheel: dict[str, Path]) -> None:
    assert [name for name, path in wheel.items() if path.stat().st_size > MAX_FILE_BYTES] == []


def test_the_changelog_knows_this_version() -> None:
    assert f"## {scanside.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_plain_install_needs_no_workshop() -> None:
    heavy = ("torch", "scipy", "scikit", "matplotlib", "onnx>", "onnx=", "tensorrt", "pycuda", "segmentation")
    needed = PYPROJECT["project"]["dependencies"]
    assert [name for name in needed if name.lower().startswith(heavy)] == []


def test_the_test_extra_holds_everything_the_tests_import() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert "scanside[bench,eval,train]" in extras["test"]
    # TensorRT for RTX installs and builds plans without a GPU; the others do not.
    names = {re.split(r"[\s<>=!~;\[]", requirement)[0] for requirement in extras["test"]}
    assert names.isdisjoint({"pycuda", "tensorrt", "onnxruntime-gpu"})
    assert not any(requirement.startswith(("scanside[gpu", "scanside[rtx")) for requirement in extras["test"])
    assert set(extras["plans"][1:]) <= set(extras["test"])
