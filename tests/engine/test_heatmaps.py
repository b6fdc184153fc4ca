"""Which frame a heatmap belongs to, what lies under it, and how it is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from scanside.engine.heatmaps import representative_frame
from scanside.engine.networks import Classifier
from scanside.engine.onnxruntime import load_runtime
from scanside.engine.predictor import Predictor, load
from scanside.errors import EngineError, PackError, UsageError
from scanside.exam.planes import Plane, crop, crop_side_mm
from scanside.pack import load_pack

if TYPE_CHECKING:
    from tests.conftest import BlobVolume


@pytest.mark.parametrize(
    ("probabilities", "frame"),
    [
        ([0.9, 0.2, 0.7, 0.6], 3),  # the mean is 0.6
        ([0.55, 0.55, 0.55, 0.55, 0.1], 4),  # 0.46: benign, and the only benign frame stands for it
        ([0.8, 0.8, 0.8, 0.8], 1),  # the first of the middle ones
        ([0.7, 0.9, 0.7, 0.9, 0.8], 4),
        ([0.3], 0),
    ],
)
def test_the_frame_that_stands_for_a_lesion(probabilities: list[float], frame: int) -> None:
    assert representative_frame(np.array(probabilities), float(np.mean(probabilities))) == frame


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_its_own_verdict_is_always_the_lesions(probabilities: list[float]) -> None:
    values = np.array(probabilities)
    mean = float(values.mean())
    chosen = values[representative_frame(values, mean)]
    same = values[(values > 0.5) == (mean > 0.5)]
    if len(same):  # always, but for a mean that rounding moves across 0.5
        assert chosen in same
        assert abs(chosen - mean) <= np.abs(same - mean).min() + 1e-12


@pytest.fixture(scope="module")
def explaining(heatmap_pack: Path) -> Predictor:
    return load(heatmap_pack, device="cpu", precision="fp32", threads=2, explain="gradcam")


def test_every_lesion_has_the_map_of_one_frame_with_the_crops_it_lies_on(
    explaining: Predictor, blob_volume: BlobVolume
) -> None:
    report = explaining.analyze(blob_volume.volume())
    assert len(report.lesions) == 2
    rule, geometry = explaining.classifier.rule, report.geometry
    for lesion in report.lesions:
        heatmap = lesion.heatmap
        assert heatmap is not None
        assert list(heatmap.planes) == ["transverse", "sagittal", "coronal"]
        assert (lesion.frame_probabilities[heatmap.frame] > 0.5) == lesion.malignant
        for plane in Plane:
            drawn = heatmap.planes[plane.value]
            index = lesion.frames[plane.value][heatmap.frame]
            side_mm = crop_side_mm(lesion.box_mm, plane, rule.margin)
            cut = crop(blob_volume.voxels, geometry, plane, index, lesion.box_mm, side_mm=side_mm, size=rule.size)
            assert drawn.index == index
            assert drawn.window_mm == cut.window_mm
            assert np.array_equal(drawn.crop, cut.pixels)
            excess = np.maximum(cut.pixels.astype(np.float32) - 200, 0)  # what the tiny classifier looks at
            quarters = excess.reshape(2, 16, 2, 16).mean((1, 3))
            assert drawn.values.shape == (2, 2)
            assert np.allclose(drawn.values, quarters, rtol=1e-4, atol=1e-3)
    assert max(d.values.max() for d in report.lesions[0].heatmap.planes.values()) > 1  # type: ignore[union-attr]


def test_asking_changes_no_finding(explaining: Predictor, heatmap_pack: Path, blob_volume: BlobVolume) -> None:
    with load(heatmap_pack, device="cpu", precision="fp32", threads=2) as plain:
        report = plain.analyze(blob_volume.volume())
    assert all(lesion.heatmap is None for lesion in report.lesions)
    assert report.lesions == explaining.analyze(blob_volume.volume()).lesions


def test_live_and_confirm_draw_them_too(heatmap_pack: Path, blob_volume: BlobVolume) -> None:
    volume = blob_volume.volume()
    with load(
        heatmap_pack, device="cpu", precision="fp32", threads=1, policy="confirm", explain="gradcam"
    ) as predictor:
        offline = predictor.analyze(volume)
        with predictor.start(volume.geometry) as session:
            for frame in blob_volume.voxels:
                session.push(frame)
            live = session.finish()
    assert len(offline.lesions) == len(live.lesions) == 2
    for report in (offline, live):
        assert all(lesion.heatmap is not None for lesion in report.lesions)


def test_a_pack_without_heatmaps_says_what_to_do(tiny_pack: Path) -> None:
    with pytest.raises(PackError, match=r"draws no heatmaps.*`scanside pack create`.*without --heatmaps") as refused:
        load(tiny_pack, explain="gradcam")
    assert refused.value.exit_code == 4
    with pytest.raises(UsageError, match=r"unknown explanation; expected none \| gradcam, found 'lime'"):
        load(tiny_pack, explain="lime")


def test_a_manifest_that_promises_heatmaps_the_graph_lacks(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    spec = replace(pack.manifest.classifier, heatmaps="heatmaps")
    with pytest.raises(EngineError, match="the graph's outputs are not what the manifest says"):
        load(replace(pack, manifest=replace(pack.manifest, classifier=spec)), device="cpu")


def test_an_output_that_is_not_asked_for_is_not_fetched(heatmap_pack: Path) -> None:
    pack = load_pack(heatmap_pack)
    runtime = load_runtime(pack.graph_bytes("classifier"), device="cpu", threads=1, name="classifier")
    crops = {plane.value: np.full((2, 1, 32, 32), 210, np.uint8) for plane in Plane}
    alone, beside = np.empty(2, np.float32), np.empty(2, np.float32)
    runtime.run(crops, {"probability": alone})
    heatmaps = np.empty((2, 3, 2, 2), np.float32)
    runtime.run(crops, {"probability": beside, "heatmaps": heatmaps})
    assert np.array_equal(alone, beside)
    assert np.allclose(heatmaps, 10, rtol=1e-3)
    for wrong in ({}, {"probability": alone, "attention": heatmaps}):
        with pytest.raises(EngineError, match="other tensors than the graph's"):
            runtime.run(crops, wrong)


def spoiled(heatmap_pack: Path, *, planes: int = 3, scale: float = 1.0) -> Classifier:
    """The classifier of `heatmap_pack` that draws maps of fewer planes, or maps times `scale` over zero."""
    pack = load_pack(heatmap_pack)
    spec = pack.manifest.classifier
    model = onnx.load_from_string(pack.graph_bytes("classifier"))
    concat = next(node for node in model.graph.node if "heatmaps" in node.output)
    del concat.input[planes:]
    concat.output[0] = "all"
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), "scale"))
    model.graph.node.append(helper.make_node("Div", ["all", "scale"], ["heatmaps"]))
    out = next(value for value in model.graph.output if value.name == "heatmaps")
    out.type.tensor_type.shape.dim[1].dim_value = planes
    return Classifier(model.SerializeToString(), spec, device="cpu", precision="fp32", threads=1)


def test_maps_of_other_planes_or_of_no_numbers_are_refused(heatmap_pack: Path) -> None:
    crops = {plane: np.zeros((1, 1, 32, 32), np.uint8) for plane in Plane}
    with pytest.raises(EngineError, match=r"expected \[batch, 3, h, w\], found \[2, 2, 2\]"):
        spoiled(heatmap_pack, planes=2).run_explained(crops)
    with pytest.raises(EngineError, match="a heatmap is not finite"):
        spoiled(heatmap_pack, scale=0.0).run_explained(crops)
