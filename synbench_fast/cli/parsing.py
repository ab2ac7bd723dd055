"""Parameters of typer whose every mistake is one line, `OPTION: expected ..., got ...`, and the help in panels."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.config import MOVED
from synbench_fast.errors import SynbenchError, suggest

__all__ = [
    "VARIABLE",
    "Command",
    "Group",
    "Parameter",
    "Type",
    "add",
    "argument",
    "choice",
    "choices",
    "command",
    "directory",
    "errors",
    "file",
    "flag",
    "given",
    "integer",
    "norms",
    "number",
    "numbers",
    "one_line",
    "option",
    "panel",
    "text",
    "unit",
]

VARIABLE = "_SYNBENCH_FAST_COMPLETE"  # set by the shell's script, which reads words from standard output

# Errors of the parser, which typer does not export: some versions take those of click, others those of their own copy of it.
errors: Any = sys.modules[typer.BadParameter.__module__]

_given: ContextVar[frozenset[str]] = ContextVar("given", default=frozenset())


@dataclass(frozen=True)
class Type:
    """What an option or argument takes.

    Args:
        metavar: how help shows it.
        read: from (name of the option, text) to the value, or a UsageError of one line that names the option.
        words: what a shell completes it to, from what is typed so far; a list completes behind its last comma. Where
            there are none, a shell completes names of files.
    """

    metavar: str
    read: Callable[[str, str], Any] = lambda name, text: text
    words: Callable[[], Iterable[str]] = tuple

    def complete(self, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if "," in self.metavar else ("", "", incomplete)
        source = _before_colon()
        found = [word.removeprefix(source) for word in self.words() if word.startswith(source)]
        return [
            before + comma + one for one in found if one.startswith(last) and one not in before.split(",")
        ]


def _before_colon() -> str:
    """For bash, `builtin:conv` is three words, of which it replaces the last: what stands before that."""
    if os.environ.get(VARIABLE) != "complete_bash":
        return ""
    words = os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"])]
    return "".join(words[-2:]) if words[-1:] == [":"] else ""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """An option or argument of a command, from which the signature that typer reads is made.

    `wanted` is what a message says is missing where it is required, "" where it is not; `words` are as on the command line.
    """

    name: str
    words: tuple[str, ...]
    help: str
    type: Type | None = None
    default: Any = None
    wanted: str = ""
    many: bool = False
    panel: str = "Options"

    @property
    def label(self) -> str:
        """How a message names it."""
        if not self.words and self.type:
            return self.type.metavar.strip("[].")
        return next((one for one in self.words if one.startswith("--")), self.words[0])

    def parse(self, text: str) -> Any:
        assert self.type is not None
        try:
            if (
                not text
            ):  # as of a variable of the shell that is not set: it is no path, no number and no name
                raise UsageError(f"{self.label}: expected a value, got ''")
            return self.type.read(self.label, text)
        except SynbenchError as error:  # a ValueError, which typer would put into words of its own
            raise typer.BadParameter(str(error)) from None

    def parameter(self) -> inspect.Parameter:
        """It in the signature that typer reads."""
        common: dict[str, Any] = {"help": self.help, "show_default": False, "rich_help_panel": self.panel}
        kind: Any = bool
        if self.type is not None:
            kind = list[str] if self.many else str
            common |= {
                "parser": self.parse,
                "metavar": self.type.metavar,
                "autocompletion": self.type.complete,
            }
        about = typer.Option(*self.words, **common) if self.words else typer.Argument(**common)
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=self.default,
            annotation=Annotated[kind, about],
        )


def text(metavar: str, words: Callable[[], Iterable[str]] = tuple) -> Type:
    """Any text that is not empty."""
    return Type(metavar, words=words)


def file(metavar: str = "FILE", *, exists: bool = False) -> Type:
    return Type(metavar, arguments.existing_file) if exists else Type(metavar)


def directory() -> Type:
    return Type("DIR")


def choice(*words: str) -> Type:
    return Type("|".join(words), lambda name, text: arguments.choice(name, text, words), lambda: words)


def choices(metavar: str, *words: str) -> Type:
    """Several of `words`, joined by commas, each once."""

    def read(name: str, text: str) -> list[str]:
        found = [arguments.choice(name, part.strip(), words) for part in text.split(",")]
        for one in found:
            if found.count(one) > 1:
                raise UsageError(f"{name}: expected each once, got {one!r} twice in {text!r}")
        return found

    return Type(metavar, read, lambda: words)


def integer(low: int, high: int | None = None, metavar: str = "N") -> Type:
    return Type(metavar, lambda name, text: arguments.integer(name, text, low=low, high=high))


def number(metavar: str, *, above: float = float("-inf"), below: float = float("inf")) -> Type:
    return Type(metavar, lambda name, text: arguments.number(name, text, above=above, below=below))


def unit(metavar: str) -> Type:
    """One number in [0, 1), or a quotient."""

    def read(name: str, text: str) -> float:
        if "," in text:
            raise UsageError(f"{name}: expected one number, got {text!r}")
        return arguments.numbers(name, text, low=0, below=1)[0]

    return Type(metavar, read)


def numbers(metavar: str, *, least: int = 1) -> Type:
    """Distinct numbers in [0, 1), joined by commas."""

    def read(name: str, text: str) -> tuple[float, ...]:
        found = arguments.numbers(name, text, low=0, below=1, distinct=True)
        if len(found) < least:
            raise UsageError(f"{name}: expected at least {least} numbers, got {text!r}")
        return found

    return Type(metavar, read)


def norms() -> Type:
    """Distinct radii that are not negative, or none."""
    return Type(
        "R,...|none",
        lambda name, text: () if text == "none" else arguments.numbers(name, text, low=0, distinct=True),
    )


def option(
    names: str, type: Type, help: str, default: str | None = None, wanted: str = "", multiple: bool = False
) -> Parameter:
    """An option with a value, such as option("--seeds", integer(1), "Run N seeds.", "5").

    Args:
        names: as in "--models fleet", whose value the command gets as `fleet`.
        type, help: what it takes and does.
        default: a text as the command line takes it; help shows it.
        wanted: what a message says is missing, where the option is required.
        multiple: whether it may be repeated; the command gets all its values.
    """
    if default is not None:
        help = f"{help} [default: {default}]"
    name, words = _split(names)
    return Parameter(
        name=name, words=words, type=type, help=help, default=default, wanted=wanted, many=multiple
    )


def flag(names: str, help: str, default: bool | None = False) -> Parameter:
    """An option without a value, such as flag("--quiet -q", "Show no progress.") or flag("--attack/--no-attack", ...)."""
    name, words = _split(names)
    return Parameter(name=name, words=words, help=help, default=default)


def _split(names: str) -> tuple[str, tuple[str, ...]]:
    words = tuple(one for one in names.split() if one.startswith("-"))
    named = [one for one in names.split() if one not in words]
    return (named or [words[0].partition("/")[0].strip("-").replace("-", "_")])[0], words


def panel(title: str, *options: Parameter) -> Callable[[Any], Any]:
    """A decorator that gives a command these options, under a heading of their own in help."""

    def decorate(function: Any) -> Any:
        below = getattr(function, "parameters", ())
        function.parameters = (*(replace(one, panel=title) for one in options), *below)
        return function

    return decorate


def argument(name: str, type: Type, help: str, wanted: str = "", many: bool = False) -> Callable[[Any], Any]:
    """A decorator that gives a command an argument; `type.metavar` is how the usage line shows it, such as `[MODEL...]`."""
    return panel("Arguments", Parameter(name=name, words=(), type=type, help=help, wanted=wanted, many=many))


def given(name: str) -> bool:
    """Whether the command line has the parameter of the command that runs."""
    return name in _given.get()


def command(examples: Sequence[str] = (), **settings: Any) -> Callable[[Any], Any]:
    """A decorator that makes a verb of a function with options; `settings` are those of typer's `command`."""

    def decorate(function: Any) -> Any:
        function.settings = {"cls": Command, "epilog": "\n".join(examples), **settings}
        return function

    return decorate


def add(app: typer.Typer, *functions: Any) -> None:
    """Register verbs, each with the signature that typer reads, made of its parameters."""
    for function in functions:
        app.command(**function.settings)(_signed(function) if hasattr(function, "parameters") else function)


def _signed(function: Any) -> Callable[..., Any]:
    parameters: tuple[Parameter, ...] = function.parameters

    def verb(context: typer.Context, **values: Any) -> Any:
        for one in parameters:
            if one.many:
                values[one.name] = values[one.name] or ()
            if one.wanted and not values[one.name]:
                raise UsageError(f"{one.label}: expected {one.wanted}, got none")
        sources = {name: context.get_parameter_source(name) for name in values}
        _given.set(frozenset(name for name, one in sources.items() if one and one.name == "COMMANDLINE"))
        return function(**values)

    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    signature = inspect.Signature([first, *(one.parameter() for one in parameters)])
    verb.__name__, verb.__doc__ = function.__name__, function.__doc__
    vars(verb)["__signature__"] = signature
    verb.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    return verb


class _Help:
    """Help of a command or group, in panels, with the examples of its epilog one a line."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        command: Any = self
        pieces = ["[OPTIONS]", *(one.metavar for one in command.params if one.param_type_name == "argument")]
        return pieces + ([command.subcommand_metavar] if isinstance(self, TyperGroup) else [])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        command: Any = self
        panels: dict[str, list[tuple[str, Any]]] = {}
        for one in command.get_params(ctx):
            if one.param_type_name == "argument":
                panels.setdefault("Arguments", []).append((str(one.metavar).strip("[]"), one.help))
            elif record := one.get_help_record(ctx):
                panels.setdefault(getattr(one, "rich_help_panel", None) or "Options", []).append(record)
        if "Options" in panels:  # what belongs to no panel comes last, with --help
            panels["Options"] = panels.pop("Options")
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)
        if isinstance(self, TyperGroup):
            self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        command: Any = self
        if command.epilog:
            with formatter.section("Examples"):
                for line in command.epilog.splitlines():
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


@contextmanager
def _known(ctx: Any) -> Iterator[None]:
    """Errors of the parser have the context, by which `one_line` knows the options there are."""
    try:
        yield
    except errors.UsageError as error:
        error.ctx = error.ctx or ctx
        raise


class Command(_Help, TyperCommand):
    """A verb: options in panels, examples below them, and every option at most once unless it collects values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # a shell asks what could come next
            return super().parse_args(ctx, args)
        self._check_once(ctx, args)
        more, ctx.allow_extra_args = ctx.allow_extra_args, True
        left = super().parse_args(ctx, args)
        if left and not more:
            raise UsageError(f"arguments: expected no more, got {' '.join(left)!r}")
        return left

    def _check_once(self, ctx: Any, args: list[str]) -> None:
        """The parser would take the last of several values."""
        seen: set[str | None] = set()
        with _known(ctx):
            order = self.make_parser(ctx).parse_args(args=list(args))[2]
        for one in order:
            if one.param_type_name == "option" and not getattr(one, "multiple", False) and one.name in seen:
                raise UsageError(f"{one.opts[0]}: expected once, got it twice")
            seen.add(one.name)


class Group(_Help, TyperGroup):
    """Verbs; an unknown one is answered with the nearest, one of `moved` with its new spelling."""

    moved: Mapping[str, str] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _known(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if not ctx.resilient_parsing and word not in self.commands and not word.startswith("-"):
            if word in self.moved:
                raise UsageError(f"command: expected {self.moved[word]!r}, got {word!r}")
            arguments.choice("command", word, list(self.commands))
        return super().resolve_command(ctx, args)


def one_line(error: Any) -> str:
    """The parser's complaint, in the product's form."""
    if isinstance(error, typer.BadParameter):
        return error.message
    params = error.ctx.command.get_params(error.ctx) if error.ctx else []
    options = [one for one in params if one.param_type_name == "option"]
    if isinstance(error, errors.NoSuchOption):
        known = [word for one in options for word in one.opts + one.secondary_opts if word.startswith("--")]
        new = MOVED.get(error.option_name.removeprefix("--").replace("-", "_"), "").replace("_", "-")
        if f"--{new}" in known:
            return f"option: expected '--{new}', got {error.option_name!r}"
        near = suggest(error.option_name, known)
        return f"option: expected one that --help lists, got {error.option_name!r}{near}"
    if isinstance(error, errors.BadOptionUsage):
        flags = [word for one in options if one.is_flag for word in one.opts + one.secondary_opts]
        wanted = "no value, got one" if error.option_name in flags else "a value, got none"
        return f"{error.option_name}: expected {wanted}"
    return str(error.format_message()).rstrip(".")
