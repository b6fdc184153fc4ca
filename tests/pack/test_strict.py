"""The strict parser: what it takes, what it names when it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanside.errors import PackError
from scanside.pack.strict import json_object, parse, plain


@dataclass(frozen=True)
class Inner:
    count: int
    label: str = "none"


@dataclass(frozen=True)
class Outer:
    ratio: float
    inner: Inner
    many: tuple[Inner, ...]
    named: Mapping[str, Inner]
    free: Mapping[str, Any]
    flag: bool = False
    maybe: str | None = None


GOOD: dict[str, Any] = {
    "ratio": 1,
    "inner": {"count": 2},
    "many": [{"count": 3, "label": "x"}],
    "named": {"a": {"count": 4}},
    "free": {"anything": [1, None]},
}


def test_good_json_becomes_typed_objects_and_back() -> None:
    outer = parse(Outer, GOOD, "m.json")
    assert outer == Outer(1.0, Inner(2), (Inner(3, "x"),), {"a": Inner(4)}, {"anything": [1, None]})
    assert isinstance(outer.ratio, float)
    assert parse(Outer, plain(outer), "m.json") == outer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, r"m\.json: unknown key 'extra'"),
        ({"inner": {}}, r"m\.json: inner: missing key 'count'"),
        ({"inner": 5}, r"m\.json: inner: wrong type; expected an object, found '5'"),
        ({"inner": {"count": 1.5}}, r"inner: count: wrong type; expected a whole number, found '1.5'"),
        ({"inner": {"count": True}}, r"inner: count: wrong type; expected a whole number, found 'true'"),
        ({"flag": 1}, r"flag: wrong type; expected true or false"),
        ({"ratio": "1"}, r"ratio: wrong type; expected a number"),
        ({"ratio": None}, r"ratio: wrong type; expected a number, found 'null'"),
        ({"ratio": 10**400}, r"ratio: wrong type; expected a number below 1e\+15"),
        ({"many": {}}, r"many: wrong type; expected a list, found an object"),
        ({"many": [{"count": 1}, {"count": "x"}]}, r"many\[1\]: count: wrong type"),
        ({"named": []}, r"named: wrong type; expected an object, found a list"),
        ({"named": {"b": {"count": 1, "colour": 2}}}, r"named\.'b': unknown key 'colour'"),
        ({"maybe": 3}, r"maybe: wrong type; expected a string"),
    ],
)
def test_what_is_wrong_is_named(change: dict, message: str) -> None:
    with pytest.raises(PackError, match=message):
        parse(Outer, {**GOOD, **change}, "m.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "broken JSON"),
        (b'{"a": 1', "broken JSON"),
        (b"[1]", "expected an object, found a list"),
        (b"null", "expected an object, found 'null'"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1, "a": 2}', "key 'a' appears twice"),
        (b"\xff\xfe", "broken JSON"),
        (b'{"a":' + b"[" * 200_000, "broken JSON"),
    ],
)
def test_broken_json_is_one_pack_error(text: bytes, message: str) -> None:
    with pytest.raises(PackError, match=message) as caught:
        json_object(text, "m.json")
    assert len(str(caught.value)) < 400


@given(st.binary(max_size=60))
def test_no_bytes_escape_the_error_hierarchy(text: bytes) -> None:
    with contextlib.suppress(PackError):
        assert isinstance(json_object(text, "m.json"), dict)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from(sorted(GOOD)), value=json_values)
def test_no_value_escapes_the_error_hierarchy(key: str, value: Any) -> None:
    with contextlib.suppress(PackError):
        outer = parse(Outer, {**GOOD, key: value}, "m.json")
        assert parse(Outer, plain(outer), "m.json") == outer
