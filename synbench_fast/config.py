"""ScoreConfig: every argument of a score, once, with its default, check, help, JSON form, cache key and shell line.

A new argument is a further field below and the code that uses it. Python (`score`, `score_suite`), the command line, the
files of `run --config`, fleets, studies, the training monitors and the lm_eval task all read it from here. Nothing here
imports torch.
"""

from __future__ import annotations

import inspect
import numbers
import os
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from synbench_fast import arguments
from synbench_fast.arguments import ESTIMATORS
from synbench_fast.checks import (
    THRESHOLDS,
    as_numbers,
    check_eps,
    check_estimator,
    check_integer,
    check_seed,
    check_threads,
    check_thresholds,
)
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.scales import spread_scales

__all__ = ["PRESETS", "Kind", "Option", "Preset", "ScoreConfig", "option_of", "options", "signature_of"]


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
POOLS = ("default", "avg", "max", "cls", "flatten")
BACKENDS = ("auto", "torch")
AVERAGES = ("auto", "sampled", "published")
INTEGRALS = ("exact", "grid")
DTYPES = ("auto", "float32", "tf32", "bfloat16", "float16", "float64")
DTYPE_SYNONYMS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}


@dataclass(frozen=True)
class Kind:
    """What values an argument takes.

    Attributes:
        metavar: how help shows them.
        check: from (name of the argument, value of Python) to the value that is kept, or a SynbenchError.
        read: from (name of the option, text of a command line) to the same, or a UsageError.
        choices: the words that a shell can complete.
    """

    metavar: str
    check: Callable[[str, Any], Any]
    read: Callable[[str, str], Any]
    choices: tuple[str, ...] = ()


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


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _word(name: str, value: Any, words: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in words:
        raise SynbenchError(
            f"{name}: expected one of {list(words)}, got {value!r}{suggest(str(value), words)}"
        )
    return value


def _choice(words: tuple[str, ...]) -> Kind:
    return Kind(
        metavar="|".join(words),
        check=lambda name, value: _word(name, value, words),
        read=lambda option, text: arguments.choice(option, text, words),
        choices=words,
    )


def _dtype(name: str, value: Any) -> str:
    """Its one name, from a name, a synonym such as fp32, or a torch dtype."""
    word = str(value).removeprefix("torch.")
    word = DTYPE_SYNONYMS.get(word, word)
    if word not in DTYPES:
        raise SynbenchError(
            f"{name}: expected one of {list(DTYPES)}, got {word!r}{suggest(word, [*DTYPES, *DTYPE_SYNONYMS])}"
        )
    return word


def _plain_number(name: str, value: Any) -> Any:
    """A float where it is a number; what it may be, the task says, for which suites have further values."""
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def _scales(name: str, value: Any) -> int | tuple[float, ...]:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        spread_scales(int(value))
        return int(value)
    if isinstance(value, numbers.Real | str):
        raise SynbenchError(f"{name}: expected their number or a sequence of values, got {value!r}")
    return as_numbers(value, name)


LEAST_HALF_WIDTH = 1e-4  # a tenth of what the most samples that are drawn give


def _half_width(name: str, value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or not LEAST_HALF_WIDTH <= float(value) < 1
    ):
        raise SynbenchError(f"{name}: expected a half-width in [{LEAST_HALF_WIDTH:g}, 1), got {value!r}")
    return float(value)


def _batch_size(name: str, value: Any) -> int | str:
    if value == "auto":
        return "auto"
    if isinstance(value, str):
        raise SynbenchError(f"{name}: expected 'auto' or a positive integer, got {value!r}")
    return check_integer(name, value, 1, "'auto' or a positive integer")


def _compile(name: str, value: Any) -> bool | str:
    if value is True or value is False or value == "auto":
        return bool(value) if isinstance(value, bool) else "auto"
    raise SynbenchError(f"{name}: expected True, False or 'auto', got {value!r}")


def _shape(name: str, value: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(value)
    except TypeError:
        sizes = ()
    if not sizes or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**63 for n in sizes):
        raise SynbenchError(f"{name}: expected positive integers such as (3, 224, 224), got {value!r}")
    return sizes


def _path(name: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise SynbenchError(f"{name}: expected a path, got {value!r}")
    return os.fspath(value) if isinstance(value, str) else str(value)


def _estimator(option: str, text: str) -> str:
    """Names of other packages are looked for if one that is not built in is asked for."""
    if text in ESTIMATORS:
        return text
    from synbench_fast import plugins

    return arguments.choice(option, text, [*ESTIMATORS, *plugins.names("estimators")])


def _flag(default_metavar: str = "") -> Kind:
    return Kind(default_metavar, lambda name, value: bool(value), lambda option, text: text == "true")


def _between(low: float, below: float, metavar: str, check: Callable[[Any], tuple[float, ...]]) -> Kind:
    return Kind(
        metavar,
        lambda name, value: check(value),
        lambda option, text: arguments.numbers(option, text, low=low, below=below, distinct=True),
    )


def _option(default: Any, **given: Any) -> Any:
    return field(default=default, metadata={"option": Option(**given)})


SAMPLES, ENCODER, PLACE, SCORE = "What is drawn", "The encoder", "How it runs", "What is computed"


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """The arguments of a score, checked when one is made; sequences become tuples, NumPy and Torch numbers plain ones.

    Fields have in their metadata an `Option`, with what they mean.

    Raises:
        SynbenchError: one line that names the argument, what was expected and what came.
    """

    input_shape: tuple[int, ...] | None = _option(
        None,
        kind=Kind("C,H,W", _optional(_shape), arguments.shape),
        help="Shape of one input, without the batch; by default the encoder's own.",
        panel=ENCODER,
        decides="encoder",
    )
    eps: tuple[float, ...] = _option(
        (0.0, 0.2),
        kind=_between(0, 1, "E,...", check_eps),
        help="Robustness budgets in [0, 1), in units of half the distance of the classes.",
        panel=SCORE,
        always=True,
    )
    thresholds: tuple[float, ...] = _option(
        THRESHOLDS,
        kind=_between(0, 1, "A,...", check_thresholds),
        help="Threshold accuracies a_t in [0, 1); by default the paper's 0.6, 0.65, ..., 0.95, 0.99, of which the table "
        "shows the lowest.",
        panel=SCORE,
        decides="amount",
    )
    scales: int | tuple[float, ...] | None = _option(
        None,
        kind=Kind("N|S,...", _optional(_scales), arguments.count_or_numbers),
        help="Number of scales up to 4.9, or their values (2 is a number, 2.0 a value); by default the preset's.",
        panel=SAMPLES,
        decides="amount",
    )
    samples: int | None = _option(
        None,
        kind=Kind(
            "N",
            _optional(
                lambda name, value: check_integer(name, value, 4, "an integer of at least 4 per scale", 2**63)
            ),
            lambda option, text: arguments.integer(option, text, low=4),
        ),
        help="Samples per scale, for paper per half; by default the preset's, or 2 per feature if that is more (not for "
        "paper). With precision, what a scale begins with.",
        panel=SAMPLES,
        decides="amount",
    )
    estimator: str = _option(
        ESTIMATORS[0],
        kind=Kind("|".join(ESTIMATORS), lambda name, value: check_estimator(value), _estimator, ESTIMATORS),
        help="consistent counts left-out samples and removes the bias of few, gaussian is for Gaussian margins, counted "
        "is the classifier of so many samples, paper the published protocol.",
        panel=SCORE,
        always=True,
    )
    preset: str = _option(
        "standard",
        kind=_choice(tuple(PRESETS)),
        help="Scales x samples: quick 12 x 512, standard 25 x 1024, paper 49 x 2048; it does not choose the estimator.",
        panel=SAMPLES,
        decides="amount",
        always=True,
    )
    precision: float | None = _option(
        None,
        kind=Kind(
            "H",
            _optional(_half_width),
            lambda option, text: arguments.number(option, text, above=0, below=1),
        ),
        help="Largest half-width of any score's 95 % interval, such as 0.01: samples are added until none is wider. Not "
        "for paper.",
        panel=SAMPLES,
        decides="amount",
    )
    average: str = _option(
        "auto",
        kind=_choice(AVERAGES),
        help="Mean over the sampled scales, or over the published 49 by a smooth fit, as the presets quick and standard "
        "do.",
        panel=SCORE,
        decides="amount",
    )
    integral: Literal["exact", "grid"] = _option(
        "exact",
        kind=_choice(INTEGRALS),
        help="Integral over the thresholds; grid is the published script's sum.",
        panel=SCORE,
        decides="amount",
    )
    prior: float = _option(
        0.5,
        kind=Kind("P", _plain_number, lambda option, text: arguments.number(option, text, above=0, below=1)),
        help="Probability of class 1.",
        panel=SAMPLES,
        always=True,
    )
    center: float = _option(
        0.5,
        kind=Kind("C", _plain_number, arguments.number),
        help="Mean of every input element before normalisation (0.5 is mid grey).",
        panel=SAMPLES,
    )
    seed: int = _option(
        0,
        kind=Kind(
            "N",
            lambda name, value: check_seed(value),
            lambda option, text: arguments.integer(option, text, low=0, high=2**64 - 1),
        ),
        help="Seed of the samples, and of the weights with random_init; 64 bits.",
        panel=SAMPLES,
        always=True,
    )
    device: str | None = _option(
        "auto",
        kind=Kind(
            "auto|cpu|cuda[:N]",
            lambda name, value: value if value is None else str(value),
            arguments.device,
            ("auto", "cpu", "cuda"),
        ),
        help="Where it runs; auto is a CUDA GPU if there is one, and a Module stays where it is.",
        panel=PLACE,
        decides="place",
        always=True,
    )
    dtype: str = _option(
        "auto",
        kind=Kind(
            "|".join(DTYPES),
            _dtype,
            lambda option, text: DTYPE_SYNONYMS.get(text) or arguments.choice(option, text, DTYPES),
            DTYPES,
        ),
        help="Arithmetic of the forward pass; fp32, bf16, fp16 and fp64 mean the same. auto leaves a Module as it is, is "
        "float32 on a CPU, and on a GPU the fastest that measurably changes nothing.",
        panel=PLACE,
        always=True,
    )
    backend: str = _option(
        "auto",
        kind=_choice(BACKENDS),
        help="Backend of the operations; torch is the slow float64 specification, which runs anywhere.",
        panel=PLACE,
    )
    batch_size: int | str = _option(
        "auto",
        kind=Kind(
            "auto|N",
            _batch_size,
            lambda option, text: (
                text if text == "auto" else arguments.integer(option, text, low=1, or_word="auto")
            ),
        ),
        help="Images per forward pass. It does not change the samples.",
        panel=PLACE,
        always=True,
    )
    compile: bool | str = _option(
        "auto",
        kind=Kind("", _compile, lambda option, text: text == "true"),
        help="Use torch.compile; by default where it repays itself.",
        panel=PLACE,
    )
    mean: tuple[float, ...] | None = _option(
        None,
        kind=Kind("M,...", _optional(lambda name, value: as_numbers(value, name)), arguments.numbers),
        help="Normalisation mean per channel, or one for all; by default the encoder's, none for a Module.",
        panel=ENCODER,
        decides="encoder",
    )
    std: tuple[float, ...] | None = _option(
        None,
        kind=Kind(
            "S,...",
            _optional(lambda name, value: as_numbers(value, name)),
            lambda option, text: arguments.numbers(option, text, above=0),
        ),
        help="Normalisation deviation per channel, or one for all; by default as for mean.",
        panel=ENCODER,
        decides="encoder",
    )
    published_preprocessing: bool = _option(
        False,
        kind=_flag(),
        help="The published script's ImageNet mean and deviation, for every encoder.",
        panel=ENCODER,
    )
    pool: str | None = _option(
        None,
        kind=Kind(
            "|".join(POOLS),
            _optional(
                lambda name, value: (
                    value
                    if value in POOLS
                    else _refused(
                        f"{name}: expected one of {', '.join(POOLS)}, got {value!r}{suggest(str(value), POOLS)}"
                    )
                )
            ),
            lambda option, text: arguments.choice(option, text, POOLS),
            POOLS,
        ),
        help="How tokens or maps become a vector.",
        panel=ENCODER,
        decides="encoder",
    )
    checkpoint: str | None = _option(
        None,
        kind=Kind("FILE[#KEY]", _optional(_path), arguments.checkpoint),
        help="Local weights, loaded without executing code; needs one encoder. KEY chooses one of several in a file.",
        panel=ENCODER,
        decides="encoder",
    )
    random_init: bool = _option(
        False,
        kind=_flag(),
        help="Untrained weights drawn from the seed; nothing is downloaded.",
        panel=ENCODER,
        decides="encoder",
    )
    trust_remote_code: bool = _option(
        False,
        kind=_flag(),
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
        help="CPU threads; by default all, and in a fleet 1 for each worker.",
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

    @classmethod
    def of(cls, config: ScoreConfig | None, given: Mapping[str, Any]) -> Self:
        """`config`, or the defaults, with the arguments `given` in place of its own; unknown names are errors."""
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                raise SynbenchError(
                    f"options: expected arguments of score(), got {name!r}{suggest(name, known)}"
                )
        return cls(**given) if config is None else replace(config, **given)  # type: ignore[return-value]

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """From JSON or TOML values, as `to_dict` gives them."""
        return cls.of(None, document)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """From a TOML file whose keys are fields."""
        try:
            with Path(path).open("rb") as file:
                return cls.from_dict(tomllib.load(file))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SynbenchError(f"config: expected a TOML file, got {os.fspath(path)!r} ({error})") from None
        except SynbenchError as error:
            raise SynbenchError(f"config: {os.fspath(path)}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values of every field."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}

    def deciding(self, *kinds: str) -> dict[str, Any]:
        """`to_dict` of the fields whose Option.decides is among `kinds`: what a cache key is made of."""
        plain = self.to_dict()
        return {one.name: plain[one.name] for one in fields(self) if option_of(one).decides in kinds}

    @property
    def scale_values(self) -> tuple[float, ...]:
        """The values of the scales asked for, by default the preset's."""
        wanted = PRESETS[self.preset].scales if self.scales is None else self.scales
        return spread_scales(wanted) if isinstance(wanted, int) else wanted

    def command(self, *encoders: str, verb: str = "run", **further: Any) -> str:
        """The shell line that repeats a run of these encoders; `further` options come last, None left out.

        >>> ScoreConfig(eps=0.2, random_init=True).command("timm:resnet18").partition(" --estimator")[0]
        'synbench-fast run timm:resnet18 --eps 0.2'
        """
        words = ["synbench-fast", *verb.split(), *encoders]
        for one in fields(self):
            value, option = getattr(self, one.name), option_of(one)
            if value is None or (value == one.default and not option.always):
                continue
            words += _words(one.name, value)
        for name, value in further.items():
            words += _words(name, value)
        return shlex.join(words)


def _refused(message: str) -> Any:
    raise SynbenchError(message)


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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _words(name: str, value: Any) -> list[str]:
    """One option of a shell line."""
    flag = "--" + name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else "--no-" + flag.removeprefix("--")]
    return [flag, _text(value, whole=name != "scales")]


def _text(value: Any, whole: bool) -> str:
    """A value as the command line takes it. 2.0 is "2", unless that would be read as a count."""
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        text = repr(float(value))  # the shortest text that reads back as the same number
        return text.removesuffix(".0") if whole else text
    if isinstance(value, Iterable) and not isinstance(value, str | os.PathLike):
        return ",".join(_text(one, whole) for one in value)
    return str(value)
