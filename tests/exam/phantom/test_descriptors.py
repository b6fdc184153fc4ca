"""Populations: Table 1 by default, and one number that makes the classes overlap."""

from dataclasses import fields

import numpy as np
import pytest

from scanside.errors import UsageError
from scanside.exam.phantom.descriptors import GROUPS, MALIGNANT_SHARE, TABLE_1, Descriptors, Population, draw_look


def looks(malignant: bool, difficulty: float, count: int = 500):
    rng = np.random.default_rng(4)
    return [draw_look(rng, malignant, difficulty) for _ in range(count)]


def test_every_descriptor_is_in_one_group() -> None:
    names = [name for group in GROUPS for name in group]
    assert sorted(names) == sorted(f.name for f in fields(Descriptors))


@pytest.mark.parametrize(
    "suspicious",
    [
        lambda v: v.descriptors.irregularity > 0.14,
        lambda v: v.descriptors.posterior_db < 0,
        lambda v: v.descriptors.retraction_db > 0,
        lambda v: v.descriptors.halo_db > 0,
        lambda v: v.taller,
    ],
    ids=["shape", "shadow", "retraction", "halo", "orientation"],
)
def test_difficulty_closes_the_gap_between_the_classes(suspicious) -> None:
    def gap(difficulty: float) -> float:
        return float(np.mean([suspicious(v) for v in looks(True, difficulty)])) - float(
            np.mean([suspicious(v) for v in looks(False, difficulty)])
        )

    easy, middle, hard = gap(0.0), gap(0.5), gap(1.0)
    assert easy > 0.25
    assert middle == pytest.approx(easy / 2, abs=0.1)
    assert hard == pytest.approx(0, abs=0.1)


def test_groups_are_borrowed_whole_and_apart() -> None:
    """A lesion with the other class's shadow keeps its own retraction as often as any other."""
    hard = looks(False, 1.0, 2000)
    retracted = np.array([v.descriptors.retraction_db > 0 for v in hard])
    shadowed = np.array([v.descriptors.posterior_db < 0 for v in hard])
    assert retracted[shadowed].mean() == pytest.approx(retracted[~shadowed].mean(), abs=0.07)


def test_classes_and_sizes_of_a_population() -> None:
    rng = np.random.default_rng(0)
    assert np.mean([TABLE_1.draw_malignant(rng) for _ in range(4000)]) == pytest.approx(MALIGNANT_SHARE, abs=0.03)
    only = Population(malignant_share=1.0, malignant_size_mm=(21.8, 6.77))
    assert all(only.draw_malignant(rng) for _ in range(50))
    sizes = [only.draw_size_mm(rng, True) for _ in range(2000)]
    assert np.mean(sizes) == pytest.approx(21.8, rel=0.03)
    assert np.std(sizes) == pytest.approx(6.77, rel=0.1)


@pytest.mark.parametrize("name", ["malignant_share", "difficulty"])
def test_a_share_outside_0_to_1_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        Population(**{name: 1.5})
    assert caught.value.exit_code == 2
