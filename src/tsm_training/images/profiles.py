"""From the colours that a file means to those of sRGB: ICC profiles, and the colour chunks of PNG.

Profiles that consist of three curves and a matrix, or of one curve for grey, are converted here: each channel through
its curve to light, the three through one matrix to the light of sRGB's primaries, and back through sRGB's curve.
Between the steps are 16-bit numbers. White is white (relative colorimetric; profiles give their colours for D50 light,
and sRGB's primaries are adapted to it with the Bradford matrix), and black is not moved.

What lies outside sRGB is clipped in linear light, each channel for itself. So do LittleCMS and browsers with such
profiles: the picture is the one that people see; colours inside sRGB do not depend on how far others are outside, so
that two pictures of one scene stay comparable; and greys stay grey. Its price: very saturated colours keep their
hue only roughly, and differences among them are lost.

Profiles with tables, and CMYK, need LittleCMS, by way of Pillow (``pip install "tsm_training[photos]"``).

Sources: ICC.1:2022 (curves 10.6 and 10.18, matrix F.3); ITU-T H.273 (cICP); the PNG specification, third edition;
IEC 61966-2-1 (sRGB).
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import attrs
import cv2
import numpy as np
import numpy.typing as npt

from tsm_training.arrays import Image
from tsm_training.images.header import ColorTags, HeaderError

Pixels: TypeAlias = npt.NDArray[Any]
"""uint8 or uint16."""

_Floats: TypeAlias = npt.NDArray[np.float64]
_Curve: TypeAlias = Callable[[_Floats], _Floats]
"""From what is stored, in [0, 1], to light."""

_Numbers: TypeAlias = tuple[float, ...]

_LEVELS: Final = 255
_FULL: Final = 65535
"""The greatest 16-bit number, which stands for full light."""

_BAND: Final = 1 << 17
"""Pixels that are converted at a time, so that a large picture takes no more memory than a small one."""


@attrs.frozen(eq=False)
class Conversion:
    """How the pixels of a file become sRGB.

    ``profile`` names the colour space that the file states, None where it states none that can be used; ``method`` is
    how its colours are converted, ``none`` where they need not be; ``fault`` says why a statement counts as absent.
    """

    profile: str | None = None
    method: Literal["none", "matrix", "littlecms", "inks"] = "none"
    fault: str | None = None
    convert: Callable[[Pixels], Image] | None = attrs.field(default=None, repr=False)

    def apply(self, pixels: Pixels) -> Image:
        """Return pixels as sRGB, 8 bits per channel; 8-bit ones may be overwritten.

        Args:
            pixels: uint8 or uint16, H×W×3, BGR (grey: three equal channels); for a CMYK profile H×W×4, uint8, CMYK
                where 0 is no ink.

        Returns:
            uint8, H×W×3, BGR. 16 bits become 8 by rounding v / 257 to the nearest, after the conversion.
        """
        if self.convert is None:
            return np.asarray(
                pixels if pixels.dtype == np.uint8 else cv2.convertScaleAbs(pixels, alpha=1 / 257), np.uint8
            )
        is_reusable = pixels.dtype == np.uint8 and pixels.shape[2:] == (3,) and pixels.flags.writeable
        result = np.asarray(pixels, np.uint8) if is_reusable else np.empty((*pixels.shape[:2], 3), np.uint8)
        rows = max(1, _BAND // pixels.shape[1])
        for top in range(0, len(pixels), rows):
            result[top : top + rows] = self.convert(np.ascontiguousarray(pixels[top : top + rows]))
        return result


def conversion_of(colors: ColorTags, model: str) -> Conversion:
    """Return how the colours of a file become sRGB.

    Of several statements the first of this order counts: cICP, ICC profile, sRGB chunk, gAMA with cHRM.

    Args:
        colors: What the file says of its colours.
        model: Of its pixels: ``GRAY``, ``RGB`` or ``CMYK``.

    Raises:
        HeaderError: the colours are of a kind that is not read, or need LittleCMS, which is not there.
    """
    conversion = _conversion_of(colors, model) if colors != ColorTags() else _PLAIN
    if model == "CMYK" and conversion.convert is None:
        return attrs.evolve(conversion, method="inks", convert=_by_inks)
    return conversion


def _by_inks(pixels: Pixels) -> Image:
    """Return what CMYK inks leave of white, each its part: what people see who open a file without a profile."""
    light = 255 - pixels.astype(np.uint16)
    return np.asarray((light[:, :, 2::-1] * light[:, :, 3:] + 127) // 255, np.uint8)


_PLAIN: Final = Conversion()


class _DamagedError(Exception):
    """Why a colour space cannot be made sense of."""


@functools.lru_cache(4)
def _conversion_of(colors: ColorTags, model: str) -> Conversion:
    try:
        if colors.cicp:
            return _from_cicp(colors.cicp)
        if colors.fault:
            raise _DamagedError(colors.fault)
        if colors.icc:
            return _from_icc(colors.icc, model)
        if colors.is_srgb:
            return Conversion("sRGB")
        return _from_gamma(colors.gama, colors.chrm) if colors.gama else _PLAIN
    except _DamagedError as error:
        return Conversion(fault=str(error))


# --- colours and light ----------------------------------------------------------------------------------------------

_D50: Final = np.array([0.9642, 1.0, 0.8249])
_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D65: Final = (0.3127, 0.3290)
_PRIMARIES: Final[Mapping[int, tuple[str, _Numbers]]] = {
    **dict.fromkeys((1, 2), ("Rec. 709", (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06))),
    9: ("Rec. 2020", (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    12: ("Display P3", (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
}
"""Name and xy of white, red, green and blue, by their number in cICP, where 2 leaves it open."""

_SRGB_PRIMARIES: Final = _PRIMARIES[1][1]


def _matrix(primaries: _Numbers) -> _Floats:
    """Return what turns light of primaries (xy of white, red, green and blue) into XYZ for D50: 3×3."""
    x, y = np.array(primaries, np.float64).reshape(4, 2).T
    if not (y > 0).all():
        raise _DamagedError("its chromaticities are no colours")
    white, *colours = np.stack([x / y, np.ones(4), (1 - x - y) / y]).T
    try:
        unadapted = np.transpose(colours) * np.linalg.solve(np.transpose(colours), white)
    except np.linalg.LinAlgError:
        raise _DamagedError("its chromaticities lie on a line") from None
    return np.asarray(_adaptation(white) @ unadapted)


def _adaptation(white: _Floats) -> _Floats:
    """Return what turns XYZ for a white into XYZ for D50: 3×3."""
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.asarray(np.linalg.solve(_BRADFORD, scale[:, np.newaxis] * _BRADFORD), np.float64)


def _formula(*parameters: float) -> _Curve:
    """Return the curve (a·v + b)^g + e from d on, and c·v + f below: function 4 of ICC profiles, in its order."""
    g, a, b, c, d, e, f = (*parameters, *(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)[len(parameters) :])
    return lambda v: np.where(v >= d, np.maximum(a * v + b, 0.0) ** g + e, c * v + f)


_SRGB_PARAMETERS: Final = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_SRGB_CURVE: Final = _formula(*_SRGB_PARAMETERS)
_REC_709_CURVE: Final = _formula(1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_TRANSFERS: Final = {
    **dict.fromkeys((1, 6, 14, 15), _REC_709_CURVE),
    4: _formula(2.2),
    5: _formula(2.8),
    8: _formula(1.0),
    **dict.fromkeys((2, 13), _SRGB_CURVE),
}
"""Curves by their number in cICP."""


_SRGB_TOE: Final = 0.0031308
"""The light below which sRGB is linear."""


@functools.cache
def _srgb_levels() -> npt.NDArray[np.uint8]:
    """Return the sRGB level of each amount of light: uint8, 65536."""
    light = np.arange(_FULL + 1) / _FULL
    encoded = np.where(light <= _SRGB_TOE, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * encoded), np.uint8)


@functools.cache
def _deep_tables_work() -> bool:
    """Tell whether this OpenCV looks up 16-bit numbers, which is twice as fast as NumPy."""
    try:
        found = cv2.LUT(np.full((1, 1, 3), 300, np.uint16), np.arange(_FULL + 1, dtype=np.uint16))
    except cv2.error:
        return False
    return bool((found == 300).all())  # noqa: PLR2004


def _look_up(pixels: Pixels, table: Pixels) -> Pixels:
    """Return the entries of a table (N, or N×3 for a table for each channel) at H×W×3 pixels."""
    if pixels.dtype == np.uint8 or (table.ndim == 1 and _deep_tables_work()):
        return np.asarray(cv2.LUT(pixels, table.reshape(len(table), 1, -1)), table.dtype)
    if table.ndim == 1:
        return table.take(pixels)
    return np.stack([table[:, channel].take(pixels[:, :, channel]) for channel in range(3)], axis=2)


def _by_matrix(name: str, to_xyz: _Floats, curves: tuple[_Curve, _Curve, _Curve]) -> Conversion:
    """Return the conversion for curves of red, green and blue and a matrix from light to XYZ for D50."""

    @functools.cache
    def light(top: int) -> npt.NDArray[np.uint16]:
        with np.errstate(all="ignore"):  # a damaged curve may give anything
            values = np.stack([curve(np.arange(top + 1) / top) for curve in curves[::-1]], axis=1)
        table = np.rint(_FULL * np.nan_to_num(np.clip(values, 0.0, 1.0))).astype(np.uint16)
        return table[:, 0] if (table == table[:, :1]).all() else table  # one table is looked up twice as fast

    white = np.broadcast_to(light(_LEVELS)[-1], 3)[::-1] / _FULL
    if not _WHITE[0] < to_xyz[1] @ white < _WHITE[1]:
        raise _DamagedError(f"white has no plausible brightness in {name}")
    black = np.broadcast_to(light(_LEVELS)[0], 3)[::-1] / _FULL
    if not (white > black).all():
        raise _DamagedError(f"white is no brighter than black in {name}")
    to_srgb = np.linalg.solve(_matrix(_SRGB_PRIMARIES), to_xyz)[::-1, ::-1]

    def convert(pixels: Pixels) -> Image:
        table = light(_LEVELS if pixels.dtype == np.uint8 else _FULL)
        mixed = cv2.transform(_look_up(pixels, table), to_srgb)  # which clips
        return np.asarray(_look_up(np.asarray(mixed, np.uint16), _srgb_levels()), np.uint8)

    return _unless_srgb(name, convert)


_WHITE: Final = (0.5, 2.0)
"""Between which amounts of light a profile's white lies, unless it is damaged."""


def _unless_srgb(name: str, convert: Callable[[Pixels], Image]) -> Conversion:
    """Return the conversion, or that none is needed because it changes nothing by more than a level."""
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).reshape(-1, 1, 3)
    probe = np.concatenate([grid, np.arange(256)[:, np.newaxis, np.newaxis].repeat(3, 2)]).astype(np.uint8)
    if np.abs(convert(probe).astype(int) - probe).max() <= 1:
        return Conversion(name)
    return Conversion(name, "matrix", convert=convert)


# --- what PNG says in chunks ----------------------------------------------------------------------------------------


def _from_cicp(content: bytes) -> Conversion:
    if len(content) != 4:  # noqa: PLR2004 - primaries, transfer, matrix, range
        raise _DamagedError(f"its cICP chunk has {len(content)} bytes")
    primaries, transfer, matrix, is_full = content
    _refuse_high_dynamic_range(transfer)
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS or matrix or is_full != 1:
        known = "full-range RGB of Rec. 709, Rec. 2020 or Display P3 with an SDR transfer function is expected"
        raise HeaderError(f"has a cICP chunk {content.hex(' ')}; {known}")
    name, chromaticities = _PRIMARIES[primaries]
    curve = _TRANSFERS[transfer]
    return _by_matrix(f"{name} (cICP {primaries}/{transfer})", _matrix(chromaticities), (curve, curve, curve))


def _refuse_high_dynamic_range(transfer: int) -> None:
    if name := {16: "PQ", 18: "HLG"}.get(transfer):
        raise HeaderError(f"is a high-dynamic-range picture ({name}); export it for SDR, as sRGB or Display P3")


def _from_gamma(gama: bytes, chrm: bytes) -> Conversion:
    if len(gama) != 4 or len(chrm) not in (0, 32):  # noqa: PLR2004
        raise _DamagedError("its gAMA or cHRM chunk has a wrong length")
    exponent = int.from_bytes(gama) / 100_000
    primaries = tuple(number / 100_000 for number in struct.unpack(">8I", chrm)) if chrm else _SRGB_PRIMARIES
    if not 0.1 < exponent < 10:  # noqa: PLR2004 - nothing shows pictures so
        raise _DamagedError(f"its gAMA chunk says {exponent:g}")
    curve = _formula(1 / exponent)
    if abs(exponent - 0.45455) < 0.0005 and np.allclose(primaries, _SRGB_PRIMARIES, atol=0.001):  # noqa: PLR2004
        curve = _SRGB_CURVE  # by the specification this is how sRGB is written for those who do not know its chunk
    name = f"gamma {1 / exponent:.3g} ({'gAMA and cHRM' if chrm else 'gAMA'})"
    return _by_matrix(name, _matrix(primaries), (curve, curve, curve))


# --- ICC profiles ---------------------------------------------------------------------------------------------------

_TABLES: Final = (b"A2B0", b"A2B1", b"D2B0", b"D2B1")
_NO_PICTURES: Final = (b"link", b"abst", b"nmcl")
"""Classes of profiles that do not say what the colours of a picture are."""


class _Profile(NamedTuple):
    """An ICC profile: the kind of its colours (4 letters), of what it turns them into, and the contents of its tags."""

    space: bytes
    connection: bytes
    tags: Mapping[bytes, bytes]

    @property
    def name(self) -> str:
        """What it calls itself, fit to be shown."""
        text = self.tags.get(b"desc", b"")
        if text[:4] == b"mluc" and len(text) >= 28:  # noqa: PLR2004
            length, start = struct.unpack_from(">II", text, 20)
            words = text[start : start + length].decode("utf-16-be", "replace")
        else:
            words = text[12:].partition(b"\0")[0].decode("latin-1")
        return "".join(letter for letter in words[:80] if letter.isprintable()).strip() or "a profile without a name"


def _parse_icc(icc: bytes) -> _Profile:
    try:
        (kind, space, connection, signature, count) = struct.unpack_from(">12x4s4s4s12x4s88xI", icc)
        entries = [struct.unpack_from(">4sII", icc, 132 + 12 * number) for number in range(min(count, len(icc) // 12))]
    except struct.error:
        raise _DamagedError("its profile ends early") from None
    if signature != b"acsp" or any(start + length > len(icc) for _tag, start, length in entries):
        raise _DamagedError("its profile is no ICC profile, or ends early")
    if kind in _NO_PICTURES:
        raise _DamagedError(f"its profile is of a class for other things than pictures ({kind.decode()})")
    return _Profile(space, connection, {tag: icc[start : start + length] for tag, start, length in entries})


def _from_icc(icc: bytes, model: str) -> Conversion:
    profile = _parse_icc(icc)
    space = profile.space.decode("latin-1").strip()
    if space != model and (space, model) != ("RGB", "GRAY"):
        raise _DamagedError(f"its profile is for {space} pictures, and this one is {model}")
    _refuse_high_dynamic_range(profile.tags.get(b"cicp", bytes(10)).ljust(10, b"\0")[9])
    if space == "CMYK" or any(tag in profile.tags for tag in _TABLES):
        return _by_littlecms(profile.name, icc, {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space])
    if space == "GRAY":
        curve = _parse_curve(profile.tags, b"kTRC")
        if profile.connection == b"Lab ":
            curve = _lightness_to_light(curve)
        return _by_matrix(profile.name, _matrix(_SRGB_PRIMARIES), (curve, curve, curve))
    red, green, blue = (_parse_curve(profile.tags, tag) for tag in (b"rTRC", b"gTRC", b"bTRC"))
    to_xyz = np.stack([_parse_xyz(profile.tags, tag) for tag in (b"rXYZ", b"gXYZ", b"bXYZ")], axis=1)
    return _by_matrix(profile.name, to_xyz, (red, green, blue))


def _lightness_to_light(lightness: _Curve) -> _Curve:
    """Return the light (Y) of a curve that gives CIE lightness / 100."""
    return lambda v: np.where((t := (100 * lightness(v) + 16) / 116) > 6 / 29, t**3, (t - 4 / 29) * 108 / 841)


def _parse_xyz(tags: Mapping[bytes, bytes], tag: bytes) -> _Floats:
    content = tags.get(tag, b"")
    if content[:4] != b"XYZ " or len(content) < 20:  # noqa: PLR2004
        raise _DamagedError(f"its profile has no usable {tag.decode()}")
    return np.array(struct.unpack_from(">3i", content, 8)) / 65536


def _parse_curve(tags: Mapping[bytes, bytes], tag: bytes) -> _Curve:
    content = tags.get(tag, b"")
    try:
        if content[:4] == b"curv":
            (count,) = struct.unpack_from(">I", content, 8)
            values = np.frombuffer(content, ">u2", count, 12).astype(np.float64)
            if count <= 1:
                return _formula(values[0] / 256 if count else 1.0)
            return lambda v: np.interp(v, np.linspace(0, 1, count), values / _FULL)
        if content[:4] == b"para":
            (function,) = struct.unpack_from(">H", content, 8)
            return _parse_formula([n / 65536 for n in struct.unpack_from(f">{_PARAMETERS[function]}i", content, 12)])
    except (struct.error, ValueError, IndexError, ZeroDivisionError):
        pass
    raise _DamagedError(f"its profile has no usable {tag.decode()}")


_PARAMETERS: Final = (1, 3, 4, 5, 7)
"""How many numbers each of the parametric functions has."""


def _parse_formula(numbers: list[float]) -> _Curve:
    match numbers:
        case [g, a, b]:
            return _formula(g, a, b, 0, -b / a)
        case [g, a, b, c]:
            return _formula(g, a, b, 0, -b / a, c, c)
        case _:
            return _formula(*numbers)


@functools.cache
def srgb_profile() -> bytes:
    """Return a small ICC profile (version 4) of sRGB."""

    def fixed(numbers: Iterable[float]) -> bytes:
        return b"".join(struct.pack(">i", round(65536 * number)) for number in numbers)

    def text(words: str) -> bytes:
        return struct.pack(">4s4xII4sII", b"mluc", 1, 12, b"enUS", 2 * len(words), 28) + words.encode("utf-16-be")

    colours = _matrix(_SRGB_PRIMARIES)
    white = np.array([_D65[0], _D65[1], 1 - sum(_D65)]) / _D65[1]
    contents = {b"desc": text("sRGB"), b"cprt": text("No rights reserved")}
    contents |= {b"wtpt": b"XYZ \0\0\0\0" + fixed(_D50), b"chad": b"sf32\0\0\0\0" + fixed(_adaptation(white).ravel())}
    for channel, letter in enumerate((b"r", b"g", b"b")):
        contents[letter + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(colours[:, channel])
        contents[letter + b"TRC"] = b"para\0\0\0\0\0\3\0\0" + fixed(_SRGB_PARAMETERS)
    places: dict[bytes, int] = {}
    table, body = struct.pack(">I", len(contents)), b""
    for tag, content in contents.items():
        place = places.setdefault(content, 132 + 12 * len(contents) + len(body))
        if place == 132 + 12 * len(contents) + len(body):
            body += content.ljust(-(-len(content) // 4) * 4, b"\0")
        table += struct.pack(">4sII", tag, place, len(content))
    head = struct.pack(">I4xI12s", 128 + len(table) + len(body), 0x04300000, b"mntrRGB XYZ ")
    head += struct.pack(">6H4s28x", 2026, 1, 1, 0, 0, 0, b"acsp") + fixed(_D50)
    return head.ljust(128, b"\0") + table + body


# --- LittleCMS ------------------------------------------------------------------------------------------------------


def _by_littlecms(name: str, icc: bytes, mode: str) -> Conversion:
    """Return the conversion by Pillow's LittleCMS: relative colorimetric, 8 bits, without black-point compensation."""
    try:
        from PIL import Image as PillowImage  # noqa: PLC0415 - an extra
        from PIL import ImageCms  # noqa: PLC0415

        srgb = ImageCms.createProfile("sRGB")
    except ImportError:
        needed = 'it needs LittleCMS: pip install "tsm_training[photos]"'
        raise HeaderError(f"has the colour profile {name!r}, which consists of tables; {needed}") from None
    try:
        source, intent = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform: Any = ImageCms.buildTransform(source, srgb, mode, "RGB", intent)
    except (ImageCms.PyCMSError, OSError) as error:
        raise _DamagedError(f"its profile cannot be used: {error}") from None

    def convert(pixels: Pixels) -> Image:
        shallow = _PLAIN.apply(pixels)
        channels = {"RGB": shallow[:, :, ::-1], "L": shallow[:, :, 0], "CMYK": shallow}[mode]
        picture = PillowImage.frombytes(mode, shallow.shape[1::-1], np.ascontiguousarray(channels).tobytes())
        return np.asarray(ImageCms.applyTransform(picture, transform))[:, :, ::-1]

    return Conversion(name, "littlecms", convert=convert)
