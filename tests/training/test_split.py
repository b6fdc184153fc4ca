"""Splits: by patient, the test part fixed, stated parts kept, and every leak found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanside.training.cutting import Origin
from scanside.training.errors import LeakError, TrainingDataError
from scanside.training.recipe import ClassifierRecipe, load_recipe
from scanside.training.split import check_split, read_split, split_cases, write_split

PAPER = load_recipe("paper", ClassifierRecipe)


def cases(patients, data="mine", part=""):
    return [Origin(data, f"case {n}", f"P{p}", part) for n, p in enumerate(patients)]


def test_the_paper_s_rule_on_1147_patients():
    """One tenth is the fixed test part, the rest 8 : 2 (paper, Datasets)."""
    origins = cases(range(1147))
    parts = split_cases(origins, PAPER)
    counts = {name: parts.count(name) for name in ("train", "validation", "test")}
    assert counts == {"train": 826, "validation": 206, "test": 115}
    other = split_cases(origins, replace(PAPER, seed=1))
    of = [{o.case for o, p in zip(origins, s, strict=True) if p == "test"} for s in (parts, other)]
    assert of[0] == of[1]
    assert parts != other


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=12, max_size=80), st.integers(0, 5))
def test_no_patient_is_ever_in_two_parts(patients, seed):
    origins = cases(patients)
    parts = split_cases(origins, replace(PAPER, seed=seed))
    seen: dict[str, set[str]] = {}
    for origin, part in zip(origins, parts, strict=True):
        seen.setdefault(origin.patient, set()).add(part)
    assert all(len(v) == 1 for v in seen.values())


def test_the_order_of_the_cases_does_not_matter():
    origins = cases(range(40))
    parts = dict(zip(origins, split_cases(origins, PAPER), strict=True))
    assert dict(zip(origins[::-1], split_cases(origins[::-1], PAPER), strict=True)) == parts


def test_stated_parts_stand_and_phantoms_give_their_last():
    origins = [*cases([1], part="train"), *cases([7], "other", part="external-b"), *cases(range(10), "phantom")]
    recipe = ClassifierRecipe(steps=1, validation_phantoms=3)
    assert split_cases(origins, recipe) == ("train", "external-b", *["train"] * 7, *["validation"] * 3)
    with pytest.raises(TrainingDataError, match=r"too small.*more than 10 phantoms"):
        split_cases(origins, ClassifierRecipe(steps=1, validation_phantoms=10))


def test_the_paper_s_rule_holds_for_whole_phantoms_too():
    parts = split_cases(cases(range(50), "phantom"), PAPER)
    assert [parts.count(name) for name in ("train", "validation", "test")] == [36, 9, 5]


def test_a_stated_split_that_leaks_is_refused():
    origins = [Origin("mine", "a", "P1", "train"), Origin("mine", "b", "P1", "test")]
    with pytest.raises(LeakError, match=r"patient is on both sides.*P1 in train and test") as caught:
        split_cases(origins, PAPER)
    assert caught.value.exit_code == 3


def test_the_same_patient_name_in_two_data_sets_is_two_patients():
    origins = [Origin("one", "a", "P1", "train"), Origin("two", "a", "P1", "test")]
    assert split_cases(origins, PAPER) == ("train", "test")


def test_a_case_given_twice_is_refused():
    with pytest.raises(LeakError, match="given twice; found case 0"):
        check_split([*cases([1]), *cases([1])], ["train", "train"])


def test_parts_for_some_cases_only_are_refused():
    with pytest.raises(TrainingDataError, match="some cases only"):
        split_cases([*cases([1], part="train"), Origin("mine", "x", "P9")], PAPER)


def test_the_file_lists_every_case_and_is_read_back(tmp_path):
    origins, file = cases([1, 1, 2]), tmp_path / "split.csv"
    write_split(file, origins, ["train", "train", "test"])
    assert file.read_text().splitlines() == [
        "part,data,case,patient",
        "train,mine,case 0,P1",
        "train,mine,case 1,P1",
        "test,mine,case 2,P2",
    ]
    assert read_split(file) == (tuple(origins), ("train", "train", "test"))
    write_split(file, origins, ["train", "train", "test"])
    with pytest.raises(LeakError, match="another split"):
        write_split(file, origins, ["train", "train", "validation"])
    file.write_text(file.read_text().replace("test,mine,case 2,P2", "test,mine,case 2,P1"))
    with pytest.raises(LeakError, match="both sides"):
        read_split(file)
