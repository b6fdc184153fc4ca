"""The elements of a DICOM header, each read so that whatever is wrong with it becomes one clear error."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from scanside.errors import ExamReadError, GeometryError, ScansideError

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
SYNTAX_NAMES = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless SV1",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG})

UNDEFINED = 0xFFFFFFFF
_ASCII_VRS = frozenset({"UI", "CS", "DS", "IS"})


class Header:
    """Elements of one data set, by keyword. Whatever is wrong in one becomes an `ExamReadError` that names it.

    Numbers in text (VR DS and IS) are parsed here from their bytes, so a damaged one is an error and never a warning.
    """

    def __init__(self, dataset: Dataset, where: str) -> None:
        self._dataset = dataset
        self.where = where

    def __contains__(self, keyword: str) -> bool:
        """Whether the element is there, with a value or without."""
        return _tag(keyword) in self._dataset

    def raw_bytes(self, keyword: str) -> bytes:
        """The value as stored; nothing when absent."""
        element = self._raw(_tag(keyword), keyword)
        value = getattr(element, "value", None)
        return value if isinstance(value, bytes) else b""

    def text(self, keyword: str) -> str:
        """The value as one line of text; empty when absent, or in a character set nobody knows."""
        tag = _tag(keyword)
        try:
            value = self._raw(tag, keyword)
            if value is None:
                return ""
            ascii_only = dictionary_VR(tag) in _ASCII_VRS and isinstance(value.value, bytes)
            value = value.value if ascii_only else self._value(tag, keyword)
        except ExamReadError:
            return ""
        if value is None:
            return ""
        if isinstance(value, bytes):
            return value.decode("latin-1").strip("\0 ")
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            return str(value).strip("\0 ")
        return "\\".join(str(part).strip("\0 ") for part in value)

    def codes(self, keyword: str) -> tuple[str, ...]:
        """The values of a code string, upper case."""
        text = self.text(keyword)
        return tuple(part.strip().upper() for part in text.split("\\")) if text else ()

    def code(self, keyword: str) -> str:
        """The first value of a code string, upper case; empty when absent."""
        return next(iter(self.codes(keyword)), "")

    def integer(self, keyword: str) -> int | None:
        """One whole number, or None when absent or empty.

        Raises
        ------
        ExamReadError
            The value is none.
        """
        texts = self._number_texts(keyword)
        if texts is None:
            return None
        try:
            (text,) = texts
            return int(text)
        except ValueError:
            raise ExamReadError(
                f"{keyword} is no whole number", where=self.where, found=shown("\\".join(texts))
            ) from None

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """`count` numbers, NaN and infinity among them, or None when absent or empty.

        Raises
        ------
        GeometryError
            Another count, or a value that is no number ("0,2" with a comma is none).
        """
        texts = self._number_texts(keyword)
        if texts is None:
            return None
        try:
            values = tuple(float(text) for text in texts)
        except ValueError:
            values = ()
        if len(values) != count:
            raise GeometryError(
                f"{keyword} is unusable",
                where=self.where,
                expected=f"{count} number{'s' if count > 1 else ''} with a decimal point",
                found=shown("\\".join(texts)),
            )
        return values

    def items(self, keyword: str) -> list[Header]:
        """The items of a sequence; none when absent.

        Raises
        ------
        ExamReadError
            The element is no sequence, or a damaged one.
        """
        value = self._value(_tag(keyword), keyword)
        if value is None:
            return []
        items = list(value) if hasattr(value, "__iter__") else [value]
        if not all(isinstance(item, Dataset) for item in items):
            raise ExamReadError(f"{keyword} is no sequence", where=self.where)
        return [Header(item, self.where) for item in items]

    def first(self, keyword: str) -> Header | None:
        """The first item of a sequence, or None."""
        return next(iter(self.items(keyword)), None)

    def private_creators(self) -> Iterator[tuple[int, str]]:
        """(group, creator) of every private block (PS3.5 7.8)."""
        for tag in sorted(self._dataset.keys()):
            group, element = tag >> 16, tag & 0xFFFF
            if group % 2 and 0x10 <= element <= 0xFF:
                raw = self._raw(tag, f"({group:04X},{element:04X})")
                value = raw.value if raw is not None else None
                text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
                yield group, text.strip("\0 ")

    def private_numbers(self, group: int, creator: str, offset: int) -> tuple[float, ...]:
        """Numbers of a private element, however they are stored; empty when absent or unreadable."""
        for tag in sorted(self._dataset.keys()):
            if tag >> 16 != group or not 0x10 <= tag & 0xFFFF <= 0xFF:
                continue
            raw = self._raw(tag, "private creator")
            value = raw.value if raw is not None else None
            text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
            if text.strip("\0 ") != creator:
                continue
            try:
                element = self._raw((group << 16) | ((tag & 0xFF) << 8) | offset, "private element")
            except ExamReadError:
                continue
            if element is not None:
                return _private_values(element)
        return ()

    def _raw(self, tag: int, name: str) -> Any:
        try:
            if tag not in self._dataset:
                return None
            element = self._dataset.get_item(tag, keep_deferred=True)
        except Exception as error:
            raise wrapped(error, self.where, name) from error
        if isinstance(element, RawDataElement) and element.value is None and element.length not in (0, UNDEFINED):
            raise ExamReadError(f"{name} is absurdly long", where=self.where, found=f"{element.length} bytes")
        return element

    def _value(self, tag: int, name: str) -> Any:
        if self._raw(tag, name) is None:
            return None
        try:
            return self._dataset[tag].value
        except Exception as error:
            raise wrapped(error, self.where, name) from error

    def _number_texts(self, keyword: str) -> list[str] | None:
        element = self._raw(_tag(keyword), keyword)
        if element is None:
            return None
        if dictionary_VR(_tag(keyword)) in ("DS", "IS") and isinstance(element.value, bytes):
            text = element.value.decode("latin-1").strip("\0 ")
            return [part.strip() for part in text.split("\\")] if text else None
        value = self._value(_tag(keyword), keyword)
        if value is None or value == "":
            return None
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            value = [value]
        return [str(part).strip() for part in value] or None


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


def uid_name(uid: str) -> str:
    """The standard's name of a UID, or the UID itself when it has none; for messages."""
    return shown(UID(uid, validation_mode=IGNORE).name) if uid else "none"


def shown(text: str) -> str:
    """Text for an error message: short and printable."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= 80 else clean[:77] + "..."


def wrapped(error: BaseException, where: str, name: str) -> ExamReadError:
    if isinstance(error, ScansideError):
        assert isinstance(error, ExamReadError)
        return error
    if isinstance(error, RecursionError):
        return ExamReadError("sequences are nested too deeply", where=where, found="a damaged or hostile header")
    if isinstance(error, MemoryError):
        return ExamReadError("the header does not fit in memory", where=where)
    return ExamReadError(f"{name} cannot be read", where=where, found=f"damaged DICOM ({type(error).__name__})")


def _private_values(element: Any) -> tuple[float, ...]:
    value, vr = element.value, element.VR
    if isinstance(value, bytes):
        order = "<" if getattr(element, "is_little_endian", True) else ">"
        code = {"FD": "d", "FL": "f", "US": "H", "SS": "h", "UL": "I", "SL": "i"}.get(vr or "")
        if code is None:
            try:
                return tuple(float(part) for part in value.decode("ascii").strip("\0 ").split("\\"))
            except ValueError:
                code = {8: "d", 4: "f"}.get(len(value))
        if code is None or len(value) % struct.calcsize(code):
            return ()
        return struct.unpack(f"{order}{len(value) // struct.calcsize(code)}{code}", value)
    parts = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()
