"""The example application: the guide's routes as the guide shows them, what is refused and how, and its page."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import importlib
import importlib.util
import io
import json
import re
import reprlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import attrs
import pytest

import doc_fixtures as docs
import pictures as odd
import tsm_training
from support import brightening, brighter, failing, picture, pool_of, usual_pool
from tsm_training import FunctionWorker, Image, Worker, WorkerPool
from tsm_training.errors import (
    ExecutorError,
    ImageError,
    InvalidArgumentError,
    MetricError,
    StorageBusyError,
    StorageCorruptError,
    StorageFullError,
    TsmTrainingError,
)
from tsm_training.storage import GUIDE_SCHEMA
from tsm_training.weights import MAX_WEIGHTS_FILE_BYTES

if TYPE_CHECKING:
    from browser import Tab

pytest_plugins = ["browser"]

FOLDER = docs.PROJECT / "examples" / "flask_app"
GUIDE = docs.DOCS / "guide.md"
ROLES = ("source", "target", "ground_truth")
MAX_BYTES, MAX_PIXELS = 50_000, 40_000

PATH = re.compile(r"(?<![\w:/.])/(?!training/)[\w.-]+/|[A-Za-z]:\\")
"""What looks like a path of the server's file system."""


@pytest.fixture(scope="module", autouse=True)
def modules() -> Iterator[None]:
    """The example's modules can be imported, as they can where it is started."""
    if importlib.util.find_spec("flask") is None:
        pytest.skip("Flask is not installed: pip install '.[flask]'")
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


# --- an application in this process -----------------------------------------------------------------------------------


@attrs.frozen
class Host:
    """An application, somebody who asks it, and where it keeps pictures."""

    app: Any
    client: Any
    uploads: Path

    @property
    def service(self) -> Any:
        return self.app.extensions["tsm_training"]

    def add(self, seed: int = 0, **changes: Any) -> Any:
        return self.client.post("/training/add-example", data=form(seed, **changes))

    def add_several(self, count: int) -> list[str]:
        return [self.add(seed).json["example_id"] for seed in range(count)]

    def stored(self) -> set[str]:
        return {path.name for path in self.uploads.iterdir()}


def encoded(image: Image, kind: str = ".png") -> bytes:
    return odd.encoded(kind, image)


def triple(seed: int) -> dict[str, bytes]:
    """Return the files of a source, a target, and the target made brighter."""
    target = picture(2 * seed + 1)
    pictures = (picture(2 * seed), target, brighter(target, 20))
    return {role: encoded(image) for role, image in zip(ROLES, pictures, strict=True)}


def form(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Return the fields of the form that adds an example: bytes are files, and what is None is left out."""
    fields = {**triple(seed), **changes}
    return {
        name: (io.BytesIO(value), f"{name}.png") if isinstance(value, bytes) else value
        for name, value in fields.items()
        if value is not None
    }


def multipart(fields: Mapping[str, bytes | str]) -> tuple[bytes, str]:
    """Return the body of a form as it is sent, and its type; bytes are files. Flask's client leaves large ones open."""
    boundary = "----a-boundary-that-no-picture-contains"
    parts = []
    for name, content in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(content, bytes):
            parts.append(f'{head}; filename="same.png"\r\n\r\n'.encode() + content)
        else:
            parts.append(f"{head}\r\n\r\n{content}".encode())
    return b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


@contextlib.contextmanager
def hosting(folder: Path, pool: WorkerPool | None = None, **settings: Any) -> Iterator[Host]:
    uploads = folder / "uploads"
    app = module("app").create_app(
        folder / "training.db",
        uploads,
        pool or usual_pool(),
        max_picture_bytes=MAX_BYTES,
        max_picture_pixels=MAX_PIXELS,
        **settings,
    )
    host = Host(app, app.test_client(), uploads)
    try:
        yield host
    finally:
        host.service.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with hosting(tmp_path) as host:
        yield host


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with three examples for all tests that change nothing."""
    with hosting(tmp_path_factory.mktemp("asked")) as host:
        host.add_several(3)
        yield host


@attrs.define
class Gate:
    """A worker that does not go on before it may, and an application that has it."""

    permits: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0))
    is_waiting: threading.Event = attrs.field(factory=threading.Event)

    def worker(self) -> Worker:
        def process(_source: Image, target: Image) -> Image:
            self.is_waiting.set()
            assert self.permits.acquire(timeout=60)
            return brighter(target, 10)

        return FunctionWorker("patient", process, version="1")

    def open(self) -> None:
        self.permits.release(1000)

    @contextlib.contextmanager
    def hosting(self, folder: Path) -> Iterator[Host]:
        with hosting(folder, pool_of(brightening("near", 22), self.worker())) as host:
            try:
                yield host
            finally:
                self.open()


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    until = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
    return result


def job_of(host: Host, job_id: str) -> dict[str, Any]:
    document: dict[str, Any] = host.client.get(f"/training/jobs/{job_id}").json["job"]
    return document


def ended(host: Host, job_id: str) -> dict[str, Any]:
    def end() -> dict[str, Any] | None:
        job = job_of(host, job_id)
        return job if job["status"] != "running" else None

    result: dict[str, Any] = wait_until(end)
    return result


# --- the guide's routes -----------------------------------------------------------------------------------------------


def test_the_guides_lines_enable_training_in_an_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = [b for b in docs.blocks_of(GUIDE, "python") if b.heading == "1. Enable training in an app"]
    monkeypatch.chdir(tmp_path)
    app = module("flask").Flask("host")
    names = {"app": app, "worker_pool": usual_pool(), "weight_learner": tsm_training.BayesianWeightLearner()}
    exec(compile(block.code, "app_tsm.py", "exec"), names)
    with contextlib.closing(app.extensions["tsm_training"]):
        assert app.test_client().get("/training/examples").json == {"success": True, "examples": [], "total": 0}
        assert {path.name for path in tmp_path.iterdir()} == {"tsm_training.db", "uploads"}


def test_registering_before_preparing_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"call init_training\(\) before the blueprint is registered"):
        module("flask").Flask("host").register_blueprint(module("training_routes").training_bp)


def test_an_example_is_added_with_its_metadata_and_its_files_bytes(host: Host) -> None:
    files = {role: encoded(picture(number), kind) for number, (role, kind) in enumerate(
        {"source": ".jpg", "target": ".webp", "ground_truth": ".bmp"}.items()
    )}  # fmt: skip
    metadata = {"quality": "high", "style": "sunset", "grün": [1, None, {"a": 0.5}]}

    answer = host.client.post("/training/add-example", data=form(**files, metadata=json.dumps(metadata)))

    assert answer.status_code == 200
    example_id = answer.json["example_id"]
    assert answer.json == {
        "success": True, "example_id": example_id, "message": "Training example added successfully"
    }  # fmt: skip
    [stored] = host.service.manager.data_manager.get_all_examples()
    assert stored.example_id == example_id
    assert stored.metadata == metadata
    paths = [Path(stored.source_path), Path(stored.target_path), Path(stored.ground_truth_path)]
    assert [path.read_bytes() for path in paths] == list(files.values())
    # Names of our own, and endings that fit the contents: every client called its file .png.
    assert [path.suffix for path in paths] == [".jpg", ".webp", ".bmp"]
    assert all(path.parent == host.uploads.resolve() and re.fullmatch(r"[0-9a-f]{32}", path.stem) for path in paths)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in paths)


@pytest.mark.parametrize(
    "name", ["../../up.png", "/etc/passwd", "C:\\x.png", "a\0b.png", "x" * 300, "CON", ".htaccess"]
)
def test_a_clients_file_name_is_used_for_nothing(host: Host, name: str) -> None:
    fields = {role: (io.BytesIO(content), name) for role, content in triple(0).items()}
    assert host.client.post("/training/add-example", data=fields).status_code == 200
    assert all(re.fullmatch(r"[0-9a-f]{32}\.png", stored) for stored in host.stored())
    assert len(host.stored()) == 3


def test_the_list_of_examples_counts_all_whatever_the_limit(host: Host) -> None:
    ids = host.add_several(3)
    listed = host.client.get("/training/examples?limit=2").json
    assert [example["example_id"] for example in listed["examples"]] == ids[1:]
    assert listed["total"] == 3
    assert [example["has_results"] for example in listed["examples"]] == [False, False]
    host.client.post("/training/train")
    assert all(example["has_results"] for example in host.client.get("/training/examples").json["examples"])


@pytest.mark.parametrize("sent", [{}, {"json": {}}, {"data": "", "content_type": "application/json"}])
def test_bodies_are_optional(host: Host, sent: dict[str, Any]) -> None:
    host.add_several(3)
    for address in ("train", "validate", "reset-weights"):
        answer = host.client.post(f"/training/{address}", **sent)
        assert (answer.status_code, answer.json["success"]) == (200, True), address


def test_training_moves_the_weights_and_validates_on_what_it_held_out(host: Host) -> None:
    host.add_several(6)
    body = {"num_examples": 5, "epochs": 3, "validation_split": 0.4, "verbose": False}
    answer = host.client.post("/training/train", json=body).json
    session, validation = answer["results"]["session"], answer["results"]["validation"]
    assert session["num_examples"] + validation["num_examples"] == 5
    assert session["epochs"] == len(session["metrics_history"]) == 3
    assert set(session["initial_weights"].values()) == {1.0}
    assert max(session["final_weights"], key=session["final_weights"].__getitem__) == "near"
    assert validation["avg_accuracy"] > validation["equal_weights_accuracy"]


def test_validation_names_each_workers_accuracy(host: Host) -> None:
    first, second, _third = host.add_several(3)
    results = host.client.post("/training/validate", json={"example_ids": [first, second, first]}).json
    assert results["validation_results"]["num_examples"] == 2
    assert set(results["validation_results"]["worker_accuracies"]["near"]) == {"mean", "std", "min", "max"}
    everything = host.client.post("/training/validate", json={"example_ids": None}).json
    assert everything["validation_results"]["num_examples"] == 3


def test_progress_counts_what_was_evaluated_and_knows_the_workers_before_any_training(host: Host) -> None:
    host.add_several(3)
    before = host.client.get("/training/progress").json
    assert before["job"] is None
    assert before["progress"]["current_weights"] == {"far": 1.0, "mid": 1.0, "near": 1.0}
    host.client.post("/training/train", json={"epochs": 10})
    host.add(7)
    after = host.client.get("/training/progress").json["progress"]
    assert after["dataset_stats"] == {
        "total_examples": 4, "processed_examples": 3, "unprocessed_examples": 1, "total_sessions": 1
    }  # fmt: skip
    assert after["worker_stats"]["near"]["current_weight"] == after["current_weights"]["near"] > 1.04
    assert after["worker_stats"]["near"]["stats"]["update_count"] == 2


def test_exported_weights_are_a_download_that_imports_exactly(host: Host) -> None:
    host.add_several(4)
    host.client.post("/training/train", json={"epochs": 3})
    exported = host.client.get("/training/weights/export")
    assert exported.status_code == 200
    name = re.fullmatch(
        r"attachment; filename=(tsm_weights_\d{8}_\d{6}\.json)", exported.headers["Content-Disposition"]
    )
    assert name is not None
    assert (
        abs(datetime.now(UTC) - datetime.strptime(f"{name[1]}+0000", "tsm_weights_%Y%m%d_%H%M%S.json%z")).seconds < 60
    )
    trained = exported.json["weights"]
    assert trained["near"] > 1

    host.client.post("/training/reset-weights")
    imported = host.client.post("/training/weights/import", data={"file": (io.BytesIO(exported.data), "weights.json")})

    assert imported.json == {
        "success": True,
        "imported": ["far", "mid", "near"],
        "dormant": [],
        "scale": 1.0,
        "missing": [],
        "message": "Weights imported successfully",
    }
    assert host.client.get("/training/progress").json["progress"]["current_weights"] == trained


def test_weights_that_cannot_be_written_are_no_fault_of_the_client(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("service"), "Path", lambda *_parts: host.uploads / "no such folder" / "weights.json")
    answer = host.client.get("/training/weights/export")
    assert (answer.status_code, answer.json["message"]) == (500, module("answers").UNEXPECTED)


def test_resetting_gives_every_worker_the_weight(host: Host) -> None:
    answer = host.client.post("/training/reset-weights", json={"default_weight": 0.5})
    assert answer.json == {
        "success": True,
        "current_weights": {"far": 0.5, "mid": 0.5, "near": 0.5},
        "message": "Weights reset successfully",
    }
    assert set(host.client.post("/training/reset-weights").json["current_weights"].values()) == {1.0}


def test_sessions_are_listed_and_described(host: Host) -> None:
    assert host.client.get("/training/sessions").json == {"success": True, "sessions": [], "total": 0}
    host.add_several(3)
    ids = [host.client.post("/training/train").json["results"]["session"]["session_id"] for _ in range(2)]
    listed = host.client.get("/training/sessions").json
    assert [session["session_id"] for session in listed["sessions"]] == ids
    newest = host.client.get("/training/sessions?limit=1").json
    assert [session["session_id"] for session in newest["sessions"]] == ids[1:]
    assert newest["total"] == 2
    described = host.client.get(f"/training/session/{ids[0]}").json["session"]
    assert described["status"] == "completed"
    assert len(described["metrics_history"]) == 1
    assert set(listed["sessions"][0]) < set(described)


def test_an_example_is_described_without_its_paths(host: Host) -> None:
    [example_id] = host.add_several(1)
    host.client.post("/training/train")
    described = host.client.get(f"/training/example/{example_id}").json["example"]
    assert set(described["worker_results"]) == {"far", "mid", "near"}
    assert described["pictures"]["target"]["width"] == 16
    assert str(host.uploads) not in json.dumps(described)
    assert not any(key.endswith("_path") for key in described)


def test_troubles_in_documents_name_files_without_their_folders(host: Host) -> None:
    first, second, *_rest = host.add_several(4)
    store = host.service.manager.data_manager
    Path(store.get_example(first).source_path).unlink()
    Path(store.get_example(second).target_path).write_bytes(b"something else")
    results = host.client.post("/training/train").json["results"]
    documents = [
        results,
        host.client.get(f"/training/session/{results['session']['session_id']}").json,
        host.client.get("/training/sessions").json,
        host.client.post("/training/validate").json,
    ]
    for document in documents:
        assert not PATH.search(json.dumps(document)), document
    assert set(documents[1]["session"]["skipped"]) == {first, second}
    assert re.fullmatch(r"'[0-9a-f]{32}\.png': there is no such file", documents[1]["session"]["skipped"][first])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'/a/b c/d.png': gone", "'d.png': gone"),
        ("in /a/b/d.png and /c/e", "in d.png and e"),
        ("at C:\\a\\b\\d.png", "at d.png"),
        ('"C:\\a b\\d.png" is', '"d.png" is'),
        ("1/2 of https://a/b/c and a/b/c", "1/2 of https://a/b/c and a/b/c"),
        ("nothing", "nothing"),
    ],
)
def test_folders_are_taken_out_of_what_others_said(text: str, shown: str) -> None:
    assert module("answers").without_folders(text) == shown


# --- small pictures ---------------------------------------------------------------------------------------------------


def test_pictures_are_shown_as_small_copies_only(host: Host) -> None:
    large = odd.colours(120, 300)
    example_id = host.add(target=encoded(large), ground_truth=encoded(large)).json["example_id"]
    answer = host.client.get(f"/training/example/{example_id}/target")
    assert answer.mimetype == "image/jpeg"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    copy = odd.Pillow.open(io.BytesIO(answer.data))
    assert (copy.format, copy.size) == ("JPEG", (240, 96))
    assert host.client.get(f"/training/example/{example_id}/source").status_code == 200

    again = host.client.get(f"/training/example/{example_id}/target", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize("harm", ["unlink", "change", "link out"])
def test_a_picture_that_is_no_longer_what_was_added_is_not_shown(host: Host, tmp_path: Path, harm: str) -> None:
    [example_id] = host.add_several(1)
    path = Path(host.service.manager.data_manager.get_example(example_id).target_path)
    content = path.read_bytes()
    path.unlink()
    if harm == "change":
        path.write_bytes(encoded(picture(9)))
    if harm == "link out":
        (tmp_path / "secret.png").write_bytes(content)
        path.symlink_to(tmp_path / "secret.png")
    answer = host.client.get(f"/training/example/{example_id}/target")
    assert answer.status_code == 404
    assert answer.json["message"].startswith("A picture")


def test_an_example_of_an_older_database_has_pictures_too(host: Host) -> None:
    [example_id] = host.add_several(1)
    host.service.manager.data_manager.edit_examples({example_id: lambda stored: attrs.evolve(stored, files=None)})
    answer = host.client.get(f"/training/example/{example_id}/target")
    assert answer.status_code == 200
    assert "ETag" not in answer.headers
    assert host.client.get(f"/training/example/{example_id}").json["example"]["pictures"]["target"].keys() == {
        "thumbnail"
    }


# --- uploads ----------------------------------------------------------------------------------------------------------


def test_the_same_picture_is_stored_once_whoever_sends_it(host: Host) -> None:
    first, second = (host.add(0).json["example_id"] for _ in range(2))
    assert len(host.stored()) == 3
    host.add(1, source=triple(0)["source"])
    assert len(host.stored()) == 5
    assert host.client.delete(f"/training/example/{first}").json["success"] is True
    assert len(host.stored()) == 5
    host.client.delete(f"/training/example/{second}")
    assert len(host.stored()) == 3  # its source is another one's too
    assert host.client.get("/training/examples").json["total"] == 1


def test_a_refused_upload_leaves_what_others_need(host: Host) -> None:
    host.add(0)
    before = host.stored()
    assert host.add(0, ground_truth=encoded(picture(1, 20, 30))).status_code == 400
    assert host.stored() == before


def test_what_does_not_fit_into_the_quota_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    size = sum(map(len, triple(0).values()))
    with hosting(tmp_path, quota=size + 10) as host:
        assert host.add(0).status_code == 200
        assert host.add(0).status_code == 200  # nothing new has to be stored
        answer = host.add(1)
        assert (answer.status_code, answer.json["success"]) == (507, False)
        assert f"{size + 10:,} bytes in all" in answer.json["error"]
        assert len(host.stored()) == 3
        assert host.client.get("/training/examples").json["total"] == 2


@pytest.mark.parametrize("way", ["DELETE", "form"])
def test_an_example_is_removed_with_what_was_learned_from_it(host: Host, way: str) -> None:
    ids = host.add_several(3)
    host.client.post("/training/train", json={"validation_split": 0})
    for example_id in ids:
        if way == "DELETE":
            assert host.client.delete(f"/training/example/{example_id}").status_code == 200
        else:
            answer = host.client.post("/training/dashboard/remove", data={"example_id": example_id})
            assert "The example was removed." in host.client.get(answer.headers["Location"]).text
    assert host.stored() == set()
    assert set(host.client.get("/training/progress").json["progress"]["current_weights"].values()) == {1.0}
    assert host.client.delete(f"/training/example/{ids[0]}").status_code == 404
    assert host.client.post("/training/dashboard/remove", data={"example_id": ids[0]}).status_code == 404


def made_by_a_script(folder: Path) -> str:
    """Make the application's database with an example whose pictures were not uploaded, and return its id."""
    (folder / "mine").mkdir()
    paths = [folder / "mine" / f"{role}.png" for role in ROLES]
    for path, content in zip(paths, triple(0).values(), strict=True):
        path.write_bytes(content)
    with tsm_training.TrainingManager(
        usual_pool(), tsm_training.BayesianWeightLearner(alpha=0.15), folder / "training.db"
    ) as manager:
        source, target, truth = paths
        return manager.add_training_example(source, target, truth).example_id


def test_a_database_made_by_a_script_is_shown_with_its_pictures(tmp_path: Path) -> None:
    example_id = made_by_a_script(tmp_path)
    (tmp_path / "other").mkdir()
    with hosting(tmp_path, picture_folders=[tmp_path / "other", tmp_path / "mine"]) as host:
        assert host.client.get(f"/training/example/{example_id}/source").mimetype == "image/jpeg"
        host.client.post("/training/train", json={"validation_split": 0})
        assert host.client.get("/training/dashboard/sheet.jpg").mimetype == "image/jpeg"
        assert "--pictures" not in host.client.get("/training/dashboard").text
        host.client.delete(f"/training/example/{example_id}")
    assert len(list((tmp_path / "mine").iterdir())) == 3  # what was not uploaded is not deleted


def test_pictures_from_elsewhere_are_not_shown_and_the_page_says_why(tmp_path: Path) -> None:
    example_id = made_by_a_script(tmp_path)
    with hosting(tmp_path) as host:
        page = host.client.get("/training/dashboard").text
        assert "The pictures of 1 example lie outside the folders" in page
        assert "start it with --pictures DIR" in page
        answer = host.client.get(f"/training/example/{example_id}/source")
        assert (answer.status_code, answer.json["error"]) == (
            404,
            "A picture is not in a place that pictures may come from.",
        )
        sheet = host.client.get("/training/dashboard/sheet.jpg")
        assert sheet.status_code == 404
        assert "--pictures" in sheet.text


# --- trying it --------------------------------------------------------------------------------------------------------


def test_two_uploads_are_answered_by_a_picture_and_its_shares_and_not_kept(host: Host) -> None:
    host.add_several(4)
    host.client.post("/training/train", json={"epochs": 5})
    before = host.stored()
    for number in (0, 7):  # one pair is stored already
        files = {role: content for role, content in form(number).items() if role != "ground_truth"}
        answer = host.client.post("/training/predict", data=files).json
        assert answer["success"] is True
        assert sum(answer["blend_weights"].values()) == pytest.approx(1.0)
        kind, _comma, content = answer["picture"].partition(",")
        shown = odd.Pillow.open(io.BytesIO(base64.b64decode(content)))
        assert (kind, shown.size) == ("data:image/jpeg;base64", (16, 12))
        assert host.stored() == before
    files = {role: content for role, content in form(7).items() if role != "ground_truth"}
    page = host.client.post("/training/dashboard/predict", data=files).text
    assert '<img src="data:image/jpeg;base64,' in page
    assert f"{next(iter(answer['blend_weights']))} " in page


@pytest.mark.parametrize("address", ["predict", "dashboard/predict"])
def test_what_cannot_be_answered_is_refused_and_not_kept(host: Host, address: str) -> None:
    for changes, message in (
        ({"target": None}, "target is missing: send a picture file under each of the names source, target."),
        ({"target": encoded(picture(1))[:-20]}, "target: A picture file ends too early"),
    ):
        answer = host.client.post(f"/training/{address}", data=form(0, ground_truth=None, **changes))
        assert answer.status_code == 400
        assert message in answer.text
        assert host.stored() == set()


def test_the_page_validates_the_present_weights(host: Host) -> None:
    host.add_several(4)
    page = host.client.post("/training/dashboard/validate").text
    assert "the validation just now" in page
    assert "<dt>Examples judged</dt><dd>4</dd>" in page


# --- the contact sheet ------------------------------------------------------------------------------------------------


def test_what_an_application_by_the_guide_has_stored_is_shown(tmp_path: Path) -> None:
    """Its epochs count from 0 and lack most of ours, its results are bare numbers, its paths lead nowhere."""
    epochs = [{"epoch": e, "worker_accuracies": {"near": 0.8, "far": 0.7}, "avg_accuracy": 0.75} for e in (0, 1)]
    with contextlib.closing(sqlite3.connect(tmp_path / "training.db")) as old:
        old.executescript(GUIDE_SCHEMA)
        old.execute(
            "INSERT INTO training_examples VALUES ('e', 'up/s.png', 'up/t.png', 'up/g.png', '2025-11-06T10:30:00', "
            """NULL, '{"near": 0.8, "far": null}', '{"near": 0.8}')"""
        )
        old.execute(
            "INSERT INTO training_sessions VALUES ('s', '2025-11-06T10:30:00', NULL, 1, 2, 0.15, '{}', "
            f"""'{{"near": 0.79}}', '{json.dumps(epochs)}', 'completed')"""
        )
        old.commit()
    with hosting(tmp_path) as host:
        for address in ("dashboard", "examples", "example/e", "sessions", "session/s", "progress"):
            assert host.client.get(f"/training/{address}").status_code == 200, address
        assert host.client.get("/training/dashboard/sheet.jpg").status_code == 404
        page = host.client.get("/training/dashboard").text
        assert "trained weights ends at 0.750" in page
        assert "Best worker: near, 0.800." in page


def test_the_contact_sheet_is_a_picture_that_is_kept_until_something_new_was_learned(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    draw = module("sheets").contact_sheet

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        return draw(*args, **options)

    monkeypatch.setattr(module("sheets"), "contact_sheet", counted)
    host.add_several(3)
    assert "sheet.jpg" not in host.client.get("/training/dashboard").text
    host.client.post("/training/train")
    assert "/training/dashboard/sheet.jpg" in host.client.get("/training/dashboard").text
    answer = host.client.get("/training/dashboard/sheet.jpg")
    assert answer.mimetype == "image/jpeg"
    sheet = odd.Pillow.open(io.BytesIO(answer.data))
    assert (sheet.format, sheet.size[0]) == ("JPEG", 1458)
    again = host.client.get("/training/dashboard/sheet.jpg", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data, made) == (304, b"", 1)

    host.add(7)
    host.client.post("/training/train")
    newer = host.client.get("/training/dashboard/sheet.jpg", headers={"If-None-Match": answer.headers["ETag"]})
    assert (newer.status_code, made) == (200, 2)
    assert newer.data != answer.data


def test_a_contact_sheet_names_examples_as_the_page_does(host: Host) -> None:
    example = host.service.manager.data_manager.get_example(host.add_several(1)[0])
    assert module("sheets").example_name(example) == f"example {example.example_id[:8]}"


def test_a_contact_sheet_of_nothing_is_refused_in_words(host: Host) -> None:
    answer = host.client.get("/training/dashboard/sheet.jpg")
    assert answer.status_code == 409
    assert "no training examples" in answer.text


# --- what is refused --------------------------------------------------------------------------------------------------

JSON = "application/json"
UNEXPECTED = "Something went wrong on the server; its log says more."
DEEP = "[" * 100_000
SQL = "2 OFFSET 1"


@attrs.frozen
class Refused:
    """A request, and what it is answered."""

    method: str
    address: str
    sent: dict[str, Any]
    status: int
    message: str

    def __str__(self) -> str:
        return f"{self.method} {self.address} {reprlib.repr(self.sent)}"[:80]


def bad_json(address: str, data: str | bytes, message: str, status: int = 400) -> Refused:
    return Refused("POST", address, {"data": data, "content_type": JSON}, status, message)


def bad_values(address: str, key: str, values: list[Any], message: str) -> list[Refused]:
    return [Refused("POST", address, {"json": {key: value}}, 400, message) for value in values]


def bad_picture(role: str, content: bytes | str | None, message: str, status: int = 400) -> Refused:
    return Refused("POST", "add-example", {"form": {role: content}}, status, f"{role}{message}")


def bad_metadata(text: str, message: str) -> Refused:
    return Refused("POST", "add-example", {"form": {"metadata": text}}, 400, message)


def bad_weights(content: bytes, message: str) -> Refused:
    return Refused("POST", "weights/import", {"weights": content}, 400, message)


WHOLE = "must be a whole number from 1 to"
PICTURE = ": A picture is damaged, or of a kind that is not accepted."
NO_PICTURE = " is no picture of an accepted kind (PNG, JPEG, BMP, WebP or TIFF)."

REFUSED = [
    # bodies
    *(
        bad_json(address, data, message, status)
        for address in ("train", "validate", "reset-weights")
        for data, message, status in (
            ("{", "The body is not JSON", 400),
            ('{"epochs": NaN}', "The body is not JSON", 400),
            (b"\xff\xfe\x00", "The body is not JSON", 400),
            (DEEP, "The body is not JSON", 400),
            (f"[{'9' * 5000}]", "The body is not JSON", 400),
            ("[]", "must be a JSON object", 400),
            ("null", "must be a JSON object", 400),
            ('"text"', "must be a JSON object", 400),
            ('{"epoch": 5}', "'epoch' means nothing here; known are: ", 400),
            ('{"' + "e" * 3_000_000 + '": 5}', "", 413),
        )
    ),
    Refused("POST", "train", {"data": {"epochs": "5"}}, 415, "Content-Type: application/json"),
    Refused("POST", "train", {"data": b"{}", "content_type": "text/plain"}, 415, "Content-Type: application/json"),
    # numbers
    *bad_values("train", "num_examples", [SQL, 0, -1, True, 1.5, "2", [], {}, 10**30], f"num_examples {WHOLE}"),
    *bad_values("train", "epochs", [-3, 0, True, 1.5, "5", None, [1], 1001, 10**400], f"epochs {WHOLE} 1000."),
    *bad_values(
        "train",
        "validation_split",
        [-0.2, 1, 1.0, 1.5, True, "0.2", None, [], 10**400],
        "validation_split must be a number of at least 0 and below 1.",
    ),
    bad_json("train", '{"validation_split": 1e999}', "validation_split must be a number"),
    *bad_values("train", "verbose", ["yes", 1, None], "verbose must be true or false."),
    *bad_values("train", "background", ["yes", 1, None], "background must be true or false."),
    *bad_values(
        "reset-weights",
        "default_weight",
        ["lots", 0, -1, True, None, [], 1e7, 10**400],
        "default_weight must be a number",
    ),
    *(
        Refused("GET", f"{address}?limit={text}", {}, 400, f"limit {WHOLE}")
        for address in ("examples", "sessions", "dashboard")
        for text in ("0", "-1", "abc", "", "1.5", "1e3", "2 OFFSET 1", "%00", "٣", "99999999999999999999")
    ),
    # ids
    *bad_values(
        "validate",
        "example_ids",
        ["x", [], {}, 5, [1], [None], [["x"]], ["\ud800"]],
        "example_ids must be a list",
    ),
    Refused("POST", "validate", {"json": {"example_ids": ["unknown"]}}, 404, "There is no such training example."),
    *(
        Refused("GET", address, {}, 404, message)
        for kind, message in (
            ("example", "There is no such training example."),
            ("session", "There is no such training session."),
            ("jobs", "There is no such training job"),
        )
        for address in (f"{kind}/unknown", f"{kind}/%00", f"{kind}/%ff", f"{kind}/' OR 1=1")
    ),
    Refused("GET", "example/unknown/target", {}, 404, "There is no such training example."),
    Refused("POST", "jobs/unknown/stop", {}, 404, "There is no such training job"),
    # pictures
    *(
        bad_picture(role, content, message)
        for role in ROLES
        for content, message in (
            (None, " is missing: send a picture file under each of the names source, target, ground_truth."),
            ("text instead of a file", " is missing"),
            (b"", NO_PICTURE),
            (b"no picture at all", NO_PICTURE),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", NO_PICTURE),
            (b"GIF89a" + bytes(50), NO_PICTURE),
            (b"RIFF1234WAVEfmt ", NO_PICTURE),
            (b"BM" + bytes(60), PICTURE),
            (encoded(picture(1))[:-20], ": A picture file ends too early"),
            (odd.saved("PNG", odd.with_alpha(odd.RGB, odd.HALF_CLEAR)), PICTURE),
        )
    ),
    bad_picture("source", encoded(odd.colours(201, 200)), ": A picture is larger than is allowed.", 413),
    bad_picture("source", odd.png(size=(60_000, 60_000)), ": A picture is larger than is allowed.", 413),
    bad_picture("target", encoded(picture(1)) + bytes(MAX_BYTES), ": A picture is larger than is allowed.", 413),
    Refused("POST", "add-example", {"form": {"target": bytes(3 * MAX_BYTES + 1_200_000)}}, 413, ""),
    bad_picture(
        "ground_truth", encoded(picture(1, 20, 30)), " must have the same size in pixels, got 16×12 and 30×20."
    ),
    Refused("POST", "add-example", {"data": {}}, 400, "source is missing"),
    Refused("POST", "add-example", {"json": {"source": "/etc/passwd"}}, 400, "source is missing"),
    Refused("POST", "add-example", {"data": b"--x", "content_type": "multipart/form-data; boundary=x"}, 400, ""),
    Refused("POST", "add-example", {"data": b"xyz", "content_type": "multipart/form-data"}, 400, ""),
    # metadata
    *(
        bad_metadata(text, "metadata is not JSON that can be read.")
        for text in ("{", "{'style': 'sunset'}", '{"a": NaN}', DEEP, "sunset")
    ),
    *(bad_metadata(text, "metadata must be a JSON object") for text in ("[1]", '"x"', "5")),
    bad_metadata('{"a": "\\ud800"}', "metadata['a'] must be a JSON value"),
    bad_metadata('{"a": ' + "[" * 60 + "]" * 60 + "}", "must be nested at most 50 levels deep."),
    Refused("POST", "add-example", {"form": {"metadata": b"{}"}}, 400, "metadata must be sent as text"),
    bad_metadata('{"a": "\ufffd"}', "metadata must be UTF-8 text."),
    bad_metadata('{"a": "' + "x" * 1_000_000 + '"}', "metadata must be at most 1000000 bytes of JSON."),
    # weights
    *(
        bad_weights(content, "The weights file cannot be used; nothing was changed: ")
        for content in (
            b"",
            b"not JSON",
            b"[]",
            b"{}",
            b'{"weights": {}}',
            b'{"weights": {"near": "evil"}}',
            b'{"weights": {"near": -5}}',
            b'{"weights": {"near": null}}',
            b'{"weights": {"near": NaN}}',
            b'{"weights": {"<script>": 1}}',
            b'{"weights": {"near": 1, "near": 2}}',
            DEEP.encode(),
            b"\xff\xfe",
            b'{"weights": {"near": 1}}' + b" " * MAX_WEIGHTS_FILE_BYTES,
        )
    ),
    bad_weights(b'{"weights": {"other": 1}}', "changed: weights names none of the workers here (far, mid, near)."),
    bad_weights(b'{"weights": {"near": -5}}', "weights['near'] must be a finite number above 0"),
    Refused("POST", "weights/import", {"data": {}}, 400, "file is missing"),
    Refused("POST", "weights/import", {"data": {"file": "text"}}, 400, "file is missing"),
    bad_weights(b"\xff\xfe", "nothing was changed: it is not UTF-8 text"),
    Refused("POST", "weights/import", {"weights": bytes(33_000_000)}, 413, "at most 32,200,000 bytes in all"),
    # addresses
    *(
        Refused(method, address, {}, 405, "")
        for method, addresses in (
            ("GET", ("train", "add-example", "validate", "weights/import", "reset-weights")),
            ("POST", ("examples", "progress", "weights/export", "sessions", "example/x")),
            ("DELETE", ("examples", "train", "jobs/x")),
        )
        for address in addresses
    ),
    *(
        Refused("GET", address, {}, 404, "")
        for address in ("", "nothing", "example/x/original", "static/../app.py", "static/x")
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_wrong_input_is_refused_with_a_clear_message(asked: Host, case: Refused) -> None:
    sent = dict(case.sent)
    if "form" in sent:
        fields = {**triple(0), **sent.pop("form")}
        sent["data"], sent["content_type"] = multipart({k: v for k, v in fields.items() if v is not None})
    if "weights" in sent:
        sent["data"], sent["content_type"] = multipart({"file": sent.pop("weights")})
    before = asked.stored()

    answer = asked.client.open(f"/training/{case.address}", method=case.method, **sent)

    assert answer.status_code == case.status, answer.text
    if case.address.startswith("dashboard"):
        assert case.message in answer.text
        return
    assert answer.json.keys() == {"success", "message", "error"}
    assert answer.json["error"] == answer.json["message"]
    assert answer.json["success"] is False
    assert case.message in answer.json["message"]
    assert re.fullmatch(r"\S.{8,600}\.", answer.json["message"], re.DOTALL)
    assert not PATH.search(answer.json["message"])
    assert str(asked.uploads) not in answer.text
    # Nothing was done, and no file stays behind.
    assert asked.stored() == before
    manager = asked.service.manager
    counts = manager.data_manager.get_dataset_stats()
    assert (counts["total_examples"], counts["total_sessions"]) == (3, 0)
    assert set(manager.weight_learner.get_all_weights().values()) == {1.0}


def test_the_wrong_method_names_the_right_one(asked: Host) -> None:
    assert "POST" in asked.client.get("/training/train").headers["Allow"]


def test_unknown_addresses_outside_are_answered_in_json_too(asked: Host) -> None:
    answer = asked.client.get("/nothing/here")
    assert (answer.status_code, answer.json["success"]) == (404, False)


def test_nothing_to_train_or_validate_on_is_said(host: Host) -> None:
    for address, body in (("train", {}), ("train", {"background": True}), ("validate", {})):
        answer = host.client.post(f"/training/{address}", json=body)
        assert (answer.status_code, answer.json["message"]) == (409, "There are no training examples yet.")
    answer = host.client.post("/training/dashboard/train")
    assert answer.status_code == 409
    assert "There are no training examples yet." in answer.text
    assert host.client.get("/training/progress").json["job"] is None or not host.service.jobs.newest.is_running


def test_a_training_that_could_use_nothing_is_no_fault_of_the_server(tmp_path: Path) -> None:
    with hosting(tmp_path, pool_of(failing("broken"))) as host:
        host.add_several(2)
        answer = host.client.post("/training/train")
        assert (answer.status_code, answer.json["message"]) == (409, "Not one training example could be evaluated.")
        [session] = host.client.get("/training/sessions").json["sessions"]
        assert session["status"] == "failed"


def test_files_stay_when_the_process_ends_for_another_reason_than_an_error(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example may be committed already."""

    def add_and_end(*_arguments: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(tsm_training.TrainingManager, "add_training_example", add_and_end)
    with pytest.raises(SystemExit):
        host.add()
    assert len(host.stored()) == 3


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        (
            "tsm_training.TrainingDataManager.add_examples",
            StorageBusyError("/secret/x.db", "another process holds it"),
            "The stored training data are in use by another program; try again later.",
        ),
        (
            "shutil.copyfileobj",
            OSError(28, "No space left on device", "/secret/place"),
            "The pictures cannot be stored at the moment; nothing was added.",
        ),
    ],
)
def test_files_are_removed_when_they_or_the_example_cannot_be_stored(
    host: Host, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception, message: str
) -> None:
    def refuse(*_arguments: Any) -> None:
        raise error

    monkeypatch.setattr(place, refuse)
    answer = host.add()
    assert (answer.status_code, answer.json["message"]) == (503, message)
    assert host.stored() == set()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (StorageFullError("/secret", "full"), 507, "There is no room left to store anything; nothing was stored."),
        (StorageCorruptError("/secret", "damaged"), 500, "The stored training data are damaged."),
        (ExecutorError("/secret", "x"), 500, "The examples could not be evaluated; what was evaluated before is kept."),
        (MetricError("m", "w", "/secret"), 500, "The similarity of two pictures could not be measured."),
        (ImageError("/secret", "odd"), 400, "A picture cannot be used."),
        (TsmTrainingError("/secret"), 500, "The training library could not do what was asked."),
        (InvalidArgumentError("epochs", "/secret", "a whole number"), 400, "epochs must be a whole number."),
        (ValueError("/secret"), 500, "Something went wrong on the server; its log says more."),
    ],
)  # fmt: skip
def test_every_error_has_a_status_and_a_sentence_without_secrets(error: Exception, status: int, message: str) -> None:
    assert module("answers").explained(error) == (status, message)


def test_a_mistake_of_the_server_is_logged_and_not_told(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_arguments: Any) -> None:
        raise ZeroDivisionError("in /secret/place")

    monkeypatch.setattr(tsm_training.TrainingManager, "list_examples", broken)
    answer = host.client.get("/training/examples")
    assert answer.status_code == 500
    assert answer.json == {"success": False, "message": UNEXPECTED, "error": UNEXPECTED}
    assert "in /secret/place" in caplog.text
    monkeypatch.setattr(tsm_training.TrainingManager, "leaderboard", broken)
    page = host.client.get("/training/dashboard")
    assert page.status_code == 500
    assert "Something went wrong on the server" in page.text
    assert "secret" not in page.text


# --- other sites ------------------------------------------------------------------------------------------------------


def test_the_blueprint_answers_under_its_own_names_only(tmp_path: Path) -> None:
    for names, status in ((None, 200), (("elsewhere.example",), 200), (("localhost",), 403)):
        settings: dict[str, Any] = {} if names == ("localhost",) else {"host_names": names}
        with hosting(tmp_path, **settings) as host:
            answer = host.client.get("/training/examples", headers={"Host": "elsewhere.example:5000"})
            assert answer.status_code == status
    assert "under these names only: 127.0.0.1, localhost, [::1]." in answer.json["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "http://localhost:8000"}, 403),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
    ],
)
def test_pages_of_other_sites_change_nothing(host: Host, headers: dict[str, str], status: int) -> None:
    for address in ("reset-weights", "dashboard/reset"):
        answer = host.client.post(f"/training/{address}", headers=headers)
        assert answer.status_code == (303 if status == 200 and "dashboard" in address else status)
    assert host.client.get("/training/progress", headers=headers).status_code == 200


@pytest.mark.parametrize("address", ["/", "/training/dashboard", "/training/progress", "/training/nothing", "/nothing"])
def test_every_answer_forbids_what_no_page_of_ours_needs(asked: Host, address: str) -> None:
    headers = asked.client.get(address).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


# --- trainings in the background --------------------------------------------------------------------------------------


def test_a_training_in_the_background_is_answered_at_once_watched_and_completed(tmp_path: Path) -> None:
    gate = Gate()
    with gate.hosting(tmp_path) as host:
        host.add_several(3)
        answer = host.client.post("/training/train", json={"background": True, "epochs": 2})
        assert answer.status_code == 202
        assert answer.json["message"] == "Training started"
        job_id = answer.json["job"]["job_id"]
        assert answer.headers["Location"] == f"/training/jobs/{job_id}"
        assert gate.is_waiting.wait(20)
        running = job_of(host, job_id)
        assert running["status"] == "running"
        assert running["settings"]["epochs"] == 2
        assert running["results"] is running["ended_at"] is running["message"] is None
        in_progress = host.client.get("/training/progress").json["job"]
        assert in_progress == {key: value for key, value in job_of(host, job_id).items() if key != "results"}

        gate.open()
        done = ended(host, job_id)

        assert done["status"] == "completed"
        assert done["text"] == "The training is completed."
        assert done["results"]["session"]["session_id"] == done["session_id"]
        assert host.client.get(f"/training/session/{done['session_id']}").json["session"]["status"] == "completed"
        late = host.client.post(f"/training/jobs/{job_id}/stop")
        assert (late.status_code, late.json["message"]) == (200, "The training has ended already")
        assert late.json["job"]["status"] == "completed"


def test_one_training_at_a_time_and_nothing_else_changes_the_weights_meanwhile(tmp_path: Path) -> None:
    gate = Gate()
    with gate.hosting(tmp_path) as host:
        host.add_several(2)
        job_id = host.client.post("/training/train", json={"background": True}).json["job"]["job_id"]
        assert gate.is_waiting.wait(20)
        weights = {"file": (io.BytesIO(b'{"weights": {"near": 2}}'), "weights.json")}
        for address, sent in (
            ("train", {}),
            ("train", {"json": {"background": True}}),
            ("reset-weights", {}),
            ("weights/import", {"data": weights}),
        ):
            answer = host.client.post(f"/training/{address}", **sent)
            assert answer.status_code == 409, address
            assert answer.json["message"] == "A training is under way already; try again when it has ended."
        # Looking, adding and exporting go on.
        assert host.add(5).status_code == 200
        assert host.client.get("/training/weights/export").json["weights"] == {"near": 1.0, "patient": 1.0}
        gate.open()
        assert ended(host, job_id)["status"] == "completed"
        assert host.client.post("/training/train").status_code == 200


def test_a_training_can_be_stopped_and_continued(tmp_path: Path) -> None:
    gate = Gate()
    with gate.hosting(tmp_path) as host:
        host.add_several(3)
        job_id = host.client.post("/training/train", json={"background": True}).json["job"]["job_id"]
        assert gate.is_waiting.wait(20)
        answer = host.client.post(f"/training/jobs/{job_id}/stop")
        assert (answer.status_code, answer.json["message"]) == (200, "The training will stop")
        assert answer.json["job"]["text"] == "The training will stop in a moment."
        gate.open()
        stopped = ended(host, job_id)
        assert stopped["status"] == "stopped"
        assert stopped["text"] == "The training was stopped on request; it can be continued."
        described = host.client.get(f"/training/session/{stopped['session_id']}").json["session"]
        assert described["status"] == "interrupted"
        assert set(host.client.get("/training/progress").json["progress"]["current_weights"].values()) == {1.0}
        assert host.client.post("/training/train").status_code == 200


def test_a_training_that_a_request_waits_for_can_be_watched_and_stopped_too(tmp_path: Path) -> None:
    gate = Gate()
    with gate.hosting(tmp_path) as host, ThreadPoolExecutor(1) as threads:
        host.add_several(3)
        waiting = threads.submit(lambda: host.app.test_client().post("/training/train"))
        assert gate.is_waiting.wait(20)
        job = host.client.get("/training/progress").json["job"]
        assert job["status"] == "running"
        host.client.post(f"/training/jobs/{job['job_id']}/stop")
        gate.open()
        answer = waiting.result(20)
        assert answer.status_code == 409
        assert answer.json["message"] == "The training was stopped on request; it can be continued."


def test_closing_stops_a_training_and_waits_until_its_end_is_noted(tmp_path: Path) -> None:
    gate = Gate()
    with gate.hosting(tmp_path) as host, ThreadPoolExecutor(1) as threads:
        host.add_several(2)
        host.client.post("/training/train", json={"background": True})
        assert gate.is_waiting.wait(20)
        closing = threads.submit(host.service.close)
        wait_until(lambda: host.service.jobs.newest.to_dict()["text"] == "The training will stop in a moment.")
        gate.open()
        closing.result(20)
        assert host.service.jobs.newest.to_dict()["status"] == "stopped"
    with contextlib.closing(tsm_training.TrainingDataManager(tmp_path / "training.db")) as store:
        assert [session.status for session in store.get_all_sessions()] == ["interrupted"]
    with pytest.raises(tsm_training.errors.TrainingInProgressError):
        host.service.jobs.run(module("parameters").TrainSettings())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MetricError("m", "w", "/secret"), "The similarity of two pictures could not be measured."),
        (ZeroDivisionError("/secret"), "Something went wrong on the server; its log says more."),
    ],
)
def test_how_a_training_in_the_background_failed_is_told_and_logged(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, text: str
) -> None:
    def fail(*_arguments: Any, **_settings: Any) -> None:
        raise error

    host.add_several(2)
    monkeypatch.setattr(tsm_training.TrainingManager, "train", fail)
    job_id = host.client.post("/training/train", json={"background": True}).json["job"]["job_id"]
    failed = ended(host, job_id)
    assert (failed["status"], failed["text"], failed["session_id"]) == ("failed", text, None)
    wait_until(lambda: "/secret" in caplog.text)


def test_a_thread_that_cannot_be_started_blocks_no_later_training(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_many(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    host.add_several(2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", too_many)
        assert host.client.post("/training/train", json={"background": True}).status_code == 500
    assert host.client.get("/training/progress").json["job"]["status"] == "failed"
    job_id = host.client.post("/training/train", json={"background": True}).json["job"]["job_id"]
    assert ended(host, job_id)["status"] == "completed"


def test_old_jobs_are_forgotten_but_not_their_sessions(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("training_jobs"), "_KEPT", 2)
    host.add_several(2)
    jobs = []
    for _ in range(4):
        host.client.post("/training/train")
        jobs.append(host.client.get("/training/progress").json["job"]["job_id"])
    statuses = [host.client.get(f"/training/jobs/{job_id}").status_code for job_id in jobs]
    assert statuses == [404, 404, 200, 200]
    assert host.client.get("/training/sessions").json["total"] == 4


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (None, "The training begins."),
        (tsm_training.Progress("evaluating", 3, 10, 0.5), "Evaluating: 3 of 10 examples."),
        (tsm_training.Progress("learning", 1, 5, 0.5, 0.81234), "Learning: 1 of 5 epochs, mean accuracy 0.8123."),
        (tsm_training.Progress("validating", 1, 2, 0.5, 0.5), "Validating: 1 of 2 examples, mean accuracy 0.5000."),
    ],
)
def test_progress_is_said_in_words(progress: tsm_training.Progress | None, text: str) -> None:
    job = module("training_jobs").TrainingJob(module("parameters").TrainSettings())
    if progress is not None:
        job._note(progress)
    assert job.to_dict()["text"] == text


# --- the page, without a browser --------------------------------------------------------------------------------------


def test_the_front_door_leads_to_the_page(asked: Host) -> None:
    answer = asked.client.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/training/dashboard")
    assert asked.client.get("/", follow_redirects=True).status_code == 200


def test_the_page_says_that_imported_weights_were_multiplied(host: Host) -> None:
    data = {"file": (io.BytesIO(b'{"near": 0.8}'), "w.json")}
    with pytest.warns(UserWarning, match=r"multiplied by 1\.25"):
        answer = host.client.post("/training/dashboard/import", data=data)
    assert "multiplied so that their mean is 1" in host.client.get(answer.headers["Location"]).text


def test_forms_do_what_they_say_and_lead_back_to_the_page(host: Host) -> None:
    for address, data, done in (
        ("add", form(0, metadata=' {"style": "sunset"} '), "The example was added."),
        ("add", form(1, metadata=" "), "The example was added."),
        ("train", {"epochs": "2", "validation_split": "0.5", "num_examples": ""}, "The training has started."),
        ("import", {"file": (io.BytesIO(b'{"weights": {"near": 2}}'), "w.json")}, "The weights were imported."),
        ("reset", {"default_weight": "1.5"}, "The weights were reset."),
        ("reset", {"default_weight": ""}, "The weights were reset."),
    ):
        answer = host.client.post(f"/training/dashboard/{address}", data=data)
        assert answer.status_code == 303, answer.text
        assert done in host.client.get(answer.headers["Location"]).text
        wait_until(lambda: host.service.jobs.newest is None or not host.service.jobs.newest.is_running)
    [session] = host.client.get("/training/sessions").json["sessions"]
    assert (session["epochs"], session["validation_split"]) == (2, 0.5)
    assert host.client.get("/training/progress").json["progress"]["current_weights"]["near"] == 1.0
    assert host.client.get("/training/examples").json["examples"][0]["metadata"] == {"style": "sunset"}


@pytest.mark.parametrize("address", ["add-example", "dashboard/add"])
def test_metadata_in_another_encoding_are_refused_and_not_changed(host: Host, address: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{"place": "K\xf6ln"}\r\n--x--\r\n'
    answer = host.client.post(f"/training/{address}", data=part, content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 400
    assert "metadata must be UTF-8 text." in answer.text


@pytest.mark.parametrize(
    ("address", "data", "status", "message"),
    [
        ("add", {}, 400, "source is missing"),
        ("add", {"form": {"target": b"no picture"}}, 400, "target is no picture of an accepted kind"),
        ("add", {"form": {"target": bytes(2_000_000)}}, 413, "The request is too large: accepted are at most "),
        ("add", {"form": {"metadata": "sunset"}}, 400, "metadata is not JSON"),
        ("train", {"epochs": "many"}, 400, "epochs must be a whole number from 1 to 1000."),
        ("train", {"epochs": "1.5"}, 400, "epochs must be a whole number from 1 to 1000."),
        ("train", {"validation_split": "1"}, 400, "validation_split must be a number"),
        ("train", {"num_examples": "-1"}, 400, "num_examples must be a whole number"),
        ("stop", {}, 404, "There is no training that could be stopped."),
        ("import", {}, 400, "file is missing"),
        ("reset", {"default_weight": "lots"}, 400, "default_weight must be a number above 0"),
    ],
)
def test_forms_that_are_filled_in_wrongly_show_the_page_with_the_reason(
    asked: Host, address: str, data: dict[str, Any], status: int, message: str
) -> None:
    sent: dict[str, Any] = {"data": data}
    if "form" in data:
        sent["data"], sent["content_type"] = multipart({**triple(0), **data["form"]})
    answer = asked.client.post(f"/training/dashboard/{address}", **sent)
    assert answer.status_code == status
    alert = re.search(r'role="alert">(.*?)</p>', answer.text)
    assert alert is not None
    assert message in alert[1]
    assert "<h2 id=" in answer.text


def test_stopping_on_the_page_stops_the_training(tmp_path: Path) -> None:
    gate = Gate()
    with gate.hosting(tmp_path) as host:
        host.add_several(2)
        host.client.post("/training/dashboard/train", data={"epochs": "2"})
        assert gate.is_waiting.wait(20)
        page = host.client.get("/training/dashboard").text
        assert '<noscript><meta http-equiv="refresh"' in page  # for those without a script
        assert host.client.post("/training/dashboard/stop").status_code == 303
        gate.open()
        wait_until(lambda: not host.service.jobs.newest.is_running)
        page = host.client.get("/training/dashboard").text
        assert "The last training was stopped" in page
        assert "refresh" not in page


def test_what_others_wrote_is_shown_as_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    with hosting(tmp_path, pool_of(brightening(f"near{evil}", 22), failing("far", RuntimeError(evil)))) as host:
        host.add(0, metadata=json.dumps({evil: evil}))
        host.client.post("/training/train", json={"validation_split": 0})
        page = host.client.get("/training/dashboard").text
    assert "alert(1)" in page
    assert evil not in page
    assert page.count("<script") == 1  # the one that shows the progress


def test_the_page_shows_verdict_baselines_and_what_examples_bring(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add_several(6)
    host.client.post("/training/train", json={"validation_split": 0.5})
    page = host.client.get("/training/dashboard").text
    [session] = host.service.manager.data_manager.get_all_sessions()
    verdict, known = session.validation["verdict"], session.validation["contenders"]["best_single"]
    figures = f"{known['mean']:.3f}, ΔE00 {known['mean_delta_e']:.2f}"
    assert f"<dt>On unseen examples, best single worker: {verdict['best_single']}</dt><dd>{figures}</dd>" in page
    headline = session.validation["contenders"]["trained"]["mean"]
    assert f"<dt>Similarity on unseen examples</dt><dd>{headline:.3f}</dd>" in page
    guides = f"<dt>Mean of the workers, weighted (guide)</dt><dd>{session.validation['avg_accuracy']:.3f}</dd>"
    assert page.index("Similarity on unseen") < page.index("<dt>Examples</dt>") < page.index(guides)
    assert '<p class="verdict">Collect at least ' in page
    assert "The guide promises" in page
    assert "Judged by their pictures" not in page

    rows = [*session.validation["per_example"], {"example_id": "x", "is_unseen": True, "scores": {}, "delta_e": {}}]
    shipped = {"verdict": {**verdict, "sentence": "Worth shipping."}, "per_example": rows}
    judged = attrs.evolve(session, validation={**session.validation, **shipped})
    monkeypatch.setattr(tsm_training.TrainingDataManager, "get_all_sessions", lambda _self: [judged])
    page = host.client.get("/training/dashboard").text
    assert '<p class="verdict">Worth shipping.</p>' in page
    assert "<dt>Judged by their pictures</dt><dd>3 of 4 examples</dd>" in page


def test_many_examples_and_sessions_are_shown_in_part(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_EXAMPLES", 2), ("_MOST_EXAMPLES", 3), ("_SESSIONS", 1)):
        monkeypatch.setattr(module("dashboard"), name, value)
    host.add_several(4)
    for _ in range(2):
        host.client.post("/training/train")
    page = host.client.get("/training/dashboard").text
    assert page.count('class="card"') == 2
    assert "The newest 2 of 4 are shown." in page
    assert "The newest 1 of 2 are shown." in page
    assert "Show up to 3" in page
    page = host.client.get("/training/dashboard?limit=1000000").text
    assert page.count('class="card"') == 3
    assert "Show up to" not in page


def test_examples_that_could_not_be_used_are_named(host: Host) -> None:
    first, *_rest = host.add_several(3)
    Path(host.service.manager.data_manager.get_example(first).source_path).unlink()
    host.client.post("/training/train")
    page = host.client.get("/training/dashboard").text
    assert re.search(rf"<li>{first[:8]}: &#39;[0-9a-f]{{32}}\.png&#39;: there is no such file</li>", page)


# --- a real server ----------------------------------------------------------------------------------------------------


@attrs.frozen
class Server:
    """The example as it is started, and what it wrote."""

    process: subprocess.Popen[bytes]
    address: str
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-W", "error", str(FOLDER / "app.py"), "--port", "0", *options]
    command += ["--db", "training.db", "--uploads", "pictures/uploaded"]
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
    server = Server(process, "", folder)
    try:
        found = wait_until(lambda: process.poll() is not None or re.search(r"http://[^ ]+", server.log), 60)
        assert isinstance(found, re.Match), server.log
        yield attrs.evolve(server, address=found[0])
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


def get(server: Server, path: str) -> Any:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


def curl_blocks() -> list[docs.Block]:
    return [block for block in docs.blocks_of(GUIDE, "bash") if block.code.startswith("curl ")]


def guide_response(heading: str) -> dict[str, Any]:
    [block] = [b for b in docs.blocks_of(GUIDE, "json") if b.heading == heading and '"success"' in b.code]
    document: dict[str, Any] = json.loads(block.code)
    return document


def check_shape(answer: Any, wanted: Any, place: str = "") -> None:
    """Make sure that an answer has the keys and the kinds of values that the guide shows; it may have more keys."""
    if isinstance(wanted, dict):
        assert isinstance(answer, dict), place
        assert wanted.keys() <= answer.keys(), place
        for key, value in wanted.items():
            check_shape(answer[key], value, f"{place}.{key}")
    elif isinstance(wanted, list):
        assert isinstance(answer, list), place
        for value in wanted[:1]:
            check_shape(answer[0], value, f"{place}[0]")
    elif isinstance(wanted, float):
        assert isinstance(answer, float), place
    else:
        assert type(answer) is type(wanted), place


def run_curl(line: str, server: Server) -> str:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl is not installed: the guide's lines cannot be run")
    assert "http://localhost:5000/" in line
    line = (
        line.replace("http://localhost:5000", server.address)
        .rstrip()
        .replace("curl ", "curl --silent --show-error ", 1)
    )
    done = subprocess.run(
        ["bash", "-c", line], cwd=server.folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_guides_curl_lines_answer_as_the_guide_says(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    add, train, export, restore = curl_blocks()
    monkeypatch.chdir(server.folder)
    ids = []
    for number in range(3):
        docs.write_triple(number, "source.jpg", "target.jpg", "desired_output.jpg")
        added = json.loads(run_curl(add.code, server))
        check_shape(added, guide_response("POST `/training/add-example`"))
        assert added["message"] == guide_response("POST `/training/add-example`")["message"]
        ids.append(added["example_id"])

    trained = json.loads(run_curl(train.code, server))
    check_shape(trained, guide_response("POST `/training/train`"))
    assert trained["success"] is True
    assert trained["message"] == guide_response("POST `/training/train`")["message"]
    assert trained["results"]["session"]["epochs"] == 5
    assert "validating: example 1 of 1" in server.log  # verbose

    assert run_curl(export.code, server) == ""
    exported = json.loads((server.folder / "weights.json").read_text(encoding="utf-8"))
    assert exported["weights"] == trained["results"]["session"]["final_weights"]
    assert json.loads(run_curl(restore.code, server))["success"] is True

    listed = get(server, "/training/examples")
    check_shape(listed, guide_response("GET `/training/examples`"))
    assert [example["example_id"] for example in listed["examples"]] == ids
    assert listed["examples"][0]["metadata"] == {"quality": "high", "style": "sunset"}
    check_shape(get(server, "/training/progress"), guide_response("GET `/training/progress`"))
    body = json.dumps({"example_ids": ids[:2]})
    line = f"curl -X POST http://localhost:5000/training/validate -H 'Content-Type: application/json' -d '{body}'"
    check_shape(json.loads(run_curl(line, server)), guide_response("POST `/training/validate`"))
    reset = json.loads(run_curl("curl -X POST http://localhost:5000/training/reset-weights", server))
    assert set(reset["current_weights"].values()) == {1.0}
    files = list((server.folder / "pictures" / "uploaded").iterdir())
    assert len(files) == 9
    assert all(path.suffix == ".jpg" for path in files)


@pytest.mark.slow
def test_thirty_uploads_at_once_lose_nothing(server: Server) -> None:
    before = {example["example_id"] for example in get(server, "/training/examples")["examples"]}
    triples = [triple(100 + number) for number in range(30)]
    start = threading.Barrier(30)

    def upload(fields: dict[str, bytes]) -> str:
        body, kind = multipart(fields)
        connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
        with contextlib.closing(connection):
            start.wait(30)
            connection.request("POST", "/training/add-example", body, {"Content-Type": kind})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            example_id: str = json.loads(answer.read())["example_id"]
            return example_id

    with ThreadPoolExecutor(30) as threads:
        ids = list(threads.map(upload, triples))

    listed = get(server, "/training/examples")
    assert {example["example_id"] for example in listed["examples"]} == before | set(ids)
    assert listed["total"] == len(before) + 30
    stored = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (server.folder / "pictures/uploaded").iterdir()}
    for example_id, fields in zip(ids, triples, strict=True):
        known = get(server, f"/training/example/{example_id}")["example"]["pictures"]
        for role, content in fields.items():
            digest = hashlib.sha256(content).hexdigest()
            assert known[role]["sha256"] == digest
            assert digest in stored


@pytest.mark.slow
def test_a_body_of_unknown_length_that_grows_too_large_is_refused(server: Server) -> None:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        body = (b" " * 100_000 for _ in range(15))
        connection.request("POST", "/training/train", body, {"Content-Type": JSON}, encode_chunked=True)
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["success"] is False


@pytest.mark.slow
def test_other_names_that_lead_to_this_machine_are_refused(server: Server) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    names = {"localhost": 200, "LOCALHOST": 200, host: 200, "[::1]": 200, "elsewhere.example": 403, "localhost.x": 403}
    for name, status in names.items():
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/training/examples", headers={"Host": f"{name}:{port}"})
            assert connection.getresponse().status == status, name


@pytest.mark.slow
def test_the_server_listens_on_this_machine_only_says_so_once_and_ends_in_order(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.address.startswith("http://127.0.0.1:")
        get(server, "/training/progress")
        assert server.stop() == 0
        assert server.log.count("http://") == 1
        assert "Traceback" not in server.log
        assert (tmp_path / "stdout").read_bytes() == b""


class NoServer:
    """Stands where a server would, and is ended at once."""

    server_port = 5000

    def __init__(self, host: str, port: int, app: Any, **_settings: Any) -> None:
        self.served = (host, port, app)

    def serve_forever(self) -> None:
        raise KeyboardInterrupt

    def server_close(self) -> None:
        self.served = ()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Starts the example in this process and an empty folder, up to the point where it would serve."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module("app"), "make_server", NoServer)
    monkeypatch.setattr(signal, "signal", lambda *_arguments: None)

    def start(*options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["app.py", *options])
        module("app").main()

    return start


def test_a_server_for_others_is_warned_about(start: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    start("--host", "0.0.0.0")
    assert "it asks nobody for a password" in caplog.text
    assert "serving on http://0.0.0.0:5000" in caplog.text
    caplog.clear()
    start("--host", "::1")
    assert "password" not in caplog.text
    assert "serving on http://[::1]:5000" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "argument --port: expected a whole number from 0 to 65535, got '70000'"),
        (["--port", "http"], "argument --port: expected a whole number from 0 to 65535, got 'http'"),
        (["--db", "no such folder/x.db"], "app.py: error: couldn't use the store"),
    ],
)
def test_a_start_that_cannot_work_is_explained_in_a_line(
    start: Callable[..., None], capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(*options)
    assert message in f"{capsys.readouterr().err}{ended.value}"


# --- the page in a browser --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def on_the_net(host: Host) -> Iterator[str]:
    """Serve an application of this process, and give its address."""
    server = module("werkzeug.serving").make_server("127.0.0.1", 0, host.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check_looks(tab: Tab, scheme: Literal["light", "dark"], size: tuple[int, int]) -> None:
    """Make sure that the page can be read, in these colours and on a screen of this size."""
    tab.prefer(scheme)
    tab.resize(size)
    assert tab.layout_faults() == []
    assert tab.accessibility_faults() == []
    picture = tab.screenshot()
    assert picture.std() > 5, "the page is blank"
    assert (picture[-5:].mean() > 128) == (scheme == "light")


@pytest.mark.slow
def test_a_person_can_add_train_watch_stop_and_see(tab: Tab, tmp_path: Path) -> None:
    gate = Gate()
    with gate.hosting(tmp_path) as host, on_the_net(host) as address:
        host.add_several(2)
        tab.open(address)
        tab.click("text=Add an example")
        for role, content in triple(5).items():
            (tmp_path / f"{role}.png").write_bytes(content)
            tab.choose_file(f"#{role}", tmp_path / f"{role}.png")
        tab.fill("#metadata", '{"style": "sunset"}')
        tab.click("text=Add the example")
        tab.wait_for_text("The example was added.")
        assert tab.count(".card") == 3
        assert '{"style": "sunset"}' in tab.text(".card >> nth=0")

        tab.click("button:text-is('Train')")
        assert gate.is_waiting.wait(20)
        assert tab.text("#job-text") == "The training begins."
        gate.permits.release()
        tab.wait_for_text("Evaluating: 1 of 3 examples", "#job-text")
        assert tab.page.locator("#job-progress").evaluate("bar => bar.position") == pytest.approx(1 / 3)
        check_looks(tab, "dark", tab.DESK)
        tab.click("text=Stop the training")
        tab.wait_for_text("The training will stop in a moment.", "#job-text")
        gate.open()
        tab.wait_for_text("The last training was stopped")  # the script has seen it, and shows the page anew
        tab.wait_for_text("interrupted", "#sessions")
        sessions = tab.text("#sessions")
        assert "was stopped on request; its evaluations are kept" in sessions
        assert "continues where it ended" in sessions
        assert "TrainingStoppedError" not in sessions

        tab.click("button:text-is('Train')")
        tab.wait_for_text("The last training was completed")
        assert tab.count("svg.chart") == 2  # over the epochs, and over the number of examples
        assert "completed" in tab.text("#sessions")
        results = tab.text("#results")
        assert "similarity of the ensemble’s pictures on unseen examples" in results
        assert "Collect at least" in results
        assert "Add them, then validate" in results
        board = tab.text("#weights")
        assert "trained ensemble" in board
        assert "best single worker" in board
        assert "untouched target" in board
        tab.page.locator(".sheet").scroll_into_view_if_needed()
        assert tab.broken_images() == []
        check_looks(tab, "light", tab.DESK)
        assert all(request.startswith(address) for request in tab.requests)
        tab.assert_clean()


@pytest.mark.slow
def test_a_person_can_validate_try_and_delete(tab: Tab, tmp_path: Path) -> None:
    with hosting(tmp_path) as host, on_the_net(host) as address:
        host.add_several(6)
        host.client.post("/training/train", json={"validation_split": 0.5})
        tab.open(address)
        tab.click("text=Validate the present weights")
        tab.wait_for_text("the validation just now", "#results")
        for role in ROLES[:2]:
            (tmp_path / f"{role}.png").write_bytes(triple(5)[role])
            tab.choose_file(f"#try-{role}", tmp_path / f"{role}.png")
        tab.click("text=Show the ensemble’s picture")
        tab.wait_for_text("%", "#try .answer")
        assert tab.broken_images() == []
        tab.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        for scheme, size in (("light", tab.DESK), ("dark", tab.PHONE)):
            check_looks(tab, scheme, size)  # type: ignore[arg-type]
        tab.click("button:text('Delete example') >> nth=0")
        tab.wait_for_text("The example was removed.")
        assert tab.count(".card") == 5
        tab.assert_clean()


@pytest.mark.slow
def test_the_page_can_be_read_when_it_is_empty_and_when_everything_went_wrong(tab: Tab, tmp_path: Path) -> None:
    evil = "<script>document.title = 'taken'</script>" + "long" * 12
    pool = pool_of(brightening(f"near{evil}", 22), failing("far", RuntimeError(evil * 2)))
    with hosting(tmp_path, pool) as host, on_the_net(host) as address:
        tab.open(address)
        tab.wait_for_text("There are no examples yet.")
        check_looks(tab, "light", tab.PHONE)
        ids = host.add_several(3)
        host.add(4, metadata=json.dumps({evil: evil}))
        Path(host.service.manager.data_manager.get_example(ids[0]).source_path).unlink()
        host.client.post("/training/train")

        tab.open(address)

        check_looks(tab, "dark", tab.PHONE)
        assert evil in tab.text("#failures")
        assert evil in tab.text("#weights")
        assert tab.page.title() == "Training"
        [missing] = tab.broken_images()
        assert missing.endswith(f"/training/example/{ids[0]}/source")
        assert tab.failed_requests == [f"404 {missing}"]
        assert len(tab.console_errors) == 1


@pytest.mark.slow
def test_everything_but_the_live_progress_works_without_a_script(chromium: Any, tmp_path: Path) -> None:
    with hosting(tmp_path) as host, on_the_net(host) as address:
        host.add_several(2)
        page = chromium.new_context(java_script_enabled=False).new_page()
        page.goto(address)
        page.fill("#epochs", "2")
        page.click("button:text-is('Train')")
        page.wait_for_selector("text=The last training was completed", timeout=20_000)  # the page asks again by itself
        page.click("summary:text-is('Import or reset weights')")
        page.click("text=Forget what was learned")
        page.wait_for_selector("text=The weights were reset.")
        page.context.close()
        assert host.client.get("/training/sessions").json["total"] == 1


@pytest.mark.slow
def test_a_script_that_somebody_gets_into_the_page_does_not_run(tab: Tab, asked: Host) -> None:
    with on_the_net(asked) as address:
        tab.open(address)
        tab.page.evaluate("""() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken'";
            document.body.append(script);
        }""")
        assert tab.page.title() == "Training"
        assert any("Content Security Policy" in error for error in tab.console_errors)
