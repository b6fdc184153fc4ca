"""Does an ONNX file reach for data outside itself? A reader of just enough protobuf to know, without the onnx package.

Only the messages on the way to a tensor are walked (onnx.proto3); tensor payloads are stepped over.
"""

from __future__ import annotations

from scanside.errors import PackError
from scanside.pack.protobuf import BYTES, VARINT, MalformedError, fields

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_TENSOR = "TensorProto"
# message -> {field number: message of that field}
_CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: _TENSOR,
        6: "GraphProto",
        10: _TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}


def refuse_external_data(graph: bytes, where: str) -> None:
    """Raise unless `graph` is a well-formed ONNX model that holds all its data.

    Raises
    ------
    PackError
        A tensor keeps its data in another file, or the bytes are no ONNX model.
    """
    pending = [("ModelProto", memoryview(graph))]
    has_graph = False
    try:
        while pending:
            message, data = pending.pop()
            for number, wire, value, _ in fields(data):
                if message == _TENSOR and _is_external(number, wire, value):
                    raise PackError(
                        "the graph keeps data in another file",
                        where=where,
                        expected="a self-contained ONNX file",
                        found="external data",
                        remedy="export it again without external data",
                    )
                child = _CHILDREN[message].get(number)
                if child is not None and isinstance(value, memoryview) and wire == BYTES:
                    pending.append((child, value))
                    has_graph = has_graph or child == "GraphProto"
    except MalformedError:
        has_graph = False
    if not has_graph:
        remedy = "the file is damaged: install the pack again"
        raise PackError("no ONNX model", where=where, found="malformed bytes", remedy=remedy)


def _is_external(number: int, wire: int, value: int | memoryview) -> bool:
    if wire == BYTES:
        return number == _EXTERNAL_DATA
    return wire == VARINT and number == _DATA_LOCATION and value != 0
