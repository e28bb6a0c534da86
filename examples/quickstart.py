"""Quick start: make examples before and after of photographs, train an ensemble on them, and see what that brought.

    python examples/quickstart.py [PHOTO_DIR] [--examples N] [--epochs E] [--other-scenes]

Without PHOTO_DIR it uses photographs that come with scikit-image and scikit-learn (``pip install ".[examples]"``). In
the current folder it leaves ``quickstart.png``, a picture to look at, and ``quickstart_pictures/`` with the examples
and the database of the training. Each run makes both anew.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from contact_sheet import Row, draw_sheet
from photographs import (
    Photograph,
    Triple,
    make_triples,
    most_triples,
    packaged_photographs,
    pictures_in,
    read_photographs,
    write_triples,
)
from quickstart_report import print_report
from tsm_training import (
    Image,
    TrainingExample,
    TrainingManager,
    TrainingSession,
    TsmTrainingError,
    ValidationResults,
)
from tsm_training.images import read_image, write_image
from tsm_training.metrics import color_difference

PICTURE = Path("quickstart.png")
FOLDER = Path("quickstart_pictures")
DATABASE = FOLDER / "quickstart.db"

HELD_OUT = 0.4
"""The share of the examples that the training does not see."""

CURVE = (10, 20, 40, 80)
"""Numbers of examples at which the learning curve is measured, as far as they go."""

ROWS = 4
"""Held-out examples in the picture."""


def main() -> None:
    """Run the quick start."""
    parser = _parser()
    options = parser.parse_args()
    try:
        triples = make_triples(_photographs(parser, options), options.examples, other_scenes=options.other_scenes)
        _run(triples, options.epochs)
    except (OSError, TsmTrainingError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print(f"\nLook at {PICTURE}: some held-out examples side by side.")
    print(f"The examples and the database are in {FOLDER}/.")


def _run(triples: Sequence[Triple], epochs: int) -> None:
    print(f"{len(triples)} examples made of {len({triple.photograph.name for triple in triples})} photographs")
    for leftover in FOLDER.glob(f"{DATABASE.name}*"):
        leftover.unlink()  # an earlier run's database: this run starts from nothing
    rows = write_triples(triples, FOLDER)

    with TrainingManager(db_path=DATABASE) as manager:
        manager.add_training_examples(rows)
        untrained = manager.with_learner(manager.weight_learner.fork())  # a copy that stays as it is now
        results = manager.train(epochs=epochs, validation_split=HELD_OUT)

        session = manager.data_manager.get_all_sessions()[-1]
        curve = [*_trials(untrained, session), session]
        print_report(results, manager.weight_learner.get_all_statistics(), curve)
        held_out = _examples(manager, session.validation_ids)
        rival = best_rival(results["validation"])
        rows_of_sheet = [compared(untrained, manager, example, rival) for example in _chosen(held_out, ROWS)]
        title = (
            "Held-out examples, not learned from. Similarity to the ground truth: at most 1. dE00: mean color "
            f"difference; 1 is just noticeable. Best fixed worker: {rival or 'none'}."
        )
        write_image(PICTURE, draw_sheet(title, HEADINGS, rows_of_sheet))


def _trials(untrained: TrainingManager, session: TrainingSession) -> list[TrainingSession]:
    """Train copies of the untrained ensemble on fewer examples, and judge each on the same held-out ones.

    No fixed worker runs again, for all its results are stored; only what is learned from the examples is fitted anew.
    """
    training = _examples(untrained, session.training_ids)
    held_out = _examples(untrained, session.validation_ids)
    trials = []
    for number in CURVE:
        if number < len(training):
            trial = untrained.with_learner(untrained.weight_learner.fork())
            examples = training[:number]
            trials.append(
                trial.training_engine.train_batch(
                    examples, epochs=session.epochs, verbose=False, validation_examples=held_out
                )
            )
    return trials


def _examples(manager: TrainingManager, example_ids: Sequence[str]) -> list[TrainingExample]:
    return [manager.data_manager.get_example(example_id) for example_id in example_ids]


# --- arguments ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train an ensemble of colour-transfer workers on photographs and show what it has learned.",
        epilog=f"Writes {PICTURE} and the folder {FOLDER} in the current folder, anew on each run.",
    )
    parser.add_argument(
        "photo_dir",
        metavar="PHOTO_DIR",
        type=Path,
        nargs="?",
        help="a folder of photographs (default: those that come with scikit-image and scikit-learn)",
    )
    parser.add_argument(
        "--examples", metavar="N", type=_whole_number(4), default=56, help="examples to make (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", metavar="E", type=_whole_number(1), default=5, help="passes over them (default: %(default)s)"
    )
    parser.add_argument(
        "--other-scenes", action="store_true", help="take sources from other photographs than targets: much harder"
    )
    return parser


class _whole_number:  # noqa: N801 - argparse calls it like a function
    """Reads a whole number of at least `least`."""

    def __init__(self, least: int) -> None:
        self.least = least

    def __call__(self, text: str) -> int:
        number = int(text) if text.strip().lstrip("+-").isdecimal() else None
        if number is None or number < self.least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {self.least}, got {text!r}")
        return number


def _photographs(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Photograph]:
    """Return as many photographs as can be used; without any, end with a message and exit status 2."""
    folder: Path | None = options.photo_dir
    if folder is not None and not folder.is_dir():
        parser.error(f"{str(folder)!r} is no folder")
    paths = packaged_photographs() if folder is None else pictures_in(folder)
    photographs = list(itertools.islice(read_photographs(paths), options.examples))
    if not photographs and folder is None:
        parser.error('no photographs: run pip install ".[examples]", or give a folder of your own')
    if not photographs:
        parser.error(f"{str(folder)!r} holds no picture that can be used (PNG, JPEG, BMP, WebP or TIFF)")
    if options.examples > most_triples(photographs):
        parser.error(f"{len(photographs)} photographs make at most {most_triples(photographs)} examples")
    if options.other_scenes and len(photographs) == 1:
        parser.error("--other-scenes needs at least two photographs")
    return photographs


# --- the picture ----------------------------------------------------------------------------------------------------


def _chosen(examples: Sequence[TrainingExample], count: int) -> list[TrainingExample]:
    """Return the first examples that show a new look and a new photograph, then those with a new look, then any."""
    chosen: list[TrainingExample] = []
    for keys in (("look", "photograph"), ("look",), ()):
        for example in examples:
            is_news = all(example.metadata[key] not in [c.metadata[key] for c in chosen] for key in keys)
            if is_news and example not in chosen:
                chosen.append(example)
    return chosen[:count]


HEADINGS = ("Source: the look", "Target", "Ground truth", "Before training", "After training", "Best fixed worker")
"""What stands above the columns of `compared`."""


def best_rival(validation: ValidationResults) -> str | None:
    """Return the worker to show beside the ensemble: the best single one, or the best fixed one where they differ.

    Where the best single worker is the one that learns, the ensemble's answer mostly is that worker's.
    """
    verdict = validation["verdict"]
    return verdict["best_fixed"] or verdict["best_single"]


def compared(before: TrainingManager, after: TrainingManager, example: TrainingExample, rival: str | None) -> Row:
    """Return a row of six pictures: the example, the answers before and after training, and the rival's."""
    source, target, truth = map(read_image, (example.source_path, example.target_path, example.ground_truth_path))
    untrained = before.predict(source, target)
    trained = after.predict(source, target, run_all=True)
    alone = None if rival is None else trained.results[rival].value
    answers = [untrained.image, trained.image, target if alone is None else alone]

    def judged(picture: Image) -> str:
        similarity = after.training_engine.calculate_similarity(picture, truth)
        return f"similarity {similarity:.2f}, dE00 {color_difference(picture, truth):.1f}"

    title = f"{example.metadata['look']} ({example.metadata['photograph']})"
    captions = ["", judged(target), "", *map(judged, answers)]
    return Row(title, [source, target, truth, *answers], captions)


if __name__ == "__main__":
    main()
