"""Documentation keeps up with the code: what is public says what it is, and pages name nothing that does not exist.

Each check is a function that returns what is missing, and is itself tried on things that lack it.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import itertools
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

import doc_fixtures as docs
import test_docs
import tsm_training
from tsm_training import errors

PUBLIC_MODULES = ["tsm_training", *(f"tsm_training.{name}" for name in test_docs.configuration().public_modules())]
PUBLIC_MODULES += ["tsm_training.testing.stateful"]
PAGES = [*docs.pages(), *(docs.PROJECT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "RELEASING.md"))]

name_of = test_docs.name_of


# --- what is public ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Public:
    """A public function, method or property, with the class that it is found in."""

    name: str
    function: types.FunctionType
    owner: type | None = None
    said: str | None = None
    """What stands for the docstring, where that of something else does."""

    @property
    def doc(self) -> str:
        """Return the docstring; where it says "see `Base`" or "see `Base.method`", with what stands there."""
        own = (self.function.__doc__ or "") if self.said is None else self.said
        if self.owner is not None and not own:
            own = inspect.getdoc(getattr(self.owner, self.function.__name__)) or ""
        return "\n".join([own, *(inspect.getdoc(each) or "" for each in self.referred(own))])

    def referred(self, doc: str) -> list[object]:
        """Return what a docstring of this function says to see."""
        return [named(target, self.function) for target in re.findall(r"[Ss]ee `(\w+(?:\.\w+)*)`", doc)]


def named(target: str, function: types.FunctionType) -> object:
    """Return what a docstring of `function` means by a name; a class means its method of the same name."""
    first, *rest = target.split(".")
    found: object = function.__globals__.get(first) or getattr(tsm_training, first, None)
    for part in rest:
        found = getattr(found, part, None)
    return getattr(found, function.__name__, found) if inspect.isclass(found) else found


def public_things() -> dict[str, Any]:
    """Return all that modules list in ``__all__``, once each, by full name."""
    things: dict[int, tuple[str, Any]] = {}
    for module_name in PUBLIC_MODULES:
        module = importlib.import_module(module_name)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            things.setdefault(id(thing), (f"{getattr(thing, '__module__', module_name)}.{name}", thing))
    return dict(things.values())


def is_test(function: types.FunctionType) -> bool:
    """Tell whether a function of the published contract is a test, whose name says all, or a rule of its machine."""
    return function.__name__.startswith("test_") or any("hypothesis_stateful" in name for name in vars(function))


def functions_of(name: str, thing: Any) -> Iterator[Public]:
    """Yield a function itself, or the methods and properties that a class of ours makes public."""
    if isinstance(thing, types.FunctionType):
        yield Public(name, thing)
    if not inspect.isclass(thing) or not thing.__module__.startswith("tsm_training"):
        return
    for attribute, value in vars(thing).items():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        is_ours = isinstance(function, types.FunctionType) and str(function.__module__).startswith("tsm_training")
        if is_ours and not attribute.startswith("_") and not is_test(function):
            yield Public(f"{name}.{attribute}", function, thing)


PUBLIC = public_things()
FUNCTIONS = [function for name, thing in PUBLIC.items() for function in functions_of(name, thing)]
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}


def test_there_is_much_to_look_at() -> None:
    assert len(CLASSES) > 80
    assert len(FUNCTIONS) > 250


# --- docstrings -------------------------------------------------------------------------------------------------------


def without_docstring(functions: list[Public]) -> list[str]:
    return [public.name for public in functions if not public.doc.strip()]


def explained_constants(source: str) -> set[str]:
    """Return the names that a module binds and explains in a line below."""
    body = ast.parse(source).body
    return {
        ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
        for node, word in itertools.pairwise(body)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(word, ast.Expr)
    }


def fields_without_a_word(name: str, kind: type) -> list[str]:
    """Return the public fields of a record or summary that nothing explains.

    A word means one thing everywhere: what is explained in one public class, or as an argument, needs no second word.
    """
    explained = vocabulary() | explained_fields(kind)
    return [f"{name}.{field}" for field in fields_of(kind) if not field.startswith("_") and field not in explained]


def fields_of(kind: type) -> list[str]:
    if attrs.has(kind):
        return [field.name for field in attrs.fields(kind)]
    return list(typing.get_type_hints(kind)) if typing.is_typeddict(kind) else []


def explained_fields(kind: type) -> set[str]:
    """Return what a class explains: names in its docstring, and fields with a docstring of their own below them."""
    body = classes_of(sys.modules[kind.__module__]).get(kind.__qualname__, ast.Module([], []))
    below = {
        ast.unparse(field.target)
        for field, word in itertools.pairwise(body.body)
        if isinstance(field, ast.AnnAssign) and isinstance(word, ast.Expr) and isinstance(word.value, ast.Constant)
    }
    return below | set(re.findall(r"`(\w+)`", kind.__doc__ or "")) | explained_arguments(kind.__doc__ or "")


def explained_arguments(doc: str) -> set[str]:
    return set(re.findall(r"^ +(\w+): ", doc, re.MULTILINE))


@functools.cache
def classes_of(module: types.ModuleType) -> Mapping[str, ast.ClassDef]:
    """Return the classes that a module of Python defines, by name."""
    path = getattr(module, "__file__", None) or ""
    tree = ast.parse(Path(path).read_text(encoding="utf-8") if path.endswith(".py") else "")
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


@functools.cache
def vocabulary() -> set[str]:
    """Return every word that is explained anywhere."""
    words = {word for kind in CLASSES.values() for word in explained_fields(kind)}
    return words.union(*(explained_arguments(public.doc) for public in FUNCTIONS))


def test_every_public_function_method_and_property_has_a_docstring() -> None:
    assert not without_docstring(FUNCTIONS)


def test_every_public_constant_and_type_alias_is_explained() -> None:
    sources = (path.read_text(encoding="utf-8") for path in Path(tsm_training.__file__).parent.rglob("*.py"))
    explained = set().union(*map(explained_constants, sources))
    names = {
        name.rpartition(".")[2]
        for name, thing in PUBLIC.items()
        if not inspect.isclass(thing) and not inspect.isroutine(thing)
    }
    assert len(names) > 10
    assert not names - explained - {"__version__"}


def test_every_public_field_is_explained() -> None:
    assert not [missing for name, kind in CLASSES.items() for missing in fields_without_a_word(name, kind)]


def bare(_value: int) -> int: ...


@attrs.frozen
class Half:
    """Explains `first`."""

    first: int
    second_and_odd: int
    third: int
    """In pixels."""


class HalfSummary(typing.TypedDict):
    """A summary."""

    strange_key: int
    other_key: str
    """Of the other."""


def test_what_has_no_docstring_is_found() -> None:
    assert without_docstring([Public("bare", bare), Public("explained", inspect.unwrap(is_test))]) == ["bare"]


def test_a_constant_that_nothing_explains_is_found() -> None:
    assert explained_constants('A = 1\nB: int = 2\n"""Of b."""\nC = 3\n"""Of c."""\n') == {"B", "C"}


def test_a_field_that_nothing_explains_is_found() -> None:
    assert fields_without_a_word("Half", Half) == ["Half.second_and_odd"]
    assert fields_without_a_word("HalfSummary", HalfSummary) == ["HalfSummary.strange_key"]


# --- arguments ------------------------------------------------------------------------------------------------------


def unsaid_arguments(public: Public) -> list[str]:
    """Return the arguments of a function that neither its docstring explains, nor that of a function to see.

    What takes the same argument on under the same name may explain it for both. A docstring with a section ``Args`` has
    to explain all of them itself; that is for the linter to see. What implements a method says no more than that one.
    """
    own = inspect.getdoc(public.function) or ""
    bases = {base.__name__ for base in (public.owner.__mro__ if public.owner else ())}
    elsewhere = [
        each
        for each in public.referred(own)
        if inspect.isfunction(each) and each.__qualname__.partition(".")[0] not in bases
    ]
    if "Args:" in own or not elsewhere:
        return []
    said = set(re.findall(r"`(\w+)`", own))
    for function in elsewhere:
        said |= explained_arguments(inspect.getdoc(function) or "") & inspect.signature(function).parameters.keys()
    said.add("self")
    return [f"{public.name}: {name}" for name in inspect.signature(public.function).parameters if name not in said]


def test_who_leaves_arguments_to_another_docstring_finds_them_there() -> None:
    assert not [missing for public in FUNCTIONS for missing in unsaid_arguments(public)]


def explaining(first: int, second: int) -> None:
    """Do something.

    Args:
        first: A number.
        second: Another one.
        gone: It had a third argument once.
    """


def leaving(first: int, second_one: int, third: int, gone: int) -> None:
    """Do something with `third`; see `explaining`."""


def test_an_argument_that_nothing_explains_is_found() -> None:
    assert unsaid_arguments(Public("leaving", leaving)) == ["leaving: second_one", "leaving: gone"]


# --- pictures ---------------------------------------------------------------------------------------------------------

KINDS_OF_ARRAYS: Mapping[str, tuple[str, ...]] = {
    "Image": ("uint8", "H×W×3|\\(H, W, 3\\)|target's size|any shape", "BGR|Lab|any shape"),
    "Colors": ("float32|`Colors`", "×3|`Colors`"),
}
"""What must be said of an array, by the name of its type; each is a pattern."""


def unsaid_of_arrays(public: Public) -> list[str]:
    """Return what a docstring does not say of the arrays that a function takes or gives."""
    annotations = " ".join(str(value) for value in public.function.__annotations__.values())
    words = public.doc + (inspect.getdoc(public.owner) or "" if public.owner else "")
    return [
        f"{public.name}: {kind} without {said.partition('|')[0]}"
        for kind, all_said in KINDS_OF_ARRAYS.items()
        if re.search(rf"(?<![\w.]){kind}\b", annotations)
        for said in all_said
        if not re.search(said, words)
    ]


def test_who_takes_or_gives_a_picture_says_dtype_shape_and_channel_order() -> None:
    assert not [missing for public in FUNCTIONS for missing in unsaid_of_arrays(public)]


def vague(picture: tsm_training.Image) -> None:
    """Do something with a picture."""


def exact(picture: tsm_training.Image) -> None:
    """Do something with a picture (uint8, H×W×3, BGR)."""


def test_a_picture_of_which_nothing_is_said_is_found() -> None:
    vague.__annotations__["picture"] = exact.__annotations__["picture"] = "Image"
    assert unsaid_of_arrays(Public("vague", vague)) == [f"vague: Image without {w}" for w in ("uint8", "H×W×3", "BGR")]
    assert not unsaid_of_arrays(Public("exact", exact))


# --- errors -----------------------------------------------------------------------------------------------------------


def raised_in(function: types.FunctionType) -> set[str]:
    """Return the library's errors that the body of a function raises itself, functions inside it left out."""
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    found, waiting = set(), [*ast.iter_child_nodes(tree)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found.add(ast.unparse(error).rpartition(".")[2])
        waiting += ast.iter_child_nodes(node)
    return {name for name in found if isinstance(getattr(errors, name, None), type)}


def unsaid_errors(public: Public) -> list[str]:
    """Return the errors raised in a function's own body that its docstring names neither itself nor by a base class.

    What stands in a ``Raises`` section counts, and so does a first sentence that begins with "Raise".
    """
    section = re.search(r"^\s*Raises:\n(.*)", public.doc, re.MULTILINE | re.DOTALL)
    first = re.search(r"\braise\w* .*|(\w+Error\b.*)", public.doc.strip().partition("\n")[0], re.IGNORECASE)
    words = set(re.findall(r"\w+", (section[1] if section else "") + (first[0] if first else "")))
    return [
        f"{public.name}: {name}"
        for name in sorted(raised_in(public.function))
        if not words & {base.__name__ for base in getattr(errors, name).__mro__ if base is not Exception}
    ]


def makers_of(name: str, kind: type) -> Iterator[Public]:
    """Yield what runs when an object is made; it is for the class's docstring to say what that raises."""
    for attribute in ("__init__", "__attrs_post_init__", "__attrs_pre_init__"):
        function = vars(kind).get(attribute)
        if isinstance(function, types.FunctionType) and not function.__code__.co_filename.startswith("<attrs"):
            yield Public(f"{name}.{attribute}", function, kind, said=kind.__doc__ or "")


def test_who_raises_an_error_of_the_library_says_so() -> None:
    makers = [maker for name, kind in CLASSES.items() for maker in makers_of(name, kind)]
    assert not [missing for public in [*FUNCTIONS, *makers] for missing in unsaid_errors(public)]


def silent(value: int) -> None:
    """Do something.

    Raises:
        NoExamplesError: there are none.
    """
    if value == 1:
        raise errors.NoExamplesError
    if value:
        raise errors.StorageBusyError("here", "locked")

    def inner() -> None:
        raise errors.NoWorkersError


def general(_value: int) -> None:
    """Do something.

    Raises:
        StorageError: the store cannot be used.
    """
    raise errors.StorageBusyError("here", "locked")


def brief(_value: int) -> None:
    """Raise MetricError at once."""
    raise errors.MetricError("m", "w", "is broken")


def test_an_error_that_is_raised_and_not_named_is_found() -> None:
    assert unsaid_errors(Public("silent", silent)) == ["silent: StorageBusyError"]
    assert not unsaid_errors(Public("general", general)) + unsaid_errors(Public("brief", brief))


# --- pages ------------------------------------------------------------------------------------------------------------

ROLES: Mapping[str, tuple[str, ...]] = {
    "manager": ("TrainingManager",),
    "training_manager": ("TrainingManager",),
    "learner": ("BayesianWeightLearner",),
    "weight_learner": ("BayesianWeightLearner",),
    "store": ("TrainingDataManager", "TrainingStore"),
    "data_manager": ("TrainingDataManager", "TrainingStore"),
    "engine": ("TrainingEngine",),
    "training_engine": ("TrainingEngine",),
    "pool": ("WorkerPool",),
    "worker": ("Worker",),
    "prediction": ("Prediction",),
    "session": ("TrainingSession",),
    "example": ("TrainingExample",),
    "progress": ("Progress",),
    "error": ("TsmTrainingError",),
}
"""What pages mean by a variable."""

ENDINGS = {"csv", "db", "html", "json", "md", "png", "py"}
"""`learner.py` is a file."""

ELSEWHERE = {"Client", "partial"}
"""Calls of other libraries."""


def prose_of(page: Path) -> str:
    return re.sub(r"^( *`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@functools.cache
def known_names() -> set[str]:
    """Return every public name, every public attribute and argument of one, and what the example programs define."""
    names = {
        node.name
        for path in (docs.PROJECT / "examples").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    names |= {name.rpartition(".")[2] for name in PUBLIC} | set(vars(builtins))
    for kind in CLASSES.values():
        names |= {name for base in kind.__mro__ for name in (*vars(base), *fields_of(base))}
    for public in [*FUNCTIONS, *(Public(n, k.__init__) for n, k in CLASSES.items() if hasattr(k.__init__, "__code__"))]:
        code = public.function.__code__
        names |= set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    return names


def code_of(page: Path) -> str:
    """Return the page's own code: what it defines, it may name."""
    return "\n".join(block.code for block in docs.blocks_of(page, "python"))


def code_spans(prose: str) -> list[str]:
    """Return what stands in backticks, not what stands between two such places."""
    return [text for _ticks, text in re.findall(r"(`+)([^`\n]+)\1", prose)]


def wrong_attributes(prose: str) -> list[str]:
    """Return what stands in backticks as an attribute of one of our objects, and is none."""
    found = []
    places = [place for span in code_spans(prose) for place in re.findall(r"(?<![\w./])(\w+)\.(\w+)", span)]
    for first, attribute in places:
        if attribute in ENDINGS:
            continue
        kinds = [
            getattr(tsm_training, kind) for kind in ROLES.get(first, ()) or ([first] if first in CLASS_NAMES else [])
        ]
        if kinds and not any(hasattr(kind, attribute) or attribute in fields_of(kind) for kind in kinds):
            found.append(f"{first}.{attribute}")
    return found


CLASS_NAMES = {name for name in tsm_training.__all__ if inspect.isclass(getattr(tsm_training, name))}


def wrong_calls(prose: str, code: str) -> list[str]:
    """Return what stands in backticks as a call, or as an argument by name, of something that nobody here has."""
    spans = code_spans(prose)
    calls = [found[1] for span in spans if (found := re.fullmatch(r"(?:\w+\.)*(\w+)\(.*\)", span))]
    arguments = [found[1] for span in spans if (found := re.fullmatch(r"([a-z]\w*)=[^=]+", span))]
    known = known_names() | ELSEWHERE | set(re.findall(r"\w+", code))
    return [name for name in [*calls, *arguments] if name not in known]


def wrong_paths(prose: str) -> list[str]:
    """Return the files of this repository that stand in backticks and are not there."""
    pattern = r"(?:docs|src|tests|examples|benchmarks|\.ci)/[\w./-]*"
    paths = [span for span in code_spans(prose) if re.fullmatch(pattern, span)]
    return [path for path in paths if not (docs.PROJECT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_names_exists(page: Path) -> None:
    prose = prose_of(page)
    assert not wrong_attributes(prose)
    assert not wrong_calls(prose, code_of(page))
    assert not wrong_paths(prose)


@pytest.mark.parametrize("page", PAGES[-3:], ids=name_of)
def test_links_of_the_projects_own_pages_lead_somewhere(page: Path) -> None:
    test_docs.test_links_between_pages_lead_somewhere(page)


def test_a_name_that_does_not_exist_is_found() -> None:
    prose = "`manager.trian(epochs=3)`, `x = TrainingManager.fit`, `session.status`, `a` (pool.md) `b`, `learner.py`"
    assert wrong_attributes(prose) == ["manager.trian", "TrainingManager.fit"]
    prose = "`trian(epochs=3)`, `own(1)`, `restore=True`, `restor=True`, `train()`, `functools.partial(f)`"
    assert wrong_calls(prose, "def own(x): ...") == ["trian", "restor"]
    assert wrong_paths("`docs/nowhere.md` and `docs/index.md`, `tests/`") == ["docs/nowhere.md"]
