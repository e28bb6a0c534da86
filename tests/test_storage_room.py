"""Files that may not grow any further: the reason is named, and the same store goes on when there is room again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsm_training import TrainingDataManager
from tsm_training.errors import StorageFullError

resource = pytest.importorskip("resource", reason="a limit on file sizes is a matter of Unix")


@contextlib.contextmanager
def room_up_to(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 40_000, 74_240])
def test_a_limit_on_file_sizes_is_named_though_the_file_shrank_again_when_the_change_was_undone(
    tmp_path: Path, limit: int
) -> None:
    path = tmp_path / "store.db"
    with room_up_to(limit), pytest.raises(StorageFullError, match="make room"):
        TrainingDataManager(path)
    store = TrainingDataManager(path)
    assert store.get_all_examples() == []
    store.close()
