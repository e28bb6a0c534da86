"""Progress for people: bars on a terminal, few lines elsewhere, and never a reason to fail."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from support import brightening, failing, manager_with, pool_of, save_triple
from tsm_training import Progress
from tsm_training.progress import console_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("broken pipe")

    def flush(self) -> None:
        raise OSError("broken pipe")


def events() -> list[Progress]:
    evaluating = [Progress("evaluating", done, 50, 0.1 * done, 0.5) for done in range(1, 51)]
    return [*evaluating, Progress("learning", 1, 1, 0.0, 0.75), Progress("validating", 2, 2, 0.0)]


def displayed(patch: pytest.MonkeyPatch, stream: io.StringIO, shown: Sequence[Progress]) -> str:
    """Return what is written to standard error."""
    patch.setattr(sys, "stderr", stream)
    with console_progress() as display:
        for event in shown:
            display(event)
    return stream.getvalue()


def test_lines_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    assert displayed(monkeypatch, io.StringIO(), events()).splitlines() == [
        "evaluating: example 50 of 50, accuracy 0.5000 (5.0 s)",
        "learning: epoch 1 of 1, accuracy 0.7500 (0.0 s)",
        "validating: example 2 of 2 (0.0 s)",
    ]


def test_a_line_is_written_now_and_then_in_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr("tsm_training.progress.time.monotonic", lambda: next(ticks))
    text = displayed(monkeypatch, io.StringIO(), events()[:10])
    assert [line.split(",")[0] for line in text.splitlines()] == [
        f"evaluating: example {done} of 50" for done in (3, 6, 9)
    ]


def test_a_terminal_gets_a_bar_per_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    text = displayed(monkeypatch, Terminal(), events())
    assert all(part in text for part in ("evaluating", "learning", "validating", "50/50", "accuracy 0.7500"))


def test_a_notebook_gets_bars_too(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    text = displayed(monkeypatch, notebook(), events())
    assert "\revaluating: 100%" in text
    assert "accuracy 0.7500" in text


def test_bars_are_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    termios = pytest.importorskip("termios", reason="this system has no pseudo-terminals")
    ours, theirs = os.openpty()
    try:
        termios.tcsetwinsize(theirs, (24, 100))
        stream = Terminal()
        monkeypatch.setattr(stream, "fileno", lambda: theirs)  # asked for the size only
        text = displayed(monkeypatch, stream, [Progress("evaluating", 2, 2, 0.5, 0.75)])
    finally:
        os.close(ours)
        os.close(theirs)
    shown = text.replace("\r", "\n").split("\n")
    bar = next(line for line in shown if "2/2" in line)
    assert "accuracy 0.7500" in bar
    assert len(bar) == pytest.approx(100, abs=1)


def test_without_tqdm_a_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert (
        displayed(monkeypatch, Terminal(), [Progress("learning", 1, 1, 0.0, 0.75)])
        == "learning: epoch 1 of 1, accuracy 0.7500 (0.0 s)\n"
    )


@pytest.mark.parametrize("stream", [None, Broken()])
def test_a_missing_or_broken_stream_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    manager = manager_with(tmp_path)
    monkeypatch.setattr(sys, "stderr", stream)
    assert manager.train(verbose=True)["session"]["num_examples"] == 5


def test_verbose_shows_and_quiet_does_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manager = manager_with(tmp_path)
    manager.train(verbose=False)
    assert capfd.readouterr() == ("", "")
    manager.train(epochs=2, verbose=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "learning: epoch 2 of 2, accuracy" in captured.err


def test_troubles_are_told_to_whoever_watches(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pool = pool_of(brightening("near", 20), failing("bad"))
    manager = manager_with(tmp_path, examples=3, pool=pool)
    first, *others = manager.data_manager.get_all_examples()
    for other in others:
        manager.remove_training_example(other.example_id)
    manager.add_training_example(*save_triple(tmp_path, 50))
    Path(first.source_path).unlink()
    manager.train(verbose=True)
    shown = capfd.readouterr().err
    assert "1 example was skipped; the first one:" in shown
    assert "source_0.png" in shown
    assert "worker 'bad' failed on 1 of 1 examples; raised: RuntimeError: this worker always fails" in shown


def test_holding_nothing_out_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manager_with(tmp_path, examples=1).train(verbose=True)
    assert "nothing could be held out for validation" in capfd.readouterr().err


def test_a_terminal_shows_notes_beside_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with console_progress() as display:
        display(events()[0])
        display.note("something deserves attention")
    assert "something deserves attention\n" in stream.getvalue()


def test_callbacks_hear_every_phase(tmp_path: Path) -> None:
    manager = manager_with(tmp_path)
    heard: list[Progress] = []
    manager.train(epochs=2, validation_split=0.34, verbose=False, on_progress=heard.append)
    assert [(event.phase, event.done, event.total) for event in heard] == [
        *(("evaluating", done, 6) for done in range(1, 7)),
        ("learning", 1, 2),
        ("learning", 2, 2),
        ("validating", 1, 2),
        ("validating", 2, 2),
    ]
    assert all(event.seconds >= 0.0 for event in heard)
    assert attrs.asdict(heard[-1]).keys() == {"phase", "done", "total", "seconds", "accuracy"}
