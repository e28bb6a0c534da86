"""When the system has nothing more to give there is a named error or a recorded failure, and later all goes on."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from support import failing, manager_with, picture, pool_of, save, save_triple, usual_pool
from tsm_training.errors import ExecutorError

needs_limits = pytest.mark.skipif(sys.platform == "win32", reason="needs limits on resources")


def run(code: str, *arguments: object) -> str:
    preamble = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", preamble + code, *map(str, arguments)],
        check=False,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FILES = """
import os, resource
from pathlib import Path
from support import manager_with
from tsm_training import TrainingDataManager
from tsm_training.errors import ImageUnreadableError, NothingEvaluatedError, StorageError
folder = Path(sys.argv[1])
manager = manager_with(folder, 2, db_path=folder / "training.db")
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
kept = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
try:
    while True:
        kept.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
example = manager.data_manager.get_all_examples()[0]
try:
    manager.add_training_example(example.source_path, example.target_path, example.ground_truth_path)
except ImageUnreadableError as error:
    print("add:", error.reason)
try:
    TrainingDataManager(folder / "other.db")
except StorageError as error:
    print("open:", type(error).__name__)
try:
    manager.train(verbose=False)
except (NothingEvaluatedError, StorageError) as error:
    print("train:", type(error).__name__)
for descriptor in kept:
    os.close(descriptor)
assert set(manager.weight_learner.get_all_weights().values()) == {1.0}
print("then:", manager.train(validation_split=0, verbose=False)["session"]["num_examples"])
assert len(manager.data_manager.get_all_examples()) == 2
manager.close()
"""


@pytest.mark.slow
@needs_limits
def test_without_file_descriptors_calls_fail_by_name_and_work_again_later(tmp_path: Path) -> None:
    lines = run(FILES, tmp_path).splitlines()
    assert lines[0].startswith("add: ")
    assert [line.split(":")[0] for line in lines] == ["add", "open", "train", "then"]
    assert lines[-1] == "then: 2"


MEMORY = """
import resource
from pathlib import Path
from support import manager_with
from tsm_training.errors import ImageError, NothingEvaluatedError
folder = Path(sys.argv[1])
manager = manager_with(folder, 0)
big = folder / "big.png"
manager.add_training_example(big, big, big)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 60_000_000, resource.RLIM_INFINITY))
try:
    manager.train(validation_split=0, verbose=False)
except (NothingEvaluatedError, MemoryError) as error:
    print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("then:", manager.train(validation_split=0, verbose=False)["session"]["num_examples"])
"""


@pytest.mark.slow
@needs_limits
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say how much memory is taken")
def test_a_picture_that_does_not_fit_in_memory_is_skipped_and_used_later(tmp_path: Path) -> None:
    save(tmp_path / "big.png", np.full((4500, 4800, 3), 90, np.uint8))
    first, last = run(MEMORY, tmp_path).splitlines()
    assert first.startswith("NothingEvaluatedError no example could be evaluated")
    assert last == "then: 1"


def test_without_threads_there_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = manager_with(tmp_path, 2)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ExecutorError, match="can't start new thread"):
            manager.train(verbose=False)
        with pytest.raises(ExecutorError, match="can't start new thread"):
            manager.predict(picture(1), picture(2))
    assert manager.data_manager.get_all_sessions()[-1].status == "failed"
    assert manager.train(validation_split=0, verbose=False)["session"]["num_examples"] == 2


def test_what_a_worker_says_cannot_forge_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:

    pool = pool_of(*usual_pool().workers, failing("liar", RuntimeError("no\n2030-01-01 ERROR all is lost\x1b[2J")))
    manager = manager_with(tmp_path, 0, pool=pool)
    manager.add_training_example(*save_triple(tmp_path, 1))
    with caplog.at_level(logging.INFO, "tsm_training"):
        manager.train(validation_split=0, verbose=False)
    told = [record.getMessage() for record in caplog.records if "liar" in record.getMessage()]
    assert told
    assert all(text.isprintable() for text in told)
    assert "no\\n2030-01-01 ERROR all is lost\\x1b[2J" in told[0]
