"""Fingerprints of workers and metrics: short texts that change when their behaviour probably does."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import inspect
import json
import secrets
import threading
import weakref
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import attrs
import numpy as np

from tsm_training.forking import guard_forks

__all__ = ["describe_object", "describe_settings"]

_PROCESS_TOKEN: Final = secrets.token_hex(8)
_NO_SETTINGS: Final = frozenset(
    {"version", "time_limit"}
)  # the first has its own entry; no result depends on the other
_OUTSIDE: Final = frozenset({"builtins", "abc", "typing", "tsm_training"})
_class_sources: Final[weakref.WeakKeyDictionary[type, str]] = weakref.WeakKeyDictionary()
_reading_sources: Final = guard_forks(threading.Lock())


def describe_object(thing: object) -> str:
    """Return 32 hexadecimal digits that change when the behaviour of a worker or metric probably does.

    They cover the declared ``version``, the public settings (attrs fields, instance attributes, a function's defaults
    and closure), and the source text of the class or function where that can be had. Where there is neither a version
    nor source text (code given to ``exec``, say), they are good for this process only, so that stored results are never
    matched with code that cannot be compared. No result depends on a worker's ``time_limit``, so that is left out. A
    change in a helper that the source merely calls is not seen: declare a new ``version`` then.
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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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
        return self._object_facts(thing)

    def _object_facts(self, thing: Any) -> dict[str, Any]:
        code = thing if isinstance(thing, (FunctionType, type)) else type(thing)
        version = str(getattr(thing, "version", "") or "")
        source = _source_digest(code)
        settings = {name: self.describe(value) for name, value in _settings(thing).items() if name not in _NO_SETTINGS}
        return {
            "name": f"{code.__module__}.{code.__qualname__}",
            "version": version,
            "source": source if source or version else _process_only(code),
            "settings": settings,
        }


def _settings(thing: Any) -> dict[str, Any]:
    if isinstance(thing, type):
        return {}
    if isinstance(thing, FunctionType):
        return {**_closure(thing), "(defaults)": thing.__defaults__, "(keyword defaults)": thing.__kwdefaults__}
    if attrs.has(type(thing)):
        names = [f.name for f in attrs.fields(type(thing))]
    else:
        names = [*getattr(thing, "__dict__", ()), *_slots(type(thing))]
        is_opaque = not hasattr(thing, "__dict__") or hasattr(thing, "__name__")
        if is_opaque and all(name.startswith("_") for name in names):
            return {"(shown)": repr(thing)}  # numbers of numpy, paths, dates, compiled functions
    return {name: getattr(thing, name) for name in names if not name.startswith("_") and hasattr(thing, name)}


def _slots(kind: type) -> list[str]:
    declared = [vars(c).get("__slots__", ()) for c in kind.__mro__]
    return [name for names in declared for name in ([names] if isinstance(names, str) else names)]


def _closure(function: FunctionType) -> dict[str, Any]:
    """Return the variables that a function keeps from where it was made; one that is not set yet is left out."""
    filled: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):
            filled[f"(closure) {name}"] = cell.cell_contents
    return filled


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


def _process_only(code: Any) -> str:
    """Tell apart what has no source text by what it compiled to; the token keeps that to this process."""
    if isinstance(code, FunctionType):
        compiled = [_code_facts(code.__code__)]
    else:
        compiled = [_part_facts(name, part) for kind in code.__mro__ for name, part in vars(kind).items()]
    return f"{_PROCESS_TOKEN} {_digest(repr(compiled))}"


def _part_facts(name: str, part: Any) -> list[Any]:
    """Describe one name in the body of a class."""
    functions = (getattr(part, kind, None) for kind in ("__func__", "fget"))
    function = next((f for f in (part, *functions) if isinstance(f, FunctionType)), None)
    if function is not None:
        return [name, _code_facts(function.__code__)]
    return [name, repr(part) if isinstance(part, (bool, int, float, str, bytes, tuple)) else ""]


def _code_facts(code: CodeType) -> list[Any]:
    return [code.co_code, code.co_names, code.co_varnames, [_constant_facts(c) for c in code.co_consts]]


def _constant_facts(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return _code_facts(constant)
    if isinstance(constant, frozenset):  # its order differs from process to process
        return sorted(map(repr, constant))
    return repr(constant)
