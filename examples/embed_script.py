"""A plain script: learn from a folder of examples, answer one request, and leave the weights.

    python examples/embed_script.py FOLDER SOURCE TARGET

FOLDER holds ``sources/``, ``targets/`` and ``truths/`` with files of equal names; SOURCE gives the colours, TARGET is
changed. In the current folder it leaves ``training.db``, ``answer.png`` and ``weights.json``; a second run goes on from
the first.
"""

from __future__ import annotations

import sys

from tsm_training import (
    BayesianWeightLearner,
    TrainingManager,
    TsmTrainingError,
    WorkerPool,
    create_color_transfer_workers,
)


def main(folder: str, source: str, target: str) -> None:
    """Train, predict and export."""
    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        pool.register_worker(worker)
    with TrainingManager(pool, BayesianWeightLearner(alpha=0.15), "training.db") as manager:
        if not manager.data_manager.get_all_examples():
            manager.add_folder(folder)
        results = manager.train(epochs=3, verbose=False)
        manager.predict(source, target).save("answer.png")
        manager.export_weights("weights.json")
    weights = results["session"]["final_weights"]
    print(f"{results['session']['num_examples']} examples; best: {max(weights, key=lambda w: weights[w])}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:4])
    except TsmTrainingError as error:
        sys.exit(f"error: {error}")
