"""ICC profiles, made tag by tag, and what Pillow and LittleCMS make of a picture that has one."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageCms

from tsm_training.arrays import Image

D50 = (0.9642, 1.0, 0.8249)
D65_XY, D50_XY = (0.3127, 0.3290), (0.3457, 0.3585)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
REC_2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
PROPHOTO = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))


def fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + fixed(*numbers)


def sampled(values: Sequence[float]) -> bytes:
    numbers = b"".join(struct.pack(">H", round(65535 * value)) for value in values)
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + numbers


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * exponent))


def parametric(function: int, *numbers: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", function, 0) + fixed(*numbers)


STRAIGHT = sampled([])
SRGB_CURVE = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
REC_709_CURVE = parametric(3, 1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)


def words(text: str, version: int = 2) -> bytes:
    if version == 2:
        return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text.encode("latin-1") + bytes(79)
    encoded = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded


def profile(
    tags: Mapping[bytes, bytes],
    *,
    space: bytes = b"RGB ",
    connection: bytes = b"XYZ ",
    kind: bytes = b"mntr",
    version: int = 2,
    name: str = "a test",
) -> bytes:
    every = {b"desc": words(name, version), b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(*D50), **tags}
    table, body = struct.pack(">I", len(every)), b""
    for tag, content in every.items():
        table += struct.pack(">4sII", tag, 132 + 12 * len(every) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xBB2x4s4s4s", 128 + len(table) + len(body), version, 0x10, kind, space, connection)
    head += struct.pack(">6H4s28x", 2020, 1, 1, 0, 0, 0, b"acsp") + fixed(*D50)
    return head.ljust(128, b"\0") + table + body


def colorants(primaries: Sequence[tuple[float, float]], white: tuple[float, float] = D65_XY) -> npt.NDArray[np.float64]:
    """Return XYZ of red, green and blue in columns, adapted from their white to D50 with the Bradford matrix."""
    columns = [np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in (*primaries, white)]
    unscaled, light = np.stack(columns[:3], axis=1), columns[3]
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    cones = np.diag((bradford @ np.array(D50)) / (bradford @ light))
    return np.asarray(np.linalg.inv(bradford) @ cones @ bradford @ (unscaled * np.linalg.solve(unscaled, light)))


def rgb_profile(
    primaries: Sequence[tuple[float, float]],
    *curves: bytes,
    white: tuple[float, float] = D65_XY,
    version: int = 2,
    name: str = "a test",
    more: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """Return a profile of three primaries and one curve, or of three: red, green, blue."""
    matrix = colorants(primaries, white)
    red, green, blue = curves * (4 - len(curves)) if len(curves) == 1 else curves
    tags = {tag: xyz(*matrix[:, number]) for number, tag in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= {b"rTRC": red, b"gTRC": green, b"bTRC": blue}
    return profile(tags | dict(more or {}), version=version, name=name)


DISPLAY_P3 = rgb_profile(P3, SRGB_CURVE, version=4, name="Display P3")
ADOBE_RGB = rgb_profile(ADOBE, gamma(563 / 256), name="Adobe RGB (1998)")
PROPHOTO_RGB = rgb_profile(PROPHOTO, gamma(1.8), white=D50_XY, name="ProPhoto RGB")
REC_2020_RGB = rgb_profile(REC_2020, REC_709_CURVE, version=4, name="Rec. 2020")
SRGB_IEC = rgb_profile(
    SRGB,
    sampled([v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in np.linspace(0, 1, 1024)]),
    name="sRGB IEC61966-2.1",
)
GREY_22 = profile({b"kTRC": gamma(2.2)}, space=b"GRAY", name="Grey gamma 2.2")


def table_profile(space: bytes, channels: int, *, name: str = "a table") -> bytes:
    """Return a profile whose colours are a table of 2 entries a channel: channel by channel less light, or more."""
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * channels, indexing="ij"), -1).reshape(-1, channels)
    lightness = 1 - corners.mean(axis=1) if space == b"CMYK" else corners.mean(axis=1)
    lab = np.stack([lightness, 0.5 + 0.1 * (corners[:, 0] - 0.5), 0.5 - 0.2 * (corners[:, 1 % channels] - 0.5)], axis=1)
    head = b"mft2\0\0\0\0" + bytes((channels, 3, 2, 0)) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">HH", 2, 2)
    straight = struct.pack(">HH", 0, 65535)
    entries = np.rint(lab * 65280).astype(">u2").tobytes()
    table = head + straight * channels + entries + straight * 3
    return profile({b"A2B0": table}, space=space, connection=b"Lab ", kind=b"prtr", name=name)


def managed(file: Path | bytes) -> Image:
    """Return a picture file as Pillow and LittleCMS show it in sRGB, relative colorimetric: uint8, H×W×3, BGR."""
    opened = Pillow.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    icc = opened.info.get("icc_profile")
    if icc is None:
        return np.asarray(opened.convert("RGB"))[:, :, ::-1]
    space = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    if space.profile.xcolor_space == "RGB " and opened.mode != "RGB":
        opened = opened.convert("RGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    shown = ImageCms.profileToProfile(opened, space, ImageCms.createProfile("sRGB"), intent, "RGB")
    assert shown is not None
    return np.asarray(shown)[:, :, ::-1]
