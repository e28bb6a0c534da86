"""Sphinx settings. Reference pages are written from the package itself when the site is built."""

from __future__ import annotations

import builtins
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

sys.path.insert(0, str(Path(__file__).parent))

from drawn_pictures import write_pictures

import tsm_training
from tsm_training.storage import APPLICATION_ID, GUIDE_SCHEMA, OWN_SCHEMA, SCHEMA_VERSION

project = "tsm_training"
author = "The tsm_training authors"
copyright = f"2026, {author}"
version = release = tsm_training.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"tsm_training {version}"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

# A single backtick in a docstring names something: see `_resolve` for what happens to it.
default_role = "py:obj"
nitpicky = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Raises (when the result is called)", "Raises")]

# --- reference pages --------------------------------------------------------------------------------------------------

_GENERATED = Path(__file__).parent / "reference" / "generated"
_LONGEST_SHOWN_VALUE = 60
_ATTRIBUTE_DOCS: dict[str, list[str]] = {}
"""What stands below each module-level constant of the package, by name."""

# Rooms that nobody enters from outside: what they make is public through the modules that use them.
INTERNAL_MODULES = {
    "arguments",
    "core",
    "evaluation",
    "files",
    "forking",
    "ingest",
    "learning",
    "measures",
    "persistence",
    "text",
}


def public_modules() -> list[str]:
    """Return the names of the package's modules that have a page of their own."""
    found = (info.name for info in pkgutil.iter_modules(tsm_training.__path__))
    return sorted(name for name in found if not name.startswith("_") and name not in INTERNAL_MODULES)


def _unlisted() -> dict[str, list[str]]:
    """Return the front door's names that no module lists in its ``__all__``, by the module that makes them."""
    modules = [importlib.import_module(f"tsm_training.{name}") for name in public_modules()]
    listed = {name for module in modules for name in getattr(module, "__all__", ())}
    found: dict[str, list[str]] = {}
    for name in tsm_training.__all__:
        if name not in listed and inspect.isclass(thing := getattr(tsm_training, name)):
            found.setdefault(thing.__module__, []).append(name)
    return found


def _first_line(thing: object) -> str:
    return (getattr(thing, "__doc__", None) or "").strip().partition("\n")[0]


def _home(name: str) -> str | None:
    """Return the public module that documents a name of the package's front door."""
    for module in public_modules():
        if name in getattr(importlib.import_module(f"tsm_training.{module}"), "__all__", ()):
            return f"tsm_training.{module}"
    for module_name, names in _unlisted().items():
        if name in names:
            return module_name
    return None  # not a name of any module: ``__version__``


def _module_page(name: str, *, members: bool = True) -> str:
    options = "" if members else "   :no-members:\n"
    page = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n{options}"
    if not members:
        return page
    page += "".join(_constant(name, constant) for constant in _borrowed_constants(name))
    return page + "".join(f"\n.. autoclass:: {thing}\n" for thing in _unlisted().get(name, ()))


def _borrowed_constants(module_name: str) -> list[str]:
    """Return the public constants and type aliases that a package takes from its modules: autodoc passes them over."""
    module = importlib.import_module(module_name)
    own = {name for _scope, name in ModuleAnalyzer.for_module(module_name).find_attr_docs()}
    things = {name: getattr(module, name) for name in getattr(module, "__all__", ()) if name not in own}
    return [name for name, thing in things.items() if not inspect.isclass(thing) and not inspect.isroutine(thing)]


def _constant(module_name: str, name: str) -> str:
    value = repr(getattr(importlib.import_module(module_name), name))
    shown = f"\n   :value: {value}" if len(value) <= _LONGEST_SHOWN_VALUE else ""
    text = "".join(f"   {line}\n" for line in _ATTRIBUTE_DOCS.get(name, [""]))
    return f"\n.. py:data:: {name}{shown}\n\n{text}"


def _front_door() -> str:
    """Return the page of the names that ``from tsm_training import …`` gives."""
    lines = ["tsm_training", "============", "", ".. module:: tsm_training", "", _first_line(tsm_training), ""]
    lines += [".. list-table::", "   :widths: 30 70", ""]
    for name in tsm_training.__all__:
        home = _home(name)
        thing = getattr(tsm_training, name)
        is_text = isinstance(thing, str) or home is None
        lines.append(f"   * - ``{name}``" if is_text else f"   * - :py:obj:`~{home}.{name}`")
        about = "The version of the package." if isinstance(thing, str) else _first_line(thing)
        if name == "Image":
            about = "A picture: ``uint8``, H×W×3, BGR (OpenCV's channel order), values 0–255."
        lines.append(f"     - {about}")
    return "\n".join(lines) + "\n"


def _schema_page() -> str:
    """Return the page of the database schema, from the constants that make the tables."""

    def block(sql: str) -> str:
        return ".. code-block:: sql\n\n" + "".join(f"   {line}\n" for line in sql.strip().splitlines())

    head = "The database"
    return "\n".join(
        [
            head,
            "=" * len(head),
            "",
            "`tsm_training.storage.TrainingDataManager` keeps everything in one SQLite file. This page is made from",
            "the constants ``GUIDE_SCHEMA`` and ``OWN_SCHEMA`` of ``tsm_training.storage``, which make the tables too.",
            "",
            f"``PRAGMA user_version`` is {SCHEMA_VERSION}, ``PRAGMA application_id`` is {APPLICATION_ID:#x}.",
            "`tsm_training.sql.SQLStore` makes the same tables on a server, with the server's types.",
            "A file with the guide's three tables and version 0, written by an application of its own, opens as it is;",
            "a file with a newer version is refused by name. Times are aware UTC in ISO 8601.",
            "",
            "The guide's tables",
            "------------------",
            "",
            block(GUIDE_SCHEMA),
            "One row of ``training_metrics`` is written per session, example and worker; ``epoch`` is then the",
            "session's last one. Figures of single epochs are in ``training_sessions.metrics_history``.",
            "",
            "Our own tables",
            "--------------",
            "",
            block(OWN_SCHEMA),
        ]
    )


def write_reference() -> None:
    """Write the reference pages, touching only those that changed."""
    for module in _modules():
        for (scope, name), lines in ModuleAnalyzer.for_module(module.__name__).find_attr_docs().items():
            if not scope:
                _ATTRIBUTE_DOCS[name] = lines
    pages = {"tsm_training": _front_door(), "database": _schema_page()}
    pages |= {f"tsm_training.{name}": _module_page(f"tsm_training.{name}") for name in public_modules()}
    pages["tsm_training.core.posterior"] = _module_page("tsm_training.core.posterior", members=False)
    pages["tsm_training.testing.stateful"] = _module_page("tsm_training.testing.stateful")
    _GENERATED.mkdir(parents=True, exist_ok=True)
    for old in _GENERATED.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = _GENERATED / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# --- names in docstrings ----------------------------------------------------------------------------------------------


def _modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(tsm_training.__path__, "tsm_training.")
    return [importlib.import_module(info.name) for info in found if not info.name.rpartition(".")[2].startswith("__")]


def _exists(target: str) -> bool:
    """Tell whether a full name leads somewhere in the package, though it may have no place in the reference."""
    try:
        pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        return False
    return True


def _is_mistake(target: str) -> bool:
    """Tell whether an unknown name must be wrong: a full name, or a class; other names may be arguments."""
    first = target.partition(".")[0]
    if first == "tsm_training":
        return not _exists(target)
    return first.isidentifier() and first[0].isupper() and not hasattr(builtins, first)


def _resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Node) -> nodes.Node | None:
    """Find what a name means anywhere in the package; leave an argument's name as code, and foreign types alone."""
    if node.get("refdomain") != "py":
        return None
    target = re.sub(r"\(.*\)$", "", node["reftarget"])  # `using(metric)` is about `using`
    domain = env.domains.python_domain
    matches = domain.find_obj(env, "", "", target, None, 1)
    if not matches and target.startswith("tsm_training."):  # a name under its defining module, or the front door
        matches = domain.find_obj(env, "", "", target.rpartition(".")[2], None, 1)
    if len(matches) == 1 or (matches and target[:1].isupper()):
        name, entry = min(matches, key=lambda match: len(match[0]))
        uri = f"{app.builder.get_relative_uri(node['refdoc'], entry.docname)}#{entry.node_id}"
        return nodes.reference("", "", contnode, internal=True, reftitle=name, refuri=uri)
    return None if node["reftype"] == "obj" and _is_mistake(target) else contnode


_WRITTEN: dict[str, list[str]] = {}


def _remember(_app: Sphinx, what: str, name: str, _thing: object, _options: object, lines: list[str]) -> None:
    if what in {"attribute", "data", "property"} and not any(line.strip() in {"Raises:", "Returns:"} for line in lines):
        _WRITTEN[name] = list(lines)


def _restore(_app: Sphinx, _what: str, name: str, _thing: object, _options: object, lines: list[str]) -> None:
    """Undo what napoleon does to a sentence with a colon below an attribute: it takes its first half for a type."""
    if (text := _WRITTEN.pop(name, None)) is not None:
        lines[:] = text


def setup(app: Sphinx) -> None:
    """Write what is generated before anything is read."""
    write_reference()
    write_pictures()
    app.connect("autodoc-process-docstring", _remember, priority=400)  # napoleon comes at 500
    app.connect("autodoc-process-docstring", _restore, priority=600)
    app.connect("missing-reference", _resolve)
