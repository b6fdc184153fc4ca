"""The protobuf wire format, read and written: just enough to look into an ONNX file without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class MalformedError(ValueError):
    """The bytes are no protobuf message."""


def fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview, memoryview]]:
    """Every field of one message: its number, its wire type, its value, and its own bytes with the tag.

    A varint's value is a number, any other's the payload.

    Raises
    ------
    MalformedError
        The message ends in the middle of a field, or a field has no known wire type.
    """
    position = 0
    while position < len(data):
        begin = position
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if wire == VARINT:
            value, position = _varint(data, position)
        else:
            if wire == BYTES:
                length, position = _varint(data, position)
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
            else:
                raise MalformedError(f"wire type {wire}")
            if length > len(data) - position:
                raise MalformedError("a field longer than its message")
            value = data[position : position + length]
            position += length
        yield number, wire, value, data[begin:position]


def varint(value: int) -> bytes:
    """A whole number as it stands on the wire; negative ones as 64-bit two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(number: int, value: int) -> bytes:
    """A varint field."""
    return varint(number << 3 | VARINT) + varint(value)


def bytes_field(number: int, *parts: bytes | memoryview) -> list[bytes | memoryview]:
    """A length-delimited field whose payload is the parts in order, as pieces to join (payloads are not copied)."""
    return [varint(number << 3 | BYTES) + varint(sum(len(part) for part in parts)), *parts]


def signed(value: int) -> int:
    """A varint read as an int64."""
    return value - (1 << 64) if value >> 63 else value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise MalformedError("a number cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedError("a number without end")
