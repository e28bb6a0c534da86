"""Fingerprints of workers and metrics: short texts that change when their behaviour probably does."""

from __future__ import annotations

import hashlib
import inspect
import json
import secrets
from collections.abc import Mapping
from types import CodeType
from typing import Any, Final

import attrs

__all__ = ["describe_object"]

_PROCESS_TOKEN: Final = secrets.token_hex(8)


def describe_object(thing: object) -> str:
    """Return a short text that changes when the behaviour of a worker or metric probably does.

    It covers the declared ``version``, the public settings, and the source text of the class or function where that can
    be had. Where there is neither a version nor source text (code typed into ``exec``, a compiled callable made on the
    fly), the text is good for this process only, so that stored results are never matched with code that cannot be
    compared.
    """
    facts = _facts(thing, frozenset())
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _facts(thing: object, seen: frozenset[int]) -> Any:
    """Return JSON-ready facts about `thing`; settings are followed as deep as they go, each object once."""
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return [type(thing).__name__, repr(thing)]
    if id(thing) in seen:
        return "(itself)"
    seen |= {id(thing)}
    if isinstance(thing, Mapping):
        return ["mapping", sorted([repr(key), _facts(value, seen)] for key, value in thing.items())]
    if isinstance(thing, (list, tuple)):
        return ["sequence", [_facts(item, seen) for item in thing]]
    if isinstance(thing, (set, frozenset)):
        return ["set", sorted(json.dumps(_facts(item, seen)) for item in thing)]
    if hasattr(thing, "tobytes"):
        digest = hashlib.sha256(thing.tobytes()).hexdigest()
        return ["array", str(getattr(thing, "dtype", "")), str(getattr(thing, "shape", "")), digest]
    code = thing if callable(thing) and not _has_settings(thing) else type(thing)
    facts: dict[str, Any] = {"name": f"{code.__module__}.{getattr(code, '__qualname__', type(thing).__qualname__)}"}
    version = getattr(thing, "version", None)
    facts["version"] = str(version) if version else ""
    facts["source"] = _source_digest(code) if _source_digest(code) or facts["version"] else _process_only(code)
    facts["settings"] = {
        name: _facts(value, seen) for name, value in sorted(_settings(thing).items()) if name != "version"
    }
    return facts


def _has_settings(thing: object) -> bool:
    return not inspect.isroutine(thing) and not isinstance(thing, type)


def _settings(thing: object) -> dict[str, Any]:
    if inspect.isfunction(thing):
        bound = dict(enumerate(thing.__defaults__ or ())) | (thing.__kwdefaults__ or {})
        cells = {f"cell {i}": cell.cell_contents for i, cell in enumerate(thing.__closure__ or ()) if _is_filled(cell)}
        return {str(key): value for key, value in bound.items()} | cells
    if inspect.ismethod(thing):
        return {"self": thing.__self__}
    if isinstance(thing, type):
        return {}
    if attrs.has(type(thing)):
        names = [field.name for field in attrs.fields(type(thing))]
    else:
        names = list(getattr(thing, "__dict__", {}))
    if type(thing).__name__ == "partial":
        return {
            "func": getattr(thing, "func", None),
            "args": getattr(thing, "args", ()),
            "keywords": getattr(thing, "keywords", {}),
        }
    return {name: getattr(thing, name) for name in names if not name.startswith("_")}


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - reading it is the test
    except ValueError:
        return False
    return True


def _source_digest(code: Any) -> str:
    """Return a digest of the source text of a class (with its own bases) or function, or '' where there is none."""
    texts = []
    try:
        lineage = (
            [c for c in code.__mro__ if c.__module__ not in {"builtins", "abc", "typing"}]
            if isinstance(code, type)
            else [code]
        )
        texts = [inspect.getsource(item) for item in lineage]
    except (OSError, TypeError):
        return ""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _process_only(code: Any) -> str:
    bodies = [code] if not isinstance(code, type) else [v for v in vars(code).values() if inspect.isfunction(v)]
    compiled = [getattr(body, "__code__", None) for body in bodies]
    text = repr([(c.co_code, _plain_constants(c)) for c in compiled if isinstance(c, CodeType)])
    return f"{_PROCESS_TOKEN} {hashlib.sha256(text.encode()).hexdigest()}"


def _plain_constants(code: CodeType) -> list[object]:
    return [c if not isinstance(c, CodeType) else [c.co_code, _plain_constants(c)] for c in code.co_consts]
