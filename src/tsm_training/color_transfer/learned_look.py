"""The worker that learns looks from images before and after.

A fit solves one locally weighted ridge regression per request: what an example says about colours counts the more, the
likelier it is that the request's source was made with the example's look. How much that should depend on the distance
between looks, and how far maps are drawn to the identity, is chosen on the examples themselves, each left out in its
turn together with whatever shows the same image.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast

import attrs
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.color_transfer import looks
from tsm_training.color_transfer.basis import Sums, basis_values, lab_of, map_table, on_grid, reduced, sums_of
from tsm_training.color_transfer.clusters import LookCluster, clustered, joining
from tsm_training.color_transfer.gains import bounds_for
from tsm_training.color_transfer.lattice import applied
from tsm_training.color_transfer.looks import FEATURES, SAMPLE, SHARE_BITS, Looks, Recognition
from tsm_training.color_transfer.spaces import CHANNELS, Colors, Float64
from tsm_training.color_transfer.statistics import sample_pixels
from tsm_training.forking import guard_forks
from tsm_training.images import ColorTable
from tsm_training.workers import MOST_OBSERVATIONS, Observation, TrainableWorker, Worker, learned_version, shared

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_FORMAT: Final = b"\x01"
_OBSERVATION_SIZE: Final = len(_FORMAT) + 3 * SAMPLE * CHANNELS

_MOST_PICTURES: Final = 24
_MOST_REQUESTS: Final = 150

_FOLDS: Final = 5
_FEWEST_PICTURES: Final = 3
"""With fewer target images nothing can be compared without the image of nearest content."""

_TEMPERATURES: Final = (0.5, 1.0, 2.0, 4.0, 10.0, 40.0, 160.0)
_STRENGTHS: Final = (0.01, 0.03, 0.1, 0.3)
_USUAL_TEMPERATURE: Final = 4.0
_USUAL_STRENGTH: Final = 0.03
"""What is used where nothing can be left out, and for the map of a single example."""

_STATE: Final = struct.Struct("<5s32sddII?")
_STATE_MARK: Final = b"look\x01"

_FEW_COLORS: Final = 250
"""So many of the target's colours tell which examples show them: a multiple of 25."""

_TABLES_AND_BANDS: Final = 12 * 1024**2


# --- what is computed of observations ---------------------------------------------------------------------------------


class _Memory:
    """Remembers what was computed last, so that the fits of one training, which share most examples, share the work."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[Hashable, Any] = {}
        self._lock = guard_forks(threading.Lock())

    def recall(self, keys: Sequence[K], compute: Callable[[Sequence[K]], Sequence[V]]) -> list[V]:
        """Return the value of each key; `compute` gets, all at once, those keys that are not remembered."""
        with self._lock:
            found = {key: self._values[key] for key in keys if key in self._values}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing:
            found.update(zip(missing, compute(missing), strict=True))
        with self._lock:
            for key, value in found.items():  # the latest ones last
                self._values.pop(key, None)
                self._values[key] = value
            for old in list(itertools.islice(self._values, max(0, len(self._values) - self._most))):
                del self._values[old]
        return [found[key] for key in keys]


_examples: Final = _Memory(1_500)
_appearances: Final = _Memory(1_500)
_renderings: Final = _Memory(64_000)
"""About 30, 2 and 30 MB when they are full: room for as many examples as a fit uses, and for those that come next."""


class _Example(NamedTuple):
    """What an observation says about maps."""

    key: bytes
    gram: npt.NDArray[np.float32]  # exact, for sums are multiples of 2^-10
    moment: Float64
    square: float
    map: Float64
    """The map of this example alone: 84×3."""


def _colors(data: bytes) -> Image:
    """Return the colours of target, truth and source (uint8, 3×1000×3) that an observation holds."""
    if len(data) != _OBSERVATION_SIZE or not data.startswith(_FORMAT):
        raise ValueError(f"not what a learned look observes: {len(data)} bytes that begin with {data[:1]!r}")
    return np.frombuffer(data, np.uint8, offset=len(_FORMAT)).reshape(3, SAMPLE, CHANNELS)


def _examples_of(observations: Sequence[Observation]) -> list[_Example]:
    data = {hashlib.sha256(o.data).digest(): o.data for o in observations}

    def compute(keys: Sequence[bytes]) -> list[_Example]:
        sums = [sums_of(*_colors(data[key])[:2]) for key in keys]
        grams, moments, squares = zip(*sums, strict=True)
        maps = Sums(np.stack(grams), np.stack(moments), np.array(squares)).maps(_USUAL_STRENGTH)
        short = [gram.astype(np.float32) for gram in grams]
        return [_Example(*fields) for fields in zip(keys, short, moments, squares, maps, strict=True)]

    return _examples.recall([hashlib.sha256(o.data).digest() for o in observations], compute)


def _appearances_of(observations: Sequence[Observation], examples: Sequence[_Example]) -> tuple[Float64, Float64]:
    """Return the features of the sources and the misfits of the truths: n×54 each."""
    known = {e.key: (_colors(o.data), e.map) for o, e in zip(observations, examples, strict=True)}

    def compute(keys: Sequence[bytes]) -> list[tuple[Float64, Float64]]:
        return [_appearance(*known[key]) for key in keys]

    sources, misfits = zip(*_appearances.recall([e.key for e in examples], compute), strict=True)
    return np.stack(sources), np.stack(misfits)


def _appearance(colors: Image, own_map: Float64) -> tuple[Float64, Float64]:
    target, truth, source = colors
    of_truth, of_source = looks.look_features(lab_of(np.stack([truth, source])))
    return of_source, of_truth - looks.rendered_features(target, own_map[None])[0]


def _renderings_of(observations: Sequence[Observation], examples: Sequence[_Example]) -> Float64:
    """Return the features (n×k×54) of every example's map on the target images, or on 24 of them."""
    targets = {o.target_digest: _colors(o.data)[0] for o in observations}
    maps = {e.key: e.map for e in examples}
    columns = []
    for digest in sorted(targets)[:_MOST_PICTURES]:
        sample = targets[digest]

        def compute(keys: Sequence[tuple[bytes, bytes]], sample: Image = sample) -> list[Float64]:
            return list(looks.rendered_features(sample, np.stack([maps[key] for _, key in keys])))

        picture = hashlib.sha256(sample).digest()
        columns.append(np.stack(_renderings.recall([(picture, e.key) for e in examples], compute)))
    return np.stack(columns, axis=1)


# --- the fit ----------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False, repr=False)
class _Choice:
    """How a fitted worker weighs its examples."""

    temperature: float = _USUAL_TEMPERATURE
    strength: float = _USUAL_STRENGTH
    usual: Float64 = attrs.field(factory=lambda: np.empty(0))
    """How far the sources of the training are from the nearest example, each one left out: rising."""


def _chosen(observations: Sequence[Observation], sums: Sums, alike: Float64, known: Looks) -> _Choice:
    """Choose on the first 150 examples, each of them answered by those that show none of its images.

    For a request left out are the examples with the same target, with the same source, and those whose source is
    nearest in content to the same target image; that image takes no part in the request's distances either. Without
    this, training requests would look far more familiar than new photographs do.
    """
    pictures = known.renderings.shape[1]
    if pictures < _FEWEST_PICTURES:
        return _Choice()
    nearest = known.nearest_pictures()
    kinds = ([o.target_digest for o in observations], [o.source_digest for o in observations], nearest)
    codes = np.stack([np.unique(kind, return_inverse=True)[1] for kind in kinds])
    blocked = (codes[:, :_MOST_REQUESTS, None] == codes[:, None]).any(axis=0)
    distances = np.empty(blocked.shape)
    fold = np.arange(pictures) % _FOLDS
    for k in np.unique(fold[nearest[:_MOST_REQUESTS]]):
        rows = np.flatnonzero(fold[nearest[:_MOST_REQUESTS]] == k)
        distances[rows] = known.recognition(fold != k).distances(known.sources[rows])
    asked = np.flatnonzero(~blocked.all(axis=1))
    if not len(asked):
        return _Choice()
    blocked, distances, wanted = blocked[asked], distances[asked], sums.of(asked)
    errors = {}
    for temperature in _TEMPERATURES:
        weighted = sums.weighted(looks.shares(distances, temperature, alike, blocked))
        for strength in _STRENGTHS:
            error = np.sqrt(wanted.errors(weighted.rough_maps(strength))).mean()
            errors[temperature, strength] = round(float(error), 6)
    usual = np.sort(np.where(blocked, np.inf, distances).min(axis=1)).astype(np.float32)
    temperature, strength = min(errors, key=errors.__getitem__)
    return _Choice(temperature, strength, usual.astype(np.float64))


@attrs.frozen(eq=False, repr=False)
class _FittedLook(Worker):
    """Answers requests with what `LearnedLook` learned."""

    worker_id: str
    version: str
    _digests: tuple[str, ...]
    _groups: tuple[str | None, ...]
    _sums: Sums
    _alike: Float64
    _recognition: Recognition | None
    """None where all examples have the same target: then nothing tells looks from content."""
    _choice: _Choice

    reads_only = True
    """Inputs are never written into."""

    def working_memory(self, source_pixels: int, target_pixels: int, /) -> int:
        """Return how many bytes `process` takes: an image of the target's size, and tables of fixed sizes."""
        return CHANNELS * target_pixels + _TABLES_AND_BANDS

    def knows_group(self, group: str) -> bool:
        """Tell whether a training example has this group."""
        return group in self._groups

    def process(self, data: Mapping[str, Image]) -> Image:
        """Give the target the look that the source has.

        Args:
            data: ``data["source"]`` and ``data["target"]``, each ``uint8``, H×W×3, BGR; sizes may differ. A text
                ``data["group"]`` names the look; one that no example has counts for nothing.

        Returns:
            A new image, ``uint8``, BGR, of the target's size.
        """
        return applied(self.get_color_table(data), data)

    def get_color_table(self, data: Mapping[str, Image]) -> ColorTable:
        """Return where each colour goes.

        Args:
            data: What `process` gets.
        """
        weights = self._weights(data)
        coefficients = self._sums.weighted(weights).maps(self._strength(data, weights))[0]
        target = data["target"]
        share = bounds_for(data).share_of(lambda colors: cast("Colors", basis_values(colors) @ coefficients), target)
        if share < 1:
            values = basis_values(sample_pixels(target, SAMPLE).astype(np.uint8)).mean(axis=0)
            coefficients = reduced(coefficients, values, share)
        return map_table(coefficients)

    def get_familiarity(self, data: Mapping[str, Image], result: Image) -> float:
        """Say how familiar the source's look is, in [0, 1].

        It is twice the share of the training's sources that were at least as far from their nearest example, each
        left out with all that shows its images, and at most 1: half of the training's own looks are fully familiar,
        and 0.2 is reached by a tenth of them only. A known group counts as 1. It is 0.5 where nothing can be compared.

        Args:
            data: What `process` got.
            result: What `process` gave; it does not matter.
        """
        usual = self._choice.usual
        if self._group_of(data) is not None:
            return 1.0
        if not len(usual):
            return 0.5
        nearest = float(self._distances(data).min())
        # The request itself counts as one, but less the farther it lies beyond all others.
        as_far = np.count_nonzero(usual >= nearest) + (usual[-1] / nearest if nearest > usual[-1] else 1.0)
        return float(min(1.0, 2 * as_far / (len(usual) + 1)))

    def get_weights(self, data: Mapping[str, Image]) -> dict[str, float]:
        """Return how much each training example counts for a request, by digest: shares that add up to about 1.

        Args:
            data: What `process` gets.
        """
        return dict(zip(self._digests, self._weights(data)[0].tolist(), strict=True))

    def get_influence(self, data: Mapping[str, Image], result: Image) -> dict[str, float]:
        """Return each training example's share of what is known about the answer's map, by digest: at most 1 in all.

        The map's posterior precision is A = λI + Σ wᵢGᵢ, and tr(A⁻¹G) its variance on the colours of the target, whose
        means are G. An example's share is tr(A⁻¹GA⁻¹ wᵢGᵢ) / tr(A⁻¹G): by how many per cent that variance falls when
        the example's weight rises by one. What the prior's λI has of it makes up the sum to 1. So it counts how much
        the source's look is like the example's, and how much of the target's colours the example shows where others
        do not. (Such shares are the leverages of Hoaglin and Welsch, The American Statistician 32(1), 1978, seen from
        the new point.)

        Args:
            data: What `process` got.
            result: What `process` gave; it does not matter.
        """
        weights = self._weights(data)
        sample = sample_pixels(data["target"], _FEW_COLORS).astype(np.uint8)
        parts, variance = self._sums.information(weights[0], self._strength(data, weights), sums_of(sample, sample)[0])
        return dict(zip(self._digests, (parts / variance).tolist(), strict=True))

    def state(self) -> bytes:
        """Return what `LearnedLook.dump_fit` does."""
        choice, recognition = self._choice, self._recognition
        numbers = (choice.temperature, choice.strength, len(self._digests), len(choice.usual), recognition is not None)
        parts = [choice.usual, *((recognition.means, recognition.precision) if recognition else ())]
        body = _STATE.pack(_STATE_MARK, self.version.encode(), *numbers)
        body += b"".join(part.astype("<f4").tobytes() for part in parts)
        return hashlib.sha256(body).digest() + body

    def _strength(self, data: Mapping[str, Image], weights: Float64) -> float:
        # A group of one example is drawn to the identity as a mixture is; more examples are more evidence.
        members = 1 if self._group_of(data) is None else np.count_nonzero(weights)
        return max(self._choice.strength / members, _STRENGTHS[0])

    def _weights(self, data: Mapping[str, Image]) -> Float64:
        return shared(data, ("learned_look.weights", self.version), lambda: self._compute_weights(data))

    def _compute_weights(self, data: Mapping[str, Image]) -> Float64:
        group = self._group_of(data)
        if group is not None:
            members = np.array([[own == group for own in self._groups]], np.float64)
            return on_grid(members / members.sum(), SHARE_BITS)
        distances = self._distances(data)
        return looks.shares(distances, self._choice.temperature, self._alike, np.zeros(distances.shape, np.bool_))

    def _group_of(self, data: Mapping[str, Image]) -> str | None:
        group = cast("Mapping[str, object]", data).get("group")
        return group if isinstance(group, str) and self.knows_group(group) else None

    def _distances(self, data: Mapping[str, Image]) -> Float64:
        """Return how far the source is from each example, or 0 where nothing can tell: 1×n."""

        def compute() -> Float64:
            sample = sample_pixels(data["source"], SAMPLE).astype(np.uint8)
            features = looks.look_features(lab_of(sample[None]))
            return self._recognition.distances(features) if self._recognition else np.zeros((1, len(self._digests)))

        return shared(data, ("learned_look.distances", self.version), compute)


@attrs.frozen
class LearnedLook(TrainableWorker):
    """Learns looks from examples: which colour becomes which, and how images with a look differ from others.

    A request's answer is a smooth map of colours, fitted to those training examples whose look its source most likely
    has (locally weighted ridge regression); colours that no such example shows stay as they are. The source's look is
    recognised by the statistics of its colours. Where a request names its group, and training examples have it, they
    alone count. What it observes and stores is a sample of 1000 colours of each image, without their places.

    >>> LearnedLook().worker_id
    'learned_look'
    """

    worker_id = "learned_look"

    version = "2"
    """Counts the changes of results that the class's own source does not show."""

    reads_only = True
    """Inputs are never written into."""

    is_color_map = True
    """A fitted worker changes each pixel by its colour alone."""

    def observe(self, source: Image, target: Image, ground_truth: Image) -> bytes:
        """Return the colours of 1000 pixels of the target, of the truth at the same places, and of the source.

        Args:
            source: Gives the look: uint8, H×W×3, BGR.
            target: Is changed: uint8, H×W×3, BGR; of the ground truth's size.
            ground_truth: The wanted result: uint8, H×W×3, BGR.

        Returns:
            A byte with the number of the format and 3 times 1000×3 bytes, uint8, BGR: 9001 bytes.
        """
        samples = (sample_pixels(picture, SAMPLE).astype(np.uint8) for picture in (target, ground_truth, source))
        return _FORMAT + b"".join(sample.tobytes() for sample in samples)

    def fit(self, observations: Sequence[Observation]) -> Worker:
        """Return a frozen worker that has learned the looks of these observations, whatever their order.

        Raises:
            ValueError: an observation is not what `observe` returns.
        """
        rows = sorted(observations, key=lambda o: o.digest)
        examples = _examples_of(rows)
        sums, alike = _summed(examples)
        known = Looks(*_appearances_of(rows, examples), _renderings_of(rows, examples))
        recognition = known.recognition() if known.renderings.shape[1] > 1 else None
        return _fitted(rows, (sums, alike), recognition, _chosen(rows, sums, alike, known))

    def find_looks(self, observations: Sequence[Observation]) -> list[LookCluster]:
        """Return the looks among observations, the greatest first, each in one; unlike ones are looks of one member.

        At most 1,000, the first in order of digest, are compared with each other; those behind join the look whose map
        leaves the smallest error on them, or stay alone.

        Args:
            observations: What `observe` returned, with different digests; their groups do not matter.

        Raises:
            ValueError: an observation is not what `observe` returns.
        """
        order = sorted(range(len(observations)), key=lambda place: observations[place].digest)
        first, *others = (order[k : k + MOST_OBSERVATIONS] for k in range(0, max(1, len(order)), MOST_OBSERVATIONS))
        if not first:
            return []
        sums, maps = _sums_and_maps(_examples_of([observations[place] for place in first]))
        found, pooled = clustered(sums, maps)
        members = [[first[row] for row in look.members] for look in found]
        alone: list[int] = []
        for places in others:
            sums, _ = _sums_and_maps(_examples_of([observations[place] for place in places]))
            for place, k in zip(places, joining(sums, pooled), strict=True):
                (alone if k is None else members[k]).append(place)
        grown = [
            LookCluster(tuple(sorted(places)), first[look.centre], look.agreement)
            for look, places in zip(found, members, strict=True)
        ]
        grown += [LookCluster((place,), place, 1.0) for place in alone]
        return sorted(grown, key=lambda look: (-len(look.members), look.members))

    def dump_fit(self, fitted: Worker) -> bytes:
        """Return what takes long to learn, about 220 bytes per example: no colours, which the observations hold.

        It is a digest of the rest, a header (`_STATE`), then float32: the usual distances, mean features (n×54) and
        precision (54×54).
        """
        return cast("_FittedLook", fitted).state()

    def load_fit(self, state: bytes, observations: Sequence[Observation]) -> Worker:
        """Return the worker whose state this is, the same to the last bit.

        Raises:
            ValueError: it is no such state, or not one of these observations.
        """
        rows = sorted(observations, key=lambda o: o.digest)
        body = state[hashlib.sha256().digest_size :]
        if len(body) < _STATE.size or state != hashlib.sha256(body).digest() + body:
            raise ValueError(f"no whole state of a learned look: {len(state)} bytes")
        mark, version, temperature, strength, n, usual, can_recognise = _STATE.unpack_from(body)
        rest = body[_STATE.size :]
        size = 4 * (usual + (n + FEATURES) * FEATURES * can_recognise)
        if (mark, version, n, len(rest)) != (_STATE_MARK, learned_version(rows).encode(), len(rows), size):
            raise ValueError("no state of a learned look on these observations")
        values = np.frombuffer(rest, "<f4").astype(np.float64)
        if not (np.isfinite(values).all() and 0 < temperature < np.inf and 0 < strength < np.inf):
            raise ValueError("a state of a learned look with numbers that are out of range")
        means, precision = np.split(values[usual:], [-(FEATURES**2)])
        recognition = Recognition(means.reshape(n, -1), precision.reshape(FEATURES, -1)) if can_recognise else None
        return _fitted(rows, _summed(_examples_of(rows)), recognition, _Choice(temperature, strength, values[:usual]))


def _fitted(
    rows: Sequence[Observation], summed: tuple[Sums, Float64], recognition: Recognition | None, choice: _Choice
) -> Worker:
    digests, groups = tuple(o.digest for o in rows), tuple(o.group for o in rows)
    return _FittedLook(LearnedLook.worker_id, learned_version(rows), digests, groups, *summed, recognition, choice)


def _summed(examples: Sequence[_Example]) -> tuple[Sums, Float64]:
    """Return the sums of all examples, and how their maps agree (see `looks.agreement`)."""
    sums, maps = _sums_and_maps(examples)
    return sums, looks.agreement(sums, maps)


def _sums_and_maps(examples: Sequence[_Example]) -> tuple[Sums, Float64]:
    names = ("gram", "moment", "square", "map")
    *parts, maps = (np.stack([getattr(e, name) for e in examples]).astype(np.float64) for name in names)
    return Sums(*parts), maps
