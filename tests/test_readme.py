"""Every example of the README that can run does run: on the tiny pack and a small exam, in the README's order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from scanside.exam.geometry import Geometry
from scanside.exam.write import write_dicom

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    line[2:].split()
    for language, text in BLOCKS
    if language == "console"
    for line in text.splitlines()
    if line.startswith("$ scanside ")
]


def python(code: str, folder: Path) -> str:
    """Stdout of `code`, run in a fresh interpreter inside `folder`."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path, blob_volume: BlobVolume) -> Path:
    """A working folder with the files the examples name."""
    (tmp_path / "exam").mkdir()
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    write_dicom(tmp_path / "exam" / "exam.dcm", blob_volume.voxels, geometry)
    np.save(tmp_path / "volume.npy", blob_volume.voxels)
    return tmp_path


def test_the_readme_has_its_examples() -> None:
    assert len(PYTHON) == 3
    assert {command[1] for command in COMMANDS} == {"phantom", "inspect", "analyze", "pack", "doctor"}


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_examples_find_both_lesions(code: str, folder: Path, tiny_pack: Path) -> None:
    # The shipped pack is large: the examples run with the tiny one in its place.
    shipped = (
        f"import scanside.pack.load; scanside.pack.load.DEFAULT_PACK = __import__('pathlib').Path({str(tiny_pack)!r})"
    )
    printed = python(f"{shipped}\n{code}", folder)
    assert sum("True" in line or "malignant" in line for line in printed.splitlines()) == 1
    assert sum("False" in line or "benign" in line for line in printed.splitlines()) == 1


def test_the_library_example_is_five_lines() -> None:
    assert len([line for line in PYTHON[0].splitlines() if line.strip()]) == 5


def test_the_commands_run_in_the_order_of_the_readme(tmp_path: Path, tiny_pack: Path) -> None:
    from typer.testing import CliRunner

    from scanside.cli import app

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr("scanside.pack.load.DEFAULT_PACK", tiny_pack)
        for command in COMMANDS:
            result = CliRunner().invoke(app, command[1:])
            assert result.exit_code == 0, (command, result.stderr)
    assert (tmp_path / "result" / "report.json").is_file()


def test_every_verb_is_in_the_readme() -> None:
    from scanside.cli import app

    shown = [command for command in app.registered_commands if not command.hidden]
    verbs = {"pack", *(command.name or command.callback.__name__ for command in shown if command.callback)}
    missing = {verb for verb in verbs if not re.search(rf"`(scanside )?{verb}\b", README)}
    assert missing == set()


def test_the_documents_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
