"""BUSI as users download it: Dataset_BUSI_with_GT/{benign,malignant,normal}/*.png (Al-Dhabyani et al. 2020).

780 pictures: 437 benign, 210 malignant, 133 normal, each with ``_mask.png`` beside it, and ``_mask_1.png`` and so on
where there are several lesions; they are merged. BUSI names no patients and holds exact copies, so a case is a picture
with all its byte-identical copies: they never fall on both sides of a split. Near copies can, which no file tells.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from scanside.training.datasets.pictures import MaskedPicture
from scanside.training.errors import TrainingDataError
from scanside.training.tables import check_files

NAME = "BUSI"
FOLDER = "Dataset_BUSI_with_GT"
CLASSES = {"benign": False, "malignant": True, "normal": None}
_PICTURE = re.compile(r"(?P<stem>(?P<label>benign|malignant|normal) \(\d+\))\.png")
_MASK = re.compile(r"(?P<stem>(?:benign|malignant|normal) \(\d+\))_mask(?:_\d+)?\.png")


def is_busi(folder: Path) -> bool:
    """Whether `folder` is BUSI, or holds it."""
    root = _root(folder)
    return any((root / name).is_dir() for name in ("benign", "malignant"))


def read_busi(folder: Path) -> tuple[MaskedPicture, ...]:
    """All pictures, by class and number. The folder ``normal`` may be absent.

    Raises
    ------
    TrainingDataError
        A class without pictures, a picture without a mask, a mask without its picture, or an empty file.
    """
    root = _root(folder)
    pictures: list[MaskedPicture] = []
    first_of: dict[str, str] = {}
    for label, malignant in CLASSES.items():
        names = sorted((p.name for p in (root / label).glob("*.png")), key=_number)
        found = [m for name in names if (m := _PICTURE.fullmatch(name)) and m["label"] == label]
        if not found and label != "normal":
            raise TrainingDataError("a class of BUSI has no pictures", where=root / label, expected=f"{label} (1).png")
        masks: dict[str, list[Path]] = {}
        for name in names:
            if match := _MASK.fullmatch(name):
                masks.setdefault(match["stem"], []).append(root / label / name)
        stems = [match["stem"] for match in found]
        check_files([root / label / f"{stem}.png" for stem in [*stems, *masks]], folder=root)
        check_files([masks.get(stem, [root / label / f"{stem}_mask.png"])[0] for stem in stems], folder=root)
        for stem in stems:
            file = root / label / f"{stem}.png"
            case = first_of.setdefault(hashlib.sha256(file.read_bytes()).hexdigest(), stem)
            pictures.append(MaskedPicture(stem, case, malignant, file, tuple(masks[stem])))
    return tuple(pictures)


def _root(folder: Path) -> Path:
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"\((\d+)\)", name)
    return (int(digits[1]) if digits else 0, name)
