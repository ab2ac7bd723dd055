"""Typed click parameters whose every mistake is one line, `OPTION: expected ..., got ...`, and the help in panels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from synbench_fast import arguments
from synbench_fast.arguments import UsageError
from synbench_fast.errors import suggest

__all__ = [
    "Command",
    "Group",
    "Option",
    "Type",
    "argument",
    "choice",
    "choices",
    "directory",
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


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # which older versions of click cannot subscript


class Type(_ParamType):
    """What an option or argument takes.

    Args:
        metavar: how help shows it.
        read: from (name of the option, text) to the value, or a UsageError of one line that names the option.
        words: what a shell completes it to, from what is typed so far; a list completes behind its last comma.
        path: "file" or "dir" where a shell completes names of files.
    """

    def __init__(
        self,
        metavar: str,
        read: Callable[[str, str], Any] = lambda name, text: text,
        words: Callable[[], Iterable[str]] = tuple,
        path: str = "",
    ) -> None:
        self.name, self.read, self.words, self.path = metavar, read, words, path

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        name = _name(param) if param else self.name
        if not value:  # as of a variable of the shell that is not set: it is no path, no number and no name
            raise UsageError(f"{name}: expected a value, got ''")
        return self.read(name, value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if self.path:
            return [CompletionItem(incomplete, type=self.path)]
        before, comma, last = incomplete.rpartition(",") if "," in self.name else ("", "", incomplete)
        taken = before.split(",")
        return [
            CompletionItem(before + comma + word)
            for word in self.words()
            if word.startswith(last) and word not in taken
        ]


def text(metavar: str, words: Callable[[], Iterable[str]] = tuple) -> Type:
    """Any text that is not empty."""
    return Type(metavar, words=words)


def file(metavar: str = "FILE", *, exists: bool = False) -> Type:
    return Type(metavar, arguments.existing_file if exists else lambda name, text: text, path="file")


def directory() -> Type:
    return Type("DIR", path="dir")


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


def _name(param: click.Parameter) -> str:
    """How a message names a parameter."""
    if isinstance(param, click.Argument):
        return str(param.metavar).strip("[].")
    return next((one for one in param.opts if one.startswith("--")), param.opts[0])


class Option(click.Option):
    """An option; `wanted` is what a message says is missing where it is required."""

    def __init__(self, *args: Any, wanted: str = "a value", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.panel, self.wanted = "Options", wanted


class _Argument(click.Argument):
    def __init__(self, *args: Any, help: str = "", wanted: str = "a value", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.help, self.wanted = help, wanted


def option(names: str, type: Type, help: str, default: str | None = None, **attributes: Any) -> Option:
    """An option with a value, such as option("--seeds", integer(1), "Run N seeds.", "5").

    Args:
        names: as in "--models fleet", whose value the command gets as `fleet`.
        type, help: what it takes and does.
        default: a text as the command line takes it; help shows it.
        attributes: those of click.Option, and `wanted`.
    """
    if default is not None:
        attributes["default"], help = default, f"{help} [default: {default}]"
    return Option(names.split(), type=type, metavar=type.name, help=help, **attributes)


def flag(names: str, help: str, default: bool | None = False) -> Option:
    """An option without a value, such as flag("--quiet -q", "Show no progress.") or flag("--attack/--no-attack", ...)."""
    return Option(names.split(), is_flag=True, help=help, default=default)


def panel(title: str, *options: Option) -> Callable[[Any], Any]:
    """A decorator that gives a command these options, under a heading of their own in help."""

    def decorate(function: Any) -> Any:
        for one in options:
            one.panel = title
        function.__click_params__ = [*getattr(function, "__click_params__", ()), *reversed(options)]
        return function

    return decorate


def argument(name: str, type: Type, help: str, **attributes: Any) -> Callable[[Any], Any]:
    """A decorator that gives a command an argument; `type.name` is how the usage line shows it, such as `[MODEL...]`.

    Attributes are those of click.Argument, and `wanted`: what a message says is missing where it is required.
    """
    return click.argument(name, cls=_Argument, type=type, metavar=type.name, help=help, **attributes)


def given(name: str) -> bool:
    """Whether the command line has the parameter of the command that runs."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


class Command(click.Command):
    """A verb: options in panels, examples below them, and every option at most once unless it collects values."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # a shell asks what could come next
            return super().parse_args(ctx, args)
        self._check_once(ctx, args)
        more, ctx.allow_extra_args = ctx.allow_extra_args, True
        left = super().parse_args(ctx, args)
        if left and not more:
            raise UsageError(f"arguments: expected no more, got {' '.join(left)!r}")
        return left

    def _check_once(self, ctx: click.Context, args: list[str]) -> None:
        """The parser would take the last of several values."""
        seen: set[str | None] = set()
        try:
            order = self.make_parser(ctx).parse_args(args=list(args))[2]
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # by which `one_line` knows the options there are
            raise
        for one in order:
            if isinstance(one, click.Option) and not one.multiple and one.name in seen:
                raise UsageError(f"{one.opts[0]}: expected once, got it twice")
            seen.add(one.name)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", *(str(one.metavar) for one in self.params if isinstance(one, _Argument))]

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """They are the first panel below; some versions of click write them here."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        panels: dict[str, list[tuple[str, Any]]] = {}
        for one in self.get_params(ctx):
            if isinstance(one, _Argument):
                panels.setdefault("Arguments", []).append((str(one.metavar).strip("[]"), one.help))
            elif record := one.get_help_record(ctx):
                panels.setdefault(getattr(one, "panel", "Options"), []).append(record)
        if "Options" in panels:  # what belongs to no panel comes last, with --help
            panels["Options"] = panels.pop("Options")
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(formatter, self.examples)


def _write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    if examples:
        with formatter.section("Examples"):
            for line in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Group(click.Group):
    """Verbs in their order; an unknown one is answered with the nearest, one of `moved` with its new spelling."""

    command_class = Command

    def __init__(
        self,
        *args: Any,
        moved: Mapping[str, str] | None = None,
        examples: Sequence[str] = (),
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.moved, self.examples = moved or {}, examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if not ctx.resilient_parsing and word not in self.commands and not word.startswith("-"):
            if word in self.moved:
                raise UsageError(f"command: expected {self.moved[word]!r}, got {word!r}")
            arguments.choice("command", word, list(self.commands))
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(formatter, self.examples)


def one_line(error: click.UsageError) -> str:
    """The parser's complaint, in the product's form."""
    if isinstance(error, click.MissingParameter) and error.param is not None:
        wanted = getattr(error.param, "wanted", "a value")
        return f"{_name(error.param)}: expected {wanted}, got none"
    options = (
        [one for one in error.ctx.command.get_params(error.ctx) if isinstance(one, click.Option)]
        if error.ctx
        else []
    )
    if isinstance(error, click.NoSuchOption):
        known = [word for one in options for word in one.opts + one.secondary_opts if word.startswith("--")]
        near = suggest(error.option_name, known)
        return f"option: expected one that --help lists, got {error.option_name!r}{near}"
    if isinstance(error, click.BadOptionUsage):
        flags = [word for one in options if one.is_flag for word in one.opts + one.secondary_opts]
        wanted = "no value, got one" if error.option_name in flags else "a value, got none"
        return f"{error.option_name}: expected {wanted}"
    return error.format_message().rstrip(".")
