"""An inheritance report as text for a person."""

from __future__ import annotations

import math
from typing import TextIO

from synbench_fast.printable import print_table
from synbench_fast.studies.inheritance.page import change, points, share
from synbench_fast.studies.inheritance.report import InheritanceReport

__all__ = ["print_report"]


def print_report(stream: TextIO, report: InheritanceReport) -> None:
    """Summaries of the methods, then RI of every data set, in points."""
    several = len(report.encoders) > 1
    columns = ["method", "mRI", f"less {report.methods[0]}", "own data set", "pre-training", "same", "score"]
    rows = []
    for one in report.summaries:
        score = "-"
        if one.score_before is not None and one.score_change is not None:
            score = f"{one.score_before:.3f} {one.score_change.value:+.3f}"
        rows.append(
            [
                f"{one.encoder} {one.method}" if several else one.method,
                points(one.mri),
                "-" if one.difference is None else points(one.difference),
                points(one.own_change),
                points(one.pretraining_change),
                share(one.same.value),
                score,
            ]
        )
    print_table(stream, columns, rows, left=1)
    stream.write("\n")
    names = [one.name for one in report.data]
    rows = [
        [
            f"{one.encoder} {one.method}" if several else one.method,
            *(change(one.ri[name].value) for name in names),
        ]
        for one in report.summaries
    ]
    print_table(stream, ["RI after fine-tuning on", *names], rows, left=1)
    first = report.summaries[0]
    before = (
        f"{100 * first.ood_before:.1f} % on the other data sets and {100 * first.pretraining_before:.1f} % on "
        f"pre-training before{f' ({first.encoder})' if several else ''}; "
    )
    stream.write(
        f"suite {report.suite}; {'' if math.isnan(first.ood_before) else before}points, "
        f"{'one seed' if len(report.seeds) == 1 else f'95 % t intervals over {len(report.seeds)} seeds'}\n"
    )
    if report.failed:
        stream.write(f"\n{len(report.failed)} failed, in no number above:\n")
        for lost in report.failed:
            stream.write(f"{lost}\n")
    if report.statistic is not None:
        stream.write("\n")
        report.statistic.print_table(stream)
