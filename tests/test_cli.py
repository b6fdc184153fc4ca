"""The command line: verbs, exit codes, what goes to stdout and what to stderr, and stopping in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

import scanside
from scanside.cli import app
from scanside.errors import ParityError
from scanside.exam.geometry import Geometry
from scanside.exam.volume import Laterality
from scanside.exam.write import write_dicom

if TYPE_CHECKING:
    from tests.conftest import BlobVolume

NOTICE = "Research use only. Not a medical device."
Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Run a command line in this process."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


@pytest.fixture(scope="session")
def exam(tmp_path_factory: pytest.TempPathFactory, blob_volume: BlobVolume) -> Path:
    """A Siemens-style DICOM file of the blob volume."""
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("exam") / "exam.dcm"
    return Path(
        write_dicom(path, blob_volume.voxels, geometry, vendor="siemens", laterality=Laterality.RIGHT, view="AP")
    )


def one_message(result: Result) -> str:
    """The stderr of a failed command: one message, no traceback."""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_version(run: Run) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"scanside {scanside.__version__}\n")


def test_help_names_every_verb_and_the_notice(run: Run) -> None:
    text = run("--help").stdout
    for verb in ("demo", "analyze", "live", "inspect", "phantom", "doctor", "pack", "evaluate", "export", "parity"):
        assert verb in text
    assert NOTICE in " ".join(text.split())


@pytest.mark.parametrize(
    "verb", ["demo", "analyze", "live", "inspect", "phantom", "evaluate", "build", "export", "parity"]
)
def test_the_help_of_a_verb_has_examples(run: Run, verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert f"  scanside {verb}" in result.stdout


def test_completion_is_offered() -> None:
    environment = os.environ | {"_SCANSIDE_COMPLETE": "complete_bash", "COMP_WORDS": "scanside ana", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['scanside']; from scanside.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "analyze" in done.stdout


# --- usage: exit code 2 ---


@pytest.mark.parametrize(
    "words",
    [
        ("analyze",),
        ("analyze", "exam.dcm"),
        ("analyze", "exam.dcm", "--out", "out", "--device", "tpu"),
        ("analyze", "exam.dcm", "--out", "out", "--precision", "fp64"),
        ("nonsense",),
        ("phantom", "out"),
        ("phantom", "out", "--seed", "one"),
    ],
)
def test_a_command_line_that_makes_no_sense(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "a,b,c", "0,1,1", "-1,1,1", "nan,1,1", "inf,1,1", "1,1,1e9"])
@pytest.mark.parametrize("verb", ["inspect", "analyze"])
def test_a_spacing_that_makes_no_sense(run: Run, tmp_path: Path, verb: str, text: str) -> None:
    out = ("--out", tmp_path / "out") if verb == "analyze" else ()
    result = run(verb, tmp_path, *out, f"--spacing={text}")
    assert result.exit_code == 2
    assert "SWEEP,DEPTH,LATERAL" in one_message(result)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "10x10", "ax10x10", "7x10x10", "10x10x9999", "10,10,10"])
def test_a_shape_that_makes_no_sense(run: Run, tmp_path: Path, text: str) -> None:
    result = run("phantom", tmp_path / "out", "--seed", "1", f"--shape={text}")
    assert result.exit_code == 2
    assert "SWEEPxDEPTHxLATERAL" in one_message(result)


# --- phantom, inspect ---


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--format", "dicom", "--vendor", "siemens"), "exam.dcm"),
        (("--format", "dicom", "--vendor", "ge"), "exam.dcm"),
        (("--format", "nrrd"), "exam.nrrd"),
    ],
)
def test_a_phantom_is_written_and_inspected(run: Run, tmp_path: Path, options: tuple[str, ...], name: str) -> None:
    made = run("phantom", tmp_path / "p", "--seed", "3", "--lesions", "1", "--shape", "24x32x40", *options)
    assert made.exit_code == 0, made.stderr
    assert {path.name for path in (tmp_path / "p").iterdir()} == {name, "truth.json", "truth_mask.nrrd"}
    result = run("inspect", tmp_path / "p" / name, "--json")
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["schema"] == "scanside-inspect/1"
    assert [row["shape"] for row in shown["volumes"]] == [[24, 32, 40]]
    assert shown["volumes"][0]["verdict"] in ("ready", "degraded")


def test_inspect_shows_a_line_a_volume(run: Run, exam: Path) -> None:
    result = run("inspect", exam)
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert re.match(r"(ready|degraded)\s+exam.dcm ", line)
    assert "24 x 80 x 96" in line
    assert "right AP" in line


def test_inspect_refuses_with_exit_code_3(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.dcm").touch()
    result = run("inspect", tmp_path / "empty.dcm")
    assert result.exit_code == 3
    assert result.stdout.startswith("refused")


# --- analyze ---


def test_analyze_writes_a_report_and_shows_the_findings(run: Run, tmp_path: Path, exam: Path, tiny_pack: Path) -> None:
    result = run("analyze", exam, "--out", tmp_path / "out", "--pack", tiny_pack)
    assert result.exit_code == 0, result.stderr
    assert NOTICE in result.stdout
    assert "malignant" in result.stdout
    assert "benign" in result.stdout
    assert "classify" in result.stderr  # progress
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [lesion["malignant"] for lesion in report["lesions"]].count(True) == 1
    assert (tmp_path / "out" / "masks.nrrd").is_file()
    for lesion in report["lesions"]:
        assert all((tmp_path / "out" / name).is_file() for name in lesion["pictures"].values())


def test_heatmaps_are_drawn_when_asked_for(run: Run, tmp_path: Path, exam: Path, heatmap_pack: Path) -> None:
    words = ("analyze", exam, "--out", tmp_path / "out", "--pack", heatmap_pack, "--json", "--quiet")
    shown = json.loads(run(*words, "--heatmaps").stdout)
    for lesion in shown["lesions"]:
        assert set(lesion["pictures"]) == {"three_planes", "heatmap"}
        assert (tmp_path / "out" / lesion["pictures"]["heatmap"]).is_file()
    plain = json.loads(run(*words).stdout)
    assert all(set(lesion["pictures"]) == {"three_planes"} for lesion in plain["lesions"])
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 3


def test_heatmaps_of_a_pack_that_has_none(run: Run, tmp_path: Path, exam: Path, tiny_pack: Path) -> None:
    result = run("analyze", exam, "--out", tmp_path / "out", "--pack", tiny_pack, "--heatmaps", "-q")
    assert result.exit_code == 4
    assert "scanside pack create" in one_message(result)
    assert nothing_left(tmp_path)


def test_json_alone_is_on_stdout(run: Run, tmp_path: Path, exam: Path, tiny_pack: Path) -> None:
    result = run("analyze", exam, "--out", tmp_path / "out", "--pack", tiny_pack, "--json")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert shown == json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert NOTICE in result.stderr


def test_quiet_says_nothing_on_stderr(run: Run, tmp_path: Path, exam: Path, tiny_pack: Path) -> None:
    result = run("analyze", exam, "--out", tmp_path / "out", "--pack", tiny_pack, "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")


def test_spacing_is_taken_where_the_exam_states_none(
    run: Run, tmp_path: Path, blob_volume: BlobVolume, tiny_pack: Path
) -> None:
    import numpy as np

    np.save(tmp_path / "volume.npy", blob_volume.voxels)
    words = ("analyze", tmp_path / "volume.npy", "--out", tmp_path / "out", "--pack", tiny_pack, "--json", "-q")
    refused = run(*words)
    assert refused.exit_code == 3
    assert "--spacing" in one_message(refused)
    assert not (tmp_path / "out").exists()
    taken = run(*words, "--spacing", "1.0,0.5,0.8")
    assert taken.exit_code == 0, taken.stderr
    assert json.loads(taken.stdout)["exam"]["spacing_mm"] == [1.0, 0.5, 0.8]


def test_a_study_folder_gives_a_report_a_volume_and_a_summary(
    run: Run, tmp_path: Path, blob_volume: BlobVolume, tiny_pack: Path
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    for number, (side, view) in enumerate([(Laterality.RIGHT, "AP"), (Laterality.LEFT, "LAT")]):
        write_dicom(study / f"{number}.dcm", blob_volume.voxels, geometry, vendor="siemens", laterality=side, view=view)
    result = run("analyze", study, "--out", tmp_path / "out", "--pack", tiny_pack)
    assert result.exit_code == 0, result.stderr
    assert NOTICE in result.stdout
    summary = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    assert {(row["laterality"], row["view"]) for row in summary["volumes"]} == {("right", "AP"), ("left", "LAT")}
    for row in summary["volumes"]:
        assert row["lesions"] == 2
        assert (tmp_path / "out" / row["folder"] / "report.json").is_file()


def test_a_study_with_a_bad_volume_keeps_the_good_one_and_exits_3(
    run: Run, tmp_path: Path, blob_volume: BlobVolume, tiny_pack: Path
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    geometry = Geometry(blob_volume.voxels.shape, blob_volume.spacing_mm)  # type: ignore[arg-type]
    for name, view in (("a.dcm", "AP"), ("b.dcm", "LAT")):
        write_dicom(study / name, blob_volume.voxels, geometry, vendor="siemens", view=view)
    (study / "b.dcm").write_bytes((study / "b.dcm").read_bytes()[:-1000])
    result = run("analyze", study, "--out", tmp_path / "out", "--pack", tiny_pack, "--json", "--quiet")
    assert result.exit_code == 3
    assert "1 of 2 volumes refused" in result.stderr
    assert "b.dcm" in result.stderr
    verdicts = {row["source"]: row["verdict"] for row in json.loads(result.stdout)["volumes"]}
    assert verdicts["b.dcm"] == "refused"
    assert verdicts["a.dcm"] in ("ready", "degraded")
    assert (tmp_path / "out" / "study.json").is_file()


# --- errors: one message, its exit code, no partial report ---


def nothing_left(folder: Path, *known: str) -> bool:
    """Whether `folder` holds nothing but the `known` names, hidden files included."""
    return {path.name for path in folder.iterdir()} == set(known)


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"no exam at all"])
def test_bad_input(run: Run, tmp_path: Path, tiny_pack: Path, content: bytes) -> None:
    (tmp_path / "bad.dcm").write_bytes(content)
    result = run("analyze", tmp_path / "bad.dcm", "--out", tmp_path / "out", "--pack", tiny_pack, "-q")
    assert result.exit_code == 3
    assert "bad.dcm" in one_message(result)
    assert nothing_left(tmp_path, "bad.dcm")


def test_no_such_exam(run: Run, tmp_path: Path, tiny_pack: Path) -> None:
    result = run("analyze", tmp_path / "absent.dcm", "--out", tmp_path / "out", "--pack", tiny_pack, "-q")
    assert result.exit_code == 3
    assert "absent.dcm" in one_message(result)
    assert nothing_left(tmp_path)


def test_truncated_pixels(run: Run, tmp_path: Path, exam: Path, tiny_pack: Path) -> None:
    (tmp_path / "cut.dcm").write_bytes(exam.read_bytes()[:-1000])
    result = run("analyze", tmp_path / "cut.dcm", "--out", tmp_path / "out", "--pack", tiny_pack, "-q")
    assert result.exit_code == 3
    assert "cut.dcm" in one_message(result)
    assert nothing_left(tmp_path, "cut.dcm")


def test_a_pack_with_one_changed_byte(run: Run, tmp_path: Path, exam: Path, tiny_pack_copy: Path) -> None:
    graph = tiny_pack_copy / "classifier.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    for words in (
        ("analyze", exam, "--out", tmp_path / "out", "--pack", tiny_pack_copy, "-q"),
        ("pack", "verify", tiny_pack_copy),
        ("pack", "info", tiny_pack_copy),
    ):
        result = run(*words)
        assert result.exit_code == 4
        message = one_message(result)
        assert "classifier.onnx" in message
        assert "the file was changed" in message
    assert nothing_left(tmp_path, "pack")


def test_no_such_pack(run: Run, tmp_path: Path, exam: Path) -> None:
    result = run("analyze", exam, "--out", tmp_path / "out", "--pack", tmp_path / "none", "-q")
    assert result.exit_code == 4
    assert "no model pack here" in one_message(result)


def test_an_output_path_that_cannot_be_written(run: Run, tmp_path: Path, exam: Path, tiny_pack: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = run("analyze", exam, "--out", tmp_path / "file" / "out", "--pack", tiny_pack, "-q")
    assert result.exit_code == 4
    assert str(tmp_path / "file" / "out") in one_message(result)
    assert nothing_left(tmp_path, "file")


def test_an_output_folder_with_other_files_is_left_alone(run: Run, tmp_path: Path, exam: Path, tiny_pack: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    result = run("analyze", exam, "--out", tmp_path / "out", "--pack", tiny_pack, "-q")
    assert result.exit_code == 4
    assert "thesis.txt" in one_message(result)
    assert nothing_left(tmp_path / "out", "thesis.txt")


def test_cuda_without_a_gpu(
    run: Run, tmp_path: Path, exam: Path, tiny_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scanside.engine import capabilities as engine

    engine.capabilities.cache_clear()
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    try:
        result = run("analyze", exam, "--out", tmp_path / "out", "--pack", tiny_pack, "--device", "cuda", "-q")
    finally:
        engine.capabilities.cache_clear()
    assert result.exit_code == 4
    assert "no usable CUDA provider" in one_message(result)
    assert nothing_left(tmp_path)


def test_fp16_needs_a_gpu(run: Run, tmp_path: Path, exam: Path, tiny_pack: Path) -> None:
    words = ("--out", tmp_path / "out", "--pack", tiny_pack, "--precision", "fp16", "--device", "cpu", "-q")
    result = run("analyze", exam, *words)
    assert result.exit_code == 4
    assert "precision fp16 needs TensorRT and a GPU" in one_message(result)
    assert nothing_left(tmp_path)


def test_a_precision_without_a_certificate(
    run: Run, tmp_path: Path, exam: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ParityError("precision bf16 has no parity certificate", remedy="run with precision fp32")

    monkeypatch.setattr(scanside, "load", refuse, raising=False)
    result = run("analyze", exam, "--out", tmp_path / "out", "-q")
    assert result.exit_code == 5
    assert one_message(result) == "error: precision bf16 has no parity certificate. Run with precision fp32"


def test_a_bug_is_called_one_and_leaks_nothing(run: Run, exam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("DOE^JANE")

    monkeypatch.setattr("scanside.exam.inspect.inspect", broken)
    result = run("inspect", exam)
    assert result.exit_code == 1
    message = one_message(result)
    assert "this is a bug in scanside: RuntimeError" in message
    assert "DOE" not in message


def test_libraries_say_nothing_on_stderr(run: Run, exam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging
    import warnings

    from scanside.exam import inspect as module

    def loud(*_: object, **__: object) -> tuple[()]:
        warnings.warn("Invalid value for VR PN: DOE^JANE", stacklevel=1)
        logging.getLogger("somewhere").warning("DOE^JANE")
        return ()

    monkeypatch.setattr(module, "inspect", loud)
    assert run("inspect", exam).stderr == ""


def test_debug_shows_the_traceback(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANSIDE_DEBUG", "1")
    result = run("pack", "verify", tmp_path)
    assert result.exit_code == 4
    assert "Traceback" in result.stderr
    assert "PackError" in result.stderr


# --- stopping ---

SLOW_ANALYZE = """
import sys, time
from scanside.console.progress import StageProgress

def slowly(self, step):
    print("stage", step.stage, flush=True)
    time.sleep(0.5)

StageProgress.__call__ = slowly
from scanside.cli import main
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", ["decode", "segment"])
def test_a_signal_in_the_middle_leaves_no_partial_report(
    tmp_path: Path, exam: Path, tiny_pack: Path, number: signal.Signals, code: int, stage: str
) -> None:
    words = ["analyze", exam, "--out", tmp_path / "out", "--pack", tiny_pack]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_ANALYZE, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"stage {stage}"):
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert errors.strip() == "stopped: interrupted; nothing half-written is left"
    assert nothing_left(tmp_path)


def test_an_interrupted_run_keeps_the_earlier_report(tmp_path: Path, exam: Path, tiny_pack: Path, run: Run) -> None:
    words = ("analyze", exam, "--out", tmp_path / "out", "--pack", tiny_pack, "-q")
    assert run(*words).exit_code == 0
    earlier = (tmp_path / "out" / "report.json").read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scanside.report.write.write_file", interrupt)
        result = run(*words)
    assert result.exit_code == 143
    assert (tmp_path / "out" / "report.json").read_bytes() == earlier
    assert nothing_left(tmp_path, "out")


# --- pack, doctor, demo ---


def test_pack_info(run: Run, tiny_pack: Path) -> None:
    shown = run("pack", "info", tiny_pack)
    assert shown.exit_code == 0
    assert "tiny 1" in shown.stdout
    as_json = json.loads(run("pack", "info", tiny_pack, "--json").stdout)
    assert (as_json["name"], as_json["version"]) == ("tiny", "1")


def test_pack_verify_replays_the_golden_cases(run: Run, tiny_pack: Path) -> None:
    result = run("pack", "verify", tiny_pack)
    assert result.exit_code == 0, result.stderr
    assert "5 files intact" in result.stdout
    assert result.stdout.count("reproduced") == 2


def test_doctor(run: Run, tiny_pack: Path, tmp_path: Path) -> None:
    shown = run("doctor", "--pack", tiny_pack)
    assert shown.exit_code == 0
    assert "this machine can analyse exams" in shown.stdout
    broken = run("doctor", "--pack", tmp_path, "--json")
    assert broken.exit_code == 4
    assert json.loads(broken.stdout)["healthy"] is False


def test_demo_compares_the_findings_with_the_truth(run: Run, tmp_path: Path, tiny_pack_copy: Path) -> None:
    manifest = tiny_pack_copy / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["segmenter"]["threshold"] = 0.95  # the tiny pack takes bright tissue for lesions: keep their number small
    manifest.write_text(json.dumps(content), encoding="utf-8")
    result = run("demo", "--out", tmp_path / "demo", "--shape", "24x48x56", "--pack", tiny_pack_copy)
    assert result.exit_code == 0, result.stderr
    truth = json.loads((tmp_path / "demo" / "exam" / "truth.json").read_text(encoding="utf-8"))
    assert re.search(rf"\d of {len(truth['lesions'])} lesions found", result.stdout)
    assert "phantom" in result.stderr
    assert NOTICE in result.stdout
    assert (tmp_path / "demo" / "report" / "report.json").is_file()


def test_demo_refuses_a_place_that_is_no_folder_before_it_begins(
    run: Run, tiny_pack_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scanside.demo.write_phantom", lambda *_, **__: pytest.fail("a phantom"))
    (tmp_path / "file").write_text("mine")
    result = run("demo", "--out", tmp_path / "file", "--pack", tiny_pack_copy)
    assert result.exit_code == 4
    assert "is no folder" in result.stderr
    assert (tmp_path / "file").read_text() == "mine"
