"""Suites of local image folders: any data sets of the user's, and the eight ImageNet variants.

A data set is a folder with one folder of images per class. The classes of the pre-training data's validation folder,
in the order of their sorted names, are the columns of the classifier; for ImageNet these are WordNet ids, and their
sorted order is the usual one. Every data set has those of its classes that the classifier has.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.results.documents import parse
from synbench_fast.results.files import read_text
from synbench_fast.runtime.optional import optional
from synbench_fast.studies.images import IMAGE_FORMATS
from synbench_fast.studies.inheritance.data import DataSet, DataSuite, Part
from synbench_fast.studies.inheritance.schedule import Training

__all__ = ["CORRUPTIONS", "IMAGENET", "IMAGENET_FOLDERS", "Prepare", "folder_suite", "imagenet_suite"]

IMAGENET = "imagenet-rib"
FOLDERS = "folders"

# Name -> the folders that its published archives unpack to.
IMAGENET_FOLDERS: dict[str, tuple[str, ...]] = {
    "V2": (
        "imagenetv2-matched-frequency-format-val",
        "imagenet-v2/imagenetv2-matched-frequency-format-val",
        "imagenetv2-matched-frequency",
        "imagenet-v2",
    ),
    "A": ("imagenet-a",),
    "R": ("imagenet-r",),
    "Sketch": ("imagenet-sketch", "sketch"),
    "ObjectNet": ("objectnet-1.0/images", "objectnet"),
    "Cartoon": ("imagenet-cartoon",),
    "Drawing": ("imagenet-drawing",),
    "C": ("imagenet-c",),
}
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
# Pixels on each side of ObjectNet's images, red, for telling them from training data: its loader cuts them off.
_OBJECTNET_BORDER = 2
SEVERITIES = ("1", "2", "3", "4", "5")
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"))
_IN_MEMORY = 1 << 30  # bytes of a part's decoded images that are kept
_AT_ONCE = 4096  # files handed to the threads that decode: ImageNet-C has 3.75 million


@dataclass(frozen=True)
class Prepare:
    """Images as the encoder was evaluated on: shorter side to round(size / crop), then the centre of `shape`.

    shape: [C, H, W] with H = W where `crop` is below 1. interpolation: "bilinear" or "bicubic". squash: both sides
    to round(side / crop), whatever the image's ratio of sides. The published benchmark trains on these too, without
    augmentation.
    """

    shape: tuple[int, int, int]
    crop: float = 0.875
    interpolation: str = "bilinear"
    squash: bool = False

    def __call__(self, content: bytes, border: int = 0) -> NDArray[np.uint8]:
        """uint8 [C, H, W] of an image file's content; OSError or ValueError where it is no image.

        border: pixels that are cut off on every side first.
        """
        images = optional("PIL.Image", "pillow", "torchvision")
        channels, height, width = self.shape
        with images.open(io.BytesIO(content), formats=IMAGE_FORMATS) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
        if border:
            image = image.crop((border, border, image.width - border, image.height - border))
        transforms = optional("torchvision.transforms.functional", "torchvision", "inherit")
        mode = transforms.InterpolationMode(self.interpolation)
        sides = [max(side, round(side / self.crop)) for side in (height, width)]
        image = transforms.resize(image, sides if self.squash else max(sides), interpolation=mode)
        pixels = np.asarray(transforms.center_crop(image, [height, width]))
        return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


class _Images:
    """Image files behind `Part.load`: kept as bytes of pixels where they fit into memory, else read every time."""

    def __init__(self, files: Sequence[Path], prepare: Prepare, border: int = 0) -> None:
        self.files, self.prepare, self.border = list(files), prepare, border
        self.digests: list[bytes] = []
        self._kept: Tensor | None = None

    def check(self) -> list[int]:
        """Decode every file once, and keep a digest of each; returns the places of those that cannot be read."""
        keep = len(self.files) * int(np.prod(self.prepare.shape)) <= _IN_MEMORY
        bad: list[int] = []
        kept = torch.empty((len(self.files) if keep else 0, *self.prepare.shape), dtype=torch.uint8)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(self.files), _AT_ONCE):
                found = pool.map(self._try, self.files[start : start + _AT_ONCE])
                for place, (digest, pixels) in enumerate(found, start):
                    self.digests.append(digest)
                    if pixels is None:
                        bad.append(place)
                    elif keep:
                        kept[place] = torch.from_numpy(pixels)
        self._kept = kept if keep else None
        return bad

    def without(self, places: Sequence[int]) -> _Images:
        """The same without some files."""
        left = sorted(set(range(len(self.files))) - set(places))
        made = _Images([self.files[place] for place in left], self.prepare, self.border)
        made.digests = [self.digests[place] for place in left]
        made._kept = None if self._kept is None else self._kept[torch.tensor(left)]
        return made

    def _try(self, path: Path) -> tuple[bytes, NDArray[np.uint8] | None]:
        content = b""
        try:
            content = path.read_bytes()
            pixels = self.prepare(content, self.border)
        except SynbenchError:
            raise
        except Exception:  # decoders raise what they like on damaged files
            pixels = None
        return hashlib.blake2b(content, digest_size=16).digest(), pixels

    def _read(self, path: Path) -> NDArray[np.uint8]:
        try:
            return self.prepare(path.read_bytes(), self.border)
        except SynbenchError:
            raise
        except Exception as error:
            raise SynbenchError(f"{path}: expected an image, got {first_line(error)}") from None

    def __call__(self, rows: Tensor) -> Tensor:
        if self._kept is not None:
            return self._kept[rows].float() / 255
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            made = list(pool.map(lambda row: self._read(self.files[row]), rows.tolist()))
        return torch.from_numpy(np.stack(made)).float() / 255


@dataclass(frozen=True)
class _Found:
    """Files of one class folder; `group` numbers the corruption and severity."""

    label: str
    files: tuple[Path, ...]
    group: int


def _class_folders(name: str, folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise SynbenchError(
            f"{name}: expected a folder with one folder of images per class, got no folder {folder}"
        )
    found = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    if not found:
        raise SynbenchError(f"{name}: expected one folder of images per class, got none in {folder}")
    return found


def _scan(name: str, folder: Path, group: int = 0) -> list[_Found]:
    found = []
    for one in _class_folders(name, folder):
        files = sorted(file for file in one.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise SynbenchError(f"{name}: expected images in every class folder, got none in {one}")
        found.append(_Found(one.name, tuple(files), group))
    return found


def _scan_corruptions(name: str, folder: Path) -> list[_Found]:
    """CORRUPTION/SEVERITY/CLASS, all 75 of them; each is a group."""
    wanted = [folder / corruption / severity for corruption in CORRUPTIONS for severity in SEVERITIES]
    missing = [f"{one.parent.name}/{one.name}" for one in wanted if not one.is_dir()]
    if missing:
        raise SynbenchError(
            f"{name}: expected {len(CORRUPTIONS)} corruptions with severities 1 to 5 in {folder}, got no "
            f"{missing[0]}" + (f" and {len(missing) - 1} more missing" if len(missing) > 1 else "")
        )
    return [one for group, place in enumerate(wanted) for one in _scan(name, place, group)]


Columns = Callable[
    [str], tuple[int, ...]
]  # the name of a class folder -> its columns, none if there are none


def _part(
    name: str,
    found: Sequence[_Found],
    columns: Columns,
    prepare: Prepare,
    *,
    skip_unreadable: bool,
    notes: list[str],
    border: int = 0,
) -> Part:
    """Images of the class folders that the classifier has columns for, without `border` pixels on every side."""
    classes: dict[tuple[int, ...], int] = {}
    used: list[Path] = []
    labels: list[int] = []
    groups: list[int] = []
    left_out: set[str] = set()
    for one in found:
        here = columns(one.label)
        if not here:
            left_out.add(one.label)
            continue
        number = classes.setdefault(here, len(classes))
        used += one.files
        labels += [number] * len(one.files)
        groups += [one.group] * len(one.files)
    if not used:
        raise SynbenchError(
            f"{name}: expected class folders among the classes of the pre-training data, got none of them "
            f"(it has {', '.join(sorted(left_out)[:3])})"
        )
    if missing := sorted({one.group for one in found} - set(groups)):
        place = found[[one.group for one in found].index(missing[0])].files[0].parents[1]
        raise SynbenchError(
            f"{name}: expected class folders among the classes of the pre-training data in every corruption and "
            f"severity, got none of them in {place}"
        )
    if left_out:
        notes.append(
            f"{name}: {len(left_out)} class folders left out, whose classes the classifier does not have "
            f"({', '.join(sorted(left_out)[:3])}{', ...' if len(left_out) > 3 else ''})"
        )
    images = _Images(used, prepare, border)
    bad = images.check()
    if bad:
        text = f"{len(bad)} of {len(used)} images cannot be read, the first is {used[bad[0]]}"
        if not skip_unreadable:
            raise SynbenchError(
                f"{name}: expected images that can be read, or skip_unreadable, got others: {text}"
            )
        notes.append(f"{name}: skipped: {text}")
        images = images.without(bad)
        lost = set(bad)
        stays = [place not in lost for place in range(len(used))]
        labels = [one for one, keep in zip(labels, stays, strict=True) if keep]
        groups = [one for one, keep in zip(groups, stays, strict=True) if keep]
        if len(set(labels)) < len(classes) or len(set(groups)) < len({one.group for one in found}):
            raise SynbenchError(
                f"{name}: expected a readable image in every class folder, got one without: {text}"
            )
    digest = hashlib.sha256(repr((prepare, border, list(classes))).encode())
    for content, label, group in zip(images.digests, labels, groups, strict=True):
        digest.update(content + f"\0{label}\0{group}\0".encode())
    grouped = torch.tensor(groups) if max(groups) > 0 else None
    return Part(torch.tensor(labels), tuple(classes), images, digest.hexdigest(), grouped)


def _whole(name: str, part: Part) -> DataSet:
    return DataSet(name, part, part)


def _by_name(classes: Sequence[str]) -> Columns:
    places = {name: (i,) for i, name in enumerate(classes)}
    return lambda label: places.get(label, ())


def _by_number(name: str, classes: Sequence[str]) -> Columns:
    """By a class's place in the order of the classes, or by its name."""
    numbers = _by_name([str(place) for place in range(len(classes))])
    names = _by_name(classes)

    def columns(label: str) -> tuple[int, ...]:
        found = names(label) or numbers(label)
        if not found and label.isdecimal():  # of a head with other classes, whose places would be others too
            raise SynbenchError(
                f"{name}: expected folders 0 to {len(classes) - 1}, places among the {len(classes)} classes of the "
                f"pre-training data, or names of these, got {label}"
            )
        return found

    return columns


def _by_mapping(path: Path, classes: Sequence[str]) -> Columns:
    """JSON object: folder name -> a class of the pre-training data, or several."""
    places = {name: i for i, name in enumerate(classes)}
    try:
        stored = parse(read_text(path, "JSON", regular=True), str(path))
    except SynbenchError as error:
        raise SynbenchError(f"objectnet_map: {error}") from None
    expected = "objectnet_map: expected a JSON object of folder name -> class or list of classes"
    if not isinstance(stored, dict):
        raise SynbenchError(f"{expected}, got another value in {path}")
    table: dict[str, tuple[int, ...]] = {}
    owner: dict[int, str] = {}
    for label, value in stored.items():
        several = value if isinstance(value, list) else [value]
        unknown = [one for one in several if not isinstance(one, str) or one not in places]
        if unknown or not several:
            got = repr(unknown[0]) if unknown else "no class"
            raise SynbenchError(f"{expected} of the pre-training data, got {got} for {label!r}")
        table[label] = tuple(sorted({places[one] for one in several}))
        for place in table[label]:
            other = owner.setdefault(place, label)
            if table[other] != table[label]:
                raise SynbenchError(
                    f"{expected}, a class for one folder only, got {classes[place]!r} for {other!r} and {label!r}"
                )
    return lambda label: table.get(label, ())


def _pretraining(
    pretraining: str | Path | None,
    pretraining_train: str | Path | None,
    prepare: Prepare,
    options: dict[str, Any],
) -> tuple[tuple[str, ...], Part, Part | None]:
    if pretraining is None:
        raise SynbenchError(
            "pretraining: expected the folder of the pre-training data's validation images, got none"
        )
    found = _scan("pre-training", Path(pretraining))
    classes = tuple(one.label for one in found)
    whole = _part("pre-training", found, _by_name(classes), prepare, **options)
    if pretraining_train is None:
        return classes, whole, None
    other = _scan("pre-training train", Path(pretraining_train))
    return classes, whole, _part("pre-training train", other, _by_name(classes), prepare, **options)


def folder_suite(
    data: Mapping[str, str | Path],
    pretraining: str | Path | None,
    prepare: Prepare,
    *,
    pretraining_train: str | Path | None = None,
    skip_unreadable: bool = False,
) -> DataSuite:
    """The user's own data sets, name -> folder.

    Raises:
        SynbenchError: a folder that is missing or has no classes, a class folder without images, no class in common
            with the pre-training data, or an image that cannot be read while skip_unreadable is off.
    """
    notes: list[str] = []
    options: dict[str, Any] = {"skip_unreadable": skip_unreadable, "notes": notes}
    classes, before, train = _pretraining(pretraining, pretraining_train, prepare, options)
    made = [
        _whole(name, _part(name, _scan(name, Path(folder)), _by_name(classes), prepare, **options))
        for name, folder in data.items()
    ]
    return DataSuite(
        FOLDERS, classes, prepare.shape, tuple(made), before, train, Training(), None, tuple(notes)
    )


def imagenet_suite(
    root: str | Path | None,
    pretraining: str | Path | None,
    prepare: Prepare,
    *,
    data: Mapping[str, str | Path] | None = None,
    only: Sequence[str] | None = None,
    objectnet_map: str | Path | None = None,
    pretraining_train: str | Path | None = None,
    skip_unreadable: bool = False,
) -> DataSuite:
    """The ImageNet variants V2, A, R, Sketch, ObjectNet, Cartoon, Drawing and C in local folders.

    Args:
        root: folder with the folders that the published archives unpack to, see IMAGENET_FOLDERS.
        pretraining: ImageNet's validation images, one folder per WordNet id.
        data: folders by name, for those that lie elsewhere.
        only: names to take; default all eight.
        objectnet_map: JSON, folder name of ObjectNet -> WordNet id or several; a prediction of any of them is right.

    Raises:
        SynbenchError: as for `folder_suite`; an unknown name; ObjectNet without a map; a corruption that is missing.
    """
    given = dict(data or {})
    names = tuple(IMAGENET_FOLDERS) if only is None else tuple(only)
    for name in (*names, *given):
        if name not in IMAGENET_FOLDERS:
            raise SynbenchError(
                f"data: expected names of {', '.join(IMAGENET_FOLDERS)} for {IMAGENET}, got {name!r}"
                f"{suggest(name, IMAGENET_FOLDERS)}"
            )
    places = {name: _place(name, root, given) for name in names}
    if "ObjectNet" in names and objectnet_map is None:
        raise SynbenchError(
            "objectnet_map: expected a JSON file of ObjectNet's folder names and their WordNet ids, got none"
        )
    notes: list[str] = []
    options: dict[str, Any] = {"skip_unreadable": skip_unreadable, "notes": notes}
    classes, before, train = _pretraining(pretraining, pretraining_train, prepare, options)
    made = []
    for name, folder in places.items():
        columns, border = _by_name(classes), 0
        if name == "V2":  # its folders are called 0 ... 999, in some copies by WordNet ids
            columns = _by_number(name, classes)
        elif name == "ObjectNet":
            columns, border = _by_mapping(Path(str(objectnet_map)), classes), _OBJECTNET_BORDER
        found = _scan_corruptions(name, folder) if name == "C" else _scan(name, folder)
        made.append(_whole(name, _part(name, found, columns, prepare, border=border, **options)))
    return DataSuite(
        IMAGENET, classes, prepare.shape, tuple(made), before, train, Training(), None, tuple(notes)
    )


def _place(name: str, root: str | Path | None, given: Mapping[str, str | Path]) -> Path:
    if name in given:
        return Path(given[name])
    tried = IMAGENET_FOLDERS[name]
    if root is not None:
        for one in tried:
            if (Path(root) / one).is_dir():
                return Path(root) / one
    raise SynbenchError(
        f"data: expected the folder of {name}, as {name}=FOLDER or as {' or '.join(tried)} in the root folder, got "
        f"{'no root' if root is None else f'no such folder in {root}'}"
    )
