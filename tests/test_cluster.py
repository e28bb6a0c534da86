"""Evaluating on a cluster: a real one, of two processes of this machine, that tests may kill."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from support import brightening, brighter, manager_with, pool_of
from test_execution import color_manager, facts
from tsm_training import FunctionWorker, GuideSimilarity, Image, Progress, TrainingEngine, TrainingManager, Worker
from tsm_training.errors import ExecutorError

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.slow

PROCESSES = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start two processes that work for us; one that is killed is replaced by another."""
    with distributed.LocalCluster(PROCESSES, threads_per_worker=1, dashboard_address=":0") as started:
        yield started


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster) as connected:
        connected.wait_for_workers(PROCESSES)
        yield connected


def manager_on(executor: Any, folder: Path, *workers: Worker, examples: int = 6) -> TrainingManager:
    factory = TrainingEngine.using(GuideSimilarity(), executor=executor, blend_solver="best_single")
    return manager_with(folder, examples, pool=pool_of(*workers) if workers else None, engine_factory=factory)


@pytest.mark.parametrize("way", [lambda client: client, lambda client: client.get_executor()])
def test_a_cluster_agrees_with_threads_to_the_last_bit(client: Any, tmp_path: Path, way: Callable[[Any], Any]) -> None:
    assert facts(color_manager(tmp_path, way(client))) == facts(color_manager(tmp_path))


# --- what travels ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Heavy(Worker):
    """Travels with a model, and leaves a file for each time that a process loads it."""

    worker_id: str
    folder: str

    def process(self, data: Mapping[str, Image]) -> Image:
        return data["target"].copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return load, (self.worker_id, self.folder)


def load(worker_id: str, folder: str) -> Heavy:
    (Path(folder) / f"{os.getpid()} {os.urandom(4).hex()}").touch()
    return Heavy(worker_id, folder)


@pytest.mark.parametrize("way", [lambda client: client, lambda client: client.get_executor()])
def test_what_examples_share_is_loaded_once_by_each_process(
    client: Any, tmp_path: Path, way: Callable[[Any], Any]
) -> None:
    loaded = tmp_path / "loaded"
    loaded.mkdir()
    manager = manager_on(way(client), tmp_path, Heavy("heavy", str(loaded)), examples=24)
    assert manager.validate()["num_examples"] == 24
    processes = [file.name.partition(" ")[0] for file in loaded.iterdir()]
    assert 1 <= len(processes) == len(set(processes)) <= PROCESSES
    assert str(os.getpid()) not in processes


def test_a_client_gets_what_examples_share_scattered_once(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scattered: list[Any] = []
    passed: list[Any] = []
    scatter, submit = client.scatter, client.submit

    def noted_scatter(*arguments: Any, **settings: Any) -> Any:
        scattered.append(scatter(*arguments, **settings))
        return scattered[-1]

    def noted_submit(function: Any, *arguments: Any, **settings: Any) -> Any:
        passed.append(arguments[0])
        return submit(function, *arguments, **settings)

    monkeypatch.setattr(client, "scatter", noted_scatter)
    monkeypatch.setattr(client, "submit", noted_submit)
    assert manager_on(client, tmp_path, examples=24).validate()["num_examples"] == 24
    assert len(scattered) == 1
    assert len(passed) == 8  # three examples each
    assert all(each is scattered[0] for each in passed)


def test_a_cluster_may_have_no_process_yet(tmp_path: Path) -> None:
    settings = {"processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(0, **settings) as empty, distributed.Client(empty) as client:
        manager = manager_on(client, tmp_path)

        def grow() -> bool:
            empty.scale(1)
            return False

        assert manager.train(verbose=False, should_stop=grow)["session"]["num_examples"] > 0


def test_what_a_script_or_a_notebook_defines_travels_too(client: Any, tmp_path: Path) -> None:
    levels = 20
    manager = manager_on(client, tmp_path, FunctionWorker("local", lambda _source, target: target + levels), examples=2)
    assert manager.validate()["failures"] == {"local": 0}


def test_what_cannot_travel_is_named(client: Any, tmp_path: Path) -> None:
    lock = threading.Lock()

    def locked(_source: Image, target: Image) -> Image:
        with lock:
            return target

    for executor in (client, client.get_executor()):
        with pytest.raises(ExecutorError, match="cannot be sent worker 'locked'"):
            manager_on(executor, tmp_path, FunctionWorker("locked", locked), examples=2).validate()


# --- what dies ------------------------------------------------------------------------------------------------------


@attrs.frozen
class Mortal(Worker):
    """Kills its process on the third picture that this one is shown, as long as fewer have died than shall."""

    worker_id: str
    graves: str
    deaths: int
    shown: ClassVar[list[int]] = []

    def process(self, data: Mapping[str, Image]) -> Image:
        Mortal.shown.append(1)
        if len(Mortal.shown) >= 3 and len(list(Path(self.graves).iterdir())) < self.deaths:
            (Path(self.graves) / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return brighter(data["target"], 30)


def test_what_a_killed_process_had_is_done_again_with_the_same_results(client: Any, tmp_path: Path) -> None:
    graves = tmp_path / "graves"
    graves.mkdir()
    before = set(client.run(os.getpid).values())
    there = facts(manager_on(client, tmp_path, Mortal("mortal", str(graves), 2), brightening("near", 22), examples=24))
    assert len(list(graves.iterdir())) == 2
    assert before != set(client.run(os.getpid).values())
    here = manager_on(None, tmp_path, Mortal("mortal", str(graves), 0), brightening("near", 22), examples=24)
    assert facts(here) == there


def test_what_examples_share_is_sent_again_where_all_processes_are_gone_that_had_it(
    client: Any, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.phase == "evaluating" and progress.done == 4 and not killed:
            killed.extend(client.run(os.getpid).values())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    factory = TrainingEngine.using(GuideSimilarity(), executor=client, memory_budget=1)  # few at a time
    there = manager_with(tmp_path, examples=12, engine_factory=factory)
    report = there.validate(on_progress=kill)
    assert len(killed) == PROCESSES
    assert report["worker_accuracies"] == manager_with(tmp_path, examples=12).validate()["worker_accuracies"]


def test_what_kills_every_process_that_tries_it_ends_the_call(
    client: Any, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    manager = manager_on(client, tmp_path, FunctionWorker("deadly", lambda *_pictures: os._exit(1)), examples=2)
    with pytest.raises(ExecutorError, match="has broken down"):
        manager.validate()


def test_a_client_that_was_closed_is_named(cluster: Any, tmp_path: Path) -> None:
    client = distributed.Client(cluster)
    executor = client.get_executor()
    client.close()
    for gone in (client, executor):
        with pytest.raises(ExecutorError, match="cannot be reached"):
            manager_on(gone, tmp_path, examples=2).validate()
