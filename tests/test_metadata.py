import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsm_training.data import MAX_METADATA_BYTES, check_metadata
from tsm_training.errors import InvalidArgumentError, InvalidMetadataError

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def nested(levels: int) -> dict[str, Any]:
    """Return metadata whose innermost value is that many levels down."""
    value: Any = "bottom"
    for _ in range(levels - 1):
        value = [value]
    return {"top": value}


def test_no_metadata_is_empty_metadata() -> None:
    assert check_metadata(None) == {}
    assert check_metadata({}) == {}


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.dictionaries(TEXTS, JSON, max_size=4))
def test_what_json_can_hold_comes_back_equal_and_of_the_same_types(metadata: dict[str, Any]) -> None:
    checked = check_metadata(metadata)
    assert checked == metadata
    assert repr(checked) == repr(metadata)
    assert repr(json.loads(json.dumps(checked, allow_nan=False))) == repr(metadata)


def test_the_copy_is_private() -> None:
    metadata: dict[str, Any] = {"list": [1, {"inner": [2]}]}
    checked = check_metadata(metadata)
    metadata["list"][1]["inner"].append(3)
    metadata["new"] = 1
    assert checked == {"list": [1, {"inner": [2]}]}


@pytest.mark.parametrize("wrap", [MappingProxyType, OrderedDict])
def test_any_mapping_will_do_and_becomes_a_dictionary(wrap: type[Mapping[str, Any]]) -> None:
    checked = check_metadata(wrap({"inner": wrap({"a": 1})}))  # type: ignore[call-arg]
    assert checked == {"inner": {"a": 1}}
    assert type(checked) is dict
    assert type(checked["inner"]) is dict


@pytest.mark.parametrize("metadata", [[("a", 1)], "text", b"bytes", 5, True, {"a"}, object()])
def test_what_is_no_mapping_is_refused(metadata: object) -> None:
    with pytest.raises(InvalidMetadataError, match=r"^metadata must be a mapping") as caught:
        check_metadata(metadata)
    assert isinstance(caught.value, InvalidArgumentError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        b"bytes",
        (1, 2),
        {1, 2},
        2**63,
        -(2**63) - 1,
        1j,
        object(),
        np.float64(1.0),
        np.int64(1),
        np.zeros(2),
        "half of a pair \ud800",
        "a NUL \0",
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_give_back_is_refused_and_its_place_named(value: object) -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        check_metadata({"sound": 1, "outer": [0, {"inner": value}]})
    assert caught.value.argument == "metadata['outer'][1]['inner']"
    assert str(caught.value).startswith("metadata['outer'][1]['inner'] must be a JSON value")


@pytest.mark.parametrize("key", [1, None, True, 1.5, b"a", ("a",), "\ud800", "a\0b"])
def test_a_key_that_is_no_text_is_refused_and_its_place_named(key: object) -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        check_metadata({"outer": {key: 1}})
    assert caught.value.argument == "a key of metadata['outer']"
    assert caught.value.seen == key


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 0, -1, 5e-324, -0.0, 1.7976931348623157e308, "", "🎨"])
def test_values_at_the_edge_are_kept(value: object) -> None:
    assert repr(check_metadata({"value": value})["value"]) == repr(value)


def test_fifty_levels_are_kept_and_more_are_refused() -> None:
    assert check_metadata(nested(50)) == nested(50)
    for levels in (51, 100_000):
        with pytest.raises(InvalidMetadataError, match="nested at most 50 levels deep"):
            check_metadata(nested(levels))


def test_a_cycle_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(InvalidMetadataError, match="levels deep"):
        check_metadata({"cycle": cycle})


def test_a_megabyte_is_kept_and_more_is_refused() -> None:
    room = MAX_METADATA_BYTES - len('{"text": ""}')
    assert len(check_metadata({"text": "x" * room})["text"]) == room
    assert check_metadata({"text": "é" * (room // 2)})
    for text in ("x" * (room + 1), "é" * (room // 2 + 1)):
        with pytest.raises(InvalidMetadataError, match="at most 1000000 bytes"):
            check_metadata({"text": text})


@pytest.mark.slow
def test_a_list_that_holds_another_many_times_is_refused_before_it_fills_the_memory() -> None:
    value: list[Any] = ["x"]
    for _ in range(40):
        value = [value, value]
    with pytest.raises(InvalidMetadataError, match="at most 1000000 bytes of JSON"):
        check_metadata({"shared": value})


@pytest.mark.parametrize(
    ("metadata", "argument", "seen", "expected"),
    [
        ([1], "metadata", [1], "a mapping of JSON values, or None"),
        ({1: "x"}, "a key of metadata", 1, "text that UTF-8 can hold"),
        ({"a": [{"b\0": 1}]}, "a key of metadata['a'][0]", "b\0", "text that UTF-8 can hold"),
        (
            {"a": [0, b"x"]},
            "metadata['a'][1]",
            b"x",
            "a JSON value (text, finite number, True, False, None, list or dict)",
        ),
        ({"a": "x" * 1_000_000}, "metadata", "1000009 bytes of JSON", "at most 1000000 bytes of JSON"),
        ({"a": [0] * 600_000}, "metadata", "more", "at most 1000000 bytes of JSON"),
    ],
)
def test_what_is_wrong_with_metadata_is_said_with_the_place_the_value_and_what_is_expected(
    metadata: Any, argument: str, seen: Any, expected: str
) -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        check_metadata(metadata)
    assert (caught.value.argument, caught.value.seen, caught.value.expected) == (argument, seen, expected)


def test_nesting_is_refused_at_the_place_where_it_is_too_deep() -> None:
    value: Any = 0
    for _ in range(51):
        value = [value]
    with pytest.raises(InvalidMetadataError) as caught:
        check_metadata({"a": value})
    assert caught.value.argument == "metadata['a']" + "[0]" * 50
    assert (caught.value.seen, caught.value.expected) == ("deeper nesting", "nested at most 50 levels deep")


def test_a_megabyte_may_be_many_small_values() -> None:
    many = {"a": [0] * 330_000}
    assert check_metadata(many) == many
