from __future__ import annotations

import hashlib
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsm_training.arrays import Image
from tsm_training.color_transfer import basis, learned_look, looks
from tsm_training.color_transfer.learned_look import LearnedLook
from tsm_training.color_transfer.spaces import to_space
from tsm_training.errors import WorkerNotFittedError
from tsm_training.fingerprints import describe_object
from tsm_training.workers import MOST_OBSERVATION_BYTES, Observation, WorkerRequest, learned_version

LOOK = LearnedLook()

Look = Callable[[Image], Image]


def picture(values: npt.NDArray[Any]) -> Image:
    return cast("Image", np.clip(values, 0, 255).astype(np.uint8))


def photo(seed: int, size: int = 48) -> Image:
    """Blurred patches of colours of their own: as different from each other as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = np.clip(rng.normal(rng.uniform(70, 180, 3), rng.uniform(20, 60), (6, 6, 3)), 0, 255)
    fine = cv2.resize(coarse.astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
    return picture(fine + rng.normal(0, 4, fine.shape))


def warm(image: Image) -> Image:
    return picture(image * np.array([0.7, 0.95, 1.05]) + np.array([10, 5, 20]))


def cold(image: Image) -> Image:
    return picture(image * np.array([1.1, 0.9, 0.7]) + np.array([25, 5, 0]))


def faded(image: Image) -> Image:
    grey = image.mean(axis=2, keepdims=True)
    return picture(60 + 0.6 * (0.4 * image + 0.6 * grey))


STYLES: dict[str, Look] = {"warm": warm, "cold": cold, "faded": faded}


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def observed(source: Image, target: Image, truth: Image, group: str | None = None) -> Observation:
    names = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in (source, target, truth)]
    return Observation(digest(*names), names[0], names[1], group, LOOK.observe(source, target, truth))


def example(look: str, source: int, target: int, group: str | None = None) -> Observation:
    change = STYLES[look]
    return observed(change(photo(source)), photo(target), change(photo(target)), group)


def examples(count: int, *, grouped: bool = False) -> list[Observation]:
    names = list(STYLES)
    rows = [(names[i % 3], i % 12, (5 * i + 3) % 11) for i in range(count)]
    return [example(look, s, t, look if grouped else None) for look, s, t in rows]


def request(look: str, source: int = 90, target: int = 91, **more: object) -> Any:
    return {"source": STYLES[look](photo(source)), "target": photo(target), **more}


def error(fitted: Any, look: str) -> float:
    """Mean absolute error in levels on pictures that no example shows."""
    data = request(look)
    return float(np.abs(fitted.process(data).astype(float) - STYLES[look](data["target"])).mean())


@pytest.fixture(scope="module")
def learned() -> Any:
    return LOOK.fit(examples(24))


@pytest.fixture(scope="module")
def grouped() -> Any:
    return LOOK.fit(examples(24, grouped=True))


def forget() -> None:
    """Have the next fit compute everything anew."""
    for memory in (learned_look._examples, learned_look._appearances, learned_look._renderings):
        memory._values.clear()


# --- what it learns ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("look", STYLES)
def test_it_recognises_a_look_on_new_pictures_and_applies_it(learned: Any, look: str) -> None:
    data = request(look)
    untouched = np.abs(data["target"].astype(float) - STYLES[look](data["target"])).mean()
    assert error(learned, look) < 0.35 * untouched


@pytest.mark.parametrize("look", STYLES)
def test_it_leans_on_examples_of_the_same_look(learned: Any, look: str) -> None:
    weights = learned.get_weights(request(look))
    same = {example(look, i % 12, (5 * i + 3) % 11).digest for i in range(24) if list(STYLES)[i % 3] == look}
    assert sum(weights.values()) == pytest.approx(1, abs=1e-3)
    assert sum(weights[name] for name in same) > 0.7


@pytest.mark.parametrize("look", STYLES)
def test_a_known_group_uses_its_own_examples_only(grouped: Any, look: str) -> None:
    # the source shows nothing of the look that the group names
    data = {"source": photo(92), "target": photo(91), "group": look}
    rows = {o.digest: o.group for o in examples(24, grouped=True)}
    weights = grouped.get_weights(data)
    assert {rows[name] for name, weight in weights.items() if weight} == {look}
    truth = STYLES[look](photo(91))
    assert np.abs(grouped.process(data).astype(float) - truth).mean() < 4


def test_one_pair_of_a_group_is_enough_to_come_near(grouped: Any) -> None:
    negative = observed(255 - photo(3), photo(4), 255 - photo(4), "negative")
    fitted: Any = LOOK.fit([*examples(24, grouped=True), negative])
    data = {"source": photo(92), "target": photo(4), "group": "negative"}
    assert np.abs(fitted.process(data).astype(float) - (255 - photo(4))).mean() < 3


def test_it_knows_the_groups_that_its_examples_have(grouped: Any, learned: Any) -> None:
    assert grouped.knows_group("warm")
    assert not grouped.knows_group("sepia")
    assert not learned.knows_group("warm")


@pytest.mark.parametrize("group", ["sepia", "", None, 7])
def test_a_group_that_no_example_has_falls_back_to_recognition(grouped: Any, group: object) -> None:
    assert np.array_equal(grouped.process(request("warm", group=group)), grouped.process(request("warm")))
    assert grouped.get_familiarity(request("warm", group=group), photo(0)) == grouped.get_familiarity(
        request("warm"), photo(0)
    )


def test_familiarity_tells_looks_of_the_training_from_others(learned: Any, grouped: Any) -> None:
    known = [learned.get_familiarity(request(look), photo(0)) for look in STYLES]
    strange = {"source": 255 - warm(photo(90)) // 3, "target": photo(91)}
    assert all(0 <= value <= 1 for value in known)
    assert min(known) > learned.get_familiarity(strange, photo(0)) > 0
    assert grouped.get_familiarity({**strange, "group": "warm"}, photo(0)) == 1.0


def test_confidence_is_not_its_own(learned: Any) -> None:
    assert learned.get_confidence(request("warm"), photo(0)) == 1.0


# --- the contract of a trainable worker -------------------------------------------------------------------------------


def test_before_the_fit_it_does_not_answer() -> None:
    with pytest.raises(WorkerNotFittedError):
        LOOK.process(request("warm"))


def test_observations_are_small_and_the_same_for_the_same_pictures() -> None:
    data = LOOK.observe(photo(1), photo(2), photo(3))
    assert data == LOOK.observe(photo(1), photo(2), photo(3))
    assert len(data) == 9001 <= MOST_OBSERVATION_BYTES


def test_observations_pair_target_and_truth_at_the_same_places() -> None:
    target, truth, _ = learned_look._colors(LOOK.observe(photo(1), photo(2), 255 - photo(2)))
    assert np.array_equal(truth, 255 - target)


def test_the_fitted_worker_stands_for_what_it_learned(learned: Any) -> None:
    assert learned.worker_id == LOOK.worker_id
    assert learned.version == learned_version(examples(24))
    assert not hasattr(learned, "fit")
    assert learned.reads_only
    assert describe_object(learned) != describe_object(LOOK.fit(examples(23)))
    assert learned.working_memory(1000, 1000) - learned.working_memory(1000, 0) == 3000


def test_it_writes_into_none_of_its_inputs(learned: Any) -> None:
    data = WorkerRequest(warm(photo(1)), photo(2))
    assert np.array_equal(learned.process(data), learned.process(dict(data)))
    assert learned.get_familiarity(data, photo(2)) == learned.get_familiarity(dict(data), photo(2))


def test_it_changes_each_pixel_by_its_colour_alone(learned: Any) -> None:
    data = request("cold")
    flipped = {**data, "target": data["target"][::-1, ::-1].copy()}
    assert np.array_equal(learned.process(flipped), learned.process(data)[::-1, ::-1])


def test_a_pickled_copy_answers_the_same(learned: Any) -> None:
    copy = pickle.loads(pickle.dumps(learned))
    assert np.array_equal(copy.process(request("warm")), learned.process(request("warm")))


# --- exactness --------------------------------------------------------------------------------------------------------


def answers(fitted: Any) -> list[bytes]:
    data = [request(look) for look in STYLES] + [request("warm", group="cold")]
    return [fitted.process(d).tobytes() + repr(fitted.get_familiarity(d, photo(0))).encode() for d in data]


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_observations_does_not_matter(grouped: Any, chance: random.Random) -> None:
    rows = examples(24, grouped=True)
    chance.shuffle(rows)
    assert LOOK.dump_fit(LOOK.fit(rows)) == LOOK.dump_fit(grouped)
    assert answers(LOOK.fit(rows)) == answers(grouped)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.sets(st.integers(0, 23), min_size=1))
def test_what_other_fits_left_behind_does_not_matter(chosen: set[int]) -> None:
    rows = [examples(24)[i] for i in sorted(chosen)]
    LOOK.fit(rows[::2])
    warm_start = answers(LOOK.fit(rows))
    forget()
    assert answers(LOOK.fit(rows)) == warm_start


@pytest.mark.slow
def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, learned: Any) -> None:
    for memory, most in ((learned_look._examples, 5), (learned_look._renderings, 7)):
        monkeypatch.setattr(memory, "_most", most)
    assert answers(LOOK.fit(examples(24))) == answers(learned)
    assert len(learned_look._examples._values) <= 5
    assert len(learned_look._renderings._values) <= 7


SCRIPT = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import cv2
cv2.setNumThreads(int(sys.argv[2]))
from test_learned_look import LOOK, answers, examples
fitted = LOOK.fit(examples(24, grouped=True))
print(hashlib.sha256(LOOK.dump_fit(fitted) + b"".join(answers(fitted))).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_number_of_threads_does_not_matter(grouped: Any, threads: str) -> None:
    here = os.path.dirname(__file__)  # noqa: PTH120 - a text is wanted
    command = [sys.executable, "-c", SCRIPT, here, threads]
    done = subprocess.run(
        command, env={**os.environ, "OPENBLAS_NUM_THREADS": threads}, capture_output=True, text=True, check=True
    )
    expected = hashlib.sha256(LOOK.dump_fit(grouped) + b"".join(answers(grouped))).hexdigest()
    assert done.stdout.strip() == expected


def test_products_of_matrices_are_exact() -> None:
    """In any order of summation: sums of whole numbers are, as long as they stay below 2⁵³."""
    rng = np.random.default_rng(0)
    target, truth = rng.integers(0, 256, (2, 1000, 3), dtype=np.uint8)
    values = basis.basis_values(target)
    assert np.array_equal(np.ldexp(values, 13), np.rint(np.ldexp(values, 13)))
    order = rng.permutation(1000)
    once, again = basis.sums_of(target, truth), basis.sums_of(target[order], truth[order])
    assert np.array_equal(once[0], again[0])
    assert np.array_equal(once[1], again[1])
    assert once[2] == again[2]


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 24])
def test_a_state_brings_back_the_same_worker(count: int) -> None:
    rows = examples(count, grouped=True)
    fitted = LOOK.fit(rows)
    state = LOOK.dump_fit(fitted)
    forget()
    back = LOOK.load_fit(state, rows[::-1])
    assert answers(back) == answers(fitted)
    assert LOOK.dump_fit(back) == state
    assert describe_object(back) == describe_object(fitted)


def test_states_are_small(learned: Any) -> None:
    assert len(LOOK.dump_fit(learned)) < 12_000 + 24 * 300


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 100_000), value=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_state_is_refused(learned: Any, place: int, value: int, cut: bool) -> None:
    state = bytearray(LOOK.dump_fit(learned))
    state[place % len(state)] ^= value
    with pytest.raises(ValueError, match="state"):
        LOOK.load_fit(bytes(state[: place % len(state)] if cut else state), examples(24))


def sealed(body: bytes) -> bytes:
    return hashlib.sha256(body).digest() + body


@pytest.mark.parametrize("body", [b"", b"look", b"look\x02" + bytes(90), bytes(10_000)])
def test_a_whole_state_of_another_kind_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="state"):
        LOOK.load_fit(sealed(body), examples(3))


def test_a_state_of_other_observations_is_refused(learned: Any) -> None:
    with pytest.raises(ValueError, match="observations"):
        LOOK.load_fit(LOOK.dump_fit(learned), examples(23))


@pytest.mark.parametrize("number", [np.nan, np.inf, 0.0, -1.0])
def test_a_state_with_impossible_numbers_is_refused(learned: Any, number: float) -> None:
    body = LOOK.dump_fit(learned)[32:]
    fields = list(learned_look._STATE.unpack_from(body))
    for place in (2, 3):
        changed = [*fields[:place], number, *fields[place + 1 :]]
        with pytest.raises(ValueError, match="out of range"):
            LOOK.load_fit(sealed(learned_look._STATE.pack(*changed) + body[learned_look._STATE.size :]), examples(24))


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02" + bytes(9000), bytes(9002)])
def test_what_it_has_not_observed_is_refused(data: bytes) -> None:
    row = examples(1)[0]
    with pytest.raises(ValueError, match="observe"):
        LOOK.fit([Observation("x", "s", "t", None, data), row])


# --- honesty ----------------------------------------------------------------------------------------------------------


def chosen_with(monkeypatch: pytest.MonkeyPatch, rows: Sequence[Observation]) -> tuple[Any, Any]:
    """Fit, and return which examples were left out for which request, and the rows in the order of the fit."""
    seen: list[Any] = []

    shares = looks.shares

    def watched(*arguments: Any) -> Any:
        seen.append(arguments[3])
        return shares(*arguments)

    monkeypatch.setattr(looks, "shares", watched)
    LOOK.fit(rows)
    return seen[0], sorted(rows, key=lambda o: o.digest)


def test_a_request_of_the_training_never_sees_its_own_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, rows = chosen_with(monkeypatch, examples(24))
    for name in ("target_digest", "source_digest"):
        kind = np.array([getattr(o, name) for o in rows])
        assert blocked[kind[:, None] == kind].all()
    assert blocked.diagonal().all()
    assert (~blocked).any(axis=1).all()


def test_a_source_of_the_same_photograph_is_left_out_though_its_file_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks on one photograph that is also a target: the content gives it away."""
    rows = [example(look, s, t) for look in STYLES for s, t in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0))]
    blocked, rows = chosen_with(monkeypatch, rows)
    contents = {
        example(look, s, t).digest: s for look in STYLES for s, t in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0))
    }
    content = np.array([contents[o.digest] for o in rows])
    same = content[:, None] == content
    assert blocked[same].mean() > 0.8
    assert blocked[~same].mean() < 0.5


def test_distances_of_the_training_are_taken_without_the_nearest_content() -> None:
    """Sources that are training targets look no more familiar than they would if they were new."""
    rows = [example(look, s, t) for look in STYLES for s, t in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0))]
    fitted: Any = LOOK.fit(rows)
    own = [fitted._distances({"source": STYLES[k](photo(s))}).min() for k in STYLES for s in range(6)]
    assert np.median(fitted._choice.usual) > np.median(own)


@pytest.mark.slow
def test_many_examples_use_24_target_pictures_and_150_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    base = LOOK.observe(warm(photo(1)), photo(2), warm(photo(2)))
    rng = np.random.default_rng(0)

    def other(i: int) -> Observation:
        noise = np.frombuffer(base[1:], np.uint8) ^ rng.integers(0, 16, 9000, dtype=np.uint8)
        return Observation(digest(i), digest("s", i), digest("t", i), None, b"\x01" + noise.tobytes())

    rows = [other(i) for i in range(160)]
    pictures: list[int] = []

    def watched(*arguments: Any) -> Any:
        pictures.append(arguments[2].shape[1])
        return looks.Looks(*arguments)

    monkeypatch.setattr(learned_look, "Looks", watched)
    blocked, _ = chosen_with(monkeypatch, rows)
    assert pictures == [24]
    assert len(blocked) <= 150


# --- pictures and examples at the edge --------------------------------------------------------------------------------


def flat(*color: int) -> Image:
    return np.full((5, 4, 3), color, np.uint8)


EDGES = {
    "grey": (flat(90, 90, 90), flat(140, 140, 140), flat(150, 150, 150)),
    "black to white": (flat(0, 0, 0), flat(0, 0, 0), flat(255, 255, 255)),
    "one pixel": (np.full((1, 1, 3), 7, np.uint8), np.full((1, 1, 3), 200, np.uint8), np.full((1, 1, 3), 90, np.uint8)),
    "saturated": (flat(255, 0, 0), flat(0, 0, 255), flat(0, 255, 0)),
}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("edge", EDGES)
def test_odd_pictures_are_learned_and_answered(edge: str, count: int) -> None:
    source, target, truth = EDGES[edge]
    rows = [observed(np.clip(source + np.uint8(i), i, 255), target, truth) for i in range(count)]
    fitted: Any = LOOK.fit(rows)
    data = {"source": source, "target": target}
    assert np.abs(fitted.process(data).astype(int) - truth.astype(int)).max() <= 6
    assert fitted.get_familiarity(data, target) == 0.5
    assert fitted.process({"source": target, "target": photo(1)}).shape == photo(1).shape


def test_flat_pictures_with_different_targets_can_be_fitted() -> None:
    rows = [observed(flat(i, i, i), flat(40 * i, 20, 20), flat(40 * i, 60, 20)) for i in range(6)]
    fitted: Any = LOOK.fit(rows)
    data = {"source": flat(2, 2, 2), "target": flat(80, 20, 20)}
    assert np.abs(fitted.process(data).astype(int) - flat(80, 60, 20).astype(int)).max() <= 6
    assert 0 <= fitted.get_familiarity(data, data["target"]) <= 1


def test_colours_that_no_example_shows_stay_nearly_as_they_are() -> None:
    fitted: Any = LOOK.fit([observed(flat(20, 20, 20), flat(20, 20, 20), flat(40, 20, 20))])
    same: Any = LOOK.fit([observed(photo(1), photo(2), photo(2))])
    data = {"source": photo(3), "target": photo(4)}
    assert np.array_equal(same.process(data), photo(4))
    assert fitted.process(data).dtype == np.uint8


def test_with_one_target_picture_all_examples_count_alike() -> None:
    rows = [example("warm", i, 50) for i in range(4)]
    fitted: Any = LOOK.fit(rows)
    weights = fitted.get_weights(request("cold"))
    assert max(weights.values()) - min(weights.values()) < 1e-3
    assert fitted.get_familiarity(request("cold"), photo(0)) == 0.5
    assert error(fitted, "warm") < 8


def test_where_nothing_can_be_left_out_the_usual_choice_is_made() -> None:
    """Every source is the same file: no example may stand in for another."""
    rows = [observed(warm(photo(1)), photo(t), warm(photo(t))) for t in range(2, 7)]
    fitted: Any = LOOK.fit(rows)
    assert not len(fitted._choice.usual)
    assert error(fitted, "warm") < 8


# --- the parts --------------------------------------------------------------------------------------------------------


def test_lab_is_the_one_of_the_other_workers() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (500, 3), dtype=np.uint8)
    assert np.abs(basis.lab_of(levels[None])[0] - to_space(levels.astype(np.float32), "lab")).max() < 1e-3


def test_a_map_fitted_to_a_pair_reproduces_it() -> None:
    for look in STYLES.values():
        target, truth, _ = learned_look._colors(LOOK.observe(photo(1), photo(2), look(photo(2))))
        gram, moment, square = basis.sums_of(target, truth)
        sums = basis.Sums(gram[None], moment[None], np.array([square]))
        own = sums.maps(0.03)
        changed = basis.map_table(own[0]).apply(photo(2))
        assert np.abs(changed.astype(float) - look(photo(2))).mean() < 2
        assert np.abs(sums.rough_maps(0.03) - own).max() < 1e-3
        # what the sums say of the error is what the pixels say, save that these are rounded
        moved = basis.lab_of(basis.moved_levels(target, basis.basis_values(target), own))[0]
        error = ((moved - basis.lab_of(truth[None])[0]) ** 2).sum(axis=1).mean()
        assert sums.errors(own)[0] == pytest.approx(error, abs=1.0)


def test_linear_systems_are_solved() -> None:
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(40, 9, 9))
    matrices, right = roots @ roots.swapaxes(1, 2) + np.eye(9), rng.normal(size=(40, 9, 2))
    result = basis.solved(np.concatenate([matrices, right], axis=2))
    assert np.allclose(result, np.linalg.solve(matrices, right), atol=1e-9)
    assert np.array_equal(result[17:18], basis.solved(np.concatenate([matrices, right], axis=2)[17:18]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_features_depend_on_colours_alone_not_on_their_order_or_company(seed: int, company: int) -> None:
    rng = np.random.default_rng(seed)
    levels = picture(rng.integers(0, 256, (company, 1000, 3)) // rng.integers(1, 9))
    features = looks.look_features(basis.lab_of(levels))
    assert features.shape == (company, 54)
    assert np.isfinite(features).all()
    mixed = levels[-1:, rng.permutation(1000)]
    assert np.abs(looks.look_features(basis.lab_of(mixed)) - features[-1:]).max() <= 1 / 64
    assert np.array_equal(looks.look_features(basis.lab_of(levels[-1:])), features[-1:])


def test_examples_with_the_same_map_share_their_weight() -> None:
    rows = examples(9)
    sums, alike = learned_look._summed(learned_look._examples_of(rows))
    assert np.allclose(alike.sum(axis=1), 1, atol=1e-4)
    same = np.arange(9)[:, None] % 3 == np.arange(9) % 3
    assert alike[same].mean() > 5 * alike[~same].mean()
    assert len(sums.gram) == 9
