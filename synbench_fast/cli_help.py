"""How --help shows the arguments of a command: by their names alone, whatever release of typer prints it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["Command"]


class Command(TyperCommand):
    """Metavars of arguments are what the usage line says, such as `[MODEL...]`; the list leaves out the brackets."""

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
