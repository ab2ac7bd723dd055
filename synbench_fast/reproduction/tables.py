"""What was published: tables with their models, their protocol, and those of their numbers that are known here.

A number is here only with its source. What is not known is left out, and `unknown` says so. No torch is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from synbench_fast.errors import SynbenchError, suggest

__all__ = ["SCORE_FIELDS", "TABLES", "PublishedModel", "PublishedTable", "PublishedValue", "find_table"]


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A model of a table: its name there, the spec that names its weights today, and how that is known."""

    label: str
    spec: str
    known_from: str


@dataclass(frozen=True, kw_only=True)
class PublishedValue:
    """One published number, in the units of the table, and where it was read."""

    spec: str
    quantity: str
    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A published table or figure.

    Attributes:
        name: what `reproduce` calls it.
        title: one line.
        paper: its source.
        protocol: how it was measured, in words.
        unknown: what is not known publicly, or differs here for that reason.
        models: those of the paper.
        values: the published numbers that are known.
        settings: fields of `ScoreConfig` that the protocol fixes.
        defaults: further ones, which the publication leaves open or which are not known.
    """

    name: str
    title: str
    paper: str
    protocol: str
    unknown: str
    models: tuple[PublishedModel, ...] = ()
    values: tuple[PublishedValue, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def published(self, spec: str, quantity: str) -> PublishedValue | None:
        """The known number of a model, None where there is none."""
        found = [one for one in self.values if (one.spec, one.quantity) == (spec, quantity)]
        return found[0] if found else None


SYNBENCH = "Ko et al., arXiv 2210.02989"
_RIB = "Hwang et al., arXiv 2410.21582"
_SCORED = (
    "estimator paper, 49 scales x 2048 samples per half, sum over thresholds, ImageNet's mean and deviation"
)
_NO_NUMBERS = (
    "the numbers of the paper and its list of budgets eps; its public repository has the script alone"
)
_BARS = "read off the bars of assets/bar.png in github.com/FieteLab/ImageNet-RIB, to about 0.1; mRI is after less before"
_BUDGETS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_SETTINGS: dict[str, Any] = {
    "estimator": "paper",
    "preset": "paper",
    "integral": "grid",
    "published_preprocessing": True,
    "thresholds": (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99),
}
_VITS = tuple(
    PublishedModel(
        label=label,
        spec=f"timm:vit_{size}_patch16_224.augreg_in21k_ft_in1k",
        known_from="today's tag of the weights that the timm of the paper's time has under this name",
    )
    for label, size in (("ViT-Ti/16", "tiny"), ("ViT-S/16", "small"), ("ViT-B/16", "base"), ("ViT-L/16", "large"))
)  # fmt: skip
# Name, weights of timm, whether the public code names them, mean accuracy on the other data sets before and after, mRI.
_BAR_ROWS = (
    ("IN-1K + AugReg", "vit_base_patch16_224.augreg_in1k", True, 42.7, 44.0, 1.3),
    ("IN-1K + SAM", "vit_base_patch16_224.sam_in1k", False, 42.9, 45.4, 2.5),
    ("IN-21K", "vit_base_patch16_224.orig_in21k_ft_in1k", True, 50.1, 50.0, -0.1),
    ("IN-21K-P", "vit_base_patch16_224_miil.in21k_ft_in1k", False, 53.3, 52.8, -0.5),
    ("IN-21K + AugReg", "vit_base_patch16_224.augreg_in21k_ft_in1k", True, 57.8, 52.3, -5.5),
    ("OpenAI CLIP", "vit_base_patch16_clip_224.openai_ft_in1k", True, 60.6, 22.6, -38.0),
    ("LAION-2B", "vit_base_patch16_clip_224.laion2b_ft_in1k", True, 61.5, 23.4, -38.1),
)  # fmt: skip
SCORE_FIELDS = (  # of ScoreConfig: what decides a table of scores
    "input_shape", "eps", "thresholds", "scales", "samples", "estimator", "preset", "integral", "seed", "device",
    "batch_size", "published_preprocessing", "random_init", "threads",
)  # fmt: skip
BEFORE, AFTER, INHERITED = "others before", "others after", "mRI"

TABLES = {
    one.name: one
    for one in (
        PublishedTable(
            name="synbench-scores",
            title="SynBench: scores of vision transformers by budget eps and threshold accuracy a_t",
            paper=SYNBENCH,
            protocol=_SCORED,
            unknown=_NO_NUMBERS,
            models=_VITS,
            settings=_SETTINGS,
            defaults={"eps": _BUDGETS},
        ),
        PublishedTable(
            name="synbench-eps",
            title="SynBench: the choice of eps, the budget with the largest score",
            paper=SYNBENCH,
            protocol=_SCORED,
            unknown=_NO_NUMBERS,
            models=_VITS,
            settings=_SETTINGS,
            defaults={"eps": _BUDGETS},
        ),
        PublishedTable(
            name="synbench-bounds",
            title="SynBench: expected bound against threshold accuracy a_t, of the model and of the raw data",
            paper=SYNBENCH,
            protocol=_SCORED,
            unknown=_NO_NUMBERS,
            models=_VITS,
            settings=_SETTINGS,
            defaults={"eps": (0.0, 0.2, 0.4)},
        ),
        PublishedTable(
            name="synbench-probes",
            title="SynBench: eps-robust linear probes, clean and attacked, in per cent",
            paper=SYNBENCH,
            protocol="linear probes on frozen features for budgets eps, attacked on the inputs; --data names the images",
            unknown=f"{_NO_NUMBERS}; data and attack of its probes",
            models=_VITS,
            defaults={"eps": (0.0, 0.2)},
        ),
        PublishedTable(
            name="imagenet-rib",
            title="ImageNet-RIB: accuracy on the other data sets before and after fine-tuning, in points",
            paper=_RIB,
            protocol="all weights fine-tuned on each of the 8 data sets, 10 epochs of SGD, evaluated on the 7 others",
            unknown="the matrix of single data sets, a spread over seeds, and the size of the models, presumably ViT-B/16",
            models=tuple(
                PublishedModel(
                    label=label,
                    spec=f"timm:{name}",
                    known_from="named in the public code" if named else "inferred from the label of the bar",
                )
                for label, name, named, *_ in _BAR_ROWS
            ),
            values=tuple(
                PublishedValue(spec=f"timm:{name}", quantity=quantity, value=value, source=_BARS)
                for _, name, _, *numbers in _BAR_ROWS
                for quantity, value in zip((BEFORE, AFTER, INHERITED), numbers, strict=True)
            ),
        ),
        PublishedTable(
            name="minimax",
            title="Task-robust pre-training: worst-case accuracy over downstream tasks, minimax less mean loss",
            paper="Wang et al., arXiv 2306.12070",
            protocol="masked pre-training with the mean loss and with minimax over groups of the upstream task",
            unknown="models, groups, update rule, temperature and numbers; no code was published",
        ),
    )
}  # fmt: skip


def find_table(name: str) -> PublishedTable:
    """The table of that name.

    Raises:
        SynbenchError: there is none.
    """
    if name not in TABLES:
        raise SynbenchError(
            f"table: expected one of {', '.join(TABLES)}, got {name!r}{suggest(name, TABLES)}"
        )
    return TABLES[name]
