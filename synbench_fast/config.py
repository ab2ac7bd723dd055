"""ScoreConfig: every argument of a score, once, with its default, check, help, JSON form, cache key and shell line.

A new argument is a further field below and the code that uses it. Python (`score`, `score_suite`), the command line, the
files of `run --config`, fleets, studies, the training monitors and the lm_eval task all read it from here. Nothing here
imports torch.
"""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from synbench_fast import arguments, kinds
from synbench_fast.arguments import ESTIMATORS
from synbench_fast.checks import (
    POOLS,
    THRESHOLDS,
    as_numbers,
    check_eps,
    check_estimator,
    check_integer,
    check_pool,
    check_seed,
    check_shape,
    check_threads,
    check_thresholds,
)
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.kinds import Kind
from synbench_fast.runtime.toml_files import read_toml
from synbench_fast.scales import spread_scales

__all__ = [
    "MOVED",
    "PRESETS",
    "SCORE",
    "Kind",
    "Option",
    "Preset",
    "ScoreConfig",
    "described",
    "option_of",
    "options",
    "signature_of",
]


@dataclass(frozen=True)
class Preset:
    """What a run draws unless told otherwise.

    Where `average` is "published", scores are the mean over the published 49 scales, by a fit to those that are drawn,
    so that all presets estimate one quantity.
    """

    scales: int
    samples: int  # per scale, and per half for the paper's estimator
    average: str


PRESETS = {
    "quick": Preset(scales=12, samples=512, average="published"),
    "standard": Preset(scales=25, samples=1024, average="published"),
    "paper": Preset(scales=49, samples=2048, average="sampled"),
}
BACKENDS = ("auto", "torch")
AVERAGES = ("auto", "sampled", "published")
INTEGRALS = ("exact", "grid")
MOVED = {"precision": "half_width"}  # earlier names of fields


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a field of ScoreConfig says of itself.

    Attributes:
        kind: its values.
        help: one line for the command line and for the documentation.
        panel: heading of its group in help.
        decides: "numbers" where another value gives other features or points of the curve; "amount" where it only says how
            many of them, or what is made of them, so that stored ones can be used again; "encoder" where it belongs to
            one encoder and not to a run of several; "place" where it changes no number.
        always: whether the shell line has it even at its default.
    """

    kind: Kind
    help: str
    panel: str
    decides: str = "numbers"
    always: bool = False


def _option(default: Any, **given: Any) -> Any:
    return field(default=default, metadata={"option": Option(**given)})


# Headings of help.
SAMPLES, ENCODER, PLACE, SCORE = "What is drawn", "The encoder", "How it runs", "What is computed"


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """The arguments of a score, checked when one is made; sequences become tuples, NumPy and Torch numbers plain ones.

    Scores, suites, studies and fleets take one as `config`. Arguments that are given beside it replace its fields:

        config = sb.ScoreConfig(preset="quick", eps=(0, 0.2), seed=1)
        first = sb.score("timm:resnet18", config=config)
        second = sb.score("timm:resnet18", config=config, seed=2)

    Fields have in their metadata an `Option`, with what they mean.

    Raises:
        SynbenchError: one line that names the argument, what was expected and what came.
    """

    input_shape: tuple[int, ...] | None = _option(
        None,
        kind=Kind("C,H,W", kinds.optional(lambda name, value: check_shape(value, name)), arguments.shape),
        help="Set the shape of one input, without the batch; the default is the encoder's own.",
        panel=ENCODER,
        decides="encoder",
    )
    eps: tuple[float, ...] = _option(
        (0.0, 0.2),
        kind=kinds.between(0, 1, "E,...", check_eps),
        help="Set the robustness budgets in [0, 1), in units of half the distance of the classes.",
        panel=SCORE,
        always=True,
    )
    thresholds: tuple[float, ...] = _option(
        THRESHOLDS,
        kind=kinds.between(0, 1, "A,...", check_thresholds),
        help="Set the threshold accuracies a_t in [0, 1). Without this option the table shows only the lowest.",
        panel=SCORE,
        decides="amount",
    )
    scales: int | tuple[float, ...] | None = _option(
        None,
        kind=Kind("N|S,...", kinds.optional(kinds.scales), arguments.count_or_numbers),
        help="Set the number of scales up to 4.9, or their values (2 is a number, 2.0 a value); the default is the preset's.",
        panel=SAMPLES,
        decides="amount",
    )
    samples: int | None = _option(
        None,
        kind=Kind(
            "N",
            kinds.optional(
                lambda name, value: check_integer(name, value, 4, "an integer of at least 4 per scale", 2**63)
            ),
            lambda option, text: arguments.integer(option, text, low=4),
        ),
        help="Draw N samples per scale, for paper per half; the default is the preset's number, or 2 per feature if that is "
        "more (not for paper). With a half-width, every scale begins with N.",
        panel=SAMPLES,
        decides="amount",
    )
    estimator: str = _option(
        ESTIMATORS[0],
        kind=Kind(
            "|".join(ESTIMATORS),
            lambda name, value: check_estimator(value),
            kinds.estimator,
            words=kinds.estimators,
        ),
        help="Choose how accuracies are estimated: consistent estimates the best classifier with unlimited samples, gaussian does "
        "so for Gaussian margins, counted takes the classifier that N samples give, paper is the published protocol.",
        panel=SCORE,
        always=True,
    )
    preset: str = _option(
        "standard",
        kind=kinds.choice(tuple(PRESETS)),
        help="Choose scales x samples: quick 12 x 512, standard 25 x 1024, paper 49 x 2048; the estimator is not changed.",
        panel=SAMPLES,
        decides="amount",
        always=True,
    )
    half_width: float | None = _option(
        None,
        kind=Kind(
            "H",
            kinds.optional(kinds.half_width),
            lambda option, text: arguments.number(option, text, above=0, below=1),
        ),
        help="Add samples until no 95 % interval of a score reaches further than H from it, such as 0.01; not for paper.",
        panel=SAMPLES,
        decides="amount",
    )
    average: str = _option(
        "auto",
        kind=kinds.choice(AVERAGES),
        help="Average over the sampled scales, or over the published 49 by a smooth fit, as the presets quick and standard "
        "do.",
        panel=SCORE,
        decides="amount",
    )
    integral: Literal["exact", "grid"] = _option(
        "exact",
        kind=kinds.choice(INTEGRALS),
        help="Choose the integral over the thresholds; grid is the published script's sum.",
        panel=SCORE,
        decides="amount",
    )
    structure: bool = _option(
        False,
        kind=kinds.flag(),
        help="Also compute the structure score of an encoder of images: classes that no linear map of the pixels separates. "
        "The command run does so by default, Python does not.",
        panel=SCORE,
        decides="amount",
        always=True,
    )
    label_free: bool = _option(
        False,
        kind=kinds.flag(),
        help="Also compute metrics of the structure score's features that need no labels, such as RankMe; takes a second for "
        "each block.",
        panel=SCORE,
        decides="amount",
    )
    prior: float = _option(
        0.5,
        kind=Kind(
            "P", kinds.plain_number, lambda option, text: arguments.number(option, text, above=0, below=1)
        ),
        help="Set the probability of class 1.",
        panel=SAMPLES,
        always=True,
    )
    center: float = _option(
        0.5,
        kind=Kind("C", kinds.plain_number, arguments.number),
        help="Set the mean of every input element before normalisation; 0.5 is mid grey.",
        panel=SAMPLES,
    )
    seed: int = _option(
        0,
        kind=Kind(
            "N",
            lambda name, value: check_seed(value),
            lambda option, text: arguments.integer(option, text, low=0, high=2**64 - 1),
        ),
        help="Set the seed of the samples, and of weights that are drawn at random; it has 64 bits.",
        panel=SAMPLES,
        always=True,
    )
    device: str = _option(
        "auto",
        kind=Kind(
            "auto|cpu|cuda[:N]",
            kinds.device,
            arguments.device,
            words=lambda: ("auto", "cpu", "cuda"),
        ),
        help="Choose where the encoder runs; auto is a CUDA GPU if there is one, and a Module stays where it is.",
        panel=PLACE,
        decides="place",
        always=True,
    )
    dtype: str = _option(
        "auto",
        kind=Kind(
            "|".join(kinds.DTYPES),
            kinds.dtype,
            lambda option, text: (
                kinds.DTYPE_SYNONYMS.get(text) or arguments.choice(option, text, kinds.DTYPES)
            ),
            words=lambda: kinds.DTYPES,
        ),
        help="Choose the arithmetic of the forward pass; fp32, bf16, fp16 and fp64 are other names. auto leaves a Module as it "
        "is, takes float32 on a CPU, and on a GPU the fastest that changes a score by less than its sampling error.",
        panel=PLACE,
        always=True,
    )
    backend: str = _option(
        "auto",
        kind=kinds.choice(BACKENDS),
        help="Choose the backend of the operations; torch is the slow float64 specification, which runs anywhere.",
        panel=PLACE,
    )
    batch_size: int | str = _option(
        "auto",
        kind=Kind(
            "auto|N",
            kinds.batch_size,
            lambda option, text: (
                text if text == "auto" else arguments.integer(option, text, low=1, or_word="auto")
            ),
        ),
        help="Set the images per forward pass; this does not change the samples.",
        panel=PLACE,
        always=True,
    )
    compile: bool | str = _option(
        "auto",
        kind=Kind("", kinds.compile, lambda option, text: text == "true"),
        help="Use torch.compile; the default is to use it if that saves time.",
        panel=PLACE,
    )
    mean: tuple[float, ...] | None = _option(
        None,
        kind=Kind("M,...", kinds.optional(lambda name, value: as_numbers(value, name)), arguments.numbers),
        help="Normalise with this mean per channel, or one for all; the default is the encoder's own, and for a Module none.",
        panel=ENCODER,
        decides="encoder",
    )
    std: tuple[float, ...] | None = _option(
        None,
        kind=Kind(
            "S,...",
            kinds.optional(lambda name, value: as_numbers(value, name)),
            lambda option, text: arguments.numbers(option, text, above=0),
        ),
        help="Normalise with this deviation per channel, or one for all; the default is as for the mean.",
        panel=ENCODER,
        decides="encoder",
    )
    published_preprocessing: bool = _option(
        False,
        kind=kinds.flag(),
        help="Normalise every encoder with the published script's ImageNet mean and deviation.",
        panel=ENCODER,
    )
    pool: str | None = _option(
        None,
        kind=Kind(
            "|".join(POOLS),
            kinds.optional(lambda name, value: check_pool(value, name)),
            lambda option, text: arguments.choice(option, text, POOLS),
            words=lambda: POOLS,
        ),
        help="Choose how tokens or maps become a vector; the default is the encoder's own way.",
        panel=ENCODER,
        decides="encoder",
    )
    checkpoint: str | None = _option(
        None,
        kind=Kind("FILE[#KEY]", kinds.optional(kinds.path), arguments.checkpoint),
        help="Load local weights into the one encoder, without executing code; KEY chooses one of several in a file.",
        panel=ENCODER,
        decides="encoder",
    )
    random_init: bool = _option(
        False,
        kind=kinds.flag(),
        help="Draw untrained weights from the seed; nothing is downloaded.",
        panel=ENCODER,
        decides="encoder",
    )
    trust_remote_code: bool = _option(
        False,
        kind=kinds.flag(),
        help="Run the code of a hub model, or a TorchScript archive.",
        panel=ENCODER,
        decides="encoder",
    )
    threads: int | None = _option(
        None,
        kind=Kind(
            "N",
            lambda name, value: check_threads(value),
            lambda option, text: arguments.integer(option, text, low=1, high=arguments.most_at_once()),
        ),
        help="Use N CPU threads; the default is all, and in a fleet 1 for each worker.",
        panel=PLACE,
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            object.__setattr__(self, one.name, option_of(one).kind.check(one.name, value))
        if self.published_preprocessing and (self.mean is not None or self.std is not None):
            raise SynbenchError(
                "published_preprocessing: expected mean and std to be left out, got both kinds"
            )
        if self.label_free and not self.structure:
            raise SynbenchError("label_free: expected structure=True, whose images it takes, got False")

    @classmethod
    def of(cls, config: ScoreConfig | None, given: Mapping[str, Any]) -> ScoreConfig:
        """`config`, or the defaults, with the arguments `given` in place of its own; unknown names are errors."""
        known = [one.name for one in fields(cls)]
        for name in given:
            if name in MOVED:
                raise SynbenchError(f"options: expected {MOVED[name]!r}, got {name!r}")
            if name not in known:
                raise SynbenchError(
                    f"options: expected arguments of score(), got {name!r}{suggest(name, known)}"
                )
        return cls(**given) if config is None else replace(config, **given)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ScoreConfig:
        """From JSON or TOML values, as `to_dict` gives them."""
        return cls.of(None, document)

    @classmethod
    def load(cls, path: str | os.PathLike[str], base: ScoreConfig | None = None) -> ScoreConfig:
        """From a TOML file whose keys are fields; the others are those of `base`, or the defaults."""
        try:
            document = read_toml(path)
        except SynbenchError as error:
            raise SynbenchError(f"config: {error}") from None
        try:
            return cls.of(base, document)
        except ValueError as error:  # SynbenchError, or an integer of more digits than Python prints
            raise SynbenchError(f"config: {os.fspath(path)}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values of every field."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    @property
    def scale_values(self) -> tuple[float, ...]:
        """The values of the scales asked for, by default the preset's."""
        wanted = PRESETS[self.preset].scales if self.scales is None else self.scales
        return spread_scales(wanted) if isinstance(wanted, int) else wanted

    def command(
        self,
        *encoders: str,
        verb: str = "run",
        score_fields: Sequence[str] | None = None,
        always_fields: Collection[str] = (),
        **further: Any,
    ) -> str:
        """The shell line that repeats a run of these encoders; `further` options come last, None left out.

        `score_fields` are the fields that the verb has options for, by default all; of `always_fields` it has other
        defaults. Of further options a mapping stands for one that is repeated, NAME=VALUE, and an empty sequence for
        "none".

        >>> ScoreConfig(eps=0.2, random_init=True).command("timm:resnet18").partition(" --estimator")[0]
        'synbench-fast run timm:resnet18 --eps 0.2'
        """
        words = ["synbench-fast", *verb.split(), *encoders]
        for one in fields(self):
            value, option = getattr(self, one.name), option_of(one)
            if value is None or (
                value == one.default and not option.always and one.name not in always_fields
            ):
                continue
            if score_fields is not None and one.name not in score_fields:
                continue
            words += arguments.shell_words(one.name, value)
        for name, value in further.items():
            words += arguments.shell_words(name, value)
        return shlex.join(words)


def option_of(one: Field[Any]) -> Option:
    """What a field of ScoreConfig says of itself."""
    found: Option = one.metadata["option"]
    return found


def options() -> dict[str, tuple[Option, Any]]:
    """Option and default of every field of ScoreConfig, by name, in order."""
    assert all(one.default is not MISSING for one in fields(ScoreConfig))
    return {one.name: (option_of(one), one.default) for one in fields(ScoreConfig)}


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function with the fields of ScoreConfig in place of its `**arguments`, for help and editors."""
    found = inspect.signature(function)
    own = [one for one in found.parameters.values() if one.kind is not one.VAR_KEYWORD]
    taken = {one.name for one in own}
    further = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for one in fields(ScoreConfig)
        if one.name not in taken
    ]
    return found.replace(parameters=[*own, *further])


_Function = TypeVar("_Function", bound=Callable[..., Any])


def described(signature: Callable[[Any], inspect.Signature]) -> Callable[[_Function], _Function]:
    """A decorator that shows help and editors `signature(function)` where the function has `**arguments`."""

    def decorate(function: _Function) -> _Function:
        vars(function)["__signature__"] = signature(function)
        return function

    return decorate


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
