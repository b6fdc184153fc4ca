from __future__ import annotations

import numpy as np
import pytest

from scanside.errors import UsageError
from scanside.export import pack as export_pack
from scanside.training.cohort_data import cohort_files, read_phantom
from scanside.training.default import golden_sections, golden_triplets, pack_run, train_default
from scanside.training.recipe import ClassifierRecipe, SegmenterRecipe


def test_golden_cases_have_the_shapes_a_pack_asks_for(stub_cohort):
    phantoms = [read_phantom(file) for file in cohort_files(stub_cohort).values()]
    sections = golden_sections(phantoms)
    assert len(sections) == 3
    for batch in sections:
        assert batch.dtype == np.uint8
        assert batch.shape[:2] == (2, 1)
        assert all(n % 32 == 0 for n in batch.shape[2:])
    recipe = ClassifierRecipe(steps=1, size=32, frames=2)
    (batch,) = golden_triplets(phantoms, recipe)
    assert {k: v.shape for k, v in batch.items()} == dict.fromkeys(
        ("transverse", "sagittal", "coronal"), (8, 1, 32, 32)
    )


def test_everything_from_one_call_and_nothing_twice(tmp_path, tiny_busbra, stub, monkeypatch):
    asked = []

    def create_pack(out, **options):
        asked.append(options)
        return out

    monkeypatch.setattr(export_pack, "create_pack", create_pack)
    segmenter = SegmenterRecipe(
        steps=1,
        batch=2,
        crop_sizes=(32,),
        busbra_longer_side=32,
        recalibration_batches=1,
        validation_images=2,
        validation_sections=3,
        validation_phantoms=1,
    )
    classifier = ClassifierRecipe(
        steps=1, batch=2, size=32, variant="transverse", recalibration_batches=1, validation_phantoms=1, frames=2
    )

    def run():
        return train_default(
            tmp_path,
            busbra=tiny_busbra,
            phantom_seeds=range(3),
            lesions=(2, 2),
            workers=0,
            segmenter=segmenter,
            classifier=classifier,
            make=stub,
        )

    assert run() == tmp_path / "pack"
    weights = [tmp_path / "segmenter.safetensors", tmp_path / "classifier.safetensors"]
    before = [w.stat().st_mtime_ns for w in weights]
    run()
    assert [w.stat().st_mtime_ns for w in weights] == before
    options = asked[0]
    assert options["parameters"].crop_size == 32
    assert options["parameters"].pitch_mm == 0.66
    assert options["classifier"].variant == "transverse"
    assert not options["classifier"].training
    assert options["provenance"]["segmenter"]["data"]["data_sets"]["BUS-BRA"]["test"] == ["5", "10"]
    assert any("BUS-BRA" in licence.covers for licence in options["licences"])


def test_no_pack_of_half_a_run(stub_cohort, tmp_path):
    with pytest.raises(UsageError, match="has not been trained"):
        pack_run(tmp_path, stub_cohort, tmp_path / "pack")
