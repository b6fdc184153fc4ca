"""A loaded tiny pack and an exam file for the benchmarks' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scanside.engine.predictor import Predictor, load
from scanside.exam.geometry import Geometry
from scanside.exam.volume import Laterality
from scanside.exam.write import write_dicom

if TYPE_CHECKING:
    from tests.conftest import BlobVolume


@pytest.fixture(scope="session")
def predictor(tiny_pack: Path) -> Iterator[Predictor]:
    with load(tiny_pack, device="cpu", precision="fp32", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def exam(tmp_path_factory: pytest.TempPathFactory, blob_volume: BlobVolume) -> Path:
    """A DICOM file of the blob volume."""
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("exam") / "exam.dcm"
    return Path(write_dicom(path, blob_volume.voxels, geometry, laterality=Laterality.RIGHT, view="AP"))
