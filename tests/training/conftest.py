"""A stub phantom, a cohort of stubs, and tiny copies of the layouts that users download."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from scanside.exam.geometry import Box, Geometry
from scanside.exam.write import write_dicom, write_nrrd
from scanside.training.cohort import build_cohort
from scanside.training.cutting import CohortSettings

TINY = CohortSettings(keep_every=4, lesion_sections=4, boxes=2, frames=2, crop_size=40)


@dataclass(frozen=True)
class StubLesion:
    id: int
    box_index: Box
    box_mm: Box
    malignant: bool
    diameters_mm: tuple[float, float, float]


@dataclass(frozen=True)
class StubPhantom:
    voxels: np.ndarray
    mask: np.ndarray
    geometry: Geometry
    truth: tuple[StubLesion, ...]


def make_stub(seed: int, lesions: int) -> StubPhantom:
    """Dark ellipsoids side by side in bright noise; every second one malignant."""
    rng = np.random.default_rng(seed)
    geometry = Geometry((24, 60, 64), (1.2, 0.4, 0.8))
    voxels = rng.integers(90, 200, geometry.shape, dtype=np.uint8)
    mask = np.zeros(geometry.shape, np.uint8)
    grid = geometry.mm_from_index(np.moveaxis(np.indices(geometry.shape), 0, -1))
    truth = []
    for number in range(lesions):
        centre, radii = np.array([14.0, 11.0, 10.0 + 16.0 * number]), np.array([6.0, 4.0, 5.0])
        inside = (((grid - centre) / radii) ** 2).sum(-1) < 1
        mask[inside], voxels[inside] = number + 1, 30
        points = np.argwhere(inside)
        box = Box(tuple(points.min(0).tolist()), tuple((points.max(0) + 1).tolist()))
        box_mm = geometry.box_mm_from_index(box)
        truth.append(StubLesion(number + 1, box, box_mm, number % 2 == 1, box_mm.size))
    return StubPhantom(voxels, mask, geometry, tuple(truth))


@pytest.fixture(scope="session")
def stub():
    """The maker of stub phantoms: (seed, lesions) -> phantom."""
    return make_stub


@pytest.fixture(scope="session")
def tiny() -> CohortSettings:
    """Settings of a small cohort."""
    return TINY


@pytest.fixture(scope="session")
def stub_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four stub phantoms, seeds 10 to 13, of two or three lesions each."""
    out = tmp_path_factory.mktemp("cohort")
    build_cohort(out, range(10, 14), workers=0, lesions=(2, 3), settings=TINY, make=make_stub)
    return out


@pytest.fixture(scope="session")
def tiny_busbra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cases of one or two images in five folds: a bright lesion on a dark ground, portrait and landscape."""
    folder = tmp_path_factory.mktemp("busbra")
    (folder / "Images").mkdir()
    (folder / "Masks").mkdir()
    rows, folds = [], []
    for case in range(1, 13):
        for side in ("l", "r")[: 1 + case % 2]:
            name = f"bus_{case:04d}-{side}"
            shape = (90, 60) if side == "l" else (50, 80)
            mask = np.zeros(shape, np.uint8)
            cv2.ellipse(mask, (shape[1] // 2, shape[0] // 2), (14, 10), 0, 0, 360, 255, -1)
            image = np.where(mask > 0, 220, 20).astype(np.uint8)
            cv2.imwrite(str(folder / "Images" / f"{name}.png"), image)
            cv2.imwrite(str(folder / "Masks" / f"{name.replace('bus', 'mask')}.png"), mask)
            pathology = "malignant" if case % 3 == 0 else "benign"
            rows.append({"ID": name, "Case": case, "Pathology": pathology})
            fold = 1 + case % 5
            part = "NaN" if fold == 1 else str(int(case % 4 != 0))
            folds.append({"ID": name, "Pathology": pathology, "kFold": fold, "valid_1": part})
    for file, table in (("bus_data.csv", rows), ("5-fold-cv.csv", folds)):
        with (folder / file).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return folder


VOLUME_SHAPE = (20, 40, 30)
VOLUME_MM = (0.475674, 0.073 * 6, 0.2 * 6)


def boxed_volume(seed: int, boxes: list[tuple[slice, slice, slice]]) -> tuple[np.ndarray, np.ndarray]:
    """Bright noise with dark boxes, and the mask that numbers them."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(90, 200, VOLUME_SHAPE, dtype=np.uint8)
    mask = np.zeros(VOLUME_SHAPE, np.uint8)
    for number, box in enumerate(boxes, 1):
        voxels[box], mask[box] = 25, number
    return voxels, mask


BOX = (slice(6, 14), slice(10, 26), slice(8, 20))


@pytest.fixture
def tdsc(tmp_path: Path) -> Path:
    """Two cases to train, one to validate, one to test, as the challenge's archives unpack."""
    root = tmp_path / "TDSC"
    for part, cases in (("Train", (0, 1)), ("Validation", (100,)), ("Test", (130,))):
        for folder in ("DATA", "MASK"):
            (root / part / folder).mkdir(parents=True)
        lines = ["case_id,label,data_path,mask_path"]
        for case in cases:
            voxels, mask = boxed_volume(case, [BOX])
            placeholder = Geometry(VOLUME_SHAPE, (1.0, 1.0, 1.0))
            write_nrrd(root / part / "DATA" / f"DATA_{case:03d}.nrrd", voxels, placeholder)
            write_nrrd(root / part / "MASK" / f"MASK_{case:03d}.nrrd", mask, placeholder)
            label = "M" if case % 2 == 0 else "B"
            lines.append(f"{case},{label},DATA\\DATA_{case:03d}.nrrd,MASK\\MASK_{case:03d}.nrrd")
        (root / part / "labels.csv").write_text("\n".join(lines) + "\n")
        (root / part / "bbx_labels.csv").write_text("id,c_x\n")
    return root


def write_picture(folder: Path, stem: str, *masks: tuple[int, int], seed: int) -> None:
    """A picture and one mask a centre (row, column); no centre gives an empty mask."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 200, (60, 80), dtype=np.uint8)
    drawn = []
    for row, column in masks:
        mask = np.zeros(image.shape, np.uint8)
        cv2.ellipse(mask, (column, row), (9, 6), 0, 0, 360, 255, -1)
        image[mask > 0] = 20
        drawn.append(mask)
    cv2.imwrite(str(folder / f"{stem}.png"), cv2.merge([image] * 3))
    for number, mask in enumerate(drawn or [np.zeros(image.shape, np.uint8)]):
        cv2.imwrite(str(folder / f"{stem}_mask{f'_{number}' if number else ''}.png"), mask)


@pytest.fixture
def busi(tmp_path: Path) -> Path:
    """Six benign (one with two masks, two the same file), six malignant and two normal pictures."""
    root = tmp_path / "Dataset_BUSI_with_GT"
    for n in range(1, 7):
        write_picture(root / "benign", f"benign ({n})", (30, 40), seed=n)
        write_picture(root / "malignant", f"malignant ({n})", (25, 30), seed=100 + n)
    write_picture(root / "benign", "benign (2)", (15, 20), (42, 60), seed=2)
    for name in ("benign (3).png", "benign (3)_mask.png"):
        copy = name.replace("3", "10")
        (root / "benign" / copy).write_bytes((root / "benign" / name).read_bytes())
    for n in (1, 2):
        write_picture(root / "normal", f"normal ({n})", seed=200 + n)
    return tmp_path


@pytest.fixture
def exams(tmp_path: Path) -> Path:
    """A DICOM exam with two lesions and a NIfTI mask, and an NRRD exam of the same patient and one of another's."""
    import nibabel

    root = tmp_path / "mine"
    lines = ["case,exam,mask,label,lesion,patient"]
    geometry = Geometry(VOLUME_SHAPE, VOLUME_MM)
    left, right = (slice(6, 14), slice(10, 26), slice(3, 12)), (slice(6, 14), slice(10, 26), slice(17, 27))
    for case, boxes in (("a", [left, right]), ("b", [BOX]), ("c", [BOX])):
        (root / case).mkdir(parents=True)
        voxels, mask = boxed_volume(ord(case), boxes)
        if case == "a":
            write_dicom(root / case / "exam.dcm", voxels, geometry)
            affine = np.diag([*VOLUME_MM[::-1], 1.0])
            nibabel.save(nibabel.Nifti1Image(mask.transpose(), affine), root / case / "mask.nii.gz")
        else:
            write_nrrd(root / case / "exam.nrrd", voxels, geometry)
            write_nrrd(root / case / "mask.nrrd", mask, geometry)
    lines += ["a,a/exam.dcm,a/mask.nii.gz,benign,1,P1", "a,a/exam.dcm,a/mask.nii.gz,Malignant,2,P1"]
    lines += ["b,b/exam.nrrd,b/mask.nrrd,M,,P1", "c,c/exam.nrrd,c/mask.nrrd,B,,P2"]
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    return root
