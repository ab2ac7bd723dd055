"""Options that several commands share; those of a score are made from the fields of ScoreConfig. No torch is imported."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, cast

from synbench_fast import arguments, config
from synbench_fast.arguments import UsageError, shell_text
from synbench_fast.cli.parsing import Parameter, Type, choice, directory, file, flag, given, option, panel
from synbench_fast.cli.runfile import RunFile, load
from synbench_fast.config import SCORE, ScoreConfig, option_of
from synbench_fast.errors import SynbenchError
from synbench_fast.runtime.messages import fail, print_trace, reason, say

__all__ = ["OUTPUT", "Output", "output_options", "say_mistakes", "score_options", "usage_errors", "values_of"]

_CONFIG_HELP = (
    "Read options of the score, encoders, tasks and out from a TOML file, such as eps = [0, 0.2]; the command line has precedence. "
    "--dump-config writes one."
)

OUTPUT = "What comes out"


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a command is told about its output."""

    format: str
    out: str | None = None
    quiet: bool = False
    traceback: bool = False
    wide: bool = False

    def folder(self) -> Path | None:
        """The folder that --out names, made if it is missing."""
        return None if self.out is None else arguments.folder("--out", self.out)

    def say(self, line: str) -> None:
        """A line of progress."""
        if not self.quiet:
            say(line)

    def failed(self, name: str, error: Exception) -> int:
        """Say what went wrong with `name`, and where if that is asked for and was not expected; returns exit code 1."""
        code = fail(reason(name, error), 1)
        if self.traceback and not isinstance(error, SynbenchError):
            print_trace(error)
        return code


def output_options(
    *formats: str,
    out: str = "",
    about: str = "",
    quiet: bool = True,
    traceback: bool = True,
    wide: bool = False,
) -> Callable[[Any], Any]:
    """A decorator that gives a command options of its output, as `output`.

    `formats`, the first by default, are those of standard output; `out` is the help of --out, "" for none; `about` is
    the help of --format where there is more to say; `quiet`, `traceback` and `wide` say whether there are these options.
    """
    about = about or "Choose what standard output gets."
    made = [
        *([option("--out", directory(), out)] if out else []),
        option("--format", choice(*formats), about, formats[0]),
        *([flag("--quiet -q", "Show no progress on standard error.")] if quiet else []),
        *([flag("--wide", "Show all columns on a narrow terminal too.")] if wide else []),
        *([flag("--traceback", "Show where an unexpected error came from.")] if traceback else []),
    ]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**values: Any) -> Any:
            output = Output(**{one.name: values.pop(one.name) for one in made})
            return function(output=output, **values)

        return cast(Callable[..., Any], panel(OUTPUT, *made)(command))

    return decorate


def score_options(*names: str, from_file: bool = False, **defaults: Any) -> Callable[[Any], Any]:
    """Options of a score: for each of the fields `names` of ScoreConfig, or for all of them, an option.

    Args:
        names: fields, in the order of help; by default all.
        from_file: whether there is also --config FILE.toml, over which the command line wins.
        defaults: fields that this command begins with, where they are not those of ScoreConfig.

    Returns:
        A decorator. The command gets `config`, a ScoreConfig, and with `from_file` also `listed`, a RunFile; `given(name)` says whether the command line had a field.
    """
    made = config.ScoreConfig
    known = {one.name: one for one in fields(made)}
    wanted = [known[name] for name in names or known]
    panels: dict[str, list[Parameter]] = {}
    if from_file:
        panels[SCORE] = [option("--config", file("FILE.toml", exists=True), _CONFIG_HELP)]
    for one in wanted:
        made_option = _score_option(one, defaults.get(one.name, one.default))
        panels.setdefault(option_of(one).panel, []).append(made_option)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**values: Any) -> Any:
            found = {one.name: values.pop(one.name) for one in wanted}
            path = values.pop("config", None)
            with usage_errors():
                base = made(**defaults)
                listed = RunFile(config=base) if path is None else load(path, base)
                ready = made.of(listed.config, {name: value for name, value in found.items() if given(name)})
            return function(config=ready, **values, **({"listed": listed} if from_file else {}))

        for title, options in reversed(panels.items()):
            command = panel(title, *options)(command)
        return command

    return decorate


def _score_option(one: Field[Any], default: Any) -> Parameter:
    """The option of a field."""
    kind, help = option_of(one).kind, option_of(one).help
    name = "--" + one.name.replace("_", "-")
    if kind.is_flag:
        return flag(f"{name}/--no-{name[2:]} {one.name}", help, None)
    text = None if default is None else shell_text(default, whole=one.name != "scales")
    return option(name, Type(kind.metavar, kind.read, kind.words), help, text)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Mistakes in arguments of a score, as mistakes in their options: exit code 2."""
    try:
        yield
    except SynbenchError as error:
        name, colon, rest = str(error).partition(":")
        option_name = "--" + name.replace("_", "-") if re.fullmatch(r"\w+", name) else name
        raise UsageError(f"{option_name}{colon}{rest}") from None


def say_mistakes(config: ScoreConfig, named: Sequence[tuple[str, dict[str, Any]]]) -> int:
    """Say what is wrong with encoders, (spec, own arguments), before the first is loaded; the exit code, 0 if nothing is."""
    from synbench_fast.encoders import early

    common = values_of(config, ("checkpoint", "trust_remote_code"))
    code = 0
    for line in early.mistakes([(spec, common | own) for spec, own in named]):
        code = fail(line, 2)
    if code and len(named) > 1:
        say("nothing was scored")
    return code


def values_of(config: ScoreConfig, names: Iterable[str]) -> dict[str, Any]:
    """The arguments `names` of a score, for a function that takes them one by one."""
    return {name: getattr(config, name) for name in names}
