"""Trainings, one at a time: each can be watched and stopped, whether a request waits for it or not."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import attrs

from answers import UNEXPECTED, public_validation
from parameters import TrainSettings
from tsm_training import Progress, TrainingManager, TrainingResults, TsmTrainingError
from tsm_training.errors import TrainingInProgressError, TrainingStoppedError

__all__ = ["JobStatus", "TrainingJob", "TrainingJobs", "public_results"]

_log = logging.getLogger(__name__)

JobStatus: TypeAlias = Literal["running", "completed", "stopped", "failed"]

_KEPT: Final = 20
"""How many jobs are remembered; the sessions themselves stay in the database."""


@attrs.frozen
class _JobState:
    """How a job stands: a snapshot, replaced as a whole, so that readers need no lock."""

    status: JobStatus = "running"
    progress: Progress | None = None
    ended_at: datetime | None = None
    session_id: str | None = None
    results: TrainingResults | None = None
    message: str | None = None


class TrainingJob:
    """One training and how it stands."""

    def __init__(self, settings: TrainSettings) -> None:
        self.job_id = str(uuid.uuid4())
        self.settings = settings
        self.started_at = datetime.now(UTC)
        self._since = time.monotonic()
        self._stop = threading.Event()
        self._state = _JobState()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._state.status == "running"

    def stop(self) -> None:
        """Ask the training to end; it takes a moment, at most as long as the workers need for an example."""
        self._stop.set()

    def give_up(self) -> None:
        """Note that it could not even begin."""
        self._end("failed", message=UNEXPECTED)

    def run(self, manager: TrainingManager) -> TrainingResults:
        """Train, in this thread, and remember how it ended; what ends it early is passed on."""
        settings = attrs.asdict(self.settings)
        try:
            results = manager.train(**settings, on_progress=self._note, should_stop=self._stop.is_set)
        except TrainingStoppedError as error:
            self._end("stopped", session_id=error.session_id, message=error.public_message)
            raise
        except TsmTrainingError as error:
            self._end("failed", message=error.public_message)
            raise
        except BaseException:
            self._end("failed", message=UNEXPECTED)
            raise
        self._end("completed", session_id=results["session"]["session_id"], results=results)
        return results

    def _note(self, progress: Progress) -> None:
        self._state = attrs.evolve(self._state, progress=progress)

    def _end(self, status: JobStatus, **known: Any) -> None:
        self._state = attrs.evolve(self._state, status=status, ended_at=datetime.now(UTC), **known)

    def _text(self) -> str:
        """Say for people how it stands."""
        state = self._state
        if state.status != "running":
            return state.message or "The training is completed."
        if self._stop.is_set():
            return "The training will stop in a moment."
        if state.progress is None:
            return "The training begins."
        progress = state.progress
        unit = {"learning": "epochs", "fitting": "fits"}.get(progress.phase, "examples")
        accuracy = "" if progress.accuracy is None else f", mean accuracy {progress.accuracy:.4f}"
        return f"{progress.phase.capitalize()}: {progress.done} of {progress.total} {unit}{accuracy}."

    def to_dict(self, *, full: bool = True) -> dict[str, Any]:
        """Return how it stands, ready for JSON: with the results, unless it is not to be `full`."""
        state = self._state
        progress = state.progress
        document = {
            "job_id": self.job_id,
            "status": state.status,
            "text": self._text(),
            "started_at": self.started_at.isoformat(),
            "ended_at": None if state.ended_at is None else state.ended_at.isoformat(),
            "settings": attrs.asdict(self.settings),
            "progress": None if progress is None else attrs.asdict(progress),
            "session_id": state.session_id,
            "message": state.message,
        }
        return {**document, "results": state.results and public_results(state.results)} if full else document


def public_results(results: TrainingResults) -> dict[str, Any]:
    """Return the guide's document of a training, without paths."""
    validation: Mapping[str, Any] = results["validation"]
    return {"session": results["session"], "validation": public_validation(validation)}


class TrainingJobs:
    """The trainings of one manager; while one runs, another is refused."""

    def __init__(self, manager: TrainingManager) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        self._jobs: dict[str, TrainingJob] = {}
        self._newest: TrainingJob | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def run(self, settings: TrainSettings) -> TrainingResults:
        """Train, and return the results when it has ended.

        Raises:
            TrainingInProgressError: another training is under way.
            TsmTrainingError: as for `TrainingManager.train`.
        """
        return self._begun(settings).run(self._manager)

    def start(self, settings: TrainSettings) -> TrainingJob:
        """Train in a thread, and return at once.

        Raises:
            TrainingInProgressError: another training is under way.
        """
        job = self._begun(settings)
        # No daemon: the interpreter waits until the session's end is noted.
        self._thread = threading.Thread(target=self._run_unattended, args=(job,), name=f"training-{job.job_id}")
        try:
            self._thread.start()
        except RuntimeError:  # there are too many threads: the next training shall not find this one running
            job.give_up()
            raise
        return job

    def _begun(self, settings: TrainSettings) -> TrainingJob:
        with self._lock:
            if self._is_closed or (self._newest is not None and self._newest.is_running):
                raise TrainingInProgressError
            job = self._newest = TrainingJob(settings)
            self._jobs[job.job_id] = job
            for old in list(self._jobs)[:-_KEPT]:
                del self._jobs[old]
            return job

    def _run_unattended(self, job: TrainingJob) -> None:
        try:
            job.run(self._manager)
        except TsmTrainingError as error:
            _log.warning("training %s ended: %s", job.job_id, error)
        except Exception:
            _log.exception("training %s ended", job.job_id)

    @property
    def newest(self) -> TrainingJob | None:
        """The job that was begun last, or None."""
        return self._newest

    def get(self, job_id: str) -> TrainingJob | None:
        """Return a job, or None if there is none of that id, or no longer."""
        return self._jobs.get(job_id)

    def close(self) -> None:
        """Stop the training that runs, and wait until its end is noted; no other begins."""
        with self._lock:
            self._is_closed = True
        if self._newest is not None:
            self._newest.stop()
        if self._thread is not None:
            self._thread.join()
