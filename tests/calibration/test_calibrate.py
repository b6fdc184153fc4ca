"""A whole calibration: the pack it writes, what a kill leaves, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from scanside.calibration import calibrate as module
from scanside.calibration.calibrate import Settings, calibrate, ranges_file, work_folder
from scanside.calibration.command import finder
from scanside.calibration.data import Amount, ExamSource, Loaded, PhantomSource, prepare, sources_of
from scanside.calibration.selection import Lesion, section_grids
from scanside.cli import app
from scanside.errors import CalibrationError, OutputError, PackError, UsageError
from scanside.exam.geometry import Box
from scanside.exam.volume import Volume
from scanside.pack import Certificate, add_certificates, load_pack
from tests.pack.test_manifest import certificate

SHAPE = (40, 60, 80)
SMALL = Settings(amount=Amount(sections=9, triplets=6))


class Blob:
    """An exam of random pixels with one lesion in it; counts how often it was loaded."""

    def __init__(self, name: str = "blob", grey: int | None = None) -> None:
        self.name, self.names, self.loaded = name, (name,), 0
        rng = np.random.default_rng(4)
        voxels = rng.integers(0, 256, SHAPE).astype(np.uint8)
        self.volume = Volume.from_array(voxels if grey is None else np.full_like(voxels, grey), (1.0, 1.0, 1.0))
        self.geometry = self.volume.geometry

    def load(self) -> Loaded:
        self.loaded += 1
        frames = np.stack(list(self.volume.frames()))
        boxes = (Box((10, 10, 10), (20, 22, 24)), Box((22, 30, 40), (30, 42, 60)))
        return Loaded(frames, (Lesion(1, boxes[0], malignant=True), Lesion(2, boxes[1], malignant=False)))


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def calibrated(toy_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "pack"
    return calibrate(load_pack(toy_pack), [Blob()], out, SMALL).pack


def test_the_pack_holds_what_was_made(toy_pack: Path, calibrated: Path) -> None:
    before, after = load_pack(toy_pack), load_pack(calibrated)
    for network in ("segmenter", "classifier"):
        assert after.network_graph(network, "fp32") == before.graph_bytes(network)
        for precision in ("bf16", "fp16", "int8", "int8-fp16", "int8-u8"):
            assert after.network_graph(network, precision)
        ranges = json.loads(after.file_bytes(ranges_file(network)))
        assert {row["samples"] for row in ranges["tensors"]} == {9 if network == "segmenter" else 6}
        assert all(0 < row["amax"] <= max(-row["min"], row["max"]) for row in ranges["tensors"])
    assert after.manifest.precisions == ("fp32", "bf16", "fp16", "int8")
    assert after.manifest.version == "1+int8"
    compared = {(c.network, c.compared): c for c in after.manifest.checks}
    assert 0 < compared["classifier", "INT8 graph"].mean_error < 0.02
    assert compared["segmenter", "FP16 graph"].mean_error < 0.001
    selection = json.loads(after.file_bytes("calibration.selection.json"))
    assert (len(selection["sections"]), len(selection["triplets"])) == (9, 6)
    assert after.manifest.provenance["calibration"]["from_pack"] == before.sha256
    assert not work_folder(calibrated).exists()


def test_calibrating_again_gives_the_same_bytes(calibrated: Path, tmp_path: Path) -> None:
    again = calibrate(load_pack(calibrated), [Blob()], tmp_path / "again", SMALL).pack
    for name in ("segmenter.onnx", "classifier.onnx", "segmenter.ranges.json", "calibration.selection.json"):
        assert (again / name).read_bytes() == (calibrated / name).read_bytes()


def test_reviewed_ranges_are_taken_as_they_are(toy_pack: Path, calibrated: Path, tmp_path: Path) -> None:
    for network in ("segmenter", "classifier"):
        content = json.loads((calibrated / ranges_file(network)).read_text())
        content["tensors"][0]["amax"] = 12.7
        (tmp_path / ranges_file(network)).write_text(json.dumps(content))
    settings = Settings(amount=SMALL.amount, ranges=tmp_path)
    made = calibrate(load_pack(toy_pack), [Blob()], tmp_path / "pack", settings)
    assert made.networks[0].ranges.tensors[0].amax == 12.7
    method = load_pack(made.pack).manifest.provenance["calibration"]["method"]
    assert method == {"segmenter": "ranges given", "classifier": "ranges given"}
    file = tmp_path / ranges_file("classifier")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CalibrationError, match=r"classifier.ranges.json: broken JSON"):
        calibrate(load_pack(toy_pack), [Blob()], tmp_path / "other", settings)
    assert not (tmp_path / "other").exists()


def test_ranges_of_one_network_are_taken_and_the_other_s_observed(
    toy_pack: Path, calibrated: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ranges"
    folder.mkdir()
    shutil.copy(calibrated / ranges_file("segmenter"), folder)
    settings = Settings(amount=Amount(sections=5, triplets=6, seed=1), ranges=folder)
    made = load_pack(calibrate(load_pack(toy_pack), [Blob()], tmp_path / "pack", settings).pack)
    before = load_pack(calibrated)
    assert made.graph_bytes("segmenter") == before.graph_bytes("segmenter")
    assert made.file_bytes(ranges_file("segmenter")) == before.file_bytes(ranges_file("segmenter"))
    assert made.graph_bytes("classifier") != before.graph_bytes("classifier")
    method = made.manifest.provenance["calibration"]["method"]
    assert method == {"segmenter": "ranges given", "classifier": "entropy"}


def test_a_folder_without_ranges_is_refused_before_anything_is_opened(toy_pack: Path, tmp_path: Path) -> None:
    source = Blob()
    with pytest.raises(CalibrationError, match=r"no ranges to take.*segmenter.ranges.json or classifier.ranges.json"):
        calibrate(load_pack(toy_pack), [source], tmp_path / "pack", Settings(amount=SMALL.amount, ranges=tmp_path))
    assert (source.loaded, list(tmp_path.iterdir())) == (0, [])


def test_certificates_hold_for_the_graphs_that_calibration_makes_again(calibrated: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(calibrated, pack)
    certificates = certify(pack)
    assert len(certificates) == 10
    again = calibrate(load_pack(pack), [Blob()], tmp_path / "again", SMALL)
    assert again.certificates == load_pack(again.pack).manifest.certificates == certificates
    other = Settings(amount=Amount(sections=5, triplets=4, seed=1))  # other ranges, so other 8-bit graphs
    again = calibrate(load_pack(pack), [Blob()], tmp_path / "other", other)
    assert {(c.network, c.precision) for c in again.certificates} == {
        (network, precision) for network in ("segmenter", "classifier") for precision in ("bf16", "fp16")
    }


def certify(folder: Path) -> tuple[Certificate, ...]:
    """A certificate for every graph but FP32's that the pack's networks have."""
    pack = load_pack(folder)
    certificates = [
        certificate(graph.network, precision=graph.precision.partition("-")[0], graph_sha256=graph.sha256)
        for graph in pack.manifest.derived
        if graph.precision != "fp32"
    ]
    return add_certificates(pack, certificates).manifest.certificates


def test_a_killed_calibration_goes_on(toy_pack: Path, tmp_path: Path) -> None:
    source, out = Blob(), tmp_path / "pack"

    def kill(stage: str, done: int, _total: int) -> None:
        if stage == "observe classifier" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(load_pack(toy_pack), [source], out, SMALL, stages=kill)
    assert not out.exists()
    kept = sorted(file.name for file in work_folder(out).iterdir())
    assert [name.split("-")[0] for name in kept] == ["data", "segmenter"]
    observed: list[str] = []
    calibrate(load_pack(toy_pack), [source], out, SMALL, stages=lambda stage, *_: observed.append(stage))
    assert source.loaded == 1  # what was cut was kept
    assert "observe segmenter" not in observed  # and what was counted
    assert "observe classifier" in observed
    assert load_pack(out).manifest.precisions[-1] == "int8"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pack"]


def test_pictures_of_one_grey_are_refused(toy_pack: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"black: the calibration pictures are all of one grey.*found grey 0"):
        calibrate(load_pack(toy_pack), [Blob("black", grey=0)], tmp_path / "pack", SMALL)
    assert not (tmp_path / "pack").exists()


def test_a_test_case_is_refused_before_anything_is_opened(toy_pack: Path, tmp_path: Path) -> None:
    source = Blob("held out")
    settings = Settings(amount=SMALL.amount, test_cases=frozenset({"held out"}))
    with pytest.raises(CalibrationError, match="held out: a test case must not be calibrated on"):
        calibrate(load_pack(toy_pack), [source], tmp_path / "pack", settings)
    assert (source.loaded, list(tmp_path.iterdir())) == (0, [])


def test_data_cut_for_another_network_size(toy_pack: Path, tmp_path: Path) -> None:
    pack = load_pack(toy_pack)
    data = prepare([Blob()], pack.manifest, SMALL.amount, tmp_path)
    file = next(tmp_path.glob("*.npz"))
    with np.load(file) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed |= {name: a[..., :16] for name, a in changed.items() if name.startswith("triplets")}
    np.savez(file, **changed)
    batches = module.network_batches(pack.manifest, "classifier", data)
    with pytest.raises(CalibrationError, match=r"transverse: calibration data of another size.*32, 32.*32, 16"):
        module.answers(pack.graph_bytes("classifier"), "probability", batches)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CalibrationError, match="cut calibration data is damaged"):
        prepare([Blob()], pack.manifest, SMALL.amount, tmp_path)


def test_what_holds_no_pack_is_not_replaced(toy_pack: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(OutputError, match="refusing to replace what is no pack"):
        calibrate(load_pack(toy_pack), [Blob()], tmp_path, SMALL)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_a_folder_that_cannot_be_made(toy_pack: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="the pack cannot be written"):
        calibrate(load_pack(toy_pack), [Blob()], tmp_path / "file" / "pack", SMALL)
    with pytest.raises(OutputError, match="the calibration data cannot be kept"):
        prepare([Blob()], load_pack(toy_pack).manifest, SMALL.amount, tmp_path / "file" / "data")


def test_an_unknown_block_is_refused_before_anything_is_opened(toy_pack: Path, tmp_path: Path) -> None:
    source = Blob()
    settings = Settings(amount=SMALL.amount, keep={"classifier": ["nothing"]})
    with pytest.raises(
        UsageError, match=r"--keep: no such block to keep.*branches.sagittal.layer1.0.*classifier:nothing"
    ):
        calibrate(load_pack(toy_pack), [source], tmp_path / "pack", settings)
    assert (source.loaded, list(tmp_path.iterdir())) == (0, [])


def test_a_network_without_anything_to_round(toy_pack: Path, tiny_pack: Path, tmp_path: Path) -> None:
    everything = {"segmenter": ["encoder.blocks.0", "encoder.blocks.1"]}
    with pytest.raises(CalibrationError, match="segmenter: nothing of this network can run in 8 bits"):
        calibrate(load_pack(toy_pack), [Blob()], tmp_path / "pack", Settings(amount=SMALL.amount, keep=everything))
    with pytest.raises(PackError, match="nodes need names of their own"):
        calibrate(load_pack(tiny_pack), [Blob()], tmp_path / "pack", SMALL)


def test_sources(tmp_path: Path) -> None:
    assert sources_of(["phantom:3:5:40x60x80"], lambda v: ...) == [  # type: ignore[arg-type,return-value]
        PhantomSource(3, (40, 60, 80)),
        PhantomSource(4, (40, 60, 80)),
    ]
    for bad in ("phantom:3", "phantom:5:3", "phantom:a:b", "phantom:1:2:3x4"):
        with pytest.raises(UsageError, match="no range of phantoms"):
            sources_of([bad], lambda v: ...)  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match="named twice"):
        sources_of(["phantom:3:5", "phantom:4:5"], lambda v: ...)  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match="unknown method"):
        Settings(method={"segmenter": "guess"})


def test_a_phantom_s_lesions_are_the_true_ones_and_an_exam_s_are_found(tiny_pack: Path, blob_volume) -> None:
    exam = PhantomSource(3, (48, 60, 80)).load()
    assert exam.mask is not None
    assert exam.voxels.shape == exam.mask.shape == PhantomSource(3, (48, 60, 80)).geometry.shape
    assert all(isinstance(lesion.malignant, bool) for lesion in exam.lesions)
    found = ExamSource(blob_volume.volume(), finder(load_pack(tiny_pack), threads=1)).load()
    assert (found.voxels == blob_volume.voxels).all()
    assert len(found.lesions) == 2
    assert (found.mask, found.lesions[0].malignant) == (None, None)


def test_true_masks_go_with_their_sections(toy_pack: Path, tmp_path: Path) -> None:
    pack = load_pack(toy_pack)
    source = PhantomSource(3, (64, 96, 128))
    data = prepare([source], pack.manifest, Amount(12, 2), tmp_path / "a")
    masks = data.mask_batches(4)
    assert masks is not None
    pictures = module.network_batches(pack.manifest, "segmenter", data)
    assert [make().shape for make in masks] == [make()["pixels"].shape for make in pictures]
    grids = section_grids(source.geometry, ("transverse", "sagittal", "coronal"), 1.0, 1.0)
    truth = source.load().mask
    assert truth is not None
    rows = [row for make in masks for row in make()]
    crossed = 0
    for choice, mask in zip(data.selection.sections, rows, strict=True):
        grid = next(grid for plane, grid in grids.items() if plane.value == choice.plane)
        native = grid.plane.slice(truth, int(grid.indices[choice.section])) > 0
        area_mm2 = native.mean() * np.prod(
            [source.geometry.extent_mm[a] for a in (grid.plane.rows, grid.plane.columns)]
        )
        assert abs(mask.sum() * 1.0 - area_mm2) <= 0.15 * area_mm2 + 12  # pixels of 1 mm
        crossed += bool(mask.any())
    assert crossed >= 3
    assert prepare([Blob()], pack.manifest, SMALL.amount, tmp_path / "b").mask_batches(4) is None


def test_the_verb(toy_pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    words = ("calibrate", toy_pack, "--data", "phantom:3:5:64x96x128", "--out", out, "--sections", 6, "--triplets", 4)
    result = run(*words, "--method", "minmax", "--quiet")
    assert result.exit_code == 0, result.output
    assert "segmenter" in result.stdout
    assert load_pack(out).manifest.provenance["calibration"]["method"] == {
        "segmenter": "minmax",
        "classifier": "minmax",
    }
    verified = run("pack", "verify", out)
    assert verified.exit_code == 0, verified.output
    refused = run("calibrate", toy_pack, "--data", "phantom:5001:5002", "--out", tmp_path / "other")
    assert refused.exit_code == 3
    assert "a test case must not be calibrated on" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert run(*words, "--method", "guess").exit_code == 2
    for bad, message in (("segmenter", "--keep makes no sense"), ("segmenter:nothing", "no such block to keep")):
        wrong = run(*words, "--keep", bad, "--quiet")
        assert (wrong.exit_code, message in wrong.stderr) == (2, True)
    kept = run(*words, "--keep", "segmenter:encoder.blocks.0", "--quiet")
    assert kept.exit_code == 0, kept.output
    assert "1 of 5 operations in 8 bits" in kept.stdout


def test_openvino_itself_runs_unsigned_activations(calibrated: Path) -> None:
    pytest.importorskip("openvino")
    from scanside.calibration.calibrate import answers
    from scanside.engine.onnxruntime import OPENVINO_API, Choice
    from scanside.engine.openvino import OpenvinoRuntime

    pack = load_pack(calibrated)
    spec = pack.manifest.segmenter
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 64), dtype=np.uint8)
    graph = pack.network_graph("segmenter", "int8-u8")
    (expected,) = answers(graph, spec.output, [lambda: {spec.input: pixels}])
    choice = Choice(OPENVINO_API, "int8", "", rest="fp32")
    found = np.empty_like(pixels)
    OpenvinoRuntime(graph, choice, {"height": 32, "width": 64}, 1, "segmenter").run(
        {spec.input: pixels}, {spec.output: found}
    )
    assert np.abs(found.astype(int) - expected).mean() < 0.05 * 255


def test_the_engine_runs_what_was_derived(calibrated: Path) -> None:
    from scanside.engine.capabilities import capabilities
    from scanside.engine.predictor import Predictor
    from scanside.errors import ParityError

    pack = load_pack(calibrated)
    with Predictor(pack, "cpu", "fp32", 1) as predictor:
        assert all(result.passed for result in predictor.self_check())
    if not (capabilities().openvino or capabilities().openvino_api):
        pytest.skip("8-bit graphs run on OpenVINO alone")
    with pytest.raises(ParityError, match="precision int8 has no parity certificate"):
        Predictor(pack, "cpu", "int8", 1)
    with Predictor(pack, "cpu", "int8", 1, allow_uncertified=True) as predictor:
        assert predictor.device.precision == "int8"
        assert all(result.mean_error > 0 for result in predictor.self_check())
