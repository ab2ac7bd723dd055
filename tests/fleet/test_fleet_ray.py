"""Fleets on a Ray cluster: two nodes on this machine, of which one dies in the middle."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from checks import PATIENCE, refused
from fleet_fakes import contents, fakes, run_fakes

from synbench_fast.config import ScoreConfig
from synbench_fast.errors import SynbenchError
from synbench_fast.fleet.executors import InProcess, Slot
from synbench_fast.fleet.launch import run_fleet
from synbench_fast.fleet.ray_executor import RayExecutor, _why
from synbench_fast.fleet.store import read_summary
from synbench_fast.results.records import Result

OPTIONS: dict[str, Any] = {"scales": 4, "samples": 2000, "input_shape": [3, 16, 16]}
MODELS = [f"builtin:{kind}?dim={size}" for size in (5, 9, 16, 33, 64, 80) for kind in ("linear", "conv")]

# A program of its own: Ray leaves threads and handlers behind that are not for the other tests.
PROGRAM = """
import json, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from fleet_fakes import FAKE, fakes, run_fakes
from checks import refused
from synbench_fast.config import ScoreConfig
from synbench_fast.fleet.launch import run_fleet
from synbench_fast.fleet.ray_executor import RayExecutor
from synbench_fast.fleet.store import Store, read_summary

folder, options, models = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)
with refused("devices: expected a Ray cluster with GPUs for cuda, got one without"):
    RayExecutor("auto", "cuda")
with refused("devices: expected auto, cpu or cuda on a Ray cluster, got 'cpu:2'"):
    RayExecutor("auto", "cpu:2")

# Crashes of workers are told apart from what an encoder raises, and are tried again.
notes = []
states = run_fakes(
    folder / "fakes", fakes(1, trouble="crash")
    + fakes(4)[1:], RayExecutor("auto", workers=2, worker=FAKE), said=notes.append,
)
assert states == {"fake:000": "failed", "fake:001": "done", "fake:002": "done", "fake:003": "done"}, states
assert len(notes) >= 2 and all("tried again" in note for note in notes), notes

Store(folder / "fleet").close()
removed = []

def lose_a_node():
    while read_summary(folder / "fleet")["units"]["done"] < 8:
        time.sleep(0.05)
    cluster.remove_node(nodes[1], allow_graceful=False)
    removed.append(read_summary(folder / "fleet")["units"])

thread = threading.Thread(target=lose_a_node)
thread.start()
executor = RayExecutor("auto")
assert len(executor.slots) == 2
jobs = run_fleet(models, folder / "fleet", config=ScoreConfig(**options), executor=executor, said=print)
thread.join()
assert [job.state for job in jobs] == ["done"] * len(models), [job.reason for job in jobs]
assert removed[0]["done"] < 4 * len(models), removed
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_node_dies_and_the_store_is_that_of_a_single_process(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(OPTIONS), json.dumps(MODELS)],
        env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = run_fleet(MODELS, tmp_path / "alone", config=ScoreConfig(**OPTIONS), executor=InProcess())
    alone, fleet = contents(tmp_path / "alone"), contents(tmp_path / "fleet")
    assert len(alone) == 4 * len(MODELS) and None not in alone.values()
    assert fleet == alone
    summary = read_summary(tmp_path / "fleet")
    assert summary["counts"] == {"waiting": 0, "planned": 0, "done": len(MODELS), "failed": 0}
    for job, one in zip(jobs, summary["encoders"], strict=True):
        result = Result.load(tmp_path / "alone" / "results" / str(job.result)).to_dict()
        other = Result.load(tmp_path / "fleet" / "results" / one["result"]).to_dict()
        for name in ("encoder", "task", "scores", "curve", "score_covariance", "influence", "robust_area"):
            assert result[name] == other[name], name
    run_fakes(tmp_path / "plain", fakes(4), InProcess(worker="fleet_fakes:FakeWorker"))
    plain, through_ray = contents(tmp_path / "plain"), contents(tmp_path / "fakes")
    there = {key: one for key, one in through_ray.items() if one is not None}
    assert there.items() <= plain.items()
    # All of the three sound encoders; what the other had done may be lost with its worker, or never be asked for.
    whole = [series for series in {key[0] for key in plain} if sum(key[0] == series for key in there) == 4]
    assert len(whole) == 3


def test_nothing_is_asked_of_a_node_that_is_gone() -> None:
    """Ray waits for ever then, or ends the process without a word."""
    ours, theirs = socket.socketpair()
    executor = object.__new__(RayExecutor)
    executor._node, executor._waiting, executor._actors, executor.slots = ours, {}, {}, [Slot("0", "cpu")]
    assert executor.poll(0.0) == []
    theirs.close()
    for call in (
        lambda: executor.poll(0.0),
        lambda: executor.start("0"),
        lambda: executor.submit("0", {}),
        lambda: executor._event("0"),
    ):
        with refused(
            "ray: expected the Ray node of this process to stay, got its end; what is finished is kept"
        ):
            call()
    ours.close()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["ray::DashboardAgent", "raylet/raylet --"])
def test_the_node_of_the_driver_dies_and_the_same_command_goes_on(tmp_path: Path, victim: str) -> None:
    """It waited for 290 seconds, and would have for ever: the agent takes its node along."""
    pytest.importorskip("ray")
    command = [
        sys.executable,
        "-m",
        "synbench_fast",
        "run",
        "--models",
        *MODELS[:4],
        "--ray",
        "local",
        "--workers",
        "1",
    ]
    command += ["--out", str(tmp_path), "--input-shape", "3,32,32", "--scales", "40", "--samples", "2000"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    run = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    patience = time.monotonic() + 120
    while run.poll() is None and time.monotonic() < patience:
        with suppress(SynbenchError):  # the store is not there yet, or not all of it
            if read_summary(tmp_path)["units"]["done"] >= 3:
                break
        time.sleep(0.1)
    killed = [pid for pid in descendants(run.pid) if victim in command_line(pid)]
    assert killed, "no such process of Ray"
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 1
    own = [line for line in error.splitlines() if line.startswith("error: ")]
    assert own == [
        "error: ray: expected the Ray node of this process to stay, got its end; what is finished is kept, the same command goes on"
    ]
    assert "Traceback" not in error
    done = read_summary(tmp_path)["units"]["done"]
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stderr
    assert done >= 3 and read_summary(tmp_path)["counts"]["done"] == 4


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def descendants(root: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    parents = {}
    for one in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(one.name)] = int((one / "stat").read_text().rpartition(")")[2].split()[1])
    found, new = [], [root]
    while new:
        new = [pid for pid, parent in parents.items() if parent in new]
        found += new
    return found


@pytest.mark.parametrize(
    ("text", "reason", "blame"),
    [
        ("The actor died because its node has died. Node Id: 3f", "the worker's node was lost", False),
        ("Task was killed due to the node running low on memory.", "the worker was killed by Ray because memory ran out", True),
        ("The actor 96 is unavailable: RPC error", "the connection to the worker was lost", True),
        ("The actor is dead because its worker process has died. Some common causes include: the OOM killer",
         "the worker ended unexpectedly; what it printed is in Ray's logs", True),
        ("The actor was cancelled", "the worker ended: The actor was cancelled", True),
    ],
)  # fmt: skip
def test_what_ray_says_of_an_actor(text: str, reason: str, blame: bool) -> None:
    assert _why(text) == (reason, blame)
