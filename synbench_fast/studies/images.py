"""Image files as inputs of an encoder: float32 in [0, 1], resized and cut to its shape."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.runtime.optional import optional

__all__ = ["IMAGE_FORMATS", "SUFFIXES", "decoded", "fitted", "read_image", "unlabelled_images"]

# What Pillow may open an image as, whatever the file is called: it has decoders that start other programs.
IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
MOST_BYTES = 1 << 28  # of an image file


def unlabelled_images(
    folder: str | Path,
) -> tuple[list[Path], Callable[[NDArray[np.int64], tuple[int, ...]], Tensor]]:
    """The image files in a folder and its subfolders, by name, and `load(rows, shape)` as that of `Samples`.

    Raises:
        SynbenchError: no such folder; `load` names a file that is no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise SynbenchError(f"inputs: expected a folder of images, got {str(folder)!r}")
    files = sorted(one for one in root.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())

    def load(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        return torch.stack([read_image(files[int(row)], wanted) for row in rows])

    return files, load


def read_image(file: Path, shape: tuple[int, ...]) -> Tensor:
    """An image file as `decoded` gives it; SynbenchError for what is no file, or larger than 256 MiB."""
    size = file.stat().st_size if file.is_file() else -1
    if not 0 <= size <= MOST_BYTES:
        got = "no such file" if size < 0 else f"{size} bytes"
        raise SynbenchError(f"{file}: expected an image file of at most {MOST_BYTES} bytes, got {got}")
    return decoded(file.read_bytes(), shape, str(file))


def decoded(raw: Any, shape: tuple[int, ...], name: str) -> Tensor:
    """Bytes of a PNG, JPEG, ... or an image of Pillow as float32 of `shape`: shorter side resized, centre cropped."""
    images = optional("PIL.Image", "pillow", "torchvision")
    _image_shape(shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", images.DecompressionBombWarning)
            made = isinstance(raw, images.Image)
            with raw if made else images.open(io.BytesIO(raw), formats=IMAGE_FORMATS) as opened:
                pixels = np.asarray(opened.convert("L" if shape[0] == 1 else "RGB"))
    except Exception as error:  # decoders raise what they like on damaged files
        raise SynbenchError(f"{name}: expected an image, got {first_line(error)}") from None
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    return fitted(x, shape)[0]


def _image_shape(shape: Sequence[int]) -> None:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise SynbenchError(
            f"input_shape: expected 1 or 3 channels, height and width for images, got {tuple(shape)}"
        )


def fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images [n, C, H, W] at `shape`: bilinear until they cover it, then the centre; grey is repeated."""
    _image_shape(shape)
    height, width = shape[1:]
    if tuple(x.shape[2:]) != (height, width):
        factor = max(height / x.shape[2], width / x.shape[3])
        size = [max(height, round(x.shape[2] * factor)), max(width, round(x.shape[3] * factor))]
        x = functional.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        x = x[:, :, top : top + height, left : left + width].clamp(0, 1)
    return x if x.shape[1] == shape[0] else x.expand(-1, shape[0], -1, -1).contiguous()
