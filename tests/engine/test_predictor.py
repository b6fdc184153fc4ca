"""The library's door: load once, analyse anything, from any thread; and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import scanside
from scanside.engine.predictor import Predictor, load
from scanside.errors import (
    Cancelled,
    EngineError,
    ExamReadError,
    GeometryError,
    PackError,
    ParityError,
    UsageError,
)
from scanside.exam.volume import Exam, Refusal, Volume
from scanside.pack import load_pack

if TYPE_CHECKING:
    from tests.conftest import BlobVolume
    from tests.engine.conftest import Framed


def test_a_volume_an_exam_and_an_array_give_the_same_lesions(
    predictor: Predictor, blob_volume: BlobVolume, framed: Framed
) -> None:
    volume = blob_volume.volume()
    sources = [volume, framed(volume), Exam(Path("exam"), (volume,))]
    reports = [predictor.analyze(source) for source in sources]
    reports.append(predictor.analyze(blob_volume.voxels, spacing_mm=blob_volume.spacing_mm))
    assert len(reports[0].lesions) == 2
    assert all(report.lesions == reports[0].lesions for report in reports)


def test_the_report_says_what_ran(predictor: Predictor, blob_volume: BlobVolume, tiny_pack: Path) -> None:
    volume = blob_volume.volume().with_warning("a warning of the reader")
    report = predictor.analyze(replace(volume, info=replace(volume.info, source="some/folder/exam.dcm")))
    assert report.software == {"name": "scanside", "version": scanside.__version__}
    assert report.pack.sha256 == load_pack(tiny_pack).sha256
    assert (report.pack.name, report.pack.version) == ("tiny", "1")
    assert report.exam.source == "exam.dcm"
    assert report.exam.warnings == ("a warning of the reader",)
    assert report.exam.shape == blob_volume.voxels.shape
    assert report.device.precision == "fp32"
    assert report.device.policy == "exact"
    assert report.device.runtime.startswith("onnxruntime/")
    assert report.device.name
    assert report.timing_ms.total > 0
    assert report.geometry == volume.geometry
    assert report.trace


def test_voxels_come_along_for_pictures(predictor: Predictor, blob_volume: BlobVolume, framed: Framed) -> None:
    report, voxels = predictor.analyze_volume(framed(blob_volume.volume()))
    assert np.array_equal(voxels, blob_volume.voxels)
    assert len(report.lesions) == 2


def test_four_threads_share_a_predictor(predictor: Predictor, blob_volume: BlobVolume, framed: Framed) -> None:
    alone = predictor.analyze(blob_volume.volume())
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: predictor.analyze(framed(blob_volume.volume())), range(8)))
    for report in reports:
        assert report.lesions == alone.lesions
        assert np.array_equal(report.mask.labels, alone.mask.labels)


def test_a_study_gives_reports_and_refusals_in_order(predictor: Predictor, blob_volume: BlobVolume) -> None:
    class Truncated:
        def read(self, k: int, out: np.ndarray) -> None:
            raise ExamReadError("frame 3 is cut short", where="third.dcm")

    first = blob_volume.volume()
    empty = Volume.from_array(np.full((4, 9, 9), 20, np.uint8), (1.0, 1.0, 1.0), source="second")
    broken = Volume(replace(first.info, source="third.dcm"), Truncated())
    early = Refusal("readme.txt", ExamReadError("no exam"))
    study = predictor.analyze_study(Exam(Path("study"), (first, broken, empty), (early,)))
    assert [report.exam.source for report in study.reports] == ["array", "second"]
    assert [len(report.lesions) for report in study.reports] == [2, 0]
    assert [refusal.source for refusal in study.refused] == ["readme.txt", "third.dcm"]
    assert "cut short" in str(study.refused[1].error)


def test_cancelling_ends_a_study(predictor: Predictor, blob_volume: BlobVolume) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        predictor.analyze_study(Exam(Path("study"), (blob_volume.volume(),)), cancel=cancel)


def test_bad_sources_are_refused(predictor: Predictor, blob_volume: BlobVolume, tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="states no spacing"):
        predictor.analyze(blob_volume.voxels)
    with pytest.raises(ExamReadError, match="several volumes"):
        predictor.analyze(Exam(Path("study"), (blob_volume.volume(),) * 2))
    with pytest.raises(UsageError, match="already has its spacing"):
        predictor.analyze(blob_volume.volume(), spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(UsageError, match="found int"):
        predictor.analyze(7)  # type: ignore[arg-type]
    with pytest.raises(ExamReadError, match="uint8"):
        predictor.analyze(blob_volume.voxels.astype(np.float32), spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(ExamReadError):
        predictor.analyze(tmp_path / "absent.dcm")


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"policy": "guess"}, UsageError, 2),
        ({"precision": "fp16"}, EngineError, 4),
        ({"precision": "fp7"}, UsageError, 2),
        ({"device": "abacus"}, UsageError, 2),
        ({"threads": 0}, UsageError, 2),
        ({"pack": "nowhere"}, PackError, 4),
    ],
)
def test_load_refuses(tiny_pack: Path, options: dict, error: type[scanside.errors.ScansideError], code: int) -> None:
    with pytest.raises(error) as refused:
        load(**{"pack": tiny_pack} | options)
    assert refused.value.exit_code == code


def on_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    from scanside.engine.capabilities import capabilities

    machine = replace(capabilities(), flags=frozenset({"avx512f", "amx_bf16"}), openvino=True, openvino_remark="")
    monkeypatch.setattr("scanside.engine.predictor.capabilities", lambda: machine)


def test_bf16_without_a_certificate_is_exit_code_5(tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_amx(monkeypatch)
    with pytest.raises(ParityError, match="no parity certificate") as refused:
        load(tiny_pack, device="cpu", precision="bf16")
    assert refused.value.exit_code == 5


def test_auto_stays_fp32_without_a_certificate_and_says_so(tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_amx(monkeypatch)
    predictor = load(tiny_pack, device="cpu", precision="auto", threads=1)
    assert predictor.device.precision == "fp32"
    assert any("bf16" in remark for remark in predictor.device.fallbacks)


def test_each_network_runs_in_its_own_precision_and_the_report_says_so(
    tiny_pack: Path, blob_volume: BlobVolume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from scanside.engine.capabilities import capabilities
    from scanside.engine.certificates import store_certificate
    from scanside.engine.onnxruntime import OPENVINO
    from tests.engine.test_parity import certificate

    if not (capabilities().bf16 and capabilities().openvino):
        pytest.skip("bf16 needs a processor that multiplies it, and the OpenVINO plug-in")
    monkeypatch.setenv("SCANSIDE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("scanside.engine.choice.fastest", lambda precisions, *_: (precisions[-1], ()))
    pack = load_pack(tiny_pack)
    store_certificate(pack.sha256, certificate(pack, "segmenter"))
    with load(tiny_pack, device="cpu", precision="auto", threads=1) as predictor:
        device = predictor.analyze(blob_volume.volume()).device
    assert device.precision == "bf16+fp32"
    assert (device.networks["segmenter"].runtime, device.networks["segmenter"].precision) == (OPENVINO, "bf16")
    assert device.networks["classifier"].precision == "fp32"
    assert [remark for remark in device.fallbacks if "certificate" in remark] == [
        f"classifier: fp32 instead of bf16 on {OPENVINO}: no parity certificate (none)"
    ]


def test_no_folder_of_a_user_gets_into_the_report(tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scanside.engine.capabilities import capabilities

    remark = "the plug-in does not load: /home/Jane Doe/.venv/lib/libopenvino.so: no such file"
    machine = replace(capabilities(), flags=frozenset({"avx512f"}), openvino=False, openvino_remark=remark)
    for module in ("predictor", "onnxruntime"):
        monkeypatch.setattr(f"scanside.engine.{module}.capabilities", lambda: machine)
    monkeypatch.setenv("HOME", "/home/Jane Doe")
    with load(tiny_pack, device="cpu", precision="fp32", threads=1) as predictor:
        (fallback,) = predictor.device.fallbacks
    assert "libopenvino.so: no such file" in fallback
    assert fallback.startswith("onnxruntime/cpu instead of onnxruntime/openvino-cpu: ")
    assert "Jane" not in fallback
    assert "/lib" not in fallback


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("onnxruntime/cpu instead of onnxruntime/cuda", "onnxruntime/cpu instead of onnxruntime/cuda"),
        ("failed: /usr/lib/x.so: bad", "failed: x.so: bad"),
        ("in C:\\Users\\doe\\x.dll", "in x.dll"),
        ("'/opt/a/b.json' and (/srv/c/d)", "'b.json' and (d)"),
        ("see microsoft/onnxruntime#31981", "see microsoft/onnxruntime#31981"),
    ],
)
def test_paths_are_cut_to_their_last_part(text: str, without: str) -> None:
    from scanside.engine.runtime import without_folders

    assert without_folders(text) == without


def test_a_run_on_the_processor_never_asks_for_a_gpu(tiny_pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scanside.engine.capabilities import capabilities

    def asked() -> tuple[str, str]:
        raise AssertionError("the GPU was opened")

    machine = replace(capabilities(), ask_tensorrt=asked)
    for module in ("predictor", "onnxruntime"):
        monkeypatch.setattr(f"scanside.engine.{module}.capabilities", lambda: machine)
    with load(tiny_pack, device="cpu", precision="auto", threads=1) as predictor:
        assert predictor.device.precision == "fp32"


def test_golden_cases_prove_the_pack_and_catch_a_wrong_runtime(
    tiny_pack: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [result.network for result in predictor.self_check()] == ["segmenter", "classifier"]
    from scanside.engine.onnxruntime import OnnxRuntime
    from scanside.engine.runtime import DONE, Done

    real = OnnxRuntime.submit

    def off(self, inputs, outputs) -> Done:
        real(self, inputs, outputs).wait()
        for array in outputs.values():
            array += array.dtype.type(2 if array.dtype == np.uint8 else 0)
        return DONE

    monkeypatch.setattr(OnnxRuntime, "submit", off)
    with pytest.raises(EngineError, match=r"golden case came out wrong.*golden_segmenter|golden_segmenter.*wrong"):
        load(tiny_pack, device="cpu", threads=1)


def test_a_rounded_precision_may_be_off_by_two_percent_more_than_the_pack_allows(
    tiny_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever one triplet does: the mean is judged, and the message names the limit that was passed."""
    with load(tiny_pack, device="cpu", threads=1) as predictor:
        golden = next(case for case in predictor._golden if case.network == "classifier")
        device = predictor.device
        rounded = {**device.networks, "classifier": replace(device.networks["classifier"], precision="int8")}
        monkeypatch.setattr(Predictor, "device", property(lambda self: replace(device, networks=rounded)))
        answer = golden.outputs["probability"]
        away = np.where(answer > 0.5, -1, 1).astype(np.float32)

        def check(error: float) -> None:
            def off(inputs: object, outputs: dict[str, np.ndarray]) -> None:
                outputs["probability"][...] = answer + away * np.float32(error)

            monkeypatch.setattr(predictor.classifier.runtime, "run", off)
            predictor.self_check()

        check(golden.mean_error + 0.019)
        with pytest.raises(EngineError, match=f"at most 1, {golden.mean_error + 0.02:g} on average"):
            check(golden.mean_error + 0.021)


def test_a_manifest_that_names_other_tensors_is_caught(tiny_pack: Path) -> None:
    pack = load_pack(tiny_pack)
    manifest = replace(pack.manifest, segmenter=replace(pack.manifest.segmenter, output="mask"), golden=())
    predictor = load(replace(pack, manifest=manifest), device="cpu", threads=1)
    with pytest.raises(EngineError, match=r"segmenter.onnx: the graph's outputs are not what the manifest says"):
        predictor.analyze(np.zeros((2, 2, 2), np.uint8), spacing_mm=(1.0, 1.0, 1.0))


def test_the_library_in_a_few_lines(tiny_pack: Path, blob_volume: BlobVolume, tmp_path: Path) -> None:
    script = textwrap.dedent(
        """\
        import sys
        import numpy as np
        import scanside

        voxels = np.load(sys.argv[2])  # uint8 [sweep, depth, lateral]
        predictor = scanside.load(sys.argv[1], device="cpu")
        report = predictor.analyze(voxels, spacing_mm=(1.0, 0.5, 0.8))
        for lesion in report.lesions:
            verdict = "malignant" if lesion.malignant else "benign"
            print(lesion.id, verdict, f"{lesion.probability:.2f}", [round(v, 1) for v in lesion.centroid_mm])
        """
    )
    assert len(script.splitlines()) <= 15
    np.save(tmp_path / "volume.npy", blob_volume.voxels)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_pack), str(tmp_path / "volume.npy")],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    assert [(line[0], line[1]) for line in lines] == [("1", "malignant"), ("2", "benign")]
    assert json.loads(lines[0][3]) == pytest.approx([15.5, 25.0, 54.0], abs=0.5)
    assert done.stderr == ""


def test_reading_a_path_and_an_array_agree(predictor: Predictor, blob_volume: BlobVolume, tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", blob_volume.voxels)
    report = predictor.analyze(tmp_path / "volume.npy", spacing_mm=blob_volume.spacing_mm)
    assert report.lesions == predictor.analyze(blob_volume.volume()).lesions
    assert report.exam.source == "volume.npy"
