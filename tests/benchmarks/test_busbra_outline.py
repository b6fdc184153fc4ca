"""Outlines in numbers, judged on folds that nothing was fitted on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import busbra_outline
from benchmarks.busbra_outline import BANDS, left_out, outline
from scanside.errors import CheckpointError
from scanside.evaluation.errors import CohortError
from scanside.training.errors import LeakError
from tests.benchmarks.test_busbra_unet import busbra_of

HULL, SOLIDITY, CIRCULARITY, ORIENTATION, OVERLAP, SHARE = 0, 1, 2, 3, 4, -1


def drawn(waves: int, height: float, *, row: int = 128, column: int = 128, wide: float = 1.0) -> NDArray[np.bool_]:
    """A disc of 60 pixels whose radius has `waves` of this height (in parts of it)."""
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    radius = 60 * (1 + height * np.cos(waves * angle))
    points = np.stack([column + wide * radius * np.cos(angle), row + radius * np.sin(angle)], 1)
    mask = cv2.fillPoly(np.zeros((256, 256), np.uint8), [np.round(points).astype(np.int32)], 1)
    return mask > 0


def test_a_disc_and_what_differs_from_it() -> None:
    disc = outline(drawn(0, 0.0))
    assert disc[HULL] == pytest.approx(1, abs=0.06)  # a staircase is longer than the circle
    assert disc[SOLIDITY] > 0.97
    assert disc[ORIENTATION] == 0
    assert disc[OVERLAP] > 0.97
    assert disc[SHARE] == pytest.approx(np.log(np.pi * 60**2 / 256**2), abs=0.03)
    assert outline(drawn(0, 0.0, wide=1.5))[ORIENTATION] == pytest.approx(np.log(1.5), abs=0.02)
    for band, waves in enumerate((5, 12, 20)):
        star = outline(drawn(waves, 0.15))
        assert star[HULL] < disc[HULL] - 0.02
        assert star[SOLIDITY] < disc[SOLIDITY] - 0.05
        assert star[CIRCULARITY] < disc[CIRCULARITY] - 0.1
        assert star[OVERLAP] < disc[OVERLAP]
        in_bands = star[5 : 5 + len(BANDS)]
        assert in_bands.argmax() == band
        assert in_bands[band] > 0.05  # half the waves' height


@given(st.integers(80, 170), st.integers(80, 170))
def test_where_a_lesion_lies_says_nothing(row: int, column: int) -> None:
    assert np.allclose(outline(drawn(9, 0.1, row=row, column=column)), outline(drawn(9, 0.1)), atol=1e-9)


def test_only_the_largest_part_counts_and_nothing_is_a_small_disc() -> None:
    one, speck = drawn(6, 0.1), drawn(6, 0.1)
    speck[3:8, 3:8] = True
    assert np.array_equal(outline(one), outline(speck))
    nothing, dot = np.zeros((256, 256), bool), np.zeros((256, 256), bool)
    dot[100, 100] = True
    assert np.array_equal(outline(nothing), outline(dot))
    for line in (np.eye(256, dtype=bool), np.tile(np.arange(256) == 7, (256, 1))):
        assert np.array_equal(outline(line), outline(nothing))  # it surrounds nothing
    assert outline(nothing)[SHARE] < np.log(100 / 256**2)


def test_a_fold_is_judged_without_its_labels() -> None:
    rng = np.random.default_rng(0)
    malignant, fold = rng.random(300) < 0.4, np.arange(300) % 3
    features = malignant[:, None] + rng.normal(0, 1, (300, 2))
    logits = left_out(features, malignant, fold)
    assert logits[malignant].mean() > logits[~malignant].mean() + 1
    other = np.where(fold == 1, ~malignant, malignant)
    assert np.array_equal(left_out(features, other, fold)[fold == 1], logits[fold == 1])
    assert not np.allclose(left_out(features, other, fold)[fold == 0], logits[fold == 0])


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from scanside.training import evaluate_busbra

    busbra = busbra_of(range(8), tmp_path / "busbra")
    out = tmp_path / "out"
    out.mkdir()
    (predictions := tmp_path / "predictions").mkdir()
    for fold in (1, 2):
        cases = [case for case in range(8) if 1 + case % 2 == fold]
        rows = [f"{case},{int(case < 4)},{0.3 + 0.05 * case},fold{fold},2,0.4,0.5" for case in cases]
        text = "case,label,probability,cohort,views,first_view,second_view\n" + "\n".join(rows) + "\n"
        for name in ("view", "two_views"):
            (predictions / f"busbra-{name}-resnet50-fold{fold}.csv").write_text(text)
        if fold == 1:
            with pytest.raises(CohortError, match="predictions are of other cases; expected 8 of BUS-BRA, found 4"):
                busbra_outline.make_table(busbra, tmp_path / "work", predictions, out)
    unets = [tmp_path / "work" / f"unet-fold{fold}" / "segmenter.safetensors" for fold in (1, 2)]
    with pytest.raises(CheckpointError, match="no weights to start from"):
        busbra_outline.make_table(busbra, tmp_path / "work", predictions, out)

    def trained_on(unet: Path, cases: list[str]) -> None:
        unet.parent.mkdir(parents=True, exist_ok=True)
        unet.write_bytes(b"weights")
        data = {"data_sets": {"BUS-BRA": {"train": cases}}}
        record = {"task": "segmenter", "recipe": {}, "validation": {}, "data": data}
        unet.with_suffix(".json").write_text(json.dumps(record))

    trained_on(unets[0], ["1", "3"])
    trained_on(unets[1], ["0", "1"])
    with pytest.raises(LeakError, match="kept out here; expected none, found 1 of BUS-BRA"):
        busbra_outline.make_table(busbra, tmp_path / "work", predictions, out)
    trained_on(unets[1], ["0", "2"])

    def dark(_: Path) -> evaluate_busbra.Probability:
        return lambda pixels: ((pixels > 0) & (pixels < 150)).astype(np.float32)

    monkeypatch.setattr(evaluate_busbra, "torch_probability", dark)
    busbra_outline.make_table(busbra, tmp_path / "work", predictions, out)
    with (out / "busbra-outline.csv").open() as file:
        rows_of = {row["classifier"]: row for row in csv.DictReader(file)}
    assert list(rows_of) == [
        "single view",
        "outline by annotator",
        "both, outline by annotator",
        "outline by unet",
        "both, outline by unet",
    ]
    assert rows_of["outline by annotator"]["auc"] == "1.0"  # malignant ones are the smallest here
    assert rows_of["single view"]["minus_single_view"] == "0.0"
    assert rows_of["single view"]["p"] == ""
    looks = json.loads((out / "busbra-outline.json").read_text())["dice_four_looks"]
    assert looks["over_folds"] > 0.9  # the invented network finds what is dark
    with (out / "busbra-outline-cases.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["0", "2", "4", "6", "1", "3", "5", "7"]
