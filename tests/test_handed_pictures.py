"""Pictures that are no files: arrays in either order of channels, and images of Pillow."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from pictures import BGR, GREY, HALF_CLEAR, PALETTE, RGB, oriented, saved, with_alpha
from support import manager_with, pool_of, save, save_triple
from tsm_training import BayesianWeightLearner, FunctionWorker, InMemoryStore, Prediction, TrainingManager
from tsm_training.arrays import Image
from tsm_training.errors import ImageError, ImageFormatError, InvalidArgumentError, MissingExtraError
from tsm_training.images import ImageLimits, picture_and_exif, read_image

LIMITS = ImageLimits()


@pytest.fixture
def manager() -> TrainingManager:
    same = FunctionWorker("same", lambda _s, t: t)
    return TrainingManager(pool_of(same), BayesianWeightLearner(), storage=InMemoryStore())


def taken(value: Any, color: Any = "bgr") -> Image:
    return picture_and_exif(value, "target", color, LIMITS)[0]


def test_a_prediction_takes_arrays_in_either_order_and_images_of_pillow_and_files(
    manager: TrainingManager, tmp_path: Path
) -> None:
    path = save(tmp_path / "target.png", BGR)
    answers = [
        manager.predict(BGR, BGR),
        manager.predict(BGR[..., ::-1], BGR[..., ::-1], color="rgb"),
        manager.predict(RGB, RGB),
        manager.predict(RGB, path, color="rgb"),  # only arrays have an order that must be told
        manager.training_engine.predict(path, RGB),
    ]
    for answer in answers:
        assert np.array_equal(answer.image, BGR)
        assert answer.image.flags.c_contiguous


def test_an_answer_comes_as_rgb_and_as_an_image_of_pillow(manager: TrainingManager) -> None:
    answer = manager.predict(BGR, BGR)
    assert np.array_equal(answer.rgb, BGR[..., ::-1])
    picture = answer.to_pillow()
    assert picture.mode == "RGB"
    assert picture.tobytes() == RGB.tobytes()
    assert np.array_equal(manager.predict(picture, picture).image, answer.image)


def test_without_pillow_an_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r'Prediction.to_pillow .*pip install "tsm_training\[photos\]"'):
        Prediction(BGR, {}, {}).to_pillow()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_of_pillow_is_turned_as_its_file_would_be(tmp_path: Path, orientation: int) -> None:
    file = tmp_path / "turned.jpg"
    file.write_bytes(saved("JPEG", exif=oriented(orientation)))
    with PIL.Image.open(file) as picture:
        assert np.array_equal(taken(picture), read_image(file))


@pytest.mark.parametrize(
    "picture", [GREY, PALETTE, RGB.convert("1"), RGB.convert("YCbCr"), with_alpha(RGB, np.full_like(HALF_CLEAR, 255))]
)
def test_an_image_of_pillow_of_another_mode_is_taken_for_what_it_shows(picture: PIL.Image.Image) -> None:
    assert np.array_equal(taken(picture), np.asarray(picture.convert("RGB"))[..., ::-1])


def turned_profile() -> bytes:
    """Return an sRGB profile whose red is blue and whose blue is red."""
    content = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    return content.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")


def test_the_profile_of_an_image_of_pillow_is_applied_as_in_its_file(tmp_path: Path) -> None:
    file = tmp_path / "turned.png"
    file.write_bytes(saved("PNG", icc_profile=turned_profile()))
    with PIL.Image.open(file) as picture:
        image = taken(picture)
    assert np.array_equal(image, read_image(file))
    assert np.abs(image.astype(int) - BGR[..., ::-1]).max() <= 2


def test_an_answer_to_an_image_of_pillow_keeps_its_exif(manager: TrainingManager, tmp_path: Path) -> None:
    exif = oriented(6)
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    file = tmp_path / "target.jpg"
    file.write_bytes(saved("JPEG", exif=exif))
    with PIL.Image.open(file) as picture:
        answers = manager.predict(BGR, picture), manager.predict(BGR, file)
    for answer in answers:
        answer.save(tmp_path / "answer.jpg")
        with PIL.Image.open(tmp_path / "answer.jpg") as kept:
            assert kept.getexif()[0x010F] == "a camera"
            assert kept.getexif().get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
            assert kept.getexif().get(0x0112, 1) == 1
    assert np.array_equal(answers[0].image, answers[1].image)


def clear_palette() -> PIL.Image.Image:
    picture = PALETTE.copy()
    picture.info["transparency"] = 0
    return picture


def damaged() -> PIL.Image.Image:
    contents = saved("PNG")
    return PIL.Image.open(io.BytesIO(contents[: len(contents) // 2]))


@pytest.mark.parametrize(
    "picture",
    [
        with_alpha(RGB, HALF_CLEAR),
        with_alpha(GREY, HALF_CLEAR),
        clear_palette(),
        RGB.convert("F"),
        RGB.convert("HSV"),
        damaged(),
    ],
    ids=["clear", "clear grey", "clear palette", "floats", "HSV", "damaged"],
)
def test_what_is_refused_in_a_file_is_refused_of_pillow_too(picture: PIL.Image.Image) -> None:
    with pytest.raises(ImageFormatError, match=r"target \(an image of Pillow, mode "):
        taken(picture)


def test_limits_hold_for_images_of_pillow() -> None:
    with pytest.raises(ImageError, match="pixels"):
        picture_and_exif(RGB, "target", "bgr", ImageLimits(max_pixels=9))


@pytest.mark.parametrize(
    ("value", "cure"),
    [
        (BGR / 255, r"\(255 \* picture\)\.round\(\)\.clip\(0, 255\)\.astype\('uint8'\)"),
        (BGR.astype(np.uint16) * 257, r"\(picture / 257\)\.round\(\)\.astype\('uint8'\)"),
        (BGR[..., 0], r"np\.dstack\(\[picture\] \* 3\)"),
        (BGR[..., :1], r"np\.dstack\(\[picture\] \* 3\)"),
        (np.dstack([BGR, BGR[..., 0]]), r"picture\[\.\.\., :3\]"),
    ],
    ids=["floats", "16 bits", "grey", "one channel", "alpha"],
)
def test_an_array_that_is_no_picture_is_refused_with_a_cure_that_works(
    manager: TrainingManager, value: Any, cure: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"target must be a uint8 array .*RGB; .*{cure}") as caught:
        manager.predict(BGR, value, color="rgb")
    found = eval(cure.replace("\\", ""), {"picture": value, "np": np})
    assert taken(found).shape == BGR.shape
    assert caught.value.argument == "target"


@pytest.mark.parametrize("value", ["RGB", None, 3])
def test_an_unknown_order_of_channels_is_refused(manager: TrainingManager, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="color must be 'bgr' or 'rgb'"):
        manager.predict(BGR, BGR, color=value)


@pytest.mark.parametrize("value", [BGR, np.zeros((900, 1200, 3)), RGB], ids=["array", "large array", "Pillow"])
def test_a_picture_where_a_path_is_wanted_is_a_short_error_that_says_what_to_do(tmp_path: Path, value: Any) -> None:
    with manager_with(tmp_path / "m", 1) as manager:
        paths: list[Any] = list(save_triple(tmp_path, 99))
        calls = [
            lambda: manager.add_training_example(paths[0], value, paths[2]),
            lambda: manager.add_training_examples([(*paths[:2], value)]),
            lambda: manager.replace_ground_truth(manager.list_examples()["examples"][0]["example_id"], value),
        ]
        for call in calls:
            with pytest.raises(InvalidArgumentError, match="save a picture to a file first") as caught:
                call()
            assert len(str(caught.value)) < 250
