"""Data sets by name, through torchvision and Hugging Face's `datasets`, which download, check and cache them.

torchvision's are in `datasets` beside torch's folder of models, `~/.cache/torch/datasets` unless TORCH_HOME says
otherwise, those of the Hub where its library keeps them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.runtime.optional import optional
from synbench_fast.studies.catalogue import NAMED, Named
from synbench_fast.studies.images import decoded
from synbench_fast.studies.samples import Samples, labels_of

__all__ = ["open_hub", "open_named"]

_TEST = ("test", "validation", "valid", "val")  # the first that is there is the test part
_LABELS = ("label", "fine_label", "labels", "cls", "y")


def open_named(name: str) -> Samples:
    """A data set of the catalogue; SynbenchError in one line if it cannot be had."""
    entry = NAMED[name]
    made = _torchvision(name, entry) if entry.library == "torchvision" else open_hub(name, entry.target)
    return made if entry.train is None else _reduced(made, entry.train)


@contextmanager
def _fetching(name: str, cache: str | Path) -> Iterator[None]:
    """A library's failure in one line; what it prints goes to standard error."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (SynbenchError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise SynbenchError(
            f'{error.name}: expected it to be installed, got no such library; pip install "synbench-fast[data]"'
        ) from None
    except Exception as error:  # anything from URLError to the libraries' own
        raise SynbenchError(
            f"data {name}: expected it in the cache {cache}, or a connection to download it, got {first_line(error)}"
        ) from None


def _joined(
    name: str,
    parts: Sequence[tuple[bool, int, Callable[[int], Any]]],
    marks: NDArray[Any],
    classes: Sequence[str] | None,
) -> Samples:
    """Parts one after another: whether each is a test part, its number of images, and its image by place."""
    held = np.concatenate([np.full(count, test) for test, count, _ in parts])
    ends = np.cumsum([count for _, count, _ in parts])
    if marks.dtype.kind == "i" and marks.min() < 0:
        raise SynbenchError(
            f"data {name}: expected labels of at least 0, got {marks.min()}: a part without labels"
        )
    y, found = labels_of(marks, f"data {name}")
    if classes is not None:
        found = [classes[int(one)] for one in found]

    def load(rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        made = []
        for row in rows.tolist():
            part = int(np.searchsorted(ends, row, side="right"))
            start = int(ends[part]) - parts[part][1]
            made.append(decoded(parts[part][2](row - start), wanted, f"data {name}, image {row}"))
        return torch.stack(made)

    return Samples(name, None, y, found, load, held if held.any() else None)


def _torchvision(name: str, entry: Named) -> Samples:
    datasets = optional("torchvision.datasets", "torchvision", "data")
    root = Path(torch.hub.get_dir()).parent / "datasets"
    kind = getattr(datasets, entry.target)

    def fetch(arguments: dict[str, Any]) -> Any:
        try:
            return kind(root=str(root), download=False, **arguments)
        except RuntimeError:  # not there yet
            root.mkdir(parents=True, exist_ok=True)
            return kind(root=str(root), download=True, **arguments)

    with _fetching(name, root):
        found = [(part == "test", fetch(one)) for part, several in entry.parts.items() for one in several]
    marks = np.concatenate([_targets(one) for _, one in found])
    parts = [(test, len(one), lambda place, one=one: one[place][0]) for test, one in found]
    classes = getattr(found[0][1], "classes", None)
    return _joined(name, parts, marks, classes)


def _targets(data: Any) -> NDArray[np.int64]:
    """Labels of a data set of torchvision, which has no one name for them, without decoding its images."""
    for name in ("targets", "labels", "_labels"):
        if (found := getattr(data, name, None)) is not None:
            return np.asarray(found, dtype=np.int64)
    return np.array([data[place][1] for place in range(len(data))], dtype=np.int64)


def open_hub(name: str, target: str) -> Samples:
    """A data set of the Hub, or one that `save_to_disk` wrote into a folder: one column of images, one of labels."""
    datasets = optional("datasets", "datasets", "data")
    cache = datasets.config.HF_DATASETS_CACHE
    with _fetching(name, cache):
        there = Path(target).is_dir()
        whole = datasets.load_from_disk(target) if there else datasets.load_dataset(target)
    several = dict(whole) if isinstance(whole, datasets.DatasetDict) else {"train": whole}
    test = next((one for one in _TEST if one in several and len(several) > 1), None)
    features = next(iter(several.values())).features
    images = [one for one, kind in features.items() if isinstance(kind, datasets.Image)]
    label = next((one for one in _LABELS if one in features), None)
    if len(images) != 1 or label is None:
        raise SynbenchError(
            f"data {name}: expected one column of images and one of {', '.join(_LABELS)}, got {', '.join(features)}"
        )
    parts, marks = [], []
    for part, data in several.items():
        plain = data.with_format(None)
        marks.append(np.array(plain.select_columns([label])[:][label]))
        kept = plain.select_columns(images).cast_column(images[0], datasets.Image(decode=False))

        def image(place: int, kept: Any = kept) -> bytes:
            # A path would be one on this machine, which data of others must not name.
            content: bytes | None = kept[place][images[0]]["bytes"]
            if content is None:
                raise SynbenchError(f"data {name}: expected images stored in the data, got paths")
            return content

        parts.append((part == test, len(plain), image))
    names = features[label].names if isinstance(features[label], datasets.ClassLabel) else None
    return _joined(name, parts, np.concatenate(marks), names)


def _reduced(samples: Samples, count: int) -> Samples:
    """With `count` training samples: 2 of every class, then whichever a fixed seed draws."""
    if samples.test is None:
        raise SynbenchError(f"data {samples.name}: expected a training and a test part, got one part")
    train = np.flatnonzero(~samples.test)
    order = np.random.default_rng(0).permutation(train)
    place = np.empty(len(order), dtype=np.int64)  # of a sample among those of its class
    for label in range(len(samples.classes)):
        mine = np.flatnonzero(samples.y[order] == label)
        place[mine] = np.arange(len(mine))
    chosen = order[np.argsort(place >= 2, kind="stable")][:count]
    rows = np.concatenate([chosen, np.flatnonzero(samples.test)])

    def load(wanted_rows: NDArray[np.int64], wanted: tuple[int, ...]) -> Tensor:
        return samples.load(rows[wanted_rows], wanted)

    return Samples(samples.name, samples.shape, samples.y[rows], samples.classes, load, samples.test[rows])
