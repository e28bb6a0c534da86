"""Fingerprints of workers and metrics: short texts that change when their behaviour probably does."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import inspect
import json
import os
import threading
import weakref
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import attrs
import numpy as np

from tsm_training.forking import guard_forks

__all__ = ["describe_object", "describe_settings"]

# The first has an entry of its own; no result depends on the other.
_NO_SETTINGS: Final = frozenset({"version", "time_limit"})
_OUTSIDE: Final = frozenset({"builtins", "abc", "typing", "tsm_training"})
_class_sources: Final[weakref.WeakKeyDictionary[type, str]] = weakref.WeakKeyDictionary()
_reading_sources: Final = guard_forks(threading.Lock())
_tokens: Final[weakref.WeakKeyDictionary[type | CodeType, str]] = weakref.WeakKeyDictionary()
"""For each class or code that has no source text, what tells it apart in this process only."""


def describe_object(thing: object) -> str:
    """Return 32 hexadecimal digits that change when the behaviour of a worker or metric probably does.

    They cover the declared ``version``, the public settings (attrs fields, instance attributes, a function's defaults
    and closure), and the source text of the class or function where that can be had. Where there is neither a version
    nor source text (code given to ``exec``, say), they are good for this process only, and for one definition of a
    class: stored results are never matched with code that cannot be compared. No result depends on a worker's
    ``time_limit``, so that is left out. A change in a helper that the source merely calls is not seen: declare a new
    ``version`` then.
    """
    return _Describer().describe(thing)[:32]


def describe_settings(thing: object) -> str:
    """Return 32 hexadecimal digits for a thing's kind, declared version and public settings, whatever its source says.

    They tell whether what one installation stored can be used by another. Without a declared version they are those of
    `describe_object`.
    """
    version = str(getattr(thing, "version", "") or "")
    if not version:
        return describe_object(thing)
    settings = {name: value for name, value in _settings(thing).items() if name not in _NO_SETTINGS}
    return describe_object([f"{type(thing).__module__}.{type(thing).__qualname__}", version, settings])


class _Describer:
    """Follows settings as deep as they go, each object once: shared parts and cycles cost no time."""

    def __init__(self) -> None:
        # The objects are kept beside their digests: the id of one that is gone could be given to another.
        self._known: dict[int, tuple[object, str]] = {}

    def describe(self, thing: object) -> str:
        """Return a digest of an object and of everything that it is set up with."""
        if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
            return _digest(f"{type(thing).__name__} {thing!r}")
        if id(thing) not in self._known:
            self._known[id(thing)] = (thing, "(itself)")
            self._known[id(thing)] = (thing, _digest(json.dumps(self._facts(thing), sort_keys=True)))
        return self._known[id(thing)][1]

    def _facts(self, thing: Any) -> Any:
        """Return JSON-ready facts about a thing of many parts."""
        if isinstance(thing, np.ndarray):
            return ["array", str(thing.dtype), list(thing.shape), hashlib.sha256(thing.tobytes()).hexdigest()]
        if isinstance(thing, Mapping):
            return ["mapping", sorted([self.describe(key), self.describe(value)] for key, value in thing.items())]
        if type(thing) is functools.partial:
            thing = ["partial", thing.func, thing.args, thing.keywords]
        if isinstance(thing, (list, tuple)):
            return ["sequence", *map(self.describe, thing)]
        if isinstance(thing, (set, frozenset)):
            return ["set", *sorted(map(self.describe, thing))]
        if isinstance(thing, enum.Enum):
            return ["choice", self.describe(type(thing)), thing.name]
        if isinstance(thing, ModuleType):
            return ["module", thing.__name__, str(getattr(thing, "__version__", ""))]
        if isinstance(thing, MethodType):
            return ["method", self.describe(thing.__func__), self.describe(thing.__self__)]
        code = thing if isinstance(thing, (FunctionType, type)) else type(thing)
        version = str(getattr(thing, "version", "") or "")
        source = _source_digest(code)
        if not source and not version:
            key = code.__code__ if isinstance(code, FunctionType) else code
            source = _tokens.setdefault(key, os.urandom(16).hex())
        settings = {name: self.describe(value) for name, value in _settings(thing).items() if name not in _NO_SETTINGS}
        name = f"{code.__module__}.{code.__qualname__}"
        return {"name": name, "version": version, "source": source, "settings": settings}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _settings(thing: Any) -> dict[str, Any]:
    if isinstance(thing, type):
        return {}
    if isinstance(thing, FunctionType):
        settings: dict[str, Any] = {"(defaults)": thing.__defaults__, "(keyword defaults)": thing.__kwdefaults__}
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # it is not set yet
                settings[f"(closure) {name}"] = cell.cell_contents
        return settings
    if attrs.has(type(thing)):
        names = [f.name for f in attrs.fields(type(thing))]
    else:
        slots = [vars(kind).get("__slots__", ()) for kind in type(thing).__mro__]
        names = [*getattr(thing, "__dict__", ())]
        names += [name for declared in slots for name in ([declared] if isinstance(declared, str) else declared)]
        is_opaque = not hasattr(thing, "__dict__") or hasattr(thing, "__name__")
        if is_opaque and all(name.startswith("_") for name in names):
            return {"(shown)": repr(thing)}  # numbers of numpy, paths, dates, compiled functions
    return {name: getattr(thing, name) for name in names if not name.startswith("_") and hasattr(thing, name)}


def _source_digest(code: Any) -> str:
    """Return a digest of the source text of a function, or of a class and its bases; '' where there is none."""
    lineage = [code]
    if isinstance(code, type):  # our own base classes may be reworded from release to release without any effect
        lineage += [c for c in code.__mro__[1:] if c.__module__.partition(".")[0] not in _OUTSIDE]
    try:
        text = "\n".join(map(_source_text, lineage))
    except (OSError, TypeError, SyntaxError):  # the last where the file was edited since it was imported
        return ""
    # Several lambdas may stand on one line, which is all that the source text tells of each.
    is_lambda = isinstance(code, FunctionType) and code.__name__ == "<lambda>"
    return _digest(text + (repr(_code_facts(code.__code__)) if is_lambda else ""))


def _source_text(item: Any) -> str:
    if isinstance(item, type):
        # Up to Python 3.12 inspect parses the file, and two threads that parse at once can break each other's syntax
        # tree ("AST constructor recursion depth mismatch"). So one of them does, and once for each class.
        with _reading_sources:
            if item not in _class_sources:
                _class_sources[item] = inspect.getsource(item)
            return _class_sources[item]
    # The code, because a decorated function would lead inspect to what it wraps; that is found in its closure.
    if item.__code__.co_filename == "<string>":  # exec'd; Python 3.13 would show lines of ``python -c`` instead
        raise OSError("there is no source text")
    return inspect.getsource(item.__code__)


def _code_facts(code: CodeType) -> list[Any]:
    constants = [_code_facts(c) if isinstance(c, CodeType) else _constant_text(c) for c in code.co_consts]
    return [code.co_code, code.co_names, code.co_varnames, constants]


def _constant_text(constant: object) -> str:
    if isinstance(constant, frozenset):  # its order differs from process to process
        return repr(sorted(map(repr, constant)))
    return repr(constant)
