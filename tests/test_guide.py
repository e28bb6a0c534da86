"""The guide: every block of our edition runs, and every document that the user's own guide shows exists."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import doc_fixtures as docs
from tsm_training import BayesianWeightLearner, InMemoryStore, TrainingManager, guide_similarity
from tsm_training.data import (
    DatasetStatistics,
    EpochMetrics,
    ExampleList,
    ExampleReference,
    ExampleSummary,
    SessionDocument,
    WorkerAccuracy,
)
from tsm_training.documents import (
    ResetRequest,
    TrainingProgress,
    TrainingResults,
    TrainRequest,
    ValidateRequest,
    WorkerProgress,
)
from tsm_training.engine import ValidationDocument, ValidationResults
from tsm_training.learning import WeightsDocument
from tsm_training.storage import GUIDE_SCHEMA
from tsm_training.weights import LearnerStatistics, WorkerProgressStatistics

GUIDE = docs.DOCS / "guide.md"

# One entry per Python block of the user's own guide, in its order: the heading, and a line that identifies the block.
BLOCKS_OF_THE_ORIGINAL = [
    ("1. Enable training in an app", "app.register_blueprint(training_bp)"),
    ("2. Create a training example", "training_manager = TrainingManager(worker_pool, weight_learner)"),
    ("3. Run training", "results = training_manager.train("),
    ("Example 1: Basic training workflow", "weight_learner = BayesianWeightLearner(alpha=0.15)"),
    ("Example 2: Incremental training", "session = training_manager.training_engine.train_batch("),
    ("Example 3: Validation and analysis", "validation_results = training_manager.training_engine.validate(examples)"),
    ("1. Mean squared error (MSE)", "mse_similarity = 1.0 - (mse / max_mse)"),
    ("2. Histogram correlation", "similarity = cv2.compareHist(hist1, hist2, cv2.HISTCMP_CORREL)"),
    ("3. Combined score", "final_similarity = 0.6 * mse_similarity + 0.4 * hist_similarity"),
    ("Strategy 1: Curated dataset", "results = training_manager.train(epochs=10, validation_split=0.2)"),
    ("Strategy 2: Continuous learning", '@app.route("/result-feedback", methods=["POST"])'),
    ("Strategy 3: A/B testing", "for alpha in [0.1, 0.15, 0.2]:"),
    ("Track learning curves", 'plt.title("Training Progress")'),
    ("Monitor weight evolution", "sessions = training_manager.data_manager.get_all_sessions()"),
    ("Issue: low training accuracy", "# 1. Check dataset quality"),
    ("Issue: weights not updating", "initial = training_manager.weight_learner.get_all_weights()"),
    ("Use case 1: Style transfer for photography", 'styles = ["vintage", "modern", "film", "digital"]'),
    ("Use case 2: Quality control", "def is_good_transfer(similarity_score):"),
    ("Custom similarity metrics", "class CustomTrainingEngine(TrainingEngine):"),
    ("Weighted training examples", "training_manager.training_engine.train_on_example(example)"),
    ("Transfer learning", 'training_manager.import_weights("pretrained_weights.json")'),
]
# One call of the library per JSON document of the REST chapter, and the arithmetic of the expected results.
BLOCKS_OF_OUR_OWN = [
    "POST `/training/add-example`",
    "GET `/training/examples`",
    "POST `/training/train`",
    "POST `/training/validate`",
    "GET `/training/progress`",
    "GET `/training/weights/export`",
    "POST `/training/weights/import`",
    "POST `/training/reset-weights`",
    "Typical training progress",
]


# --- the blocks -------------------------------------------------------------------------------------------------------


def test_no_block_of_the_original_is_lost_or_out_of_order() -> None:
    blocks = docs.blocks_of(GUIDE, "python")
    originals = [block for block in blocks if block.heading not in BLOCKS_OF_OUR_OWN]
    assert [block.heading for block in originals] == [heading for heading, _line in BLOCKS_OF_THE_ORIGINAL]
    for block, (_heading, line) in zip(originals, BLOCKS_OF_THE_ORIGINAL, strict=True):
        assert line in block.code, block.place
    assert len(originals) == 21
    assert [block.heading for block in blocks if block.heading in BLOCKS_OF_OUR_OWN] == BLOCKS_OF_OUR_OWN


def test_the_guide_has_the_chapters_of_the_original() -> None:
    chapters = [
        re.sub(r"[^a-z ]", "", line.lower()).strip()
        for line in GUIDE.read_text(encoding="utf-8").splitlines()
        if line.startswith("## ")
    ]
    assert chapters == [
        "overview",
        "key features",
        "architecture",
        "quick start",
        "api endpoints",
        "python usage examples",
        "similarity calculation",
        "training strategies",
        "monitoring training progress",
        "database schema",
        "best practices",
        "troubleshooting",
        "example use cases",
        "advanced topics",
        "expected results",
        "summary",
    ]


class GuideReader:
    """Follows the program, and checks after each block that what the page says is so."""

    def __init__(self, request: docs.Request) -> None:
        self.request = request
        self.checks: dict[str, Any] = {
            "1. Enable training in an app": self.routes_are_registered,
            "2. Create a training example": self.examples_are_stored,
            "3. Run training": self.weights_are_printed,
            "POST `/training/reset-weights`": self.weights_are_reset,
            "Example 1: Basic training workflow": self.best_worker_is_found,
            "Example 2: Incremental training": self.weights_are_exported,
            "3. Combined score": self.similarity_is_the_formula,
            "Strategy 1: Curated dataset": self.remember_weights,
            "Strategy 2: Continuous learning": self.feedback_is_learned_but_paths_of_clients_are_not,
            "Strategy 3: A/B testing": self.only_the_adopted_trial_is_stored,
            "Monitor weight evolution": self.every_session_is_shown,
            "Issue: low training accuracy": self.rate_is_lower,
            "Custom similarity metrics": self.custom_metric_judges,
            "Weighted training examples": self.evidence_stays_below_one,
            "Typical training progress": self.figures_are_those_on_the_page,
        }
        self.weights_before: dict[str, float] = {}

    def __call__(self, block: docs.Block, names: dict[str, Any], printed: str) -> None:
        if block.heading in self.checks:
            self.checks[block.heading](names, printed)
        if "response" in names:
            json.dumps(names["response"], allow_nan=False)

    @staticmethod
    def routes_are_registered(names: dict[str, Any], _printed: str) -> None:
        assert {"/training/train", "/training/progress", "/training/examples"} <= names["app"].routes.keys()
        assert Path("tsm_training.db").exists()

    @staticmethod
    def examples_are_stored(names: dict[str, Any], _printed: str) -> None:
        stored = names["training_manager"].data_manager.get_example(names["example"].example_id)
        assert stored == names["example"]
        assert stored.metadata == {"description": "Sunset color transfer"}

    @staticmethod
    def weights_are_printed(names: dict[str, Any], printed: str) -> None:
        assert "Initial weights: {'negative': 1.0, 'standard_transfer': 1.0, 'unchanged': 1.0}" in printed
        assert re.search(r"Final weights: \{'negative': 0\.\d+, 'standard_transfer': 1\.\d+", printed)
        assert re.search(r"Validation accuracy: 0\.\d{4}\n", printed)
        session = names["results"]["session"]
        assert np.mean(list(session["final_weights"].values())) == pytest.approx(1.0)

    @staticmethod
    def weights_are_reset(names: dict[str, Any], _printed: str) -> None:
        assert set(names["response"]["current_weights"].values()) == {1.0}

    def best_worker_is_found(self, names: dict[str, Any], printed: str) -> None:
        assert "Best worker: ('standard_transfer', 1." in printed or "Best worker: ('median_filtered', 1." in printed
        validation = names["results"]["validation"]
        assert validation["avg_accuracy"] > validation["equal_weights_accuracy"]
        # What the next blocks need: a file that another application has trained.
        names["training_manager"].export_weights("pretrained_weights.json")

    @staticmethod
    def weights_are_exported(names: dict[str, Any], printed: str) -> None:
        assert "Batch 1 complete" in printed
        document = json.loads(Path("trained_weights.json").read_text(encoding="utf-8"))
        assert document["weights"] == names["training_manager"].weight_learner.get_all_weights()

    @staticmethod
    def similarity_is_the_formula(names: dict[str, Any], _printed: str) -> None:
        assert names["final_similarity"] == pytest.approx(guide_similarity(names["img1"], names["img2"]), abs=1e-6)

    def remember_weights(self, names: dict[str, Any], _printed: str) -> None:
        self.weights_before = names["training_manager"].weight_learner.get_all_weights()

    def feedback_is_learned_but_paths_of_clients_are_not(self, names: dict[str, Any], _printed: str) -> None:
        stored = names["training_manager"].data_manager
        before = len(stored.get_all_examples())
        route = names["app"].routes["/result-feedback"]
        self.request.json = {"result_id": "unknown", "rating": 5, "result_path": "tsm_training.db"}
        assert route() == {"success": False}
        self.request.json = {"result_id": "r1", "rating": 2}
        assert route() == {"success": True}
        assert len(stored.get_all_examples()) == before
        self.request.json = {"result_id": "r1", "rating": 5}
        assert route() == {"success": True}
        assert stored.get_all_examples()[-1].metadata == {"rating": 5}
        self.weights_before = names["training_manager"].weight_learner.get_all_weights()

    def only_the_adopted_trial_is_stored(self, names: dict[str, Any], printed: str) -> None:
        assert len(re.findall(r"Alpha 0\.\d+: Accuracy 0\.\d{4}\n", printed)) == 3
        baseline = json.loads(Path("weights_baseline.json").read_text(encoding="utf-8"))
        assert baseline["weights"] == self.weights_before  # nothing moved while it was written
        winner = names["trials"][names["best_alpha"]][1]
        manager = names["training_manager"]
        assert manager.weight_learner.alpha == names["best_alpha"]
        assert manager.weight_learner.get_all_weights() == winner.get_all_weights()
        assert names["weight_learner"].get_all_weights() == winner.get_all_weights()  # the host's own object sees it
        assert manager.weight_learner.cell.whole() == winner.cell.whole()  # what the store holds

    @staticmethod
    def every_session_is_shown(names: dict[str, Any], printed: str) -> None:
        assert printed.count("Session ") == len(names["sessions"])
        assert "standard_transfer: 1.0000 → 1." in printed

    @staticmethod
    def rate_is_lower(names: dict[str, Any], _printed: str) -> None:
        assert names["training_manager"].weight_learner.alpha == 0.1

    @staticmethod
    def custom_metric_judges(names: dict[str, Any], _printed: str) -> None:
        engine = names["custom_manager"].training_engine
        white, black = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)
        assert engine.calculate_similarity(white, black) == 0.0
        assert engine.calculate_similarity(white, white) == 1.0
        # What the next block needs.
        names["high_priority_examples"] = names["training_manager"].data_manager.get_all_examples(2)

    @staticmethod
    def evidence_stays_below_one(names: dict[str, Any], _printed: str) -> None:
        rows = names["training_manager"].weight_learner.cell.whole().state.rows
        digest = names["high_priority_examples"][0].files.digest
        assert all(0.0 < outcome.remaining < 1.0 for outcome in rows[digest].outcomes.values())

    @staticmethod
    def figures_are_those_on_the_page(_names: dict[str, Any], printed: str) -> None:
        [shown] = [b for b in docs.blocks_of(GUIDE, "text") if b.heading == "Typical training progress"]
        assert printed == shown.code


@pytest.mark.slow
def test_every_block_of_the_guide_runs_and_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = docs.working_folder(tmp_path, monkeypatch)
    docs.write_guide_pictures()
    docs.make_plots_harmless(monkeypatch)
    request = docs.Request()
    monkeypatch.setitem(sys.modules, "training_routes", docs.TrainingRoutes(request))
    result = SimpleNamespace(
        source_path="production/source_0.jpg",
        target_path="production/target_0.jpg",
        result_path="production/result_0.jpg",
    )
    names: dict[str, Any] = {
        "worker_pool": docs.quick_pool(),
        "weight_learner": BayesianWeightLearner(),
        "app": docs.Application(),
        "request": request,
        "finished_results": {"r1": result},
        "should_retrain": lambda: True,
        "production_results": [
            SimpleNamespace(
                source=f"production/source_{i}.jpg",
                target=f"production/target_{i}.jpg",
                output=f"production/result_{i}.jpg",
                quality_score=score,
            )
            for i, score in enumerate((0.9, 0.5, 0.95))
        ],
    }
    reader = GuideReader(request)
    with docs.closing_stores(monkeypatch):
        run = docs.run_page(GUIDE, monkeypatch, programs, names, reader)
    assert len(run) == len(BLOCKS_OF_THE_ORIGINAL) + len(BLOCKS_OF_OUR_OWN)
    assert not reader.checks.keys() - {block.heading for block, _printed in run}


def test_the_tables_on_the_page_are_those_that_are_made() -> None:
    page, made = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    for block in docs.blocks_of(GUIDE, "sql"):
        page.execute(block.code)
    made.executescript(GUIDE_SCHEMA)
    tables = "SELECT m.name, c.* FROM sqlite_master m JOIN pragma_table_info(m.name) c ORDER BY m.name, c.cid"
    assert page.execute(tables).fetchall() == made.execute(tables).fetchall() != []
    page.close()
    made.close()


# --- the documents of the REST chapter --------------------------------------------------------------------------------

# From the user's own guide, envelopes aside: what a document has at least, and the type that describes it.
DOCUMENTS = {
    ExampleReference: {"example_id"},
    ExampleSummary: {"example_id", "created_at", "metadata", "has_results"},
    ExampleList: {"examples", "total"},
    TrainRequest: {"num_examples", "epochs", "validation_split", "verbose"},
    TrainingResults: {"session", "validation"},
    SessionDocument: {
        "session_id",
        "num_examples",
        "epochs",
        "initial_weights",
        "final_weights",
        "metrics_history",
    },
    ValidateRequest: {"example_ids"},
    ValidationDocument: {"num_examples", "avg_accuracy", "worker_accuracies"},
    WorkerAccuracy: {"mean", "std", "min", "max"},
    TrainingProgress: {"dataset_stats", "worker_stats", "current_weights"},
    DatasetStatistics: {"total_examples", "processed_examples", "unprocessed_examples", "total_sessions"},
    WorkerProgress: {"current_weight", "stats"},
    WorkerProgressStatistics: {"mean_accuracy", "update_count"},
    ResetRequest: {"default_weight"},
}
# Documents that say more than the guide's; what they add is described in their docstrings.
EXTENDED = {ValidationResults: ValidationDocument, LearnerStatistics: WorkerProgressStatistics}


@pytest.mark.parametrize(("document", "keys"), DOCUMENTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_each_document_of_the_guide_has_a_type_with_exactly_its_keys(document: Any, keys: set[str]) -> None:
    assert set(typing.get_type_hints(document)) == keys
    assert document.__doc__


def test_the_weights_file_has_the_guides_keys_and_says_which_may_be_missing() -> None:
    assert {"weights", "alpha", "exported_at"} <= set(typing.get_type_hints(WeightsDocument))
    assert WeightsDocument.__required_keys__ == {"weights"}


@pytest.mark.parametrize(("extended", "document"), EXTENDED.items(), ids=lambda value: value.__name__)
def test_documents_that_say_more_keep_what_the_guide_promises(extended: Any, document: Any) -> None:
    assert DOCUMENTS[document] < set(typing.get_type_hints(extended))


def keys_of(document: Any, json_type: Any) -> None:
    """Check that a returned document has the keys of its type, no others, and is strict JSON."""
    assert set(document) == set(typing.get_type_hints(json_type))
    assert json.loads(json.dumps(document, allow_nan=False)) is not None


@pytest.fixture
def manager(tmp_path: Path) -> TrainingManager:
    for number in range(4):
        names = (tmp_path / "pictures" / role / f"{number}.png" for role in ("sources", "targets", "truths"))
        docs.write_triple(number, *names)
    return TrainingManager(docs.quick_pool(), BayesianWeightLearner(), storage=InMemoryStore())


def test_the_library_returns_these_documents(manager: TrainingManager, tmp_path: Path) -> None:
    examples = manager.add_folder(tmp_path / "pictures")
    keys_of(examples[0].to_reference(), ExampleReference)

    request: TrainRequest = {"num_examples": 20, "epochs": 3, "validation_split": 0.3, "verbose": False}
    results = manager.train(**request)
    keys_of(results, TrainingResults)
    keys_of(results["session"], SessionDocument)
    keys_of(results["validation"], ValidationResults)
    for entry in results["session"]["metrics_history"]:
        keys_of(entry, EpochMetrics)
    for accuracy in results["validation"]["worker_accuracies"].values():
        keys_of(accuracy, WorkerAccuracy)

    listed = manager.list_examples(limit=2)
    keys_of(listed, ExampleList)
    assert listed["total"] == 4
    assert [e["example_id"] for e in listed["examples"]] == [e.example_id for e in examples[2:]]
    for summary in listed["examples"]:
        keys_of(summary, ExampleSummary)
        assert summary["has_results"] is True

    validation: ValidateRequest = {"example_ids": [examples[0].example_id]}
    keys_of(manager.validate(**validation), ValidationResults)

    progress = manager.get_training_progress()
    keys_of(progress, TrainingProgress)
    keys_of(progress["dataset_stats"], DatasetStatistics)
    assert progress["dataset_stats"] == {
        "total_examples": 4,
        "processed_examples": 4,
        "unprocessed_examples": 0,
        "total_sessions": 1,
    }
    for worker in progress["worker_stats"].values():
        keys_of(worker, WorkerProgress)
        keys_of(worker["stats"], LearnerStatistics)

    manager.export_weights(tmp_path / "weights.json")
    document = json.loads((tmp_path / "weights.json").read_text(encoding="utf-8"))
    # Nothing was grouped or imported, and no worker of this pool is fitted.
    missing = {"fits", "group_by", "groups", "imported", "learner"}
    assert set(typing.get_type_hints(WeightsDocument)) - set(document) == missing

    reset: ResetRequest = {"default_weight": 1.0}
    manager.reset_weights(**reset)
    assert set(manager.weight_learner.get_all_weights().values()) == {1.0}


def test_the_validation_of_nothing_is_the_same_document(manager: TrainingManager, tmp_path: Path) -> None:
    manager.add_folder(tmp_path / "pictures")
    validation = manager.train(validation_split=0.0, verbose=False)["validation"]
    keys_of(validation, ValidationResults)
    assert validation["num_examples"] == 0
    assert validation["avg_accuracy"] is None


def test_the_json_on_the_page_has_the_keys_of_the_original() -> None:
    """Follow every JSON block of the REST chapter into its documents."""
    places: dict[tuple[str, ...], Any] = {
        ("examples", "0"): ExampleSummary,
        ("results",): TrainingResults,
        ("results", "session"): SessionDocument,
        ("results", "validation"): ValidationDocument,
        ("validation_results",): ValidationDocument,
        ("validation_results", "worker_accuracies", "standard_transfer"): WorkerAccuracy,
        ("progress",): TrainingProgress,
        ("progress", "dataset_stats"): DatasetStatistics,
        ("progress", "worker_stats", "standard_transfer"): WorkerProgress,
        ("progress", "worker_stats", "standard_transfer", "stats"): WorkerProgressStatistics,
    }
    documents = [json.loads(block.code) for block in docs.blocks_of(GUIDE, "json")]
    assert len(documents) == 8
    seen = set()
    for document in documents:
        for place, json_type in places.items():
            inner: Any = document
            for step in place:
                inner = inner[int(step)] if isinstance(inner, list) else inner.get(step) if inner else None
            if inner is not None:
                assert set(inner) == DOCUMENTS[json_type], place
                seen.add(place)
    assert seen == places.keys()
    assert [set(d) for d in documents if "success" not in d] == [
        DOCUMENTS[TrainRequest],
        DOCUMENTS[ValidateRequest],
        DOCUMENTS[ResetRequest],
    ]


def test_the_routes_of_an_application_are_a_few_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs.working_folder(tmp_path, monkeypatch)
    request = docs.Request()
    routes = docs.TrainingRoutes(request)
    with docs.closing_stores(monkeypatch):
        routes.init_training(docs.quick_pool(), BayesianWeightLearner(), db_path="tsm_training.db")
        docs.write_page_pictures()
        assert routes.manager is not None
        routes.manager.add_folder("pictures")
        call = routes.training_bp.routes
        request.json = {"epochs": 2, "verbose": False}
        trained = call["/training/train"]()
        request.json, request.args = {"example_ids": None}, {"limit": "3"}
        responses = [
            trained,
            call["/training/validate"](),
            call["/training/progress"](),
            call["/training/examples"](),
        ]
        request.json = {"default_weight": 1.0}
        responses.append(call["/training/reset-weights"]())
    for response in responses:
        assert json.loads(json.dumps(response, allow_nan=False))["success"] is True
    assert len(responses[3]["examples"]) == 3
