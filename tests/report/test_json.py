from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanside.errors import ExamReadError, OutputError
from scanside.exam.geometry import Box, Geometry
from scanside.report.json import from_json, report_schema, report_text, to_json
from scanside.report.model import (
    DeviceRecord,
    ExamRecord,
    Lesion,
    LesionMask,
    NetworkRecord,
    PackRecord,
    Report,
    Timing,
)

words = st.text(min_size=1, max_size=12)
ids = st.text("0123456789abcdef", min_size=1, max_size=12)
probabilities = st.floats(0, 1)
lengths = st.floats(0.001, 300)


def triples(values):
    return st.tuples(values, values, values)


@st.composite
def boxes(draw, values):
    low = draw(triples(values))
    return Box(low, tuple(v + draw(values) + 1 for v in low))


lesions = st.builds(
    Lesion,
    id=st.integers(1, 999),
    box_index=boxes(st.integers(0, 800)),
    box_mm=boxes(st.floats(0, 300)),
    centroid_mm=triples(lengths),
    diameters_mm=triples(lengths),
    volume_mm3=st.floats(0, 1e6),
    detection_score=probabilities,
    probability=probabilities,
    frame_probabilities=st.lists(probabilities, max_size=4).map(tuple),
    malignant=st.booleans(),
    planes_seen=st.sets(st.sampled_from(("transverse", "sagittal", "coronal"))).map(lambda s: tuple(sorted(s))),
    pictures=st.dictionaries(ids, ids, max_size=2),
)


@st.composite
def reports(draw):
    geometry = Geometry(draw(triples(st.integers(1, 900))), draw(triples(st.floats(0.005, 20))))
    exam = ExamRecord(
        draw(ids),
        tuple(draw(st.lists(st.just("1.2.840.99"), max_size=2))),
        draw(st.sampled_from(("left", "right", "unknown"))),
        draw(words),
        geometry.shape,
        geometry.spacing_mm,
        draw(words),
        tuple(draw(st.lists(words, max_size=2))),
    )
    return Report(
        software={"name": "scanside", "version": draw(ids)},
        pack=PackRecord(draw(words), draw(words), draw(ids)),
        exam=exam,
        device=DeviceRecord(
            draw(ids),
            draw(ids),
            "exact",
            draw(words),
            tuple(draw(st.lists(words, max_size=2))),
            networks={"segmenter": NetworkRecord(draw(ids), draw(ids)), "classifier": NetworkRecord("a", "fp32")},
        ),
        lesions=tuple(draw(st.lists(lesions, max_size=3))),
        timing_ms=Timing(draw(st.floats(0, 1e6)), draw(st.dictionaries(ids, st.floats(0, 1e6), max_size=3))),
        geometry=geometry,
        mask=LesionMask(draw(st.none()), 1.0),
    )


@settings(max_examples=25, deadline=None)
@given(reports())
def test_round_trip_keeps_everything_the_file_holds(report):
    data = to_json(report)
    text = report_text(data)
    again = from_json(json.loads(text), geometry=report.geometry, mask=report.mask)
    assert to_json(again) == data
    assert again.device == report.device
    assert again.pack == report.pack
    assert again.exam.shape == report.exam.shape
    assert again.exam.spacing_mm == pytest.approx(report.exam.spacing_mm, rel=1e-8)
    for mine, theirs in zip(again.lesions, report.lesions, strict=True):
        assert mine.box_index == theirs.box_index
        assert mine.box_mm.min == pytest.approx(theirs.box_mm.min, abs=1e-4)
        assert mine.probability == pytest.approx(theirs.probability, abs=1e-6)
        assert (mine.probability > 0.5) == (theirs.probability > 0.5)
        assert mine.malignant == theirs.malignant


@settings(max_examples=15, deadline=None)
@given(reports())
def test_content_obeys_the_schema(report):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(report_schema()).validate(to_json(report))


def test_schema_is_a_schema_and_refuses_what_is_not_in_the_contract(example):
    jsonschema = pytest.importorskip("jsonschema")
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    good = to_json(example.report)
    assert checker.is_valid(good)
    for broken in (
        {**good, "patient": "x"},
        {**good, "exam": {**good["exam"], "source": "Doe^Jane/exam.dcm"}},
        {**good, "schema": "scanside-report/2"},
        {k: v for k, v in good.items() if k != "notice"},
    ):
        assert not checker.is_valid(broken)


def test_keys_are_exactly_those_of_the_contract(example):
    data = to_json(example.report)
    assert list(data) == ["schema", "software", "pack", "exam", "device", "lesions", "timing_ms", "notice"]
    assert list(data["pack"]) == ["name", "version", "sha256"]
    assert set(data["exam"]) == {
        "source",
        "sop_instance_uids",
        "laterality",
        "view",
        "shape",
        "spacing_mm",
        "geometry_source",
        "complete",
        "missing_frames",
        "warnings",
    }
    assert set(data["device"]) == {
        "runtime",
        "precision",
        "policy",
        "name",
        "fallbacks",
        "sections",
        "blank_sections",
        "networks",
    }
    assert set(data["lesions"][0]) == {
        "id",
        "box_mm",
        "box_index",
        "centroid_mm",
        "diameters_mm",
        "volume_mm3",
        "detection_score",
        "probability",
        "frame_probabilities",
        "malignant",
        "planes_seen",
        "pictures",
    }
    assert data["lesions"][0]["box_index"] == {"min": [2, 8, 10], "max": [6, 24, 25]}
    assert data["lesions"][0]["box_mm"] == {"min": [2.0, 2.0, 4.0], "max": [6.0, 6.0, 10.0]}
    assert data["timing_ms"] == {"total": 12.5, "stages": {"decode": 1.25, "segment": 9.0}}
    assert data["notice"] == "Research use only. Not a medical device."


@pytest.mark.parametrize(
    "source", ["/data/Doe^Jane/exam.dcm", "C:\\Doe Jane\\exam.dcm", "../Doe/exam.dcm/", "exam.dcm"]
)
def test_source_is_a_bare_name(example, source):
    report = replace(example.report, exam=replace(example.report.exam, source=source))
    assert to_json(report)["exam"]["source"] == "exam.dcm"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(example, value):
    lesion = replace(example.report.lesions[0], probability=value)
    with pytest.raises(OutputError, match="not finite"):
        to_json(replace(example.report, lesions=(lesion,)))


def test_rounding_never_crosses_the_decision(example):
    lesion = replace(example.report.lesions[0], probability=0.5 + 1e-9, malignant=True)
    entry = to_json(replace(example.report, lesions=(lesion,)))["lesions"][0]
    assert entry["probability"] > 0.5


def test_geometry_without_the_volume_comes_from_shape_and_spacing(example):
    again = from_json(to_json(example.report))
    assert again.geometry == example.report.geometry
    assert again.mask.labels.size == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema="scanside-report/9"), "schema scanside-report/1"),
        (lambda d: d.pop("pack"), "'pack'"),
        (lambda d: d["exam"].update(shape=[1, 2]), "damaged"),
        (lambda d: d.update(lesions=[1]), "damaged"),
        (lambda d: d["exam"].update(spacing_mm=[0, 1, 1]), "spacing"),
    ],
)
def test_content_that_is_no_report_is_refused(example, change, words):
    data = json.loads(report_text(to_json(example.report)))
    change(data)
    with pytest.raises(ExamReadError, match=words):
        from_json(data)


def test_a_list_is_no_report():
    with pytest.raises(ExamReadError, match="no report"):
        from_json([])  # type: ignore[arg-type]
