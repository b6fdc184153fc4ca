from __future__ import annotations

import scanside.pack_from_training as module
from scanside.training.default import train_default
from scanside.training.recipe import ClassifierRecipe, SegmenterRecipe


def test_everything_from_one_call_and_nothing_twice(tmp_path, tiny_busbra, stub, monkeypatch):
    asked = []

    def pack_from_training(run, out, **options):
        asked.append((module.find_trained(run), options))
        return out

    monkeypatch.setattr(module, "pack_from_training", pack_from_training)
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
    trained, options = asked[0]
    assert [one.network for one in trained] == ["segmenter", "classifier"]
    assert (trained[1].recipe.variant, trained[1].recipe.size) == ("transverse", 32)
    assert trained[1].model().stride_at == "3x3"
    assert trained[0].record["data"]["data_sets"]["BUS-BRA"]["test"] == ["5", "10"]
    assert options == {"name": "scanside-default", "version": "0.2.0", "licence": "Apache-2.0"}
