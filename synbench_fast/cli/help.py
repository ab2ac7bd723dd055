"""What commands have in common: how --help shows their arguments, and that no option is given twice."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from synbench_fast.arguments import UsageError

__all__ = ["Command"]


class Command(TyperCommand):
    """Metavars of arguments are what the usage line says, such as `[MODEL...]`; the list leaves out the brackets.

    An option given twice is a mistake, for the parser would take the last one, unless it is one that collects values.
    So is an empty value, as of a variable of the shell that is not set: it is no path, no number and no name.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        seen = set()
        for one in self.make_parser(ctx).parse_args(args=list(args))[2]:
            if not _is_argument(one) and not one.multiple and one.name in seen:
                raise UsageError(f"{one.opts[0]}: expected once, got it twice")
            seen.add(one.name)
        rest = super().parse_args(ctx, args)
        for one in self.params:
            given = ctx.params.get(one.name)
            if given == "" or (isinstance(given, list | tuple) and "" in given):
                name = str(one.metavar).strip("[].") if _is_argument(one) else one.opts[0]
                raise UsageError(f"{name}: expected a value, got ''")
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(str(one.metavar) for one in self.params if _is_argument(one))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        parameters: list[Any] = list(self.get_params(ctx))
        arguments = [(str(one.metavar).strip("[]"), one.help) for one in parameters if _is_argument(one)]
        records = [one.get_help_record(ctx) for one in parameters if not _is_argument(one)]
        for title, rows in (("Arguments", arguments), ("Options", [one for one in records if one])):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")
