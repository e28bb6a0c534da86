"""What the routes of an application work with: a manager, the uploads, and the trainings."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from flask import current_app
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import BadRequest

from jpegs import jpeg
from parameters import TrainSettings
from sheets import ContactSheets
from training_jobs import TrainingJob, TrainingJobs
from tsm_training import TrainingExample, TrainingManager, WeightsImport
from tsm_training.errors import NoExamplesError, WeightsFileError
from tsm_training.images import read_image
from tsm_training.weights import MAX_WEIGHTS_FILE_BYTES
from uploads import UploadFolder, said_of

__all__ = ["EXTENSION", "TrainingService", "current_service"]

EXTENSION: Final = "tsm_training"
"""Under this name an application keeps its service."""


@attrs.frozen(eq=False)
class TrainingService:
    """Everything that a route may ask for."""

    manager: TrainingManager
    uploads: UploadFolder
    jobs: TrainingJobs
    sheets: ContactSheets
    host_names: Collection[str] | None
    """Names under which it answers; None for any."""

    def add_example(self, files: Mapping[str, FileStorage], metadata: dict[str, Any] | None) -> TrainingExample:
        """Store three uploads and add them as an example; where that is refused, no file stays behind.

        Raises:
            HTTPException: as for `UploadFolder.storing` and `said_of`.
            TsmTrainingError: as for `TrainingManager.add_training_example`.
        """
        with self.uploads.storing(files) as places, said_of(places, self.uploads):
            paths = places["source"], places["target"], places["ground_truth"]
            return self.manager.add_training_example(*paths, metadata)

    def remove_example(self, example_id: str) -> None:
        """Remove an example, what was learned from it, and those of its uploads that no other example has.

        Raises:
            TsmTrainingError: as for `TrainingManager.remove_training_example`.
        """
        example = self.manager.data_manager.get_example(example_id)
        self.manager.remove_training_example(example_id)
        # The others are read when no upload can come between: `iterate_examples` is lazy.
        self.uploads.forget(example, self.manager.data_manager.iterate_examples())

    def predict(self, files: Mapping[str, FileStorage]) -> dict[str, Any]:
        """Return the ensemble's answer to two uploads, of which nothing is kept: its shares, and the picture itself.

        Raises:
            HTTPException: as for `UploadFolder.storing` and `said_of`.
            TsmTrainingError: as for `TrainingManager.predict`.
        """
        roles = ("source", "target")
        with self.uploads.storing(files, roles, keep=False) as places, said_of(places, self.uploads):
            source, target = (read_image(places[role], self.uploads.limits) for role in roles)
        prediction = self.manager.predict(source, target)
        picture = base64.b64encode(jpeg(prediction.image)).decode()
        shares = sorted(prediction.blend_weights.items(), key=lambda item: -item[1])
        return {"blend_weights": dict(shares), "picture": f"data:image/jpeg;base64,{picture}"}

    def start_training(self, settings: TrainSettings) -> TrainingJob:
        """Train in the background, unless it is plain that there is nothing to train on.

        Raises:
            NoExamplesError: there are no examples.
            TrainingInProgressError: another training is under way.
        """
        if not self.manager.data_manager.get_dataset_stats()["total_examples"]:
            raise NoExamplesError
        return self.jobs.start(settings)

    def exported_weights(self) -> bytes:
        """Return a weights file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "weights.json")
            try:
                self.manager.export_weights(path)
            except WeightsFileError as error:  # it is nothing that the client has sent
                raise RuntimeError("the weights cannot be exported") from error
            return path.read_bytes()

    def import_weights(self, file: FileStorage | None) -> WeightsImport:
        """Replace the weights by an uploaded file, which is checked whole before anything changes.

        Raises:
            BadRequest: there is none.
            TsmTrainingError: as for `TrainingManager.import_weights`.
        """
        if file is None or not file.filename:
            raise BadRequest("file is missing: send a weights file under this name.")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "weights.json")
            path.write_bytes(file.stream.read(MAX_WEIGHTS_FILE_BYTES + 1))
            return self.manager.import_weights(path)

    def close(self) -> None:
        """Stop a training that runs, wait until its end is noted, and close the database."""
        self.jobs.close()
        self.manager.close()


def current_service() -> TrainingService:
    """Return the service of the application that answers the present request."""
    service: TrainingService = current_app.extensions[EXTENSION]
    return service
