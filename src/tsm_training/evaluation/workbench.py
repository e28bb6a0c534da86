"""What the engine works with when it trains, validates and explains."""

from __future__ import annotations

from typing import NamedTuple

import attrs

from tsm_training.ensemble import BlendSolver
from tsm_training.evaluation.evaluated import EvaluationRun
from tsm_training.evaluation.evaluator import Evaluator
from tsm_training.evaluation.fitting import Fitter
from tsm_training.evaluation.trainables import Trainables
from tsm_training.persistence import LearnerStorage
from tsm_training.progress import ProgressReporter


class Workbench(NamedTuple):
    """What one call of the engine works with."""

    trainables: Trainables
    """Evaluates examples with all workers; holds the evaluator of the others."""
    storage: LearnerStorage
    """The engine's learner, and its store."""
    solver: str | BlendSolver
    """Fits blends; see `TrainingEngine`."""
    rope: float
    """Which difference in accuracy is practically none."""

    @property
    def evaluator(self) -> Evaluator:
        """What runs workers and remembers the results."""
        return self.trainables.evaluator

    def for_call(self, reporter: ProgressReporter, *, reevaluate: bool = False) -> Workbench:
        """Return the same for a call that `reporter` watches; `reevaluate` runs workers where results are stored."""
        evaluator = attrs.evolve(self.evaluator, reporter=reporter, reevaluate=reevaluate)
        return self._replace(trainables=attrs.evolve(self.trainables, evaluator=evaluator))

    def fitter(self, run: EvaluationRun) -> Fitter:
        """Return what fits blends on the previews that belong to a run."""
        return Fitter.of(self.evaluator, run, self.solver)
