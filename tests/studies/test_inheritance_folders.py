"""Suites of image folders: the user's own, and the ImageNet variants."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refused
from inheritance_cases import PREPARE, WORDNET, imagenet_of_six, write_images
from PIL import Image

from synbench_fast.studies.inheritance.folders import (
    CORRUPTIONS,
    Prepare,
    _Images,
    folder_suite,
    imagenet_suite,
)
from synbench_fast.studies.inheritance.networks import load_network


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imagenet_of_six(tmp_path_factory.mktemp("imagenet"))


def test_user_folders(tmp_path: Path) -> None:
    before = write_images(tmp_path / "val", ("cat", "dog", "fox"))
    data = {
        "x": write_images(tmp_path / "x", ("cat", "dog"), 3),
        "y": write_images(tmp_path / "y", ("dog", "fox", "owl")),
    }
    suite = folder_suite(data, before, PREPARE)
    assert suite.classes == ("cat", "dog", "fox") and suite.shape == (3, 8, 8)
    x, y = (one.test for one in suite.data)
    assert x.columns == ((0,), (1,)) and x.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert y.columns == ((1,), (2,)) and y.y.tolist() == [0, 0, 1, 1]
    assert suite.notes == ("y: 1 class folders left out, whose classes the classifier does not have (owl)",)
    pixels = x.load(torch.tensor([0, 5]))
    assert pixels.shape == (2, 3, 8, 8) and pixels.dtype == torch.float32
    assert pixels.min() >= 0 and pixels.max() <= 1
    with Image.open(data["x"] / "cat" / "0.png") as opened:
        whole = np.asarray(opened.resize((8, 9), Image.Resampling.BILINEAR))  # 12 x 10 at 8 pixels of width
    assert any(np.allclose(pixels[0].permute(1, 2, 0).numpy() * 255, whole[i : i + 8]) for i in (0, 1))
    assert suite.data[0].train is suite.data[0].test  # the published protocol has one part only
    assert suite.sha256 == folder_suite(data, before, PREPARE).sha256
    assert suite.sha256 != folder_suite(data, before, Prepare((3, 8, 8), 0.9)).sha256


def test_other_images_are_other_data(tmp_path: Path) -> None:
    """A file of the same name and size with other pixels."""
    before = write_images(tmp_path / "val", ("cat", "dog"))
    file = before / "cat" / "0.bmp"
    sums = []
    for level in (10, 200):
        Image.new("RGB", (8, 8), (level, 0, 0)).save(file)
        sums.append(folder_suite({"x": before}, before, PREPARE).sha256)
    assert sums[0] != sums[1]


def test_files_are_decoded_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synbench_fast.studies.inheritance import folders

    before = write_images(tmp_path / "val", ("cat", "dog"), 5)
    (before / "cat" / "3.png").write_bytes(b"")
    expected = folder_suite({"x": before}, before, PREPARE, skip_unreadable=True)
    monkeypatch.setattr(folders, "_AT_ONCE", 2)
    found = folder_suite({"x": before}, before, PREPARE, skip_unreadable=True)
    assert (found.sha256, found.notes) == (expected.sha256, expected.notes)
    rows = torch.arange(9)
    assert torch.equal(found.pretraining.load(rows), expected.pretraining.load(rows))
    monkeypatch.setattr(folders, "_IN_MEMORY", 0)
    again = folder_suite({"x": before}, before, PREPARE, skip_unreadable=True)
    assert torch.equal(again.pretraining.load(rows), expected.pretraining.load(rows))


def test_folder_mistakes(tmp_path: Path) -> None:
    before = write_images(tmp_path / "val", ("cat", "dog"))
    good = write_images(tmp_path / "good", ("cat", "dog"))
    (tmp_path / "empty").mkdir()
    hollow = write_images(tmp_path / "hollow", ("cat",))
    (hollow / "dog").mkdir()
    apart = write_images(tmp_path / "apart", ("owl", "elk"))
    for folder, words in (
        (tmp_path / "none", ("d: expected a folder with one folder of images per class, got no folder",)),
        (tmp_path / "empty", ("d: expected one folder of images per class, got none in",)),
        (hollow, ("d: expected images in every class folder, got none in", "dog")),
        (
            apart,
            ("d: expected class folders among the classes of the pre-training data", "(it has elk, owl)"),
        ),
    ):
        with refused(*words):
            folder_suite({"g": good, "d": folder}, before, PREPARE)
    with refused("pretraining: expected the folder of the pre-training data's validation images, got none"):
        folder_suite({"g": good}, None, PREPARE)


def test_unreadable_images(tmp_path: Path) -> None:
    before = write_images(tmp_path / "val", ("cat", "dog"))
    data = {name: write_images(tmp_path / name, ("cat", "dog"), 3) for name in ("x", "y")}
    whole = (data["x"] / "dog" / "1.png").read_bytes()
    (data["x"] / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])
    (data["x"] / "cat" / "0.png").write_bytes(b"no image")
    words = ("2 of 6 images cannot be read, the first is", "0.png")
    with refused("x: expected images that can be read, or skip_unreadable", *words):
        folder_suite(data, before, PREPARE)
    suite = folder_suite(data, before, PREPARE, skip_unreadable=True)
    assert suite.data[0].test.y.tolist() == [0, 0, 1, 1]
    assert len(suite.notes) == 1 and all(one in suite.notes[0] for one in ("x: skipped: ", *words))
    for number in range(3):
        (data["y"] / "cat" / f"{number}.png").write_bytes(b"")
    with refused("y: expected a readable image in every class folder, got one without: 3 of 6"):
        folder_suite(data, before, PREPARE, skip_unreadable=True)


def test_imagenet_variants(imagenet: Path) -> None:
    suite = imagenet_suite(imagenet, imagenet / "val", PREPARE, objectnet_map=imagenet / "map.json")
    parts = {one.name: one.test for one in suite.data}
    assert list(parts) == ["V2", "A", "R", "Sketch", "ObjectNet", "Cartoon", "Drawing", "C"]
    assert suite.classes == WORDNET
    assert parts["V2"].columns == tuple((n,) for n in range(6))
    assert parts["A"].columns == ((0,), (1,), (2,)) and parts["R"].columns == ((2,), (3,), (4,))
    assert parts["ObjectNet"].columns == ((1, 4), (0,))
    groups = parts["C"].groups
    assert groups is not None and len(parts["C"]) == 150 and torch.equal(groups.unique(), torch.arange(75))
    assert any("air_freshener" in one for one in suite.notes)
    by_name = imagenet_suite(None, imagenet / "val", PREPARE, data={"V2": imagenet / "val"}, only=("V2",))
    assert by_name.data[0].test.columns == parts["V2"].columns


def test_imagenet_mistakes(imagenet: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"pretraining": imagenet / "val", "prepare": PREPARE}
    with refused("data: expected names of V2, A, R", "got 'Sketc', did you mean Sketch?"):
        imagenet_suite(imagenet, only=("Sketc",), **options)
    with refused("data: expected the folder of A, as A=FOLDER or as imagenet-a in the root folder"):
        imagenet_suite(tmp_path, only=("A",), **options)
    with refused("objectnet_map: expected a JSON file of ObjectNet's folder names"):
        imagenet_suite(imagenet, only=("ObjectNet",), **options)
    (tmp_path / "map.json").write_text('{"banana": "n99"}', encoding="utf-8")
    with refused("objectnet_map: expected a JSON object", "got 'n99' for 'banana'"):
        imagenet_suite(imagenet, only=("ObjectNet",), objectnet_map=tmp_path / "map.json", **options)
    mapping = {"banana": [WORDNET[0], WORDNET[1]], "alarm_clock": [WORDNET[1]]}
    (tmp_path / "map.json").write_text(json.dumps(mapping), encoding="utf-8")
    with refused("a class for one folder only", "for 'banana' and 'alarm_clock'"):
        imagenet_suite(imagenet, only=("ObjectNet",), objectnet_map=tmp_path / "map.json", **options)
    write_images(tmp_path / "c" / "fog" / "1", WORDNET)
    with refused("C: expected 15 corruptions with severities 1 to 5", "gaussian_noise/1 and 73 more missing"):
        imagenet_suite(None, only=("C",), data={"C": tmp_path / "c"}, **options)


def test_numbers_of_v2_are_no_order_of_names(tmp_path: Path) -> None:
    """V2's folders are called 0 ... 999: sorted as names, 10 comes before 2."""
    names = tuple(f"n{number:08d}" for number in range(12))
    before = write_images(tmp_path / "val", names, 1)
    place = (
        tmp_path / "imagenet-v2" / "imagenetv2-matched-frequency-format-val"
    )  # as the published benchmark has it
    write_images(place, tuple(str(number) for number in range(12)), 1)
    part = imagenet_suite(tmp_path, before, PREPARE, only=("V2",)).data[0].test
    assert isinstance(part.load, _Images)
    for label, file in zip(part.y.tolist(), part.load.files, strict=True):
        assert part.columns[label] == (int(file.parent.name),)


def test_numbers_of_v2_among_fewer_classes(imagenet: Path, tmp_path: Path) -> None:
    """A head with six of ImageNet's classes, where folder 1 would be that of another one."""
    place = write_images(tmp_path / "v2", tuple(str(number) for number in range(7)), 1)
    with refused("V2: expected folders 0 to 5, places among the 6 classes of the pre-training data", "got 6"):
        imagenet_suite(None, imagenet / "val", PREPARE, data={"V2": place}, only=("V2",))


def test_the_border_of_objectnet_is_cut_off(imagenet: Path, tmp_path: Path) -> None:
    """Two red pixels on every side, which its own loader removes; at a crop of 1 they would be seen."""
    folder = tmp_path / "images"
    for name in ("alarm_clock", "banana"):
        (folder / name).mkdir(parents=True)
        pixels = np.zeros((20, 20, 3), dtype=np.uint8)
        pixels[..., 0] = 255
        pixels[2:-2, 2:-2] = (0, 0, 200)
        Image.fromarray(pixels).save(folder / name / "a.png")
    options: dict[str, Any] = {"objectnet_map": imagenet / "map.json", "only": ("ObjectNet",)}
    suite = imagenet_suite(
        None, imagenet / "val", Prepare((3, 8, 8), 1.0), data={"ObjectNet": folder}, **options
    )
    x = suite.data[0].test.load(torch.arange(2))
    assert x[:, 0].max() == 0 and x[:, 2].min() > 0.78
    plain = folder_suite({"ObjectNet": imagenet / "val"}, imagenet / "val", PREPARE).data[0]
    again = imagenet_suite(
        None, imagenet / "val", PREPARE, data={"Sketch": imagenet / "val"}, only=("Sketch",)
    )
    assert again.data[0].test.sha256 == plain.test.sha256 != suite.data[0].test.sha256


def test_a_severity_without_known_classes(imagenet: Path, tmp_path: Path) -> None:
    copy = tmp_path / "c"
    for corruption in CORRUPTIONS:
        (copy / corruption).mkdir(parents=True)
        for severity in "12345":
            target = imagenet / "imagenet-c" / corruption / severity
            (copy / corruption / severity).symlink_to(target, target_is_directory=True)
    (copy / "fog" / "3").unlink()
    write_images(copy / "fog" / "3", ("n99999999",), 1)
    with refused("C: expected class folders among the classes", "in every corruption and severity", "fog/3"):
        imagenet_suite(None, imagenet / "val", PREPARE, data={"C": copy}, only=("C",))


@pytest.mark.parametrize(
    ("crop", "mode"), [(0.9, "center"), (0.875, "center"), (0.95, "squash"), (1.0, "squash")]
)
def test_images_are_those_of_timms_own_transform(
    crop: float, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the pixel: at 0.9 it resizes 224 to 248, which is 248.9 rounded down, and some networks squash."""
    import timm

    config = {
        "input_size": (3, 224, 224), "crop_pct": crop, "crop_mode": mode, "interpolation": "bicubic",
        "mean": (0.5,) * 3, "std": (0.5,) * 3,
    }  # fmt: skip
    monkeypatch.setattr(timm.data, "resolve_model_data_config", lambda module: config)
    network = load_network("timm:test_vit", random_init=True)
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (300, 411, 3), dtype=np.uint8))
    file = io.BytesIO()
    image.save(file, "png")
    expected = timm.data.create_transform(**config, is_training=False)(image)
    made = torch.from_numpy(network.prepare(file.getvalue())).float() / 255
    torch.testing.assert_close((made - 0.5) / 0.5, expected)
