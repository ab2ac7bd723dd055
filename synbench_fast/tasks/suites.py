"""Suites: several tasks that are scored together, by name or from a TOML file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from synbench_fast import plugins
from synbench_fast.checks import as_float
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.runtime.toml_files import read_toml
from synbench_fast.scales import spread_scales
from synbench_fast.tasks.covariances import parse_covariance
from synbench_fast.tasks.patterns import parse_pattern
from synbench_fast.tasks.structure import STRUCTURE, FamilyDefinition
from synbench_fast.tasks.task import GaussianTask

__all__ = ["SUITES", "Suite", "TaskDefinition", "load_suite"]

_MOST_CLASSES = 50
_TAKEN = ("mean", "worst", "families", "structure")  # rows of tables beside those of tasks


@dataclass(frozen=True)
class TaskDefinition:
    """A task of two Gaussian classes before the encoder's input shape is known.

    Args:
        name: how results name it.
        pattern, covariance: see `patterns` and `covariances`.
        prior, center: None for those of the run.
        scales: their number or values; None for those of the run.
    """

    name: str
    pattern: str = "uniform"
    covariance: str = "white"
    prior: float | None = None
    center: float | None = None
    scales: tuple[float, ...] | int | None = None

    def check(self) -> None:
        """SynbenchError for what is wrong whatever the input shape."""
        parse_pattern(self.pattern)
        parse_covariance(self.covariance)
        for key, value in (("prior", self.prior), ("center", self.center)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise SynbenchError(f"{key}: expected a number, got {value!r}")
        GaussianTask((1,), self._scales((1.0,)), self._or(self.prior, 0.5), self._or(self.center, 0.5))

    def task(
        self, shape: tuple[int, ...], *, scales: tuple[float, ...], prior: float, center: float
    ) -> GaussianTask:
        """The task for inputs of this shape; the keyword arguments count where the definition says nothing."""
        return GaussianTask(
            shape,
            self._scales(scales),
            self._or(self.prior, prior),
            self._or(self.center, center),
            self.pattern,
            self.covariance,
        )

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether inputs of this shape have the pattern and the covariance."""
        try:
            self.task(shape, scales=(1.0,), prior=0.5, center=0.5)
        except SynbenchError:
            return False
        return True

    @staticmethod
    def _or(value: float | None, default: float) -> float:
        return default if value is None else as_float(value)

    def _scales(self, default: tuple[float, ...]) -> tuple[float, ...]:
        if self.scales is None:
            return default
        if isinstance(self.scales, bool):
            raise SynbenchError(f"scales: expected their number or values, got {self.scales}")
        return spread_scales(self.scales) if isinstance(self.scales, int) else self.scales


Definition = TaskDefinition | FamilyDefinition


def _in_task(source: str, label: str, task: Definition) -> None:
    """SynbenchError that names the task for what is wrong with it."""
    try:
        if not isinstance(task.name, str) or not task.name.strip():
            raise SynbenchError(f"name: expected some text, got {task.name!r}")
        if not task.name.isprintable():
            raise SynbenchError(f"name: expected text on one line, got {task.name!r}")
        if task.name in _TAKEN:
            raise SynbenchError(f"name: expected another than {', '.join(_TAKEN)}, got {task.name!r}")
        task.check()
    except SynbenchError as error:
        raise SynbenchError(f"{source}: task {label}: {error}") from None


@dataclass(frozen=True)
class Suite:
    """Tasks of different names, at least one of two Gaussian classes, which the budgets and thresholds are for."""

    name: str
    tasks: tuple[Definition, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks:
            raise SynbenchError(f"{self.name}: expected at least one task, got none")
        names: set[str] = set()
        levels: dict[tuple[str, float], str] = {}
        for one in self.tasks:
            where = f"{self.name}: task {one.name!r}"
            if one.name in names:
                raise SynbenchError(f"{where}: name: expected another one, got it twice")
            names.add(one.name)
            if isinstance(one, TaskDefinition):
                continue
            _in_task(self.name, repr(one.name), one)
            for level in one.levels:
                other = levels.setdefault((one.family, level), one.name)
                if other != one.name:
                    raise SynbenchError(
                        f"{where}: level: expected one that {other!r} has not, got {level:g} of {one.family} again"
                    )
        if not self.gaussian:
            raise SynbenchError(
                f"{self.name}: expected a task of two Gaussian classes beside those of families, such as the published "
                f'one, name = "published", got none'
            )

    @property
    def gaussian(self) -> tuple[TaskDefinition, ...]:
        """The tasks of two Gaussian classes."""
        return tuple(one for one in self.tasks if isinstance(one, TaskDefinition))

    @property
    def families(self) -> tuple[FamilyDefinition, ...]:
        """The tasks whose classes are those of a family."""
        return tuple(one for one in self.tasks if isinstance(one, FamilyDefinition))

    def build(
        self,
        shape: tuple[int, ...],
        *,
        scales: tuple[float, ...],
        prior: float,
        center: float,
        eps: tuple[float, ...],
        threshold: float,
    ) -> list[GaussianTask]:
        """The tasks of two Gaussian classes for inputs of this shape.

        Raises:
            SynbenchError: a task that this shape does not have, that is another one again, or whose raw
                accuracy exceeds `threshold`, the lowest, at no scale for one of the budgets.
        """
        for family in self.families:
            refusal = family.task().refusal(shape)
            if refusal:
                raise SynbenchError(f"{self.name}: task {family.name!r}: {refusal}{self._way_out(shape)}")
        tasks: list[GaussianTask] = []
        made: dict[GaussianTask, str] = {}
        for one in self.gaussian:
            where = f"{self.name}: task {one.name!r}"
            try:
                task = one.task(shape, scales=scales, prior=prior, center=center)
            except SynbenchError as error:
                raise SynbenchError(f"{where}: {error}{self._way_out(shape)}") from None
            twin = made.setdefault(task, one.name)
            if twin != one.name:
                raise SynbenchError(
                    f"{where}: expected a task unlike the others, got {twin!r} again for shape {shape}"
                )
            accuracy = task.raw(eps)[0].amax(0)
            if not bool((accuracy > threshold).all()):
                worst = int(accuracy.argmin())
                raise SynbenchError(
                    f"{where}: scales: expected one whose raw accuracy exceeds the lowest threshold, {threshold:g}, "
                    f"got at most {float(accuracy[worst]):.4g} at eps {eps[worst]:g}"
                )
            tasks.append(task)
        return tasks

    def _way_out(self, shape: tuple[int, ...]) -> str:
        """What to do where a suite of this package has a task that inputs of this shape do not have."""
        if self.name not in SUITES:
            return ""
        others = [one.name for one in self.gaussian if one.fits(shape)]
        return (
            f"; a .toml file of tasks (docs/tasks.md) can hold the others: {', '.join(others)}"
            if others
            else ""
        )


_PUBLISHED = TaskDefinition("published")
_CHANNEL = TaskDefinition("channel", pattern="channel:0")
_LOW = TaskDefinition("low", pattern="low")
_HIGH = TaskDefinition("high", pattern="high")
_PATCH = TaskDefinition("patch", pattern="patch")
_CORRELATED = TaskDefinition("correlated", pattern="channel:0", covariance="channel:0.5")
_NATURAL = TaskDefinition("natural", pattern="patch", covariance="power:2")
_RARER = TaskDefinition("prior-0.4", prior=0.4)


def _structure() -> list[FamilyDefinition]:
    """The families of the structure score, whose mean it is."""
    return [
        FamilyDefinition(one.name, one.name, one.level, one.classes, STRUCTURE.images)
        for one in STRUCTURE.families
    ]


SUITES = {
    one.name: one
    for one in (
        Suite("published", (_PUBLISHED,)),
        Suite(
            "patterns",
            (_PUBLISHED, _CHANNEL, _LOW, _HIGH, _PATCH, TaskDefinition("random", pattern="random:0")),
        ),
        Suite(
            "covariances",
            (
                _PUBLISHED,
                _CORRELATED,
                TaskDefinition("pink", pattern="patch", covariance="power:1"),
                _NATURAL,
            ),
        ),
        Suite(
            "priors",
            (TaskDefinition("prior-0.5", prior=0.5), _RARER, TaskDefinition("prior-0.6", prior=0.6)),
        ),
        Suite("full", (_PUBLISHED, _CHANNEL, _LOW, _HIGH, _PATCH, _CORRELATED, _NATURAL, _RARER)),
        Suite("structure", (_PUBLISHED, *_structure())),
    )
}


def _classes(count: int) -> Suite:
    """All pairs of `count` equidistant classes."""
    pairs = [(i, j) for j in range(count) for i in range(j)]
    return Suite(
        f"classes:{count}",
        tuple(TaskDefinition(f"{i}-{j}", pattern=f"classes:{count}:{i}:{j}") for i, j in pairs),
    )


def load_suite(tasks: str | Suite | Sequence[Definition]) -> Suite:
    """A suite by name, of this package or of another (see `plugins`), "classes:K" for all pairs of K classes, the path of a TOML file, or definitions.

    The file is a list of tables [[task]] with the keys of `TaskDefinition`, or of `FamilyDefinition` where a table has
    the key `family`; see docs/tasks.md.

    Raises:
        SynbenchError: one line that names the file, the task and the key.
    """
    if isinstance(tasks, Suite):
        return tasks
    if not isinstance(tasks, str | Path):
        listed = tuple(tasks)
        for one in listed:
            if not isinstance(one, Definition):
                raise SynbenchError(
                    f"tasks: expected TaskDefinition or FamilyDefinition in a sequence, got {type(one).__name__}"
                )
            _in_task("tasks", repr(one.name), one)
        return Suite("tasks", listed)
    text = str(tasks)
    if text in SUITES:
        return SUITES[text]
    if text.endswith(".toml"):
        return _read(Path(text))
    if match := re.fullmatch(r"classes:([0-9]{1,9})", text):
        count = int(match[1])
        if not 2 <= count <= _MOST_CLASSES:
            raise SynbenchError(f"tasks: expected classes:K with K from 2 to {_MOST_CLASSES}, got {text!r}")
        return _classes(count)
    other = plugins.load("tasks", text, _is_suite, "a Suite or a sequence of TaskDefinition")
    if other is not None:
        listed = other.tasks if isinstance(other, Suite) else other
        for one in listed:
            _in_task(text, repr(one.name), one)
        return Suite(text, tuple(listed))
    known = list(dict.fromkeys([*SUITES, *plugins.names("tasks")]))
    raise SynbenchError(
        f"tasks: expected one of {', '.join(known)}, classes:K or the path of a .toml file, got {text!r}"
        f"{suggest(text, known)}"
    )


def _is_suite(value: object) -> bool:
    return isinstance(value, Suite) or (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(one, Definition) for one in value)
    )


def _read(path: Path) -> Suite:
    document = read_toml(path)
    for key in document:
        if key != "task":
            raise SynbenchError(f"{path}: {key}: expected tables [[task]] only, got another key")
    tables = document.get("task", [])
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise SynbenchError(f"{path}: task: expected tables [[task]], got another form of it")
    return Suite(str(path), tuple(_definition(path, number, one) for number, one in enumerate(tables, 1)))


def _definition(path: Path, number: int, table: dict[str, Any]) -> Definition:
    label = f"{number} ({table['name']!r})" if isinstance(table.get("name"), str) else f"{number}"
    kind: type[Definition] = FamilyDefinition if "family" in table else TaskDefinition

    def wrong(key: str, expected: str, got: str) -> SynbenchError:
        return SynbenchError(f"{path}: task {label}: {key}: expected {expected}, got {got}")

    keys = [one.name for one in fields(kind)]
    for key, value in table.items():
        if key not in keys:
            known = list(dict.fromkeys([*keys, "family"]))
            raise wrong(key, f"one of {', '.join(known)}", f"another key{suggest(key, known)}")
        expected, fits = _KEYS[key]
        if not fits(value):
            raise wrong(key, expected, _shown(value))
    if "name" not in table:
        raise wrong("name", "some text", "none")
    several = {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
    definition = kind(**{**table, **several})
    _in_task(str(path), label, definition)
    return definition


def _shown(value: object) -> str:
    """What Python shows of a value, but for integers that are too long to be shown."""
    try:
        return repr(value)
    except ValueError:
        return "an integer of too many digits"


def _is_number(value: object) -> bool:
    # TOML's integers have any length; those beyond any float compare, but neither convert nor print.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_number(value)


def _one_or_several(one: Callable[[object], bool]) -> Callable[[object], bool]:
    """A test for a value that `one` takes, or a list of numbers."""
    return lambda value: one(value) or (isinstance(value, list) and all(_is_number(part) for part in value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# What the values of a file have to be; `check` says the rest.
_KEYS: dict[str, tuple[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("name", "pattern", "covariance", "family"), ("text", _is_text)),
    **dict.fromkeys(("prior", "center"), ("a number", _is_number)),
    "scales": ("their number or a list of values", _one_or_several(_is_count)),
    "level": ("a number or a list of numbers", _one_or_several(_is_number)),
    **dict.fromkeys(("classes", "samples"), ("an integer", _is_count)),
}
