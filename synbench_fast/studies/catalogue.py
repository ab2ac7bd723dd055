"""Data sets that `--data` knows by name: which library fetches each, and the terms that its authors state.

The libraries download, check and cache them. The names below `vtab/` are those of CLIP_benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BUNDLED", "HUB", "KINDS", "NAMED", "VTAB", "Named", "data_names", "several", "terms"]

BUNDLED = ("digits", "photos")
HUB = "hf:"  # before the name of any other data set of the Hugging Face Hub, or the folder of one that was saved
VTAB = "vtab"  # all of them
KINDS = "digits, cifar10 or another name, an image folder, a .npz, .parquet, .csv or .tar file"
_TRAIN = 1000  # images that VTAB-1k trains on


@dataclass(frozen=True)
class Named:
    """A data set: a class of torchvision with the arguments of its parts, or a repository of the Hub.

    train: so many images of the training part are used, drawn once for all seeds.
    """

    library: str
    target: str
    terms: str
    parts: Mapping[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    train: int | None = None


def _torchvision(target: str, train: tuple[str, ...], test: str, terms: str) -> Named:
    parts = {"train": tuple({"split": one} for one in train), "test": ({"split": test},)}
    return Named("torchvision", target, terms, parts)


def _hub(target: str, terms: str, train: int | None = None) -> Named:
    return Named("datasets", target, terms, train=train)


_CIFAR = (
    "no licence is stated; cite Krizhevsky, 'Learning multiple layers of features from tiny images', 2009"
)
_SVHN = "non-commercial use only (Netzer et al., 2011)"
_DTD = "for research purposes (Cimpoi et al., CVPR 2014)"
_PETS = "CC BY-SA 4.0 (Parkhi et al., CVPR 2012)"
_FLOWERS = "no licence is stated; images are from the web (Nilsback and Zisserman, 2008)"
_EUROSAT = "MIT (Helber et al., 2019)"
_PCAM = "CC0 (Veeling et al., 2018)"
_FOOD = "images of Foodspotting, scientific fair use; other uses need their owners' consent (Bossard et al., 2014)"
_OTHERS = "see the authors of the data set; VTAB (Zhai et al., arXiv 1910.04867) names them"

# The 19 tasks of VTAB-1k: natural, specialised and structured ones.
_TASKS = {
    "caltech101": _OTHERS, "cifar100": _CIFAR, "dtd": _DTD, "flowers": _FLOWERS, "pets": _PETS, "sun397": _OTHERS,
    "svhn": _SVHN, "eurosat": _EUROSAT, "pcam": _PCAM, "resisc45": _OTHERS, "diabetic_retinopathy": _OTHERS,
    "clevr_closest_object_distance": _OTHERS, "clevr_count_all": _OTHERS, "dmlab": _OTHERS,
    "dsprites_label_orientation": _OTHERS, "dsprites_label_x_position": _OTHERS,
    "kitti_closest_vehicle_distance": _OTHERS, "smallnorb_label_azimuth": _OTHERS, "smallnorb_label_elevation": _OTHERS,
}  # fmt: skip
_ELSEWHERE = {"sun397": "dpdl-benchmark/sun397"}  # CLIP_benchmark stores its test part alone

NAMED = {
    # Not by torchvision, whose CIFAR files are pickles.
    "cifar10": _hub("uoft-cs/cifar10", _CIFAR),
    "cifar100": _hub("uoft-cs/cifar100", _CIFAR),
    "svhn": _torchvision("SVHN", ("train",), "test", _SVHN),
    "dtd": _torchvision("DTD", ("train", "val"), "test", _DTD),
    "pets": _torchvision("OxfordIIITPet", ("trainval",), "test", _PETS),
    "flowers": _torchvision("Flowers102", ("train", "val"), "test", _FLOWERS),
    "food101": _torchvision("Food101", ("train",), "test", _FOOD),
    "eurosat": Named("torchvision", "EuroSAT", _EUROSAT, {"train": ({},)}),
    "pcam": _hub("clip-benchmark/wds_vtab-pcam", _PCAM),
    **{
        f"{VTAB}/{name}": _hub(_ELSEWHERE.get(name, f"clip-benchmark/wds_vtab-{name}"), terms, _TRAIN)
        for name, terms in _TASKS.items()
    },
}


def data_names() -> tuple[str, ...]:
    """Every name, for completion and suggestions."""
    return (*BUNDLED, *NAMED)


def several(data: Iterable[Any]) -> list[Any]:
    """Data sets, in which `vtab` is replaced by the names of its 19 tasks."""
    tasks = [name for name in NAMED if name.startswith(f"{VTAB}/")]
    return [one for given in data for one in (tasks if isinstance(given, str) and given == VTAB else [given])]


def terms(data: str) -> str:
    """A line on the terms of use of a named data set; empty for others."""
    if data in NAMED:
        return f"data {data}: terms of use: {NAMED[data].terms}"
    return f"data {data}: terms of use: see its page on the Hub" if data.startswith(HUB) else ""
