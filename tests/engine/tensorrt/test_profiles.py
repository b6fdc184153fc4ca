from __future__ import annotations

import re
from pathlib import Path

import pytest

from scanside.engine.tensorrt.profiles import (
    Batch,
    classifier_profiles,
    segmenter_profiles,
    standard_sections,
    standard_windows,
)
from scanside.errors import UsageError
from scanside.pack import load_pack


def test_the_shipped_pack_has_a_profile_a_section_or_window_size_and_a_wide_one() -> None:
    spec = load_pack().manifest.segmenter
    assert standard_sections(spec) == ((96, 256), (256, 256))
    assert standard_windows(spec) == ((96, 96), (96, 160), (160, 160))
    transverse, coronal, small, flat, large, wide = segmenter_profiles(spec)
    assert small.shapes["pixels"] == ((1, 1, 96, 96), (21, 1, 96, 96), (21, 1, 96, 96))
    assert flat.shapes["pixels"] == ((1, 1, 96, 160), (12, 1, 96, 160), (12, 1, 96, 160))
    assert large.shapes["pixels"] == ((1, 1, 160, 160), (7, 1, 160, 160), (7, 1, 160, 160))
    assert transverse.shapes["pixels"] == ((1, 1, 96, 256), (8, 1, 96, 256), (8, 1, 96, 256))
    assert coronal.shapes["pixels"] == ((1, 1, 256, 256), (3, 1, 256, 256), (3, 1, 256, 256))
    assert wide.shapes["pixels"] == ((1, 1, 32, 32), (3, 1, 256, 256), (3, 1, 384, 384))
    assert wide.takes({"pixels": (-1, 1, 352, 224)})
    assert not wide.takes({"pixels": (-1, 1, 416, 224)})


def test_batches_of_larger_sections_have_no_more_pixels(tiny_pack: Path) -> None:
    spec = load_pack(tiny_pack).manifest.segmenter
    profiles = segmenter_profiles(spec, Batch(2, 8, 32))
    smallest = min(height * width for height, width in standard_sections(spec))
    for profile, (height, width) in zip(profiles, standard_sections(spec), strict=False):
        assert 1 <= profile.most == 32 * smallest // (height * width)
        assert profile.fewest <= 2


def test_a_classifier_has_one_profile_for_all_planes(tiny_pack: Path) -> None:
    spec = load_pack(tiny_pack).manifest.classifier
    (profile,) = classifier_profiles(spec)
    assert set(profile.shapes) == set(spec.inputs.values())
    assert set(profile.shapes.values()) == {((1, 1, 32, 32), (3, 1, 32, 32), (3, 1, 32, 32))}


@pytest.mark.parametrize(("text", "batch"), [("1:8:16", Batch(1, 8, 16)), ("4", Batch(4, 4, 4))])
def test_batches_from_text(text: str, batch: Batch) -> None:
    assert Batch.parse(text) == batch


@pytest.mark.parametrize("text", ["", "a", "4:2:8", "0:1:2", "1:2", "1:2:3:4", "1:2:2000"])
def test_a_batch_that_makes_no_sense_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(text))):
        Batch.parse(text)
