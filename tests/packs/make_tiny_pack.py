"""Make `tests/packs/tiny`: a pack of a few kB under the real graph contract, for tests that need answers, not quality.

    python tests/packs/make_tiny_pack.py [OUT]

The segmenter smooths 3 x 3 (int8 weights with DequantizeLinear, as shipped packs have) and marks what is brighter
than grey 130. The classifier calls crops malignant that have pixels brighter than 200; the three planes weigh 0.5, 0.3
and 0.2, so swapped inputs change the answer.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from scanside.pack import (
    SCHEMA,
    ClassifierSpec,
    ExportCheck,
    GoldenSpec,
    Licence,
    Manifest,
    SegmenterSpec,
    file_records,
    write_pack,
)

CROP = 32
OUT = Path(__file__).parent / "tiny"
GREY_THRESHOLD, SLOPE = 130.0, 0.08
CROP_GREY, CROP_MIDDLE, CROP_SLOPE = 200.0, 2.0, 1.5
PLANE_WEIGHTS = {"transverse": 0.5, "sagittal": 0.3, "coronal": 0.2}


def segmenter_reference(pixels: np.ndarray) -> np.ndarray:
    """The segmenter in numpy: uint8 [N, 1, H, W] -> uint8 of the same shape."""
    padded = np.pad(pixels.astype(np.float32), ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = pixels.shape[2:]
    smooth = sum(padded[:, :, r : r + height, c : c + width] for r in range(3) for c in range(3)) / 9
    return np.rint(255 / (1 + np.exp(-SLOPE * (smooth - GREY_THRESHOLD)))).astype(np.uint8)


def classifier_reference(**crops: np.ndarray) -> np.ndarray:
    """The classifier in numpy: three uint8 [N, 1, S, S] -> float32 [N]."""
    excess = {plane: np.maximum(crops[plane] - CROP_GREY, 0).mean((1, 2, 3)) for plane in PLANE_WEIGHTS}
    fused = sum(weight * excess[plane] for plane, weight in PLANE_WEIGHTS.items())
    return (1 / (1 + np.exp(-CROP_SLOPE * (fused - CROP_MIDDLE)))).astype(np.float32)


def constant(name: str, value: float | list, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.array(value, dtype), name)


def segmenter() -> ModelProto:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("DequantizeLinear", ["weight_int8", "scale", "zero"], ["weight"], axis=0),
        helper.make_node("Conv", ["grey", "weight", "bias"], ["smooth"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["smooth", "slope"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["p"]),
        helper.make_node("Mul", ["p", "full"], ["levels"]),
        helper.make_node("Round", ["levels"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["probability"], to=TensorProto.UINT8),
    ]
    constants = [
        constant("weight_int8", np.full((1, 1, 3, 3), 127).tolist(), np.int8),
        constant("scale", [1 / 9 / 127]),
        constant("zero", [0], np.int8),
        constant("bias", [-GREY_THRESHOLD]),
        constant("slope", SLOPE),
        constant("full", 255.0),
    ]
    shape = ["batch", 1, "height", "width"]
    return model("segmenter", nodes, {"pixels": shape}, ("probability", TensorProto.UINT8, shape), constants)


def classifier() -> ModelProto:
    nodes = []
    for plane in PLANE_WEIGHTS:
        nodes += [
            helper.make_node("Cast", [plane], [f"{plane}_grey"], to=TensorProto.FLOAT),
            helper.make_node("Sub", [f"{plane}_grey", "bright"], [f"{plane}_excess"]),
            helper.make_node("Relu", [f"{plane}_excess"], [f"{plane}_positive"]),
            helper.make_node("ReduceMean", [f"{plane}_positive", "axes"], [f"{plane}_mean"], keepdims=0),
            helper.make_node("Mul", [f"{plane}_mean", f"{plane}_weight"], [f"{plane}_part"]),
        ]
    nodes += [
        helper.make_node("Sum", [f"{plane}_part" for plane in PLANE_WEIGHTS], ["fused"]),
        helper.make_node("Sub", ["fused", "middle"], ["centred"]),
        helper.make_node("Mul", ["centred", "slope"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = [constant("axes", [1, 2, 3], np.int64), constant("bright", CROP_GREY)]
    constants += [constant("middle", CROP_MIDDLE), constant("slope", CROP_SLOPE)]
    constants += [constant(f"{plane}_weight", weight) for plane, weight in PLANE_WEIGHTS.items()]
    inputs = {plane: ["batch", 1, CROP, CROP] for plane in PLANE_WEIGHTS}
    return model("classifier", nodes, inputs, ("probability", TensorProto.FLOAT, ["batch"]), constants)


def model(
    name: str, nodes: list, inputs: dict[str, list], output: tuple[str, int, list], constants: list[TensorProto]
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, TensorProto.UINT8, shape) for key, shape in inputs.items()],
        [helper.make_tensor_value_info(*output)],
        constants,
    )
    made = helper.make_model(graph, producer_name="scanside", opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 9
    checker.check_model(made, full_check=True)
    return made


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def contents() -> dict[str, bytes]:
    """Every file of the pack but the manifest."""
    rng = np.random.default_rng(7)
    pixels = rng.integers(40, 90, (2, 1, 32, 64), dtype=np.uint8)
    pixels[:, :, 8:20, 16:40] += 110
    crops = {
        plane: np.repeat(rng.integers(195, 207, (3, 1, 1, 1), dtype=np.uint8), CROP, 2).repeat(CROP, 3)
        for plane in PLANE_WEIGHTS
    }
    return {
        "segmenter.onnx": segmenter().SerializeToString(deterministic=True),
        "classifier.onnx": classifier().SerializeToString(deterministic=True),
        "golden_segmenter.npz": npz(pixels=pixels, probability=segmenter_reference(pixels)),
        "golden_classifier.npz": npz(**crops, probability=classifier_reference(**crops)),
        "card.md": b"# Tiny test pack\n\nBright means malignant. It finds nothing in a real exam.\n",
    }


def make_tiny_pack(out: Path) -> Path:
    """Write the pack to `out` and return its folder."""
    files = contents()
    manifest = Manifest(
        schema=SCHEMA,
        name="tiny",
        version="1",
        segmenter=SegmenterSpec(
            graph="segmenter.onnx",
            architecture="3 x 3 mean",
            input="pixels",
            output="probability",
            pitch_mm=1.0,
            every_mm=1.0,
            planes=tuple(PLANE_WEIGHTS),
            threshold=0.5,
            min_lesion_mm=3.0,
            min_detection_score=0.5,
            smoothing_mm=0.0,
            batch=4,
            size_multiple=32,
            mean=0.0,
            std=1.0,
        ),
        classifier=ClassifierSpec(
            graph="classifier.onnx",
            backbone="mean grey",
            variant="fusion2",
            inputs={plane: plane for plane in PLANE_WEIGHTS},
            output="probability",
            size=CROP,
            margin=1.25,
            frames=4,
            batch=3,
            mean=0.0,
            std=1.0,
        ),
        precisions=("fp32", "bf16"),
        golden=(
            GoldenSpec("segmenter", "golden_segmenter.npz", max_error=1.0, mean_error=0.02),
            GoldenSpec("classifier", "golden_classifier.npz", max_error=1e-4, mean_error=1e-5),
        ),
        checks=(ExportCheck("segmenter", "graph", "numpy", items=2, max_error=0.004, mean_error=1e-4, dice=1.0),),
        provenance={"made_by": "tests/packs/make_tiny_pack.py"},
        licences=(Licence(covers="everything", licence="Apache-2.0"),),
        files=file_records(files),
        card="card.md",
    )
    return write_pack(out, files, manifest)


if __name__ == "__main__":
    make_tiny_pack(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
