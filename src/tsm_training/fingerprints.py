"""Fingerprints of workers and metrics: short texts that change when their behaviour probably does."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import secrets
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, Final

import attrs
import numpy as np

__all__ = ["describe_object"]

_PROCESS_TOKEN: Final = secrets.token_hex(8)
_OUTSIDE: Final = frozenset({"builtins", "abc", "typing", "tsm_training"})


def describe_object(thing: object) -> str:
    """Return 32 hexadecimal digits that change when the behaviour of a worker or metric probably does.

    They cover the declared ``version``, the public settings (attrs fields, instance attributes, a function's defaults
    and closure), and the source text of the class or function where that can be had. Where there is neither a version
    nor source text (code given to ``exec``, say), they are good for this process only, so that stored results are never
    matched with code that cannot be compared. A change in a helper that the source merely calls is not seen: declare a
    new ``version`` then.
    """
    return _digest(json.dumps(_facts(thing, frozenset()), sort_keys=True))[:32]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _facts(thing: Any, seen: frozenset[int]) -> Any:
    """Return JSON-ready facts about `thing`; settings are followed as deep as they go, except into themselves."""
    if thing is None or isinstance(thing, (bool, int, float, str, bytes)):
        return [type(thing).__name__, repr(thing)]
    if id(thing) in seen:
        return "(itself)"
    inner = functools.partial(_facts, seen=seen | {id(thing)})
    if isinstance(thing, np.ndarray):
        return ["array", str(thing.dtype), list(thing.shape), hashlib.sha256(thing.tobytes()).hexdigest()]
    if isinstance(thing, Mapping):
        return ["mapping", sorted(([repr(key), inner(value)] for key, value in thing.items()), key=str)]
    if isinstance(thing, (list, tuple)):
        return ["sequence", *map(inner, thing)]
    if isinstance(thing, (set, frozenset)):
        return ["set", *sorted(map(inner, thing), key=str)]
    return _object_facts(thing, inner)


def _object_facts(thing: Any, inner: Callable[[Any], Any]) -> dict[str, Any]:
    code = thing if inspect.isfunction(thing) or isinstance(thing, type) else type(thing)
    version = str(getattr(thing, "version", "") or "")
    source = _source_digest(code)
    settings = {name: inner(value) for name, value in _settings(thing).items() if name != "version"}
    return {
        "name": f"{code.__module__}.{code.__qualname__}",
        "version": version,
        "source": source if source or version else _process_only(code),
        "settings": settings,
    }


def _settings(thing: Any) -> dict[str, Any]:
    if isinstance(thing, type):
        return {}
    if inspect.isfunction(thing):
        filled = inspect.getclosurevars(thing).nonlocals
        return {**filled, "(defaults)": thing.__defaults__, "(keyword defaults)": thing.__kwdefaults__}
    if inspect.ismethod(thing):
        return {"(function)": thing.__func__, "(self)": thing.__self__}
    if isinstance(thing, functools.partial):
        return {"(function)": thing.func, "(arguments)": thing.args, "(keywords)": thing.keywords}
    names = [f.name for f in attrs.fields(type(thing))] if attrs.has(type(thing)) else getattr(thing, "__dict__", {})
    return {name: getattr(thing, name) for name in names if not name.startswith("_")}


def _source_digest(code: Any) -> str:
    """Return a digest of the source text of a function, or of a class and its bases; '' where there is none."""
    lineage = [code]
    if isinstance(code, type):  # our own base classes may be reworded from release to release without any effect
        lineage += [c for c in code.__mro__[1:] if c.__module__.partition(".")[0] not in _OUTSIDE]
    try:
        return _digest("\n".join(inspect.getsource(item) for item in lineage))
    except (OSError, TypeError):
        return ""


def _process_only(code: Any) -> str:
    """Tell apart functions without source text by what they compiled to; the token keeps that to this process."""
    parts = vars(code).values() if isinstance(code, type) else [code]
    compiled = [part.__code__ for part in parts if inspect.isfunction(part)]
    return f"{_PROCESS_TOKEN} {_digest(repr([_code_facts(c) for c in compiled]))}"


def _code_facts(code: CodeType) -> list[Any]:
    constants = [_code_facts(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code, code.co_names, constants]
