"""Draws the read-me's picture, ``docs/quickstart.png``, from what the quick start has left in the current folder.

    python examples/quickstart.py && python docs/quickstart_picture.py

It shows a held-out example of a photograph that is free of copyright, with few enough colours for a small file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "examples"))

import contact_sheet  # noqa: E402 - found by the line above
from quickstart import DATABASE, HEADINGS, best_rival, compared  # noqa: E402
from tsm_training import TrainingManager  # noqa: E402

SHOWN = ("cross process", "coffee")
"""Look and photograph of the example; astronaut, chelsea, coffee and rocket are in the public domain or CC0."""


def main() -> None:
    """Draw the picture."""
    with TrainingManager(db_path=DATABASE) as manager:
        nothing_learned = manager.weight_learner.fork()
        nothing_learned.reset()
        session = manager.data_manager.get_all_sessions()[-1]
        held_out = [manager.data_manager.get_example(example_id) for example_id in session.validation_ids]
        by_kind = {(each.metadata["look"], each.metadata["photograph"]): each for each in held_out}
        rival = best_rival(session.validation)
        before = manager.with_learner(nothing_learned)
        row = compared(before, manager, by_kind[SHOWN], rival)
    contact_sheet.CELL = (
        156,
        104,
    )  # pages show it about as wide as it is, so the text must be large beside the pictures
    captions = [caption.rpartition(", ")[2] for caption in row.captions]  # the colour difference only
    row = contact_sheet.Row(row.title, row.pictures, captions)
    sheet = contact_sheet.draw_sheet("", HEADINGS, [row])
    sheet = sheet[contact_sheet.CAPTION :]
    colors = Pillow.fromarray(np.ascontiguousarray(sheet[..., ::-1])).quantize(256)
    colors.save(DOCS / "quickstart.png", optimize=True)


if __name__ == "__main__":
    main()
