"""Names from another package's entry points: a real package, written with its metadata into a folder of the path."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checks import PATIENCE, refused

import synbench_fast as sb
from synbench_fast import plugins
from synbench_fast.cli import main as cli
from synbench_fast.config import ScoreConfig
from synbench_fast.encoders import registry
from synbench_fast.fleet.executors import InProcess
from synbench_fast.fleet.launch import run_fleet
from synbench_fast.stats.blocks import combined

CODE = """
import numpy as np
import torch
from dataclasses import replace
from synbench_fast import TaskDefinition
from synbench_fast.encoders.base import Loaded
from synbench_fast.encoders.registry import Source
from synbench_fast.stats.estimators import Estimator, find_estimator
from synbench_fast.fleet.executors import InProcess, Local


def load(request):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 6))
    return Loaded(forward=module, module=module, name=request.name, input_shape=(1, 4, 4))


def names():
    return ["small", "smaller"]


source = Source("encoders for a test", "tiny:NAME", "tiny_plugin:load", "tiny_plugin:names")
suite = (TaskDefinition("plain"), TaskDefinition("rarer", prior=0.4))


class OneHalf(Estimator):
    # The estimator of this package, under another name.

    def __init__(self, name, unbiased=False):
        self.name, self.unbiased = name, unbiased

    def enqueue(self, stats, eps, given):
        assert given.test is None and given.sample.x.shape[0] == int(stats.count.sum())
        return find_estimator("consistent").enqueue(stats, eps, given)


class TwoHalves(Estimator):
    name, halves = "twohalves", 2

    def enqueue(self, stats, eps, given):
        return find_estimator("paper").enqueue(stats, eps, given)


class PluggedIn(Estimator):
    name = "few"

    def enqueue(self, stats, eps, given):
        return find_estimator("paper").enqueue(stats, eps, replace(given, test=given.sample))


class Changed(OneHalf):
    # A point with other fields, or something that is not a point.

    def __init__(self, name, change):
        super().__init__(name)
        self.change = change

    def enqueue(self, stats, eps, given):
        finish = super().enqueue(stats, eps, given)
        return lambda: self.change(finish())


one_half, no_bias = OneHalf("onehalf"), OneHalf("nobias", unbiased=True)
two_halves, few_samples = TwoHalves(), PluggedIn()
of_tensors = Changed("tensors", lambda made: replace(made, t=torch.from_numpy(made.t), count=0, feature_dim=0))
too_short = Changed("short", lambda made: replace(made, t_rob=np.zeros(1)))
not_known = Changed("unknown", lambda made: replace(made, accuracy=np.full(len(made.eps), np.nan)))
no_point = Changed("nopoint", lambda made: None)
other_name = OneHalf("onehalf")
raising = Changed("raising", lambda made: {}["one\\nline two"])
no_share = Changed("noshare", lambda made: replace(made, accuracy=made.accuracy + 5))
no_bound = Changed("nobound", lambda made: replace(made, bound=np.full(len(made.eps), np.nan)))
no_error = Changed("noerror", lambda made: replace(made, accuracy_stderr=-made.accuracy_stderr))
made = []


def executor(devices, workers, *, threads, logs, label):
    made.append((devices, workers, threads, label))
    return Local(["cpu"] * (workers or 1), logs, label=label)


def no_executor(devices, workers, **options):
    return devices


suite_of_nothing = []
"""

ENTRIES = {
    "encoders": {"tiny": "tiny_plugin:source", "timm": "tiny_plugin:source", "broken": "no_such_module:source",
                 "wrong": "tiny_plugin:suite"},
    "tasks": {"tinysuite": "tiny_plugin:suite", "empty": "tiny_plugin:suite_of_nothing"},
    "estimators": {"onehalf": "tiny_plugin:one_half", "twohalves": "tiny_plugin:two_halves",
                   "nopoint": "tiny_plugin:no_point", "nobias": "tiny_plugin:no_bias",
                   "few": "tiny_plugin:few_samples", "tensors": "tiny_plugin:of_tensors",
                   "short": "tiny_plugin:too_short", "unknown": "tiny_plugin:not_known",
                   "noshare": "tiny_plugin:no_share", "nobound": "tiny_plugin:no_bound", "noerror": "tiny_plugin:no_error",
                   "raising": "tiny_plugin:raising", "another": "tiny_plugin:other_name", "aclass": "tiny_plugin:TwoHalves"},
    "executors": {"tinyexec": "tiny_plugin:executor", "noexec": "tiny_plugin:no_executor"},
}  # fmt: skip


def write(folder: Path, name: str, entries: dict[str, dict[str, str]]) -> None:
    """What an installer leaves behind."""
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
    lines = []
    for group, named in entries.items():
        lines += [f"[synbench_fast.{group}]", *(f"{key} = {value}" for key, value in named.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "site"
    write(folder, "tiny-plugin", ENTRIES)
    (folder / "tiny_plugin.py").write_text(CODE, encoding="utf-8")
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("tiny_plugin", None)


def test_nothing_is_imported_before_its_name_is_used(installed: Path) -> None:
    assert [one.name for one in plugins.listing("encoders")][:2] == ["tiny", "timm"]
    assert len(plugins.listing()) == 4 + 2 + 14 + 2
    assert "tiny:small" not in sb.list_encoders()
    sb.score("builtin:conv?dim=8", input_shape=(1, 8, 8), scales=1, samples=64)
    assert "tiny_plugin" not in sys.modules
    assert sb.list_encoders("tiny:*") == ["tiny:small", "tiny:smaller"]
    assert sb.list_encoders("tiny:smalle") == ["tiny:smaller"]


def test_importing_the_package_reads_no_metadata() -> None:
    code = (
        "import importlib.metadata as m, torch\n"  # torch looks for its own
        "m.entry_points = m.distributions = None\n"
        "import synbench_fast, synbench_fast.plugins, synbench_fast.cli.main, synbench_fast.encoders\n"
        "synbench_fast.score('builtin:identity', input_shape=(4,), scales=1, samples=32)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


def test_encoder(installed: Path) -> None:
    result = sb.score("tiny:small", scales=2, samples=64)
    assert (result.encoder.source, result.encoder.name, result.encoder.feature_dim) == ("tiny", "small", 6)
    assert result.environment.versions["tiny-plugin"] == "1.2"
    assert sb.Result.from_json(result.to_json()).environment.versions["tiny-plugin"] == "1.2"
    assert registry.is_source("tiny") and not registry.is_source("tin")


def test_built_in_names_win(installed: Path) -> None:
    assert registry.source("timm", "timm:resnet18") is registry.REGISTRY["timm"]
    assert "tiny_plugin" not in sys.modules


def test_tasks(installed: Path) -> None:
    suite = sb.load_suite("tinysuite")
    assert (suite.name, [one.name for one in suite.tasks]) == ("tinysuite", ["plain", "rarer"])
    result = sb.score_suite("builtin:identity", tasks="tinysuite", input_shape=(8,), scales=2, samples=64)
    assert result.tasks == ["plain", "rarer"]


def test_estimators(installed: Path) -> None:
    options = {"input_shape": (8,), "scales": (1.0, 2.0), "samples": 128, "thresholds": 0.6}
    mine = sb.score("builtin:identity", estimator="onehalf", **options)
    own = sb.score("builtin:identity", estimator="consistent", **options)
    assert mine.estimator == "onehalf"
    assert mine.scores == own.scores
    mine = sb.score("builtin:identity", estimator="twohalves", **options)
    own = sb.score("builtin:identity", estimator="paper", **options)
    assert (mine.estimator, mine.cost.images) == ("twohalves", own.cost.images)
    assert mine.scores == own.scores
    assert sb.Result.from_json(mine.to_json()).estimator == "twohalves"
    rng = np.random.default_rng(0)
    y = np.arange(64) % 2
    x = rng.standard_normal((64, 4)) + y[:, None]
    ours = sb.evaluate_features(x, y, eps=(0.0, 0.2), estimator="onehalf")
    theirs = sb.evaluate_features(x, y, eps=(0.0, 0.2), estimator="consistent")
    assert (ours.estimator, ours.t.tolist()) == ("onehalf", theirs.t.tolist())
    ours = sb.evaluate_features(x, y, x, y, estimator="twohalves")
    assert ours.t.tolist() == sb.evaluate_features(x, y, x, y, estimator="paper").t.tolist()
    with refused("test_x: expected a test half for the twohalves estimator"):
        sb.evaluate_features(x, y, estimator="twohalves")
    with refused("estimator nopoint: expected a CurvePoint with 10 budgets, got NoneType"):
        sb.score("builtin:identity", estimator="nopoint", **options)
    for name, expected in (
        ("noshare", "accuracy: expected shares of samples"),
        ("nobound", "bound: expected no NaN"),
        ("noerror", "accuracy_stderr: expected no negative error"),
    ):
        with refused(f"estimator {name}: {expected}"):
            sb.score("builtin:identity", estimator=name, **options)
    with refused("estimator raising: KeyError"):
        sb.score("builtin:identity", estimator="raising", **options)
    for name in ("another", "aclass"):
        with refused(
            f"entry point synbench_fast.estimators: expected an instance of Estimator whose name is '{name}'"
        ):
            sb.score("builtin:identity", estimator=name, **options)
    with refused(
        "half_width: expected estimator consistent or gaussian, got onehalf, which does not declare itself unbiased; "
        "samples sets their number"
    ):
        sb.score("builtin:identity", estimator="onehalf", half_width=0.1, input_shape=(8,))
    with refused("extend: expected estimator consistent or gaussian, got onehalf"):
        sb.Probe(sb.GaussianTask((4,), scales=(1.0,)), estimator="onehalf").extend(0, 8)


def test_points_are_checked(installed: Path) -> None:
    options = {"input_shape": (8,), "scales": (1.0, 2.0), "samples": 128, "eps": 0.0, "thresholds": 0.6}
    made = sb.score("builtin:identity", estimator="tensors", **options)
    assert made.scores == sb.score("builtin:identity", estimator="onehalf", **options).scores
    assert sb.Result.from_json(made.to_json()).scores == made.scores
    with refused(
        "estimator short: t_rob: expected 9 numbers, one for each budget, got shape [1] (at scale 1)"
    ):
        sb.score("builtin:identity", estimator="short", **options)
    with refused("estimator unknown: accuracy: expected finite values, got [nan"):
        sb.score("builtin:identity", estimator="unknown", **options)


def test_fewer_samples_than_features_in_a_coarse_precision(installed: Path) -> None:
    """What the arithmetic does is measured with classifiers that these samples allow."""
    options = {"input_shape": (1, 4, 4), "scales": (2.0,), "samples": 16, "estimator": "few", "seed": 1}
    result = sb.score("builtin:linear?dim=24", dtype="bfloat16", **options)
    (check,) = result.arithmetic.checks
    assert check.dtype == "bfloat16" and check.largest is not None


def test_blocks_of_an_unbiased_estimator(installed: Path) -> None:
    options = {"input_shape": (8,), "scales": 6, "eps": (0.0, 0.2), "thresholds": (0.6, 0.9), "seed": 2}
    result = sb.score("builtin:linear?dim=6", estimator="nobias", half_width=0.03, **options)
    assert max(one.ci95_high - one.score for one in result.scores) <= 0.03
    assert min(result.task.samples) < max(result.task.samples)
    assert result.half_width == 0.03 and result.cost.images == sum(result.task.samples)
    own = sb.score("builtin:linear?dim=6", half_width=0.03, average="sampled", **options)
    for mine, other in zip(result.scores, own.scores, strict=True):
        assert abs(mine.score - other.score) < 3 * np.hypot(mine.stderr, other.stderr)


def test_means_of_blocks(installed: Path) -> None:
    """Each counts by its samples, with errors of independent estimates; the bound is a mean of correct samples."""
    probe = sb.Probe(sb.GaussianTask((6,), scales=(1.0,)), estimator="nobias", samples=128, seed=1)
    second = probe.extend(0, 64)
    for batch in probe.batches():
        probe.update(batch, batch.x)
    one, two = (probe.point(block) for block in probe.blocks)
    both = combined(probe.blocks, [one, two])
    assert (both.count, both.estimator, second.count) == (192, "nobias", 64)
    np.testing.assert_allclose(both.t, (2 * one.t + two.t) / 3)
    np.testing.assert_allclose(both.accuracy, (2 * one.accuracy + two.accuracy) / 3)
    product = (2 * one.accuracy * one.bound + two.accuracy * two.bound) / 3
    np.testing.assert_allclose(both.accuracy * both.bound, product)
    np.testing.assert_allclose(both.stderr, np.hypot(2 * one.stderr, two.stderr) / 3)
    assert one.covariance is not None and two.covariance is not None and both.covariance is not None
    np.testing.assert_allclose(both.covariance, (4 * one.covariance + two.covariance) / 9)
    assert one.influence is not None and both.influence is not None
    np.testing.assert_allclose(both.influence[:, :, :8], 2 / 3 * one.influence)
    alone = combined(probe.blocks, [replace(one, covariance=None), replace(two, influence=None)])
    assert alone.covariance is None and alone.influence is None


@pytest.mark.parametrize(("estimator", "further"), [("onehalf", 128), ("nobias", 64)])
def test_more_samples_in_a_fleet(installed: Path, tmp_path: Path, estimator: str, further: int) -> None:
    """Points of a biased estimator cannot be averaged: it draws all samples anew."""
    threads = torch.get_num_threads()
    options = {"scales": (2.0,), "thresholds": 0.6, "estimator": estimator}
    for samples in (64, 128):
        (job,) = run_fleet(
            ["tiny:small"],
            tmp_path,
            config=ScoreConfig(**{**options, "samples": samples}),
            executor=InProcess(),
        )
        assert job.state == "done"
    torch.set_num_threads(threads)
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as database:
        assert [row[0] for row in database.execute("select count from units order by id")] == [64, further]
    results = [sb.Result.load(one) for one in (tmp_path / "results").glob("*.json")]
    (last,) = (one for one in results if one.task.samples == [128])
    alone = sb.score("tiny:small", threads=1, samples=128, **options)
    assert (last.scores == alone.scores) == (estimator == "onehalf")


def test_in_workers_of_a_fleet(installed: Path, tmp_path: Path) -> None:
    options = {"scales": 2, "samples": 64, "estimator": "onehalf"}
    jobs = run_fleet(
        ["tiny:small"], tmp_path / "store", config=ScoreConfig(**options), executor="tinyexec", workers=2
    )
    assert [job.state for job in jobs] == ["done"]
    assert sys.modules["tiny_plugin"].made == [("auto", 2, 1, "run-1-worker")]
    (path,) = (tmp_path / "store" / "results").glob("*.json")
    result = sb.Result.load(path)
    alone = sb.score("tiny:small", threads=1, **options)
    assert (result.encoder.source, result.estimator) == ("tiny", "onehalf")
    assert result.scores == alone.scores
    assert result.environment.versions["tiny-plugin"] == "1.2"
    with closing(sqlite3.connect(tmp_path / "store" / "store.sqlite")) as database:
        text = "".join(str(row) for row in database.execute("select * from jobs"))
    assert '"tiny-plugin": "1.2"' in text  # what a new version of it computes is not taken from this one


def test_a_worker_names_the_plugin_that_is_not_its_first_encoder(installed: Path, tmp_path: Path) -> None:
    config = ScoreConfig(input_shape=(1, 4, 4), scales=2, samples=64, threads=torch.get_num_threads())
    jobs = run_fleet(["builtin:identity", "tiny:small"], tmp_path, config=config, executor=InProcess())
    first, second = (sb.Result.load(tmp_path / "results" / str(one.result)) for one in jobs)
    assert "tiny-plugin" not in first.environment.versions
    assert second.environment.versions["tiny-plugin"] == "1.2"


def test_command_line(installed: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["info", "--format", "json"]) == 0
    found = {(one["group"], one["name"]): one for one in json.loads(capsys.readouterr().out)["plugins"]}
    assert found["encoders", "tiny"] == {
        "group": "encoders", "name": "tiny", "entry": "tiny_plugin:source",
        "distribution": "tiny-plugin", "version": "1.2",
    }  # fmt: skip
    assert cli.main(["info"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "estimators: onehalf tiny_plugin:one_half of tiny-plugin 1.2" in text
    assert text.count("not used: the name is built in") == 1
    assert "tiny_plugin" not in sys.modules
    assert cli.main(["ls", "--format", "json"]) == 0
    sources = {one["source"]: one for one in json.loads(capsys.readouterr().out)["sources"]}
    assert sources["tiny"]["description"] == "tiny_plugin:source of tiny-plugin 1.2"
    assert cli.main(["ls", "tiny:*"]) == 0
    assert capsys.readouterr().out.splitlines() == ["tiny:small", "tiny:smaller"]
    line = [
        "run",
        "tiny:small",
        "--estimator",
        "onehalf",
        "--tasks",
        "tinysuite",
        "--scales",
        "2",
        "--samples",
        "64",
    ]
    assert cli.main([*line, "--quiet", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["suite"] == "tinysuite"
    assert cli.main(["run", "tiny:small", "--estimator", "onehal"]) == 2
    assert "did you mean onehalf?" in capsys.readouterr().err
    many = ["run", "--models", "tiny:*", "--out", str(tmp_path / "store"), "--scales", "1", "--samples", "64"]
    assert cli.main([*many, "--executor", "tinyexe", "--quiet"]) == 1
    assert "did you mean tinyexec?" in capsys.readouterr().err
    assert cli.main([*many, "--executor", "tinyexec", "--ray", "local"]) == 2
    assert "--executor: expected it without --ray" in capsys.readouterr().err
    assert cli.main(["run", "tiny:small", "--executor", "tinyexec"]) == 2
    assert "--executor: expected --models beside it" in capsys.readouterr().err


def test_mistakes_are_one_line(installed: Path, tmp_path: Path) -> None:
    with refused("expected a source out of timm,", "tiny", "did you mean tiny?"):
        sb.load_encoder("tyny:small")
    with refused(
        "entry point synbench_fast.encoders: expected 'broken' of tiny-plugin 1.2 to be there, got ModuleNotFoundError"
    ):
        sb.load_encoder("broken:x")
    with refused(
        "entry point synbench_fast.encoders: expected an encoders.registry.Source as 'wrong' of tiny-plugin 1.2, got tuple"
    ):
        sb.load_encoder("wrong:x")
    with refused(
        "entry point synbench_fast.tasks: expected a Suite or a sequence of TaskDefinition as 'empty' of tiny-plugin 1.2, got list"
    ):
        sb.load_suite("empty")
    with refused("tasks: expected one of published,", "tinysuite", "did you mean tinysuite?"):
        sb.load_suite("tinysuit")
    with refused("estimator: expected one of", "'onehalf'", "did you mean onehalf?"):
        sb.score("builtin:identity", estimator="onehlf")
    with refused("executor: expected an Executor from 'noexec', got str"):
        run_fleet(["builtin:identity"], tmp_path / "store", executor="noexec")
    with refused("executor: expected one of tinyexec, noexec, got 'tiny'"):
        run_fleet(["builtin:identity"], tmp_path / "store", executor="tiny")
    with refused("executor: expected it without ray"):
        run_fleet(["builtin:identity"], tmp_path / "store", executor="tinyexec", ray="local")


def test_two_distributions_of_one_name(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "more", "other-plugin", {"encoders": {"tiny": "other:source"}})
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    with refused(
        "entry point synbench_fast.encoders: expected 'tiny' of one distribution, got it of other-plugin 1.2 and tiny-plugin 1.2"
    ):
        sb.load_encoder("tiny:small")


def test_without_plugins(tmp_path: Path) -> None:
    with refused("executor: expected the name of one that a package here declares, got 'tinyexec'"):
        run_fleet(["builtin:identity"], tmp_path / "store", executor="tinyexec")
    assert torch.is_tensor(sb.load_encoder("builtin:identity", input_shape=(4,))(torch.zeros(1, 4)))


@pytest.mark.parametrize(
    ("group", "name", "options"),
    [
        ("encoders", "tiny", ["tiny:small"]),
        ("estimators", "onehalf", ["builtin:identity", "--estimator", "onehalf"]),
        ("tasks", "tinysuite", ["builtin:identity", "--tasks", "tinysuite"]),
    ],
)
def test_two_distributions_of_one_name_on_the_command_line(
    installed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    group: str,
    name: str,
    options: list[str],
) -> None:
    """The line names no option that does not exist."""
    write(tmp_path / "more", "other-plugin", {group: {name: "other:source"}})
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    assert cli.main(["run", *options, "--input-shape", "1,4,4"]) in (1, 2)
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "entry point" in one]
    assert line.endswith(
        f"entry point synbench_fast.{group}: expected {name!r} of one distribution, got it of other-plugin 1.2 and "
        "tiny-plugin 1.2"
    )
    assert f"--{group}:" not in line or group == "tasks"
