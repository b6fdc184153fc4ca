"""An ONNX graph as the scanner side can change it, without the onnx package.

Nodes and constants stand in the open; every other byte of the file is carried through as it was. A graph that was not
changed is written byte for byte as it was read (onnx.proto3, fields in the order of their numbers).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scanside.errors import PackError
from scanside.pack.protobuf import BYTES, MalformedError, bytes_field, fields, number_field, signed

FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16 = 1, 2, 3, 6, 7, 9, 10
_NUMPY_OF = {FLOAT: "<f4", UINT8: "u1", INT8: "i1", INT32: "<i4", INT64: "<i8", BOOL: "?", FLOAT16: "<f2"}

Piece = bytes | memoryview


@dataclass
class Node:
    """One operation. `attributes` are NodeProto.attribute messages, `rest` the fields after them, both as stored."""

    op_type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: list[Piece] = field(default_factory=list)
    rest: list[Piece] = field(default_factory=list)
    domain: str = ""

    def integer(self, name: str, default: int) -> int:
        """The value of an integer attribute."""
        for attribute in self.attributes:
            key, value = _integer_attribute(attribute)
            if key == name and value is not None:
                return value
        return default

    def set_integer(self, name: str, value: int) -> None:
        """Give an integer attribute another value."""
        kept = [a for a in self.attributes if _integer_attribute(a)[0] != name]
        message = b"".join([*bytes_field(1, name.encode()), number_field(3, value), number_field(20, 2)])
        self.attributes = [*kept, message]


@dataclass
class Constant:
    """An initializer. `message` is its TensorProto as stored."""

    name: str
    data_type: int
    dims: tuple[int, ...]
    message: Piece

    @classmethod
    def of(cls, name: str, array: NDArray) -> Constant:
        """`array` (float32, float16, int8, ...) as an initializer."""
        data_type = {np.dtype(code): number for number, code in _NUMPY_OF.items()}[array.dtype.newbyteorder("<")]
        raw = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        head = b"".join(number_field(1, n) for n in array.shape) + number_field(2, data_type)
        message = b"".join([head, *bytes_field(8, name.encode()), *bytes_field(9, raw)])
        return cls(name, data_type, tuple(array.shape), message)

    def array(self) -> NDArray:
        """The values, shaped. A view of the file's bytes where they are stored raw.

        Raises
        ------
        PackError
            The values are stored in a form that the exporter never writes.
        """
        for number, wire, value, _ in fields(memoryview(self.message)):
            stored_raw = number == 9 or (number == 4 and self.data_type == FLOAT)
            if wire == BYTES and isinstance(value, memoryview) and stored_raw and self.data_type in _NUMPY_OF:
                flat = np.frombuffer(value, _NUMPY_OF[self.data_type])
                if flat.size == math.prod(self.dims):
                    return flat.reshape(self.dims)
        raise PackError("a tensor is stored in an unusual form", where=self.name, expected="raw data")


class Graph:
    """The main graph of an ONNX model; see the module.

    Attributes
    ----------
    nodes, constants : list
        In the file's order; change them in place.
    inputs, outputs : dict
        Tensor name to element type (`FLOAT`, `UINT8`, ...).
    opset : int
        Version of the default operator set.

    Raises
    ------
    PackError
        The bytes are no ONNX model.
    """

    def __init__(self, model: bytes, where: str = "graph") -> None:
        self.where = where
        self.nodes: list[Node] = []
        self.constants: list[Constant] = []
        self.inputs: dict[str, int] = {}
        self.outputs: dict[str, int] = {}
        self.opset = 0
        self._model: list[tuple[int, Piece]] = []
        self._graph: list[tuple[int, Piece]] = []
        try:
            self._read(memoryview(model))
        except (MalformedError, UnicodeDecodeError):
            self.opset = 0
        if self.opset < 1:
            remedy = "the file is damaged: install the pack again"
            raise PackError("no ONNX model", where=where, found="malformed bytes", remedy=remedy)

    def _read(self, model: memoryview) -> None:
        for number, _, value, raw in fields(model):
            if number == 7 and isinstance(value, memoryview):
                for inner, _, part, piece in fields(value):
                    if isinstance(part, memoryview) and inner == 1:
                        self.nodes.append(_node(part))
                    elif isinstance(part, memoryview) and inner == 5:
                        self.constants.append(_constant(part))
                    else:
                        if isinstance(part, memoryview) and inner in (11, 12):
                            name, kind = _value_info(part)
                            (self.inputs if inner == 11 else self.outputs)[name] = kind
                        self._graph.append((inner, piece))
            elif number == 8 and isinstance(value, memoryview) and _opset(value)[0] in ("", "ai.onnx"):
                self.opset = _opset(value)[1]
            else:
                self._model.append((number, raw))

    def to_bytes(self) -> bytes:
        """The model as ONNX bytes."""
        parts = [*self._graph]
        parts += [(1, b"".join(bytes_field(1, _node_bytes(node)))) for node in self.nodes]
        pieces: list[Piece] = []
        for _, piece in sorted((p for p in parts if p[0] < 5), key=lambda p: p[0]):
            pieces.append(piece)
        for constant in self.constants:
            pieces += bytes_field(5, constant.message)
        pieces += [piece for _, piece in sorted((p for p in parts if p[0] > 5), key=lambda p: p[0])]
        opset = number_field(2, self.opset)
        model: list[tuple[int, list[Piece]]] = [(number, [piece]) for number, piece in self._model]
        # An absent domain and an empty one are the same; the exporter writes the empty one.
        model += [(7, bytes_field(7, *pieces)), (8, bytes_field(8, b"\x0a\x00" + opset))]
        return b"".join(piece for _, group in sorted(model, key=lambda m: m[0]) for piece in group)

    def constant(self, name: str) -> Constant | None:
        """The initializer of that name."""
        return next((c for c in self.constants if c.name == name), None)

    def names_read(self) -> set[str]:
        """Every tensor that a node or an output of the graph reads."""
        return {name for node in self.nodes for name in node.inputs} | set(self.outputs)


def _node(data: memoryview) -> Node:
    node = Node("", "", [], [])
    for number, _, value, raw in fields(data):
        if number in (1, 2, 3, 4, 7) and isinstance(value, memoryview):
            text = str(value, "utf-8")
            if number == 1:
                node.inputs.append(text)
            elif number == 2:
                node.outputs.append(text)
            elif number == 3:
                node.name = text
            elif number == 4:
                node.op_type = text
            else:
                node.domain = text
                node.rest.append(raw)
        elif number == 5 and isinstance(value, memoryview):
            node.attributes.append(value)
        else:
            node.rest.append(raw)
    return node


def _node_bytes(node: Node) -> bytes:
    pieces: list[Piece] = []
    for number, texts in ((1, node.inputs), (2, node.outputs), (3, [node.name]), (4, [node.op_type])):
        for text in texts:
            if text or number < 3:
                pieces += bytes_field(number, text.encode())
    for attribute in node.attributes:
        pieces += bytes_field(5, attribute)
    return b"".join([*pieces, *node.rest])


def _constant(data: memoryview) -> Constant:
    dims: list[int] = []
    constant = Constant("", 0, (), data)
    for number, wire, value, _ in fields(data):
        if number == 1:
            dims += [signed(value)] if isinstance(value, int) else _packed(value)
        elif number == 2 and isinstance(value, int):
            constant.data_type = value
        elif number == 8 and wire == BYTES and isinstance(value, memoryview):
            constant.name = str(value, "utf-8")
    constant.dims = tuple(dims)
    return constant


def _packed(data: memoryview) -> list[int]:
    # A packed list is a run of bare varints: give each a tag and read them as fields.
    numbers, begin = [], 0
    for position, byte in enumerate(data):
        if byte < 0x80:
            tagged = memoryview(b"\x08" + bytes(data[begin : position + 1]))
            numbers += [signed(value) for _, _, value, _ in fields(tagged) if isinstance(value, int)]
            begin = position + 1
    return numbers


def _value_info(data: memoryview) -> tuple[str, int]:
    name, kind = "", 0
    for number, _, value, _ in fields(data):
        if number == 1 and isinstance(value, memoryview):
            name = str(value, "utf-8")
        elif number == 2 and isinstance(value, memoryview):
            for tensor in _messages(value, 1):
                kind = next((v for n, _, v, _ in fields(tensor) if n == 1 and isinstance(v, int)), 0)
    return name, kind


def _opset(data: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, _, value, _ in fields(data):
        if number == 1 and isinstance(value, memoryview):
            domain = str(value, "utf-8")
        elif number == 2 and isinstance(value, int):
            version = value
    return domain, version


def _integer_attribute(data: Piece) -> tuple[str, int | None]:
    name, found = "", None
    for number, _, value, _ in fields(memoryview(data)):
        if number == 1 and isinstance(value, memoryview):
            name = str(value, "utf-8")
        elif number == 3 and isinstance(value, int):
            found = signed(value)
    return name, found


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for number, _, value, _ in fields(data) if number == wanted and isinstance(value, memoryview))


def renamed(names: Sequence[str], new_names: dict[str, str]) -> list[str]:
    """`names` with those that have a new name under it."""
    return [new_names.get(name, name) for name in names]
