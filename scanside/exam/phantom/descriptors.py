"""What the two classes look like: sizes, and the BI-RADS descriptors (5th edition) a lesion of either class draws.

Each descriptor is drawn from a distribution that depends on the class, and the distributions overlap: no single
descriptor, and no single plane, decides. How far they overlap is one number, `Population.difficulty`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from scanside.errors import UsageError

MIN_SIZE_MM, MAX_SIZE_MM = 4.0, 60.0
MALIGNANT_SHARE = 535 / 1152
TALLER_SHARE = {True: 0.45, False: 0.12}
"""Part of the lesions that are about as tall as wide, by class (malignant or not)."""


@dataclass(frozen=True)
class Population:
    """Whose lesions are drawn: the classes' shares and sizes, and how hard they are to tell apart.

    Parameters
    ----------
    malignant_share : float
        Probability that a lesion is malignant; 0 or 1 fixes the class.
    malignant_size_mm, benign_size_mm : (float, float)
        Mean and standard deviation of the largest diameter before it is cut to 4 to 60 mm; the defaults are those of
        Table 1's training set (Liu et al. 2025).
    difficulty : float
        0 to 1. Each group of descriptors comes from the other class with probability `difficulty` / 2, independently
        of the rest: at 0 all follow the lesion's own class, at 1 the look tells nothing of it.

    Raises
    ------
    UsageError
        A share or difficulty outside 0 to 1.
    """

    malignant_share: float = MALIGNANT_SHARE
    malignant_size_mm: tuple[float, float] = (33.5, 19.3)
    benign_size_mm: tuple[float, float] = (18.8, 9.9)
    difficulty: float = 0.0

    def __post_init__(self) -> None:
        for name in ("malignant_share", "difficulty"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is no share", expected="0 to 1", found=getattr(self, name))

    def draw_malignant(self, rng: np.random.Generator) -> bool:
        """Whether the next lesion is malignant."""
        return bool(rng.random() < self.malignant_share)

    def draw_size_mm(self, rng: np.random.Generator, malignant: bool) -> float:
        """A largest diameter from a log-normal of the class's mean and deviation, kept within 4 to 60 mm."""
        mean, deviation = self.malignant_size_mm if malignant else self.benign_size_mm
        variance = math.log(1 + (deviation / mean) ** 2)
        while True:
            size = float(rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance)))
            if MIN_SIZE_MM <= size <= MAX_SIZE_MM:
                return size


TABLE_1 = Population()
"""The lesions of every phantom that asks for no others."""


@dataclass(frozen=True)
class Descriptors:
    """BI-RADS descriptors of one lesion as numbers (dB, mm, or a share of the radius)."""

    echo_db: float
    irregularity: float
    microlobulation: float
    margin_mm: float
    halo_db: float
    capsule_db: float
    heterogeneity_db: float
    posterior_db: float
    edge_shadow_db: float
    retraction_db: float
    spicules: int
    calcifications: int

    def plain(self) -> dict[str, float | int]:
        """The descriptors as plain numbers for truth.json."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


GROUPS: tuple[tuple[str, ...], ...] = (
    ("echo_db",),
    ("irregularity", "microlobulation"),
    ("margin_mm", "halo_db", "capsule_db"),
    ("heterogeneity_db",),
    ("posterior_db",),
    ("edge_shadow_db",),
    ("retraction_db", "spicules"),
    ("calcifications",),
)
"""Descriptors that belong together. The posterior ones show in the transverse and sagittal planes, retraction in the
coronal one, the rest in all three."""


@dataclass(frozen=True)
class Look:
    """One lesion's kind, its descriptors, and whether it is about as tall as wide."""

    kind: str
    descriptors: Descriptors
    taller: bool


def draw_look(rng: np.random.Generator, malignant: bool, difficulty: float = 0.0) -> Look:
    """How a lesion of the class looks; see `Population.difficulty`."""
    own = _draw_class(rng, malignant)
    if difficulty == 0:
        return own
    other = _draw_class(rng, not malignant)
    borrowed = {
        name: getattr(other.descriptors, name) for group in GROUPS if rng.random() < difficulty / 2 for name in group
    }
    taller = other.taller if rng.random() < difficulty / 2 else own.taller
    return Look(own.kind, replace(own.descriptors, **borrowed), taller)


def _draw_class(rng: np.random.Generator, malignant: bool) -> Look:
    kind = _draw_kind(rng, malignant)
    return Look(kind, _draw_descriptors(rng, malignant, kind), bool(rng.random() < TALLER_SHARE[malignant]))


def _draw_kind(rng: np.random.Generator, malignant: bool) -> str:
    kinds = (
        {"invasive_ductal": 0.66, "indistinct": 0.2, "circumscribed_malignant": 0.14}
        if malignant
        else {"fibroadenoma": 0.58, "adenosis": 0.2, "simple_cyst": 0.12, "isoechoic": 0.1}
    )
    return str(rng.choice(list(kinds), p=list(kinds.values())))


def _draw_descriptors(rng: np.random.Generator, malignant: bool, kind: str) -> Descriptors:
    def draw(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    suspicious = kind in ("invasive_ductal", "indistinct") or (kind == "adenosis" and rng.random() < 0.5)
    echo = draw(-21, -14.5) if malignant else draw(-19.5, -13.5)
    if kind == "simple_cyst":
        echo = draw(-46, -38)
    elif kind == "isoechoic":
        echo = draw(-12.5, -10.0)
    posterior = rng.choice([draw(-16, -7), 0.0, draw(3, 6)], p=[0.62, 0.28, 0.1] if malignant else [0.12, 0.43, 0.45])
    if kind == "simple_cyst":
        posterior = draw(5, 9)
    retraction = (
        rng.random() < (0.75 if kind != "circumscribed_malignant" else 0.3)
        if malignant
        else (kind == "adenosis" and rng.random() < 0.3)
    )
    return Descriptors(
        echo_db=echo,
        irregularity=draw(0.15, 0.36) if suspicious else draw(0.02, 0.14),
        microlobulation=draw(0.05, 0.17) if suspicious else draw(0.0, 0.05),
        margin_mm=draw(0.8, 2.6) if kind == "indistinct" or (suspicious and rng.random() < 0.4) else draw(0.2, 0.9),
        halo_db=draw(2, 6) if malignant and rng.random() < 0.55 else 0.0,
        capsule_db=draw(3, 8) if not suspicious and rng.random() < 0.7 else 0.0,
        heterogeneity_db=draw(2, 5) if malignant else (0.0 if kind == "simple_cyst" else draw(0.8, 3.2)),
        posterior_db=float(posterior),
        edge_shadow_db=draw(-7, -3) if not suspicious and rng.random() < 0.6 else 0.0,
        retraction_db=draw(5.0, 11.0) if retraction else 0.0,
        spicules=int(rng.integers(5, 12)),
        calcifications=int(rng.integers(3, 14)) if rng.random() < (0.4 if malignant else 0.07) else 0,
    )
