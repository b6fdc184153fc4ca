"""BUS-BRA's lesions as cases of parity, and the rows of the table."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.busbra_cases import write_cases
from scanside.exam.planes import Plane

pytest.importorskip("torch")


@pytest.fixture
def busbra(tmp_path: Path) -> Path:
    """Three lesions of fold 1, one with a single view, and one of fold 2."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "busbra"
    (folder / "Images").mkdir(parents=True)
    (folder / "Masks").mkdir()
    table, folds = ["ID,Case,Pathology"], ["ID,kFold,valid_1"]
    for case, fold, views in ((1, 1, "lr"), (2, 1, "lr"), (3, 1, "s"), (4, 2, "l")):
        for view in views:
            name = f"bus_{case:04d}-{view}"
            table.append(f"{name},{case},{'malignant' if case == 2 else 'benign'}")
            folds.append(f"{name},{fold},1")
            image = rng.integers(0, 200, (120, 160 + 20 * (view == "l")), dtype=np.uint8)
            mask = np.zeros_like(image)
            mask[40:80, 50:110] = 255
            image[mask > 0] = 230
            cv2.imwrite(str(folder / "Images" / f"{name}.png"), image)
            cv2.imwrite(str(folder / "Masks" / f"mask_{case:04d}-{view}.png"), mask)
    (folder / "bus_data.csv").write_text("\n".join(table) + "\n")
    (folder / "5-fold-cv.csv").write_text("\n".join(folds) + "\n")
    return folder


def test_the_fold_s_lesions_are_cases_with_their_views(busbra: Path, tmp_path: Path) -> None:
    from scanside.parity.cohort import read_cohort

    assert len(write_cases(busbra, tmp_path / "one", fold=1, two_views=False)) == 3
    cohort = read_cohort([tmp_path / "one"])
    assert [case.name for case in cohort.cases] == ["1", "2", "3"]
    assert [case.malignant for case in cohort.cases] == [(False,), (True,), (False,)]
    assert all(case.triplet_planes == (Plane.TRANSVERSE,) for case in cohort.cases)
    sections = cohort.cases[0].sections(Plane.TRANSVERSE, 8)
    assert sections.images.shape[0] == 2
    assert sections.images.shape[1] % 32 == sections.images.shape[2] % 32 == 0
    assert sections.images[sections.masks].mean() > 200
    assert sections.images[~sections.masks].mean() < 120


def test_two_views_are_the_two_planes_of_one_frame(busbra: Path, tmp_path: Path) -> None:
    from scanside.parity.cohort import read_cohort

    assert len(write_cases(busbra, tmp_path / "two", fold=1, two_views=True)) == 2
    cohort = read_cohort([tmp_path / "two"])
    assert all(case.triplet_planes == (Plane.TRANSVERSE, Plane.SAGITTAL) for case in cohort.cases)


def test_weights_in_8_bits_are_a_quarter_of_fp32_s() -> None:
    from benchmarks.parity import weight_bytes
    from scanside.pack import load_pack

    pack = load_pack(None)
    sizes = {p: weight_bytes(pack, "segmenter", p) for p in ("fp32", "bf16", "int8")}
    assert sizes["bf16"] * 2 == sizes["fp32"]
    assert sizes["fp32"] / 4 < sizes["int8"] < sizes["bf16"]


def test_the_fp16_graph_answers_as_fp32_but_not_to_the_last_bit() -> None:
    from benchmarks.parity import HalfNetwork
    from scanside.engine.capabilities import capabilities
    from scanside.engine.onnxruntime import choose
    from scanside.pack import load_pack
    from scanside.parity.networks import EngineNetwork

    pack, machine = load_pack(None), capabilities()
    size = pack.manifest.classifier.size
    rng = np.random.default_rng(3)
    crops = {plane: rng.integers(0, 256, (9, 1, size, size), dtype=np.uint8) for plane in Plane}
    pixels = rng.integers(0, 256, (9, 1, 64, 96), dtype=np.uint8)
    for network in ("segmenter", "classifier"):
        half = HalfNetwork(pack, network)
        whole = EngineNetwork(
            pack, network, machine, choose(machine, "cpu", "fp32", network), device="cpu", threads=machine.cores
        )
        given = (pixels,) if network == "segmenter" else (crops,)
        ours, exact = (
            n.segment(*given) if network == "segmenter" else n.classify(*given)  # type: ignore[arg-type]
            for n in (half, whole)
        )
        assert ours.shape == exact.shape
        difference = np.abs(ours.astype(float) - exact.astype(float)) / (255 if network == "segmenter" else 1)
        assert difference.max() < 0.02
        if network == "classifier":
            assert difference.max() > 0
        for n in (half, whole):
            n.close()
