"""Records as documents, and what metadata may hold."""

from __future__ import annotations

import json

import attrs

from tsm_training.data import ROLES
from tsm_training.testing import (
    MOMENT,
    make_epoch_metrics,
    make_evaluation,
    make_example,
    make_files,
    make_outcome,
    make_session,
)


def test_an_example_describes_itself_as_the_guide_does() -> None:
    example = make_example("a", metadata={"tag": 1}, worker_results={"w": make_outcome()})
    summary = {
        "example_id": "a",
        "created_at": "2024-02-29T12:30:15.123456+00:00",
        "metadata": {"tag": 1},
        "has_results": True,
    }
    assert example.to_reference() == {"example_id": "a"}
    assert example.to_summary() == summary
    assert example.to_dict() == {
        **summary,
        "source_path": "/pictures/a/source.png",
        "target_path": "/pictures/a/target.png",
        "ground_truth_path": "/pictures/a/truth.png",
        "worker_results": {"w": make_outcome()},
        "validation_scores": None,
    }
    assert make_example("b").to_dict()["worker_results"] is None
    assert not make_example("b").to_summary()["has_results"]


def test_an_evaluation_becomes_a_workers_outcome() -> None:
    assert make_evaluation(accuracy=0.75, confidence=1.0).to_outcome() == make_outcome(0.75)
    failure = make_evaluation(
        accuracy=None, confidence=1.0, failure_kind="raised", failure_type="ValueError", failure_message="no"
    )
    assert failure.to_outcome() == make_outcome(None)


def test_a_session_describes_itself_as_the_guide_does() -> None:
    session = make_session("s", metrics_history=[make_epoch_metrics()], num_examples=2)
    summary = {
        "session_id": "s",
        "num_examples": 2,
        "epochs": 3,
        "initial_weights": {"bad": 1.0, "good": 1.0},
        "final_weights": {},
        "metrics_history": [make_epoch_metrics()],
    }
    assert session.to_summary() == summary
    assert json.loads(json.dumps(session.to_dict())) == {
        **summary,
        "start_time": MOMENT.isoformat(),
        "end_time": None,
        "learning_rate": 0.15,
        "status": "running",
        "seed": None,
        "validation_split": None,
        "training_ids": [],
        "validation_ids": [],
        "skipped": {},
        "error": None,
        "is_trial": False,
        "validation": None,
        "group_by": None,
    }
    ended = attrs.evolve(session, end_time=MOMENT, validation={"num_examples": 1}).to_dict()
    assert (ended["end_time"], ended["validation"]) == (MOMENT.isoformat(), {"num_examples": 1})


def test_the_digest_of_an_example_depends_on_each_of_its_files() -> None:
    files, other = make_files("a"), make_files("b")
    variants = [files, *(attrs.evolve(files, **{role: getattr(other, role)}) for role in ROLES)]
    assert len({each.digest for each in variants}) == 4
    assert files.digest == make_files("a").digest
    assert len(files.digest) == 64
    moved = attrs.evolve(files, source=files.target, target=files.source)
    assert moved.digest != files.digest
