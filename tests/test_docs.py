"""The documentation: its code runs, its names and links exist, and the site builds without a warning."""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import pytest

import doc_fixtures as docs
import postgres
import tsm_training
from tsm_training.__main__ import main
from tsm_training.weights import read_weights_file

GUIDE = docs.DOCS / "guide.md"
PRACTICE = docs.DOCS / "practice.md"
TUTORIAL = docs.DOCS / "tutorial.md"
PAGES = [page for page in docs.pages() if page != GUIDE]  # the guide has a test module of its own
PAGES_WITHOUT_CODE = {"vocabulary.md", "index.md", "proof.md"}
SITE_TIMEOUT = 300
# What prose says about the output of the blocks around it.
PRINTED = {
    "docs/tutorial.md": [
        r"^  verdict: Ship: the trained",
        r"^answer: ΔE00 [01]\.\d$",
        r"^poison: familiarity 0\.[01]\d$",
    ],
    "docs/howto/cluster.md": [r"^[1-9]\d* examples learned"],
    "docs/howto/lint.md": [r"^warning duplicate \(3,\) -> rows\[3\] = None", r"^7 of 7 were compared"],
    "docs/howto/failures.md": [r"raised: RuntimeError: too dark for me", r"^failed - NothingEvaluatedError"],
    "docs/howto/grade.md": [
        r"^6 pictures written, 0 skipped$",
        r"^0 written; 00\.png has an answer already; overwrite=True makes it anew$",
        r"^TITLE \"Autumn\"$",
    ],
    "docs/howto/trackers.md": [r"^avg_accuracy collect more\n\[1, 2, 3, 4, 5\]$"],
    "docs/howto/isolation.md": [r"^timed_out: time limit: gave no answer within 0\.2 s", r"^died: exit code 3"],
    "docs/howto/metric.md": [
        r"^ColorDifference +of the untouched target: 0\.\d+",
        r"^distance, given the output of worker",
        r"never evaluated with these file contents",
    ],
    "docs/howto/worker.md": [r"^faded: the worker's version, settings or source have changed", r"^gentle: stored"],
    "docs/howto/pictures.md": [r"^ImageOutsideRootError - A picture is", r"^ImageNotFoundError - A picture file does"],
    "docs/howto/report.md": [r"^Training\n  similarity: 0\.\d+", r"^What each worker brings"],
    "docs/howto/store.md": [r"session with 5 examples: completed"],
    "docs/howto/server-database.md": [r"^\d examples evaluated", r"^\['completed'\]\n0 faults"],
    "docs/howto/asgi.md": [r"^200 3\nimage/png PNG\n404 There is no such training example\.\n400 An argument has"],
    "docs/howto/embedding.md": [r"evaluating: 6 of 6\nfitting: 6 of 6\nlearning: 2 of 2\nvalidating: 1 of 1"],
    "docs/howto/web-app.md": [r"^200 \['session', 'validation'\]", r"^400 An argument has a value that cannot be used"],
    "docs/explanation/storage.md": [r"\['interrupted'\]\n\['interrupted', 'completed'\]"],
    "docs/explanation/similarity.md": [
        r"^upside down: 0\.99",
        r"one level off: 0\.8",
        r"ColorDifference +redder: 0\.97\d   upside down: 0\.7",
        r"HistogramDistance +redder: 0\.96\d   upside down: 1\.000",
    ],
}


def name_of(page: Any) -> str:
    return str(page.relative_to(docs.PROJECT)) if isinstance(page, Path) else str(page)


# --- code -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One program per page, in a folder with the pictures that the pages name; a failure names page and line."""
    programs = docs.working_folder(tmp_path, monkeypatch)
    if page not in {PRACTICE, TUTORIAL}:  # they make their own
        docs.write_page_pictures()
        shutil.copytree("pictures/targets", "in")  # what the read-me grades
    text = page.read_text(encoding="utf-8")
    if "matplotlib" in text:
        docs.make_plots_harmless(monkeypatch)
    if "TRAINING_DATABASE" in text:
        monkeypatch.setenv("TRAINING_DATABASE", postgres.new_url())
    if "import lpips" in text:
        docs.stand_in_for_lpips(monkeypatch)
    if "import mlflow" in text:
        docs.keep_mlflow_to_itself(monkeypatch)
    shows_fits = page.name == "embedding.md"
    if not shows_fits and not any(name in text for name in docs.SLOW_WORKERS):
        docs.leave_out_slow_workers(monkeypatch)
    with docs.closing_stores(monkeypatch):
        run = docs.run_page(page, monkeypatch, programs, {})
    assert len(run) == len(re.findall(r"^ *`{3,}python$", text, re.MULTILINE))
    output = "".join(printed for _block, printed in run)
    for pattern in PRINTED.get(page.relative_to(docs.PROJECT).as_posix(), ()):
        assert re.search(pattern, output, re.MULTILINE), f"{pattern} was not printed by {name_of(page)}:\n{output}"
    if page == TUTORIAL:
        shown = "".join(block.code for block in docs.blocks_of(page, "text"))
        assert without_figures(shown) == without_figures(output)
    if page.is_relative_to(docs.DOCS) and page.name not in PAGES_WITHOUT_CODE:
        assert run, f"{name_of(page)} shows no code"


@pytest.mark.slow
def test_every_command_on_the_page_about_them_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = docs.working_folder(tmp_path, monkeypatch)
    docs.write_page_pictures()
    docs.leave_out_slow_workers(monkeypatch)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # a command of its own has another one
    page = docs.DOCS / "howto" / "command-line.md"
    docs.run_page(page, monkeypatch, programs, {})
    shown = set()
    for block in docs.blocks_of(page, "bash"):
        for line in block.code.splitlines():
            program, command, *arguments = shlex.split(line.partition(" > ")[0])
            assert program == "tsm-training"
            assert main([command, *arguments]) == 0, f"{line}\n{capsys.readouterr().err}"
            printed = capsys.readouterr().out
            assert printed
            if "--json" in arguments:
                json.loads(printed)
            shown.add(command)
    listed = set(re.findall(r"^\| `(\w+) DB", page.read_text(encoding="utf-8"), re.MULTILINE))
    with pytest.raises(SystemExit):
        main(["--help"])
    existing = set(re.findall(r"^    (\w+)(?: +|$)", capsys.readouterr().out, re.MULTILINE)) - {"COMMAND"}
    assert shown == listed == existing


def without_figures(text: str) -> str:
    """Return a text without what may differ from one machine to the next: figures, and which fixed worker is best."""
    text = re.sub(r"\b(?!learned_look)\w+_\w+\b", "worker", text)
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.]*", "#", text))


def test_pages_that_read_pictures_say_where_a_reader_gets_some() -> None:
    """Their blocks run in a folder in which only the blocks of one page were run before: these."""
    names = re.compile(r"many/manifest\.csv|pictures/|\"pictures\"|(?<![\w/])(?:source|target|ground_truth)\.jpg")
    for page in PAGES:
        code = "".join(block.code for block in docs.blocks_of(page, "python"))
        if (
            names.search(code)
            and page.parent != docs.PROJECT
            and page.name not in {"index.md", "practice.md", "tutorial.md"}
        ):
            assert "[pictures to practise with](../practice.md)" in page.read_text(encoding="utf-8"), name_of(page)


@pytest.mark.parametrize("page", docs.pages(), ids=name_of)
def test_all_python_is_marked_as_such(page: Path) -> None:
    """Other spellings of the language would hide a block from the tests."""
    languages = {block.language for block in docs.blocks_of(page)}
    directives = {language for language in languages if language.startswith("{")}
    assert languages - directives <= {"python", "text", "bash", "json", "sql", ""}
    assert directives <= {"{toctree}", "{include} generated/dashboard.inc"}


def test_a_failing_block_is_named_by_page_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = docs.DOCS / "never-written.md"
    blocks = [docs.Block(page, "python", 3, "a = 1\n", "First"), docs.Block(page, "python", 10, "\n1 / 0\n", "Second")]
    program = docs.PageProgram(blocks, tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", program.module)
    program.run(blocks[0])
    with pytest.raises(ZeroDivisionError) as caught:
        program.run(blocks[1])
    assert caught.value.__notes__ == [
        f"in {Path('docs', 'never-written.md')}, line 10 (Second): at line 11 of the page"
    ]


def test_the_weights_file_on_its_page_is_a_good_one(tmp_path: Path) -> None:
    [block] = docs.blocks_of(docs.DOCS / "reference" / "weights-file.md", "json")
    path = tmp_path / "weights.json"
    path.write_text(block.code, encoding="utf-8")
    assert read_weights_file(path).weights == {"negative": 0.96, "standard_transfer": 1.04}


# --- names ------------------------------------------------------------------------------------------------------------


def configuration() -> ModuleType:
    """Return docs/conf.py as a module: it knows which modules are public."""
    spec = importlib.util.spec_from_file_location("docs_configuration", docs.DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def all_modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(tsm_training.__path__, "tsm_training.")
    return [tsm_training, *(importlib.import_module(info.name) for info in found)]


def test_every_public_name_exists_once_and_is_documented() -> None:
    for module in all_modules():
        place = module.__name__
        assert module.__doc__ or place == "tsm_training._version", f"{place} has no docstring"
        names = getattr(module, "__all__", ())
        assert names or "._" in place or place.count(".") > 1, f"{place} is a door without names"
        assert len(set(names)) == len(names), f"{place} names something twice"
        for name in names:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isroutine(thing):
                assert inspect.getdoc(thing), f"{place}.{name} has no docstring"


def test_names_mentioned_in_pages_exist() -> None:
    missing = []
    for page in docs.pages():
        for name in re.findall(r"`(tsm_training(?:\.\w+)+)(?:\(\))?`", page.read_text(encoding="utf-8")):
            if name == "tsm_training.db":  # the file
                continue
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                missing.append(f"{name_of(page)}: {name}")
    assert not missing


def test_calls_and_types_in_prose_exist() -> None:
    """A word in backticks that looks like one of our classes or exceptions is one."""
    known = {name for module in all_modules() for name in vars(module)} | set(vars(builtins))
    shown: set[str] = set()
    for page in docs.pages():
        text = re.sub(r"^( *`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        names = re.findall(r"`([A-Z][A-Za-z]+[a-z][A-Za-z]*)`", text)
        code = "".join(block.code for block in docs.blocks_of(page, "python"))
        shown |= {f"{name_of(page)}: {name}" for name in names if name not in known and name not in code}
    assert not shown


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as Markdown sites make them."""
    text = re.sub(r"^( *`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", docs.pages(), ids=name_of)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^( *`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target.parent.name == "generated":
            continue  # the site's own build looks after these
        assert target.exists(), f"{link} in {name_of(page)}"
        if anchor:
            assert anchor in anchors(target), f"{link} in {name_of(page)}"


def test_the_read_mes_picture_is_small_and_shows_six_pictures() -> None:
    path = docs.DOCS / "quickstart.png"
    assert path.stat().st_size <= 150_000
    picture = cv2.imread(str(path))
    assert picture is not None
    height, width = picture.shape[:2]
    cells = [
        picture[height // 2 - 20 : height // 2 + 20, 24 + 168 * column : 180 + 168 * column] for column in range(6)
    ]
    assert width == cells[-1].shape[1] + 24 + 168 * 5 + 24
    assert all(cell.std() > 10 for cell in cells)


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = set()
    for index in (docs.DOCS / "index.md", docs.DOCS / "reference" / "index.md"):
        for block in docs.blocks_of(index, "{toctree}"):
            listed |= {f"{line}.md" for line in block.code.splitlines() if line and not line.startswith(":")}
    written = {page.relative_to(docs.DOCS).as_posix() for page in docs.pages() if page.is_relative_to(docs.DOCS)}
    assert written - {"index.md"} <= listed


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    """Paths below a home, a mounted drive or a temporary folder mean nothing to a reader."""
    folders = ("home", "Users", "root", "tmp", "work", "mnt", "opt")
    pattern = re.compile(rf"(?<![\w.:/~-])/(?:{'|'.join(folders)})/|\b[A-Z]:\\\\")
    files = [*docs.pages(), docs.DOCS / "conf.py", *Path(tsm_training.__file__).parent.rglob("*.py")]
    found = [
        f"{name_of(path)}: {line.strip()}"
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    ]
    assert not found


# --- the site ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site once, warnings being errors, without a network."""
    missing = [name for name in ("sphinx", "furo", "myst_parser") if importlib.util.find_spec(name) is None]
    if missing:
        message = f"the site cannot be built without {', '.join(missing)}: install the extra docs"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-E", "-q", "-b", "html"]
    command += ["-d", str(folder / "doctrees"), str(docs.DOCS), str(folder / "html")]
    built = subprocess.run(command, capture_output=True, text=True, timeout=SITE_TIMEOUT, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "html"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_can_be_searched(site: Path) -> None:
    assert (site / "index.html").exists()
    assert "manager" in (site / "searchindex.js").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_pictures_of_the_pages_are_drawn_by_the_build(site: Path) -> None:
    shown = {
        (page.stem, name)
        for page in docs.pages()
        for name in re.findall(r"!\[[^\]]+\]\(generated/([\w-]+\.png)\)", page.read_text(encoding="utf-8"))
    }
    assert shown
    for page, name in shown:
        assert f"_images/{name}" in (site / "howto" / f"{page}.html").read_text(encoding="utf-8")
        picture = cv2.imread(str(site / "_images" / name))
        assert picture is not None
        assert picture.std() > 10
    ignored = (docs.PROJECT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "docs/howto/generated/" in ignored


@pytest.mark.slow
def test_the_page_about_the_application_shows_it_where_a_browser_is_at_hand(site: Path) -> None:
    page = (site / "howto" / "web-app.html").read_text(encoding="utf-8")
    if "_images/dashboard.png" not in page:
        assert "This site was built without" in page
        assert os.environ.get("CI") != "true"
        pytest.skip("no screenshot was taken: that needs Flask, Playwright and Chromium")
    picture = cv2.imread(str(site / "_images" / "dashboard.png"))
    assert picture is not None
    assert picture.shape[:2] == (1250, 1100)
    assert picture.std() > 20


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    inventory = importlib.import_module("sphinx.util.inventory").InventoryFile
    with (site / "objects.inv").open("rb") as file:
        entries = inventory.load(file, "", lambda _base, path: path)
    documented = {name for kind, names in entries.items() if kind.startswith("py:") for name in names}
    conf = configuration()
    missing = []
    for short in conf.public_modules():
        module = importlib.import_module(f"tsm_training.{short}")
        names = (f"{module.__name__}.{name}" for name in getattr(module, "__all__", ()))
        missing += [name for name in names if name not in documented]
    for name in tsm_training.__all__:
        if name != "__version__" and not any(entry.endswith(f".{name}") for entry in documented):
            missing.append(f"tsm_training.{name}")
    assert not missing


@pytest.mark.slow
def test_the_database_page_is_made_of_the_schema(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference" / "generated" / "database.html").read_text(encoding="utf-8"))
    for sql in (tsm_training.storage.GUIDE_SCHEMA, tsm_training.storage.OWN_SCHEMA):
        for name in re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", sql):
            assert name in text


@pytest.mark.slow
def test_names_in_docstrings_are_links(site: Path) -> None:
    page = (site / "reference" / "generated" / "tsm_training.manager.html").read_text(encoding="utf-8")
    assert re.search(r'href="tsm_training\.engine\.html#tsm_training\.engine\.TrainingEngine\.train_batch"', page)
