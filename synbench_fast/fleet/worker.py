"""The work of a fleet: an encoder is loaded once, its units are run, its result is put together.

Nothing here depends on which worker does what: how batches are cut follows from the configuration and from the
decision that the first worker made when it loaded the encoder, which the others repeat.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, NoReturn

import torch

from synbench_fast import plugins
from synbench_fast.checks import ESTIMATORS
from synbench_fast.config import ScoreConfig
from synbench_fast.encoders.registry import REGISTRY
from synbench_fast.engine import environment
from synbench_fast.engine.arithmetic import DTYPES, Arithmetic
from synbench_fast.engine.batch_size import BatchSize
from synbench_fast.engine.forward import compile_repays
from synbench_fast.engine.memory import Memory
from synbench_fast.engine.pipeline import Pipeline, batch_size
from synbench_fast.engine.prepare import MOST_SAMPLES, Prepared, average_of, prepare
from synbench_fast.engine.probe import Probe
from synbench_fast.engine.run import in_arithmetic, recast, settle, too_wide
from synbench_fast.engine.score import encoder_record, result_of
from synbench_fast.engine.structure import run_families
from synbench_fast.engine.suite import collect
from synbench_fast.errors import SynbenchError
from synbench_fast.fleet.configuration import arguments_of_units, library_of, series_of, source_of
from synbench_fast.fleet.payload import decode_point, encode_point
from synbench_fast.fleet.tasks import OutOfMemory
from synbench_fast.results.codec import decode, encode
from synbench_fast.results.records import (
    ArithmeticCheck,
    ArithmeticRecord,
    Cost,
    EncoderRecord,
    Environment,
    Result,
)
from synbench_fast.results.structure import FamilyResult, StructureScore
from synbench_fast.runtime.global_state import known_state, own_registrations
from synbench_fast.stats.blocks import Block
from synbench_fast.stats.estimators import find_estimator
from synbench_fast.tasks.structure import FamilyDefinition
from synbench_fast.tasks.suites import Suite, TaskDefinition
from synbench_fast.tasks.task import GaussianTask

__all__ = ["EncoderWorker"]

Points = list[tuple[dict[str, int], bytes, dict[str, Any]]]  # of each unit itself, its payload and its costs
TASK = ("shape", "scales", "prior", "center", "pattern", "covariance")


class _Decided(BatchSize):
    """The size that was decided: when it does not fit, that is for the scheduler to decide anew."""

    def too_large(self, count: int, reason: str) -> NoReturn:
        raise OutOfMemory(f"memory: expected room for a batch of {self.next()}, got {reason}")


@dataclass
class _Loaded:
    ready: Prepared
    tasks: list[GaussianTask]
    arithmetic: Arithmetic
    decision: dict[str, Any]
    pipelines: dict[Any, Pipeline] = field(default_factory=dict)  # by task and blocks
    done: set[Any] = field(default_factory=set)  # (that, block): a probe takes every block once


class EncoderWorker:
    """See `tasks.Worker`; on one torch device."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.kind = device_kind(self.device)
        self._loaded: _Loaded | None = None
        self._stack = ExitStack()
        self._memory = Memory()

    def load(self, request: dict[str, Any], prepared: dict[str, Any] | None) -> dict[str, Any]:
        begun = time.perf_counter()
        self.close()
        self._memory = Memory()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        config = _config(request, str(self.device))
        self._stack.enter_context(own_registrations())
        self._stack.enter_context(known_state(config.threads))
        ready = prepare(request["spec"], config)
        suite = _suite(request)
        tasks = ready.tasks(None if suite is None else lambda shape: _build(suite, ready, shape))
        self._stack.enter_context(ready.encoder.scoring())
        seconds = {"load": time.perf_counter() - begun}
        begun = time.perf_counter()
        checks: list[ArithmeticCheck] = []
        warnings = list(ready.notes)
        if prepared is None:
            decision, checks, more = self._decide(ready, tasks[0])
            warnings += more
            structure, families = self._families(ready, decision, suite)
            seconds["check"] = time.perf_counter() - begun
        else:
            decision, warnings = prepared["decision"], prepared["warnings"]
            structure, families = prepared["structure"], prepared.get("families", [])
            # Another job of the family may have decided, with another number of images or without a structure score.
            if prepared.get("structure_of") != _structure_of(config):
                structure, families = self._families(ready, decision, suite)
            checks = [decode(ArithmeticCheck, one) for one in prepared["checks"]]
        arithmetic = DTYPES[decision["dtype"]]
        if prepared is not None and (ready.encoder.dtype != arithmetic.dtype or decision["channels_last"]):
            with in_arithmetic(ready.encoder, arithmetic):
                recast(ready.encoder, arithmetic, decision["channels_last"])
            ready.encoder.drop_loaded()
        self._loaded = _Loaded(ready, tasks, arithmetic, decision)
        width = ready.encoder.info.feature_dim or 0
        record = encode(encoder_record(ready.encoder.info, width))
        samples = ready.samples
        planned = []
        for task in tasks:
            identity = _identity(request, record, task, config)
            planned.append(
                {
                    "identity": identity,
                    "series": series_of(identity, decision),
                    "scales": list(task.scale_values),
                    "samples": samples,
                    "least": max(4, 2 * width) if find_estimator(config.estimator).unbiased else None,
                    "task": {name: getattr(task, name) for name in TASK},
                }
            )
        return {
            "decision": decision,
            "encoder": record,
            "tasks": planned,
            "checks": [encode(one) for one in checks],
            "structure": structure,
            "families": families,
            "structure_of": _structure_of(config),
            "warnings": warnings,
            "environment": encode(environment.describe()),
            "backends": environment.chosen_backends(self.device.type, config.backend),
            "seconds": seconds,
            "device": str(self.device),
            "peak_memory_bytes": self._memory.peak(self.device),
        }

    def close(self) -> None:
        """Let go of the encoder, and of what it did to the process."""
        self._stack.close()
        self._loaded = None

    def _decide(
        self, ready: Prepared, task: GaussianTask
    ) -> tuple[dict[str, Any], list[ArithmeticCheck], list[str]]:
        """Arithmetic, batch size, layout and compilation for all workers on this kind of device.

        Off a GPU and in float32 or finer they follow from the arguments and the input's shape. Elsewhere
        the middle block of the first task is run to find out; it is not kept, because its batches were not cut
        as those of the other workers will be.
        """
        config = ready.config
        size = None if isinstance(config.batch_size, str) else config.batch_size
        settled = settle(
            ready.encoder,
            lambda dtype, channels_last: ready.probe(task, dtype, channels_last),
            ready.arithmetics(),
            size=size,
            compile=False,
        )
        pipeline, probe = settled.pipeline, settled.probe
        if self.device.type == "cuda" and not settled.worked:
            with in_arithmetic(ready.encoder, settled.arithmetic):
                pipeline.run([settled.left[len(settled.left) // 2]])
                probe.finish()
        each = pipeline.size.seconds_per_image
        decision = {
            "kind": self.kind,
            "dtype": settled.arithmetic.name,
            "batch_size": pipeline.size.next(),
            "asked": size is not None,
            "channels_last": probe.channels_last,
            "compile": compile_repays(config.compile, self.device, probe.images, each),
        }
        return decision, settled.checks, settled.warnings

    @staticmethod
    def _families(
        ready: Prepared, decision: dict[str, Any], suite: Suite | None
    ) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """The structure score, where it is asked for and the inputs are images, and the tasks of families of a suite."""
        with in_arithmetic(ready.encoder, DTYPES[decision["dtype"]]):
            structure, families = run_families(
                ready.encoder,
                ready.config,
                () if suite is None else suite.families,
                size=decision["batch_size"],
                channels_last=decision["channels_last"],
            )
        return None if structure is None else encode(structure), [encode(one) for one in families]

    def run(self, unit: dict[str, Any]) -> tuple[bytes, int, dict[str, Any]]:
        loaded = self._loaded
        if loaded is None:
            raise RuntimeError("no encoder is loaded")
        blocks = tuple(tuple(map(tuple, listed)) for listed in unit["blocks"])
        key = (unit["task"], blocks)
        block = Block(unit["scale_index"], unit["start"], unit["count"])
        pipeline = loaded.pipelines.get(key)
        if pipeline is None or (key, block) in loaded.done:
            # Units come task by task: buffers and recordings of another would be held for nothing.
            loaded.done, loaded.pipelines = set(), {}
            pipeline = loaded.pipelines[key] = self._pipeline(loaded, unit["task"], blocks)
        probe = pipeline.probe
        before = probe.seconds
        begun = time.perf_counter()
        try:
            with in_arithmetic(loaded.ready.encoder, loaded.arithmetic):
                pipeline.run([block])
                probe.finish()
                pipeline.recheck()
        except BaseException:
            del loaded.pipelines[key]  # its probe has some of the samples
            raise
        loaded.done.add((key, block))
        worked = time.perf_counter() - begun
        costs: dict[str, Any] = {name: value - before.get(name, 0.0) for name, value in probe.seconds.items()}
        costs |= {
            "worked": worked,
            "peak_memory_bytes": self._memory.peak(self.device),
            "compiled": pipeline.forward.compiled,
            "cuda_graph": pipeline.forward.graphed,
            "warnings": pipeline.warnings,
        }
        return encode_point(probe.point(block)), probe.splits * block.count, costs

    @staticmethod
    def _pipeline(loaded: _Loaded, task: int, blocks: Any) -> Pipeline:
        decision, ready = loaded.decision, loaded.ready
        probe = ready.probe(
            loaded.tasks[task], loaded.arithmetic.dtype, decision["channels_last"], samples=blocks[0][0][1]
        )
        _extend(probe, blocks)
        wanted = batch_size(probe, decision["batch_size"])
        size = _Decided(wanted.next(), largest=probe.samples, fixed=True, measured=not wanted.settled)
        # Where it was found to repay itself, an encoder that cannot be compiled runs as it is.
        compile = True if ready.config.compile is True else "decided" if decision["compile"] else False
        return Pipeline(probe, ready.encoder, size, compile=compile, tf32=loaded.arithmetic.tf32)

    @known_state()
    def assemble(
        self,
        request: dict[str, Any],
        prepared: dict[str, Any],
        points: Points,
    ) -> dict[str, Any]:
        config = _config(request, "cpu")
        probes, notes = [], []
        more: list[list[int]] = []
        for number, planned in enumerate(prepared["tasks"]):
            own = [one for one in points if one[0]["task"] == number]
            probe = _filled(config, planned, own)
            probes.append(probe)
            note: list[str] = []
            if config.half_width is not None:
                widest, further = probe.further_samples(config.half_width, MOST_SAMPLES)
                more.append(further)
                if widest > config.half_width:
                    note.append(too_wide(probe, config.half_width, widest))
            notes.append(note)
        if any(any(further) for further in more):
            return {"more": more}
        results = []
        for number, (probe, note) in enumerate(zip(probes, notes, strict=True)):
            costs = [cost for unit, _, cost in points if unit["task"] == number]
            results.append(_result(request, config, prepared, probe, costs, note, with_load=number == 0))
        tasks = [probe.task for probe in probes]
        suite = _suite(request)
        if suite is None:
            result: Any = results[0]
        else:
            families = [decode(FamilyResult, one) for one in prepared.get("families", [])]
            result = collect(suite, tasks, results, families)
        header, arrays = result.to_files()
        return {"file": result.file_name(), "header": header, "arrays": arrays}


def device_kind(device: torch.device) -> str:
    """Devices whose numbers belong together: the CPUs, or GPUs of one name."""
    return f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def _config(request: dict[str, Any], device: str) -> ScoreConfig:
    return ScoreConfig.from_dict({**request["options"], "device": device})


def _suite(request: dict[str, Any]) -> Suite | None:
    if request["tasks"] is None:
        return None
    definitions: list[TaskDefinition | FamilyDefinition] = []
    for one in request["tasks"]["definitions"]:
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in one.items()}
        definitions.append(FamilyDefinition(**given) if "family" in given else TaskDefinition(**given))
    return Suite(request["tasks"]["suite"], tuple(definitions))


def _build(suite: Suite, ready: Prepared, shape: tuple[int, ...]) -> list[GaussianTask]:
    config = ready.config
    return suite.build(
        shape,
        scales=config.scale_values,
        prior=config.prior,
        center=config.center,
        eps=config.eps,
        threshold=min(config.thresholds),
    )


def _structure_of(config: ScoreConfig) -> list[Any]:
    """What sets the images of structure score and families, beside what one family of jobs has in common."""
    return [config.structure, config.preset, config.label_free]


def _identity(
    request: dict[str, Any], encoder: dict[str, Any], task: GaussianTask, config: ScoreConfig
) -> dict[str, Any]:
    """What decides the numbers of units, except for the decision; see `configuration`."""
    library = library_of(request["spec"])
    versions = {"torch": str(torch.__version__)}
    if library is not None:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:  # a module that was not installed as a package
            versions[library] = ""
    if request["spec"].partition(":")[0] not in REGISTRY:
        versions |= plugins.origin("encoders", request["spec"].partition(":")[0])
    if config.estimator not in ESTIMATORS:
        versions |= plugins.origin("estimators", config.estimator)
    return {
        "encoder": {
            name: encoder[name]
            for name in ("spec", "revision", "weights_sha256", "feature_dim", "preprocessing")
        },
        "source": source_of(request["spec"]),
        "task": [list(task.shape), task.prior, task.center, task.pattern, task.covariance],
        "arguments": arguments_of_units(request),
        "versions": versions,
    }


def _extend(probe: Probe, blocks: Any) -> None:
    """The blocks (start, count) of every scale beyond the first one, which the probe begins with."""
    for scale_index, listed in enumerate(blocks):
        for _, count in listed[1:]:
            probe.extend(scale_index, count)


def _filled(config: ScoreConfig, planned: dict[str, Any], points: Points) -> Probe:
    """The probe of one task with all its points."""
    record: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in planned["task"].items()
    }
    task = GaussianTask(**record)
    probe = Probe(
        task,
        config.eps,
        samples=planned["blocks"][0][0][1],
        estimator=config.estimator,
        thresholds=config.thresholds,
        integral=config.integral,
        average=average_of(config, task),
        seed=config.seed,
        backend=config.backend,
    )
    _extend(probe, planned["blocks"])
    for unit, payload, _ in points:
        try:
            point = decode_point(payload)
        except SynbenchError as error:
            raise DamagedPoint(unit["id"], str(error)) from None
        probe.add_point(Block(unit["scale_index"], unit["start"], unit["count"]), point)
    return probe


def _result(
    request: dict[str, Any],
    config: ScoreConfig,
    prepared: dict[str, Any],
    probe: Probe,
    costs: list[dict[str, Any]],
    notes: list[str],
    *,
    with_load: bool,
) -> Result:
    """The result of one task; the seconds of all workers are added up."""
    decision, device = prepared["decision"], prepared["device"]
    encoder = decode(EncoderRecord, prepared["encoder"])
    begun = time.perf_counter()
    curve = probe.compute()
    seconds = {
        name: sum(one[name] for one in costs)
        for name in costs[0]
        if isinstance(costs[0][name], float) and name != "worked"
    }
    seconds["statistics"] += time.perf_counter() - begun
    worked = sum(one["worked"] for one in costs)
    own = prepared["seconds"] if with_load else {"load": 0.0}
    seconds = {"load": own["load"], **seconds}
    if prepared["checks"] and "check" in own:
        seconds["check"] = own["check"]
    seconds["total"] = sum(own.values()) + worked
    warnings = dict.fromkeys([*prepared["warnings"], *(text for one in costs for text in one["warnings"])])
    suite = None if request["tasks"] is None else request["tasks"]["suite"]
    told = replace(config, device=device.partition(":")[0])
    return result_of(
        config,
        probe,
        curve,
        encoder=encoder,
        arithmetic=ArithmeticRecord(
            requested=config.dtype,
            dtype=decision["dtype"],
            checks=[decode(ArithmeticCheck, one) for one in prepared["checks"]],
        ),
        cost=Cost(
            images=probe.images,
            seconds=seconds,
            images_per_second=probe.images / worked,
            peak_memory_bytes=max(
                prepared["peak_memory_bytes"], *(one["peak_memory_bytes"] for one in costs)
            ),
            device=device,
            dtype=decision["dtype"],
            batch_size=decision["batch_size"],
            threads=config.threads or 1,
            channels_last=decision["channels_last"],
            compiled=any(one["compiled"] for one in costs),
            cuda_graph=any(one["cuda_graph"] for one in costs),
        ),
        environment=decode(Environment, prepared["environment"]),
        backends=prepared["backends"],
        warnings=[*warnings, *notes],
        command=told.command(request["spec"], tasks=suite),
        structure=None if prepared["structure"] is None else decode(StructureScore, prepared["structure"]),
    )


class DamagedPoint(Exception):
    """A stored payload that cannot be read: its unit is to be run again."""

    def __init__(self, unit: int, reason: str) -> None:
        super().__init__(reason)
        self.unit = unit
