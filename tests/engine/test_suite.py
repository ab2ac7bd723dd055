"""Suites: what they accept, what they report, and whether mean and worst case are covered as stated."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import Array, population, refused
from result_example import example
from scipy.stats import norm
from task_cases import explicit_covariance
from torch import Tensor, nn

import synbench_fast as sb
from synbench_fast.cli import main as cli
from synbench_fast.report.suites import SUITE_CSV_COLUMNS, suite_sink
from synbench_fast.results.suite import SuiteResult, SuiteScore, combine
from synbench_fast.stats import gaussian
from synbench_fast.tasks.patterns import class_means
from synbench_fast.tasks.suites import SUITES
from synbench_fast.tasks.task import GaussianTask

SHAPE = (3, 8, 8)
SMALL: dict[str, Any] = {"input_shape": SHAPE, "scales": (1.0, 2.0, 3.0), "thresholds": (0.6, 0.8)}
TASKS = [
    sb.TaskDefinition("plain"),
    sb.TaskDefinition("edges", pattern="high", covariance="power:1"),
    sb.TaskDefinition("rare", prior=0.4, scales=(1.5, 2.5)),
]


def features(x: Tensor) -> Tensor:
    return x.flatten(1)[:, ::16].tanh()


def toml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "tasks.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_named_suites() -> None:
    assert list(SUITES) == ["published", "patterns", "covariances", "priors", "full", "structure"]
    assert SUITES["published"].tasks == (sb.TaskDefinition("published"),)
    assert len(SUITES["full"].tasks) == 8
    for suite in SUITES.values():
        built = suite.build(SHAPE, scales=(1.0,), prior=0.5, center=0.5, eps=(0.0,), threshold=0.6)
        assert [one.shape for one in built] == [SHAPE] * len(suite.gaussian)
    pairs = sb.load_suite("classes:4").tasks
    assert [one.name for one in pairs] == ["0-1", "0-2", "1-2", "0-3", "1-3", "2-3"]
    assert pairs[3].pattern == "classes:4:0:3"


def test_a_task_file_says_what_a_definition_says(tmp_path: Path) -> None:
    path = toml(
        tmp_path,
        """
        [[task]]
        name = "a"
        pattern = "channel:1"
        covariance = "power:1.5"
        prior = 0.4
        center = 1
        scales = [0.5, 1]

        [[task]]
        name = "b"
        scales = 7
        """,
    )
    suite = sb.load_suite(path)
    assert suite.name == path
    assert suite.tasks == (
        sb.TaskDefinition("a", "channel:1", "power:1.5", 0.4, 1, (0.5, 1)),
        sb.TaskDefinition("b", scales=7),
    )
    first, second = suite.build(SHAPE, scales=(2.0,), prior=0.3, center=0.0, eps=(0.0,), threshold=0.6)
    assert first == GaussianTask(SHAPE, (0.5, 1.0), 0.4, 1.0, "channel:1", "power:1.5")
    assert second == GaussianTask(SHAPE, (0.7, 1.4, 2.1, 2.8, 3.5, 4.2, 4.9), 0.3, 0.0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["tasks.toml: expected at least one task, got none"]),
        ("task = 3", ["tasks.toml: task: expected tables [[task]], got another form"]),
        ("[task]\nname = 'a'", ["tasks.toml: task: expected tables [[task]], got another form"]),
        ("[[tsk]]\nname = 'a'", ["tasks.toml: tsk: expected tables [[task]] only, got another key"]),
        ("[[task]\n", ["tasks.toml: expected a TOML file, got: "]),
        ("[[task]]\npattern = 'low'", ["tasks.toml: task 1: name: expected some text, got none"]),
        ('[[task]]\nname = "one\\nERROR two"', ["name: expected text on one line, got 'one\\nERROR two'"]),
        ("[[task]]\nname = ' '", ["tasks.toml: task 1 (' '): name: expected some text"]),
        (
            "[[task]]\nname = 'worst'",
            ["name: expected another than mean, worst, families, structure, got 'worst'"],
        ),
        ("[[task]]\nname = 3", ["tasks.toml: task 1: name: expected text, got 3"]),
        (
            "[[task]]\nname = 'a'\n[[task]]\nname = 'b'\npatern = 'low'",
            ["tasks.toml: task 2 ('b'): patern: expected one of name, pattern, ", "did you mean pattern?"],
        ),
        ("[[task]]\nname = 'a'\npattern = 'lo'", ["task 1 ('a'): pattern: expected one of", "mean low?"]),
        ("[[task]]\nname = 'a'\npattern = 1", ["task 1 ('a'): pattern: expected text, got 1"]),
        (
            "[[task]]\nname = 'a'\ncovariance = 'powr:1'",
            ["('a'): covariance: expected one of", "mean power?"],
        ),
        ("[[task]]\nname = 'a'\nprior = 1.5", ["('a'): prior: expected a value in (0, 1), got 1.5"]),
        ("[[task]]\nname = 'a'\nprior = true", ["('a'): prior: expected a number, got True"]),
        ("[[task]]\nname = 'a'\ncenter = nan", ["('a'): center: expected a number, got nan"]),
        (
            "[[task]]\nname = 'a'\nscales = 'many'",
            ["('a'): scales: expected their number or a list of values"],
        ),
        ("[[task]]\nname = 'a'\nscales = [2, 1]", ["('a'): scales: expected increasing values"]),
        ("[[task]]\nname = 'a'\nscales = []", ["('a'): scales: expected at least 1 scale, got none"]),
        ("[[task]]\nname = 'a'\nscales = 0", ["('a'): scales: expected 1 to 49000 scales, got 0"]),
        (
            "[[task]]\nname = 'a'\n[[task]]\nname = 'a'",
            ["task 'a': name: expected another one, got it twice"],
        ),
    ],
)
def test_mistakes_in_a_task_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    with refused(*parts):
        sb.load_suite(toml(tmp_path, text))


def test_mistakes_in_a_choice_of_tasks(tmp_path: Path) -> None:
    with refused("tasks: expected one of published, patterns,", "got 'ful', did you mean full?"):
        sb.load_suite("ful")
    with refused("missing.toml: expected a TOML file, got: No such file"):
        sb.load_suite("missing.toml")
    with refused("tasks: expected classes:K with K from 2 to 50, got 'classes:1'"):
        sb.load_suite("classes:1")
    with refused("tasks: expected TaskDefinition or FamilyDefinition in a sequence, got str"):
        sb.load_suite(["full"])  # type: ignore[list-item]
    with refused("tasks: expected at least one task, got none"):
        sb.load_suite([])
    with refused("tasks: task 'a': prior: expected a number, got '0.5'"):
        sb.load_suite([sb.TaskDefinition("a", prior="0.5")])  # type: ignore[arg-type]
    with refused("tasks: task 'a': scales: expected their number or values, got True"):
        sb.load_suite([sb.TaskDefinition("a", scales=True)])
    (tmp_path / "tasks.toml").write_bytes(b"\xff\xfe")
    with refused("tasks.toml: expected a TOML file, got: other bytes than UTF-8"):
        sb.load_suite(str(tmp_path / "tasks.toml"))


def test_degenerate_suites_are_refused() -> None:
    def run(*tasks: sb.TaskDefinition, **options: Any) -> SuiteResult:
        return sb.score_suite(features, tasks=tasks, **{**SMALL, "samples": 100, **options})

    with refused("tasks: task 'b': expected a task unlike the others, got 'a' again for shape (3, 8, 8)"):
        run(sb.TaskDefinition("a", pattern="low"), sb.TaskDefinition("b", pattern="low", prior=0.5))
    with refused("tasks: task 'b': pattern: expected a channel from 0 to 2, got 'channel:3' for shape"):
        run(sb.TaskDefinition("a"), sb.TaskDefinition("b", pattern="channel:3"))
    with refused(
        "tasks: task 'b': scales: expected one whose raw accuracy exceeds the lowest threshold, 0.6, got at most",
        "0.5793 at eps 0",
    ):
        run(sb.TaskDefinition("a"), sb.TaskDefinition("b", scales=(0.1, 0.2)))
    # Enough at eps 0, but not under attack where the spectrum costs signal.
    steep = sb.TaskDefinition("b", pattern="random:0", covariance="power:4", scales=(0.3,))
    run(steep, samples=400, eps=0.0, thresholds=0.6)
    with refused("raw accuracy exceeds the lowest threshold, 0.6, got at most", "at eps 0.9"):
        run(steep, eps=(0.0, 0.9), thresholds=0.6)


def test_one_task_is_the_score_itself() -> None:
    """The published suite, bit for bit."""
    options = {**SMALL, "samples": 300, "eps": (0.0, 0.3)}

    def half(x: Tensor) -> Tensor:
        return x.flatten(1)[:, ::2].tanh()

    suite = sb.score_suite(half, tasks="published", **options)
    alone = sb.score(half, **options)
    assert suite.results[0].scores == alone.scores and suite.results[0].curve == alone.curve
    for one, two in zip(suite.scores, alone.scores, strict=True):
        assert (one.mean, one.worst, one.worst_task) == (two.score, two.score, "published")
        assert (one.mean_stderr, one.worst_stderr) == (two.stderr, two.stderr)
        assert (one.mean_ci95_low, one.worst_ci95_low) == pytest.approx((two.ci95_low, two.ci95_low))
        assert (one.mean_ci95_high, one.worst_ci95_high) == pytest.approx((two.ci95_high, two.ci95_high))
        assert two.stderr > 0


def test_a_suite_is_its_tasks() -> None:
    """Each task as it would be alone, whatever the others; mean and worst are those of the tasks' scores."""
    options = {**SMALL, "samples": 300, "eps": (0.0, 0.3), "seed": 3}
    suite = sb.score_suite(features, tasks=TASKS, **options)
    assert (suite.suite, suite.tasks) == ("tasks", ["plain", "edges", "rare"])
    alone = sb.score_suite(features, tasks=TASKS[1:2], **options)
    assert repr(alone.results[0].scores) == repr(suite.result("edges").scores)  # NaN, too
    plain = sb.score(features, **options)
    assert repr(suite.result("plain").scores) == repr(plain.scores)
    record = suite.result("edges").task
    assert (record.pattern, record.covariance) == ("high", "power:1")
    rare = suite.result("rare").task
    assert (rare.prior, rare.scales, rare.pattern) == (0.4, [1.5, 2.5], "uniform")
    one = suite.score(0.3, 0.8)
    scores = [result.score(0.3, 0.8) for result in suite.results]
    assert one.mean == pytest.approx(np.mean([two.score for two in scores]), rel=1e-14)
    assert one.worst == min(two.score for two in scores)
    assert suite.result(one.worst_task).score(0.3, 0.8).score == one.worst
    # plain and rare share noise.
    together = math.hypot(scores[0].stderr + scores[2].stderr, scores[1].stderr) / 3
    assert one.mean_stderr == pytest.approx(together, rel=1e-14)
    with refused("task: expected one of plain, edges, rare, got 'edge', did you mean edges?"):
        suite.result("edge")


def test_the_encoder_is_loaded_once_and_progress_runs_through() -> None:
    built: list[int] = []

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            built.append(1)

        def forward(self, x: Tensor) -> Tensor:
            return features(x)

    seen: list[tuple[int, int]] = []
    module = Made().train()
    suite = sb.score_suite(
        module,
        tasks=TASKS[:2],
        progress=lambda done, total, phase: seen.append((done, total)),
        dtype="bfloat16",  # converts the module, which each task must find as it was
        **{**SMALL, "samples": 200},
    )
    assert built == [1] and module.training
    assert seen == sorted(seen) and seen[0] == (0, 1200) and seen[-1] == (1200, 1200)
    assert [one.cost.dtype for one in suite.results] == ["bfloat16"] * 2
    assert [one.cost.seconds["load"] > 0 for one in suite.results] == [True, False]
    again = sb.score_suite(module, tasks=TASKS[1:2], dtype="bfloat16", **{**SMALL, "samples": 200})
    assert again.results[0].scores == suite.results[1].scores
    assert again.results[0].arithmetic == suite.results[1].arithmetic


def test_progress_of_several_tasks_never_falls_with_a_half_width() -> None:
    seen: list[tuple[int, int]] = []
    suite = sb.score_suite(
        features,
        tasks=TASKS[:2],
        half_width=0.05,
        progress=lambda done, total, phase: seen.append((done, total)),
        **{**SMALL, "samples": 64},
    )
    images = sum(one.cost.images for one in suite.results)
    done = [one for one, _ in seen]
    assert done == sorted(done) and seen[-1] == (images, images)
    assert seen[0][1] < images and all(one <= total for one, total in seen)


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(192, 12, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


def test_weights_are_rounded_for_each_task_from_those_that_were_loaded() -> None:
    options = {**SMALL, "samples": 200, "dtype": "bfloat16"}
    spec = "builtin:linear?dim=12"
    suite = sb.score_suite(spec, tasks=TASKS[:2], **options)
    alone = sb.score_suite(spec, tasks=TASKS[1:2], **options)
    assert suite.results[1].scores == alone.results[0].scores
    assert suite.results[1].arithmetic == alone.results[0].arithmetic
    assert suite.results[1].arithmetic.checks[0].samples == 200  # compared with float32, not with itself
    assert suite.results[1].arithmetic.checks[0].points[0].t_difference != 0
    own = sb.score_suite(Half(), tasks=TASKS[:2], **options)
    assert own.results[1].arithmetic.checks[0].points[0].t_difference != 0


@pytest.mark.parametrize("name", ["full", "priors", "classes:3"])
def test_the_identity_scores_one_on_every_task(name: str) -> None:
    """Within its errors, for every budget; the prior other than 1/2 included."""
    suite = sb.score_suite(
        "builtin:identity",
        tasks=name,
        input_shape=(3, 8, 8),
        scales=(0.7, 1.5, 3.0),
        samples=4000,
        eps=(0.0, 0.3, 0.6),
        thresholds=(0.62, 0.8),
        seed=1,  # at which no interval is withheld
    )
    for task, result in zip(suite.tasks, suite.results, strict=True):
        for one in result.scores:
            assert abs(one.score - 1) < 4 * one.stderr < 0.12, (task, one)
    assert all(one.worst_ci95_low < 1 for one in suite.scores)
    assert all(one.mean_stderr < 0.02 for one in suite.scores)


def test_a_linear_encoder_scores_its_population_value_on_every_task() -> None:
    """h = W x: m = W m, C = W Sigma W', with the explicit Sigma of each task."""
    rng = np.random.default_rng(5)
    shape, eps, threshold, prior_scales = (3, 8, 8), (0.0, 0.3), 0.65, (0.8, 1.6, 2.4)
    weight: Array = rng.standard_normal((8, 192)) + 0.3
    matrix = torch.from_numpy(weight.T)
    suite = sb.score_suite(
        lambda x: x.flatten(1).double() @ matrix,
        tasks="full",
        input_shape=shape,
        scales=prior_scales,
        samples=3000,
        eps=eps,
        thresholds=threshold,
        dtype="float32",
    )
    worst = 0.0
    for result in suite.results:
        record = result.task
        task = GaussianTask(shape, prior_scales, record.prior, 0.5, record.pattern, record.covariance)
        sigma = explicit_covariance(record.covariance, shape)
        u = class_means(record.pattern, shape).direction.flatten().numpy() * task.distance
        area = []
        for scale in prior_scales:
            t, _, deviation = (
                torch.from_numpy(one)
                for one in population(scale * weight @ u, weight @ sigma @ weight.T, eps)
            )
            k = math.log((1 - record.prior) / record.prior) / 2 / deviation
            a = gaussian.accuracy(t, k, record.prior)
            area.append(gaussian.bound(t, k, record.prior) * (a - threshold).clamp_min(0))
        accuracy, _, bound = task.raw(eps)
        exact = torch.stack(area).mean(0) / (bound * (accuracy - threshold).clamp_min(0)).mean(0)
        for one, value in zip(result.scores, exact.tolist(), strict=True):
            error = (one.score - value) / max(one.stderr, 1e-4)
            assert abs(error) < 4.5, (record.pattern, record.covariance, one, value)
            worst = max(worst, abs(error))
    assert worst > 0.3  # the errors are not merely wide


@pytest.mark.parametrize(
    ("truth", "error"),
    [
        ([0.7] * 8, [0.02] * 8),  # all alike: the minimum of the estimates is far below
        ([0.3] + [0.9] * 7, [0.02] * 8),  # one is clearly the worst
        ([0.5, 0.52, 0.54, 0.9], [0.01, 0.03, 0.06, 0.02]),  # near each other, of unequal errors
        ([0.5, 0.6], [0.001, 0.2]),  # the better one is often taken for the worst
        ([0.4], [0.05]),
    ],
)
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_intervals_cover(truth: list[float], error: list[float], correlation: float) -> None:
    """Scores drawn about known ones: 95 % at least, and neither end fails in more than 2.5 %."""
    rng = np.random.default_rng(11)
    runs, n = 4000, len(truth)
    common = rng.standard_normal((runs, 1)) * math.sqrt(correlation)
    noise = common + rng.standard_normal((runs, n)) * math.sqrt(1 - correlation)
    drawn = np.array(truth) + np.array(error) * noise
    shared = [0] * n if correlation else list(range(n))
    names = [str(i) for i in range(n)]
    made = [combine(one, error, shared, names=names, eps=0.0, threshold=0.6) for one in drawn]
    allowed = 0.025 + 3 * math.sqrt(0.025 * 0.975 / runs)
    lowest, mean = min(truth), float(np.mean(truth))
    assert np.mean([one.worst_ci95_low > lowest for one in made]) < allowed
    assert np.mean([one.worst_ci95_high < lowest for one in made]) < allowed
    assert np.mean([one.mean_ci95_low > mean for one in made]) < allowed
    assert np.mean([one.mean_ci95_high < mean for one in made]) < allowed
    naive = [one.worst + 1.96 * error[int(one.worst_task)] < lowest for one in made]
    if truth == [0.7] * 8 and not correlation:
        assert np.mean(naive) > 0.1  # what the interval of the smallest estimate alone would miss
    assert all(one.worst == min(row) for one, row in zip(made, drawn, strict=True))


def test_a_score_that_does_not_exist_leaves_neither_mean_nor_worst() -> None:
    one = combine([0.5, math.nan], [0.1, math.nan], [0, 1], names=["a", "b"], eps=0.0, threshold=0.99)
    values = [one.mean, one.mean_stderr, one.mean_ci95_low, one.worst, one.worst_stderr, one.worst_ci95_high]
    assert all(math.isnan(value) for value in values) and one.worst_task == ""


def test_an_error_of_zero_is_no_certainty() -> None:
    """Where no scale exceeded the threshold, only the other tasks limit the smallest true score from above."""
    one = combine([0.0, 0.2], [0.0, 0.1], [0, 1], names=["a", "b"], eps=0.0, threshold=0.9)
    assert (one.worst, one.worst_task, one.worst_stderr) == (0.0, "a", 0.0)
    assert one.worst_ci95_high == pytest.approx(0.2 + 0.1 * norm.ppf(1 - 0.0125))
    assert one.worst_ci95_low == 0.0 < 0.2 - 0.1 * norm.ppf(0.975)
    none = combine([0.0, 0.0], [0.0, 0.0], [0, 1], names=["a", "b"], eps=0.0, threshold=0.9)
    assert (none.worst, none.worst_ci95_low) == (0.0, 0.0) and math.isnan(none.worst_ci95_high)


def suite_example() -> SuiteResult:
    results = [example(), example()]
    common: dict[str, Any] = {"mean_stderr": 0.01, "mean_ci95_low": 0.7, "mean_ci95_high": 0.9, "worst": 0.6}
    common |= {"worst_task": "b", "worst_stderr": 0.02, "worst_ci95_low": 0.55, "worst_ci95_high": 0.65}
    scores = [SuiteScore(eps=e, threshold=a, mean=0.8, **common) for e in (0.0, 0.2) for a in (0.6, 0.7)]
    scores[-1] = SuiteScore(eps=0.2, threshold=0.7, worst_task="", **dict.fromkeys(
        [f"{kind}{end}" for kind in ("mean", "worst") for end in ("", "_stderr", "_ci95_low", "_ci95_high")],
        math.nan,
    ))  # fmt: skip
    return SuiteResult(
        suite="mine", tasks=["a", "b"], scores=scores, results=results, warnings=["a: something"], command=""
    )


def test_the_document(tmp_path: Path) -> None:
    suite = suite_example()
    again = SuiteResult.load(suite.save(tmp_path / suite.file_name()))
    assert again.to_dict() == suite.to_dict()
    assert again.scores[:3] == suite.scores[:3] and math.isnan(again.scores[3].worst)
    document = json.loads(suite.to_json())
    assert (document["schema"], document["schema_version"]) == ("synbench-fast/suite", 4)
    assert document["scores"]["mean"][3] is None
    assert suite.file_name().startswith("builtin_conv-suite-")
    assert suite.score(threshold=0.7) == suite.scores[1]
    with refused("eps: expected one of 0, 0.2, got 0.1"):
        suite.score(0.1)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"schema": "synbench-fast/result"}, ["suite: schema: expected 'synbench-fast/suite', got"]),
        ({"schema_version": 5}, ["suite: schema_version: expected 4, got 5; a newer synbench-fast wrote it"]),
        ({"schema_version": True}, ["suite: schema_version: expected 4, got True"]),
        ({"results": []}, ["suite: results: expected one per task and at least one, got 0 for 2 tasks"]),
        ({"results": 3}, ["suite: results: expected an array, got 3"]),
        ({"results": [{}]}, ["suite: results[0].schema: expected 'synbench-fast/result', got None"]),
        ({"tasks": ["a"]}, ["suite: results: expected one per task and at least one, got 2 for 1 tasks"]),
        ({"suite": 3}, ["suite: suite: expected a string, got 3"]),
        ({"extra": 3}, ["suite: extra: expected a field of SuiteResult"]),
    ],
)
def test_a_document_that_does_not_fit(change: dict[str, Any], parts: list[str]) -> None:
    with refused(*parts):
        SuiteResult.from_dict({**suite_example().to_dict(), **change})


def test_files_that_are_no_suites(tmp_path: Path) -> None:
    with refused("suite: expected a JSON object, got 3"):
        SuiteResult.from_json("3")
    with refused("suite: expected a JSON document, got text that is not"):
        SuiteResult.from_json("{")
    with refused("missing.json: expected a readable suite file"):
        SuiteResult.load(tmp_path / "missing.json")
    (tmp_path / "x.json").write_bytes(b"\xff")
    with refused("x.json: expected a suite file in UTF-8"):
        SuiteResult.load(tmp_path / "x.json")


def test_a_suite_without_its_scores_is_one_line() -> None:
    suite = dataclasses.replace(suite_example(), scores=[])
    with refused("scores: expected an entry at eps 0, threshold 0.6, got none"):
        suite.summary()


@pytest.mark.parametrize("scales", [0.5, "abc"])
def test_scales_of_a_definition_are_checked(scales: Any) -> None:
    with refused("tasks: task 'a': scales: expected a sequence of values, got"):
        sb.load_suite([sb.TaskDefinition("a", scales=scales)])


def test_table_and_csv() -> None:
    suite = suite_example()
    stream = io.StringIO()
    table = suite_sink("table", stream)
    table.add(suite)
    table.close()
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["encoder", "task", "score", "eps=0", "score", "eps=0.2"]
    assert [line.split()[1] for line in lines[1:5]] == ["a", "b", "mean", "worst"]
    assert lines[4].endswith("b 0.6000 [0.5500, 0.6500]  b 0.6000 [0.5500, 0.6500]")
    stream = io.StringIO()
    sink = suite_sink("csv", stream)
    sink.add(suite)
    sink.add(suite)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert tuple(rows[0]) == SUITE_CSV_COLUMNS
    assert [row["task"] for row in rows] == 2 * [*"aaaabbbb", *["mean"] * 4, *["worst"] * 4]
    assert rows[12]["score"] == "0.6" and rows[12]["pattern"] == "uniform" and rows[15]["score"] == ""
    stream = io.StringIO()
    suite_sink("table", stream).close()
    assert stream.getvalue() == ""


def test_the_summary_names_every_task_and_the_worst() -> None:
    lines = suite_example().summary().splitlines()
    assert lines[0] == "builtin:conv: suite mine, score above accuracy 0.6"
    assert lines[1].startswith("  a: eps 0: 0.8400 ± 0.0100") and lines[2].startswith("  b: ")
    assert lines[3] == "  eps 0: mean 0.8000 ± 0.0100, worst 0.6000 (b), 95 % interval 0.5500 to 0.6500"
    encoder = dataclasses.replace(example().encoder, checkpoint="1.pt")
    other = dataclasses.replace(suite_example(), results=[example(encoder=encoder)] * 2)
    assert other.summary().startswith("builtin:conv 1.pt: suite mine")
    stream = io.StringIO()
    table = suite_sink("table", stream)
    table.add(other)
    table.close()
    assert stream.getvalue().splitlines()[1].startswith("builtin:conv 1.pt  a ")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = toml(tmp_path, "[[task]]\nname = 'plain'\n[[task]]\nname = 'low'\npattern = 'low'\n")
    words = ["run", "builtin:conv?dim=8", "--input-shape", "3,8,8", "--scales", "1.0,2.0", "--samples", "200"]
    words += ["--quiet", "--tasks"]
    assert cli.main([*words, path, "--format", "json", "--out", str(tmp_path / "out")]) == 0
    suite = SuiteResult.from_json(capsys.readouterr().out)
    assert suite.tasks == ["plain", "low"]
    stored = [SuiteResult.load(one) for one in (tmp_path / "out").glob("*.json")]
    assert [one.to_dict() for one in stored] == [suite.to_dict()]
    assert suite.command.endswith(f"--tasks {path}")
    assert cli.main([*shlex.split(suite.command)[1:], "--quiet", "--format", "json"]) == 0
    assert SuiteResult.from_json(capsys.readouterr().out).scores == suite.scores

    assert cli.main([*words, "patterns"]) == 0
    assert "worst" in capsys.readouterr().out
    assert cli.main([*words, "patern"]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: --tasks: expected one of published,") and "did you mean patterns?" in error
    )
    assert error.count("\n") == 1
    assert cli.main([*words[:3], "1,8,8", *words[4:], "full"]) == 1
    error = capsys.readouterr().err
    assert "full: task 'channel': pattern: expected an input of two channels" in error
    others = "published, low, high, patch, natural, prior-0.4"
    assert error.endswith(f"; a .toml file of tasks (docs/tasks.md) can hold the others: {others}\n")


def test_mean_and_worst_by_hand() -> None:
    """Two tasks of one noise, one of another."""
    one = combine(
        [0.5, 0.4, 0.9], [0.03, 0.04, 0.06], [7, 7, 9], names=["a", "b", "c"], eps=0.2, threshold=0.7
    )
    error = math.hypot(0.03 + 0.04, 0.06) / 3
    assert (one.eps, one.threshold, one.worst_task) == (0.2, 0.7, "b")
    assert (one.mean, one.mean_stderr) == pytest.approx((0.6, error))
    half = norm.ppf(0.975) * error
    assert (one.mean_ci95_low, one.mean_ci95_high) == pytest.approx((0.6 - half, 0.6 + half))
    assert (one.worst, one.worst_stderr) == (0.4, 0.04)
    assert one.worst_ci95_low == pytest.approx(min(0.5 - 1.95996 * 0.03, 0.4 - 1.95996 * 0.04), abs=1e-6)
    each = norm.ppf(1 - 0.025 / 3)
    assert one.worst_ci95_high == pytest.approx(0.4 + each * 0.04)


def test_name_of_a_suite_of_results() -> None:
    base = suite_example()
    others = [
        dataclasses.replace(base, suite="other"),
        dataclasses.replace(base, tasks=["a", "c"]),
        dataclasses.replace(base, results=[example(), example(seed=1)]),
    ]
    assert len({one.file_name() for one in (base, *others)}) == 4
    assert dataclasses.replace(base, warnings=[]).file_name() == base.file_name()
    assert base.file_name() == "builtin_conv-suite-f348b1fb58e0.json"
    long = dataclasses.replace(base.results[0].encoder, spec="x:" + "y" * 300)
    assert len(dataclasses.replace(base, results=[example(encoder=long)] * 2).file_name()) < 130
