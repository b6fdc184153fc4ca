"""Does an ONNX file reach for data outside itself? A reader of just enough protobuf to know, without the onnx package.

Only the messages on the way to a tensor are walked (onnx.proto3); tensor payloads are stepped over.
"""

from __future__ import annotations

from scanside.errors import PackError

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
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def refuse_external_data(graph: bytes, where: str) -> None:
    """Raise unless `graph` is a well-formed ONNX model that holds all its data.

    Raises
    ------
    PackError
        A tensor keeps its data in another file, or the bytes are no ONNX model.
    """
    pending = [("ModelProto", memoryview(graph))]
    has_graph = False
    while pending:
        message, data = pending.pop()
        position = 0
        while position < len(data):
            tag, position = _varint(data, position, where)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, position = _varint(data, position, where)
                external = message == _TENSOR and number == _DATA_LOCATION and value != 0
            elif wire == _BYTES:
                length, position = _varint(data, position, where)
                if length > len(data) - position:
                    raise _malformed(where)
                child = _CHILDREN[message].get(number)
                if child is not None:
                    pending.append((child, data[position : position + length]))
                    has_graph = has_graph or child == "GraphProto"
                position += length
                external = message == _TENSOR and number == _EXTERNAL_DATA
            elif wire in (_FIXED32, _FIXED64):
                position += 4 if wire == _FIXED32 else 8
                external = False
            else:
                raise _malformed(where)
            if external:
                raise PackError(
                    "the graph keeps data in another file",
                    where=where,
                    expected="a self-contained ONNX file",
                    found="external data",
                    remedy="export it again without external data",
                )
        if position != len(data):
            raise _malformed(where)
    if not has_graph:
        raise _malformed(where)


def _varint(data: memoryview, position: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _malformed(where)
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _malformed(where)


def _malformed(where: str) -> PackError:
    return PackError(
        "no ONNX model", where=where, found="malformed bytes", remedy="the file is damaged: install the pack again"
    )
