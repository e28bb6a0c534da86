"""Checking that a value is exactly what JSON can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from tsm_training.errors import InvalidMetadataError

__all__ = ["check_metadata"]

MAX_METADATA_BYTES: Final = 1_000_000
_MAX_DEPTH: Final = 50
_INT_LIMIT: Final = 2**63


def check_metadata(metadata: object) -> dict[str, Any]:
    """Return a private copy of an example's metadata.

    Raises:
        InvalidMetadataError: it is no mapping with text keys, or holds something that JSON cannot give back exactly:
            a NaN, bytes, a set, a value nested deeper than 50 levels, or more than 1 MB in all. The error names
            the place.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidMetadataError("metadata", metadata, "a mapping of JSON values, or None")
    checked: dict[str, Any] = _Checker().checked(metadata, "metadata", 0)
    size = len(json.dumps(checked, ensure_ascii=False).encode())
    if size > MAX_METADATA_BYTES:
        raise InvalidMetadataError("metadata", f"{size} bytes of JSON", f"at most {MAX_METADATA_BYTES} bytes of JSON")
    return checked


class _Checker:
    """Copies values, and counts them: a list that holds one other list many times grows beyond all bounds as JSON."""

    def __init__(self) -> None:
        self._left = MAX_METADATA_BYTES // 2  # no value takes less than a character and what separates it

    def checked(self, value: Any, place: str, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise InvalidMetadataError("metadata", "more", f"at most {MAX_METADATA_BYTES} bytes of JSON")
        if depth > _MAX_DEPTH:
            raise InvalidMetadataError(place, "deeper nesting", f"nested at most {_MAX_DEPTH} levels deep")
        if isinstance(value, Mapping):
            return {_key(k, place): self.checked(item, f"{place}[{k!r}]", depth + 1) for k, item in value.items()}
        if isinstance(value, list):
            return [self.checked(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
        if not _is_plain(value):
            expected = "a JSON value (text, finite number, True, False, None, list or dict)"
            raise InvalidMetadataError(place, value, expected)
        return value


def _is_plain(value: Any) -> bool:
    if type(value) is int:
        return -_INT_LIMIT <= value < _INT_LIMIT
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is str:
        return _is_encodable(value)
    return value is None or type(value) is bool


def _key(key: object, place: str) -> str:
    if type(key) is not str or not _is_encodable(key):
        raise InvalidMetadataError(f"a key of {place}", key, "text that UTF-8 can hold")
    return key


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in text
