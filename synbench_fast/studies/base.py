"""What all studies share, so that a new one writes its own question and nothing else.

`Study` is a dataclass of a study's options: it checks them, takes the arguments of a score that the study reads from a
`ScoreConfig`, and makes the shell line that repeats the study. `Report` is what a study returns: a document whose rows
become CSV and whose tables become text. `isolated` and `open_encoder` are how a study runs an encoder.
`synbench_fast.studies.cells` keeps the finished parts of a long study on disk.
"""

from __future__ import annotations

import csv
import dataclasses
import inspect
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TextIO

import torch
from torch import Tensor, nn

from synbench_fast.checks import as_numbers, check_integer
from synbench_fast.config import ScoreConfig, signature_of
from synbench_fast.encoders import Encoder, load_encoder
from synbench_fast.engine.devices import find_device
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.printable import named_cells, print_table
from synbench_fast.results.documents import Document
from synbench_fast.results.files import write_atomically
from synbench_fast.runtime.global_state import known_state, own_registrations

__all__ = [
    "EncoderLike",
    "Report",
    "Say",
    "Study",
    "Table",
    "at_least",
    "between",
    "finite",
    "isolated",
    "named_encoders",
    "open_encoder",
    "option",
    "row_of",
]

EncoderLike = str | nn.Module | Callable[[Tensor], Tensor]
Say = Callable[[str], None]  # progress in lines
Check = Callable[[str, Any], Any]  # from the name and value of an option to the value that is kept

# What decides how an encoder is loaded.
ENCODER = ("input_shape", "mean", "std", "pool", "checkpoint", "random_init", "seed", "trust_remote_code")


def option(default: Any, check: Check | None = None) -> Any:
    """A field of a Study; `check` keeps its value, or another of the same meaning, or raises a SynbenchError."""
    return field(default=default, metadata={"check": check})


def at_least(low: int, *, none: bool = False) -> Check:
    """An integer of at least `low`; with `none` also None."""
    return lambda name, value: (
        None if none and value is None else check_integer(name, value, low, f"at least {low}")
    )


def between(high: float) -> Check:
    """A number strictly between 0 and `high`."""

    def check(name: str, value: Any) -> float:
        found = as_numbers(value, name)
        if len(found) != 1 or not 0 < found[0] < high:
            span = "a finite number above 0" if high == math.inf else f"a number in (0, {high:g})"
            raise SynbenchError(f"{name}: expected {span}, got {value!r}")
        return found[0]

    return check


@dataclass(frozen=True, kw_only=True)
class Study:
    """The options of a study, checked when one is made. Subclasses are dataclasses that add theirs with `option`.

    Attributes:
        verb: the study's name on the command line, `synbench-fast study VERB`.
        reads: the fields of ScoreConfig that decide what this study does; None stands for all of them.
        defaults: of those fields, where the study has another default than a score.
        config: the arguments of the scores.
    """

    verb: ClassVar[str]
    reads: ClassVar[tuple[str, ...] | None] = None
    defaults: ClassVar[Mapping[str, Any]] = {}

    config: ScoreConfig = field(default_factory=ScoreConfig)

    def __post_init__(self) -> None:
        for one in fields(self):
            if check := one.metadata.get("check"):
                object.__setattr__(self, one.name, check(one.name, getattr(self, one.name)))

    @classmethod
    def of(cls, config: ScoreConfig | None, arguments: Mapping[str, Any]) -> Self:
        """From the arguments of the study's function: its own options, and fields of `config` that replace its values.

        Of `config` what the study does not read has no effect.

        Raises:
            SynbenchError: a name that the study has no use for, or a value that a check refuses.
        """
        own = [one.name for one in fields(cls) if one.name != "config"]
        known = [*own, *(name for name in cls._read() if name not in own)]
        for name in arguments:
            if name not in known:
                raise SynbenchError(
                    f"options: expected arguments of study {cls.verb}, got {name!r}{suggest(name, known)}"
                )
        scored = {name: value for name, value in arguments.items() if name not in own}
        merged = ScoreConfig.of(config, scored if config is not None else {**cls.defaults, **scored})
        read = ScoreConfig(**{name: getattr(merged, name) for name in cls._read()})
        return cls(config=read, **{name: value for name, value in arguments.items() if name in own})

    @classmethod
    def _read(cls) -> tuple[str, ...]:
        return tuple(one.name for one in fields(ScoreConfig)) if cls.reads is None else cls.reads

    @classmethod
    def signature(cls, function: Callable[..., Any]) -> inspect.Signature:
        """The signature of the study's function with all options in place of its `**arguments`, for help and editors."""
        whole = signature_of(function)
        mine = inspect.signature(function).parameters
        own = [
            inspect.Parameter(
                one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type
            )
            for one in fields(cls)
            if one.name != "config" and one.name not in mine
        ]
        taken = {*mine, *(one.name for one in own)}
        scored = [
            one.replace(default=cls.defaults.get(one.name, one.default))
            for one in whole.parameters.values()
            if one.name in cls._read() and one.name not in taken
        ]
        first = [one for one in mine.values() if one.kind is not one.VAR_KEYWORD]
        return whole.replace(parameters=[*first, *own, *scored])

    def check_checkpoint(self, encoders: Sized) -> None:
        """SynbenchError if one checkpoint is to be loaded into several encoders."""
        if self.config.checkpoint is not None and len(encoders) > 1:
            raise SynbenchError(
                f"checkpoint: expected a single encoder to load it into, got {len(encoders)} encoders"
            )

    def command(self, *words: str) -> str:
        """The shell line that repeats the study; `words` are its encoders and what else comes before the options."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "config"}
        given = {
            name: value
            for name, value in own.items()
            if not (isinstance(value, bool) and value is type(self).__dataclass_fields__[name].default)
        }
        reads = [name for name in self._read() if name not in own]
        return self.config.command(
            *words, verb=f"study {self.verb}", score_fields=reads, always_fields=self.defaults, **given
        )


def named_encoders(encoders: Sequence[Any], kind: Callable[[Any], Any] = lambda one: one) -> dict[str, Any]:
    """Encoders by their specs; a Python object is called by the type of `kind(object)` and its place, from 1.

    Raises:
        SynbenchError: none, or one spec twice.
    """
    named: dict[str, Any] = {}
    for number, one in enumerate(encoders, 1):
        name = one if isinstance(one, str) else f"{type(kind(one)).__name__} {number}"
        if name in named:
            raise SynbenchError(f"encoders: expected different ones, got {name!r} twice")
        named[name] = one
    if not named:
        raise SynbenchError("encoders: expected at least one, got none")
    return named


@contextmanager
def isolated(threads: int | None = None) -> Iterator[None]:
    """Inside, torch's settings are known and `threads` CPU threads are used; everything is put back after it.

    What encoders register with Python and torch goes too.
    """
    with own_registrations(), known_state(threads):
        yield


def open_encoder(encoder: EncoderLike, config: ScoreConfig) -> Encoder:
    """The encoder that `config` asks for: in float32 where it is named, as it is where it is a Python object."""
    named = isinstance(encoder, str)
    device, _ = find_device(config.device or "auto", named)
    return load_encoder(
        encoder,
        **{name: getattr(config, name) for name in ENCODER},
        device=device,
        dtype=torch.float32 if named else None,
    )


@dataclass(frozen=True)
class Table:
    """Columns and rows of text; the first `left` columns are left-aligned, the others right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


class Report(Document, ABC):
    """What a study measured. A subclass writes `rows`, and `tables` where a person should see something else."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Flat rows for CSV, all with the same names; None where a value is not known."""

    def tables(self) -> Iterable[Table | str]:
        """What a person reads, in order: tables, and lines of text between them."""
        rows = self.rows()
        yield Table(list(rows[0]), [[_shown(one) for one in row.values()] for row in rows])

    def print_report(self, stream: TextIO, **shown: Any) -> None:
        """Write `tables(**shown)` for a person."""
        for one in self.tables(**shown):
            if isinstance(one, Table):
                print_table(stream, one.columns, one.rows, left=one.left)
            else:
                stream.write(f"{one}\n")

    def write_csv(self, stream: TextIO) -> None:
        """Write `rows` under one header."""
        rows = self.rows()
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(named_cells(row) for row in rows)

    def save_all(self, folder: Path, name: str) -> list[Path]:
        """Write `name`.json and `name`.csv into `folder`, each whole or not at all; returns their paths."""
        table = io.StringIO()
        self.write_csv(table)
        return [
            self.save(folder / f"{name}.json"),
            write_atomically(folder / f"{name}.csv", table.getvalue()),
        ]


def finite(value: Any) -> Any:
    """`value`, or None where it is a float that is not finite, which neither CSV nor a table shows."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def row_of(one: Any) -> dict[str, Any]:
    """The fields of a flat dataclass as a row of a report; None where a value is not finite."""
    return {name: finite(value) for name, value in dataclasses.asdict(one).items()}


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
