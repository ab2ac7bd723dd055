"""A task of the Language Model Evaluation Harness (lm_eval): the hidden states of a language model as an encoder.

The harness hands a request to that method of the model which is named like the request's type. Importing this module
gives its base class of all models the method `synbench`, so that the task runs with every model type whose weights
are in this process (`hf` and those derived from it), beside all others in one run.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast.checks import check_integer
from synbench_fast.config import ScoreConfig
from synbench_fast.engine.curve import Curve, Scoring
from synbench_fast.engine.probe import Probe
from synbench_fast.engine.purity import check_drift, check_purity
from synbench_fast.errors import SynbenchError, suggest
from synbench_fast.integrations import missing
from synbench_fast.integrations.monitor import MONITORED, SAMPLES, batch_size_of, undisturbed
from synbench_fast.report.tables import point_name
from synbench_fast.runtime.global_state import kept_state
from synbench_fast.stats.point import CurvePoint
from synbench_fast.stats.smooth import FEWEST_SCALES
from synbench_fast.tasks.task import GaussianTask

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task
    from lm_eval.config.task import TaskConfig
    from lm_eval.filters import build_filter_ensemble
except ImportError as error:
    raise missing("lm_eval", "lm_eval", error) from None

__all__ = ["EmbeddingEncoder", "Settings", "SynBench"]

logger = logging.getLogger("synbench_fast")

POOLS = ("mean", "last")
_COLUMNS = 4096  # token ids whose embeddings are looked up at a time


# The fields of ScoreConfig that the task reads; its defaults are those of a monitor.
READ = ("scales", "samples", "eps", "thresholds", "seed", "batch_size")


@dataclass(frozen=True)
class Settings:
    """What `metadata.synbench` of the task may hold.

    Args:
        tokens: T, length of the sequences of embeddings.
        pool: how hidden states become features: "mean" over the tokens, or the "last" one.
        config: the fields in READ, as in `Monitor`.
    """

    tokens: int = 16
    pool: str = "mean"
    config: ScoreConfig = MONITORED

    @classmethod
    def of(cls, given: object) -> Settings:
        """From plain values; SynbenchError for a key or value that does not fit."""
        known = ["tokens", "pool", *READ]
        if not isinstance(given, Mapping):
            raise SynbenchError(
                f"synbench: expected a mapping with some of {', '.join(known)}, got {given!r}"
            )
        for key in given:
            if key not in known:
                raise SynbenchError(
                    f"synbench: expected some of {', '.join(known)}, got {key!r}{suggest(str(key), known)}"
                )
        pool = given.get("pool", cls.pool)
        if pool not in POOLS:
            raise SynbenchError(f"pool: expected one of {list(POOLS)}, got {pool!r}")
        config = ScoreConfig.of(MONITORED, {key: value for key, value in given.items() if key in READ})
        batch_size_of(config)
        GaussianTask((1,), config.scale_values)
        tokens = check_integer("tokens", given.get("tokens", cls.tokens), 1, "a positive integer")
        return cls(tokens, pool, config)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, from which `of` makes the same."""
        plain = self.config.to_dict()
        return {"tokens": self.tokens, "pool": self.pool, **{name: plain[name] for name in READ}}

    @property
    def average(self) -> str:
        scales = self.config.scales
        return "published" if isinstance(scales, int) and scales >= FEWEST_SCALES else "sampled"

    def task(self, width: int) -> GaussianTask:
        return GaussianTask((self.tokens, width), self.config.scale_values, center=0.0)


@dataclass(frozen=True)
class _Answer:
    """What the model gives for one scale; the harness passes it on, between processes too."""

    number: int
    width: int  # of the embeddings
    point: CurvePoint

    def __str__(self) -> str:  # in the files of --log_samples
        return f"t = {[round(float(t), 6) for t in self.point.t]} from {self.point.count} samples"


class SynBench(Task):  # type: ignore[misc]
    """One document per scale of the synthetic task; the score is made of the answers to all of them.

    Metrics are score_eps0_a0.6, ... and robust_area, each with its standard error where the harness keeps it.
    `--metadata '{"synbench": {"tokens": 32}}'`, or a YAML file that includes ours, changes `Settings`.
    """

    VERSION = 1
    OUTPUT_TYPE = "synbench"

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        config = dict(config or {})
        metadata = dict(config.get("metadata") or {})
        self.settings = Settings.of(metadata.get("synbench") or {})
        metadata["synbench"] = self.settings.to_dict()
        self._config = TaskConfig(
            task=config.get("task", "synbench"),
            task_alias=config.get("task_alias"),
            output_type="loglikelihood",  # the nearest that the configuration knows; requests say their own
            num_fewshot=0,
            metadata=metadata,
        )
        self._filters = [build_filter_ensemble("none", [["take_first", None]])]
        self._training_docs = self._fewshot_docs = self._instances = None
        self.fewshot_rnd = None
        points = [
            (eps, threshold)
            for eps in self.settings.config.eps
            for threshold in self.settings.config.thresholds
        ]
        self._names = [f"score_{point_name(*one)}" for one in points] + ["robust_area"]
        self._made: tuple[list[_Answer], dict[str, float]] | None = None

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        return [{"number": number, "scale": s} for number, s in enumerate(self.settings.config.scale_values)]

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        return f"embeddings of two Gaussian classes at scale {doc['scale']:g}"

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        return ""

    def fewshot_context(self, doc: dict[str, Any], *arguments: Any, **options: Any) -> str:
        return self.doc_to_text(doc)

    def build_all_requests(self, **options: Any) -> None:
        # The harness's cache of requests goes by the task's name and not by its metadata, and answers to requests of
        # other settings would be taken for ours, which cost nothing to build.
        super().build_all_requests(**{**options, "cache_requests": False, "rewrite_requests_cache": False})

    def construct_requests(self, doc: dict[str, Any], ctx: str, **options: Any) -> Instance:
        return Instance(
            request_type="synbench",
            doc=doc,
            arguments=(ctx, doc["number"], json.dumps(self.settings.to_dict())),
            idx=0,
            metadata=options["metadata"],
        )

    def process_results(self, doc: dict[str, Any], results: list[_Answer]) -> dict[str, _Answer]:
        # An entry of this name is where the harness keeps a metric's standard error; it has none of its own.
        return {name: results[0] for one in self._names for name in (one, f"{one}_stderr")}

    def aggregation(self) -> dict[str, Callable[[list[_Answer]], float]]:
        def number(name: str) -> Callable[[list[_Answer]], float]:
            return lambda answers: self._metrics(answers)[name]

        return {name: number(name) for one in self._names for name in (one, f"{one}_stderr")}

    def higher_is_better(self) -> dict[str, bool]:
        return {name: True for name in self._names}

    def _metrics(self, answers: list[_Answer]) -> dict[str, float]:
        """All metrics; the harness asks for one after the other, with the same answers."""
        if self._made is None or list(map(id, self._made[0])) != list(map(id, answers)):
            self._made = list(answers), _numbers(self._curve(answers))
        return self._made[1]

    def _curve(self, answers: list[_Answer]) -> Curve:
        """Of all scales, or with --limit of some: then the mean over those."""
        settings, by_number = self.settings, {one.number: one for one in answers}
        task, average = settings.task(answers[0].width), settings.average
        if len(by_number) < len(task.scale_values):
            logger.warning(
                "synbench: the mean over %d of %d scales only, which is another score",
                len(by_number),
                len(task.scale_values),
            )
            task = replace(task, scales=tuple(task.scale_values[number] for number in sorted(by_number)))
            average = "sampled"
        scoring = Scoring(
            task,
            settings.config.eps,
            settings.config.thresholds,
            "exact",
            average,
            settings.config.estimator,
            "auto",
        )
        return scoring.curve([by_number[number].point for number in sorted(by_number)])


def _numbers(curve: Curve) -> dict[str, float]:
    found = {}
    for one in curve.scores:
        name = f"score_{point_name(one.eps, one.threshold)}"
        found[name], found[f"{name}_stderr"] = one.score, one.stderr
    area = curve.robust_area
    return found | {"robust_area": area.value, "robust_area_stderr": area.stderr}


def _answer(self: Any, requests: list[Instance]) -> list[_Answer]:
    """Answers to requests of type "synbench"; a method of the harness's models."""
    model: Any = getattr(self, "model", None)
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if not isinstance(model, nn.Module) or not isinstance(embeddings, nn.Module):
        raise SynbenchError(
            "synbench: expected a model whose weights are in this process and that takes embeddings, such as "
            f"--model hf, got {type(self).__name__}"
        )
    made: dict[str, tuple[EmbeddingEncoder, Probe]] = {}
    first: dict[
        str, tuple[int, Tensor]
    ] = {}  # the scale that was run first, and the features of its first batch
    answers: dict[tuple[str, int], _Answer] = {}
    listed = []
    for request in requests:
        _, number, text = request.args
        settings = Settings.of({key: _plain(value) for key, value in json.loads(text).items()})
        with undisturbed([model], settings.config.seed):
            if text not in made:
                encoder = EmbeddingEncoder(model, settings.pool)
                made[text] = encoder, _probe(encoder, settings)
            if (text, number) not in answers:  # processes with fewer requests repeat their last one
                encoder, probe = made[text]
                block, size = probe.blocks[number], batch_size_of(settings.config)
                for start in range(block.start, block.stop, size):
                    batch = probe.batch(number, 0, start, min(size, block.stop - start))
                    features = encoder(batch.x)
                    first.setdefault(text, (number, features.to("cpu", copy=True)))
                    probe.update(batch, features)
                _check_again(encoder, probe, block.count, *first[text])
                answers[text, number] = _Answer(number, encoder.width, probe.point(block))
        listed.append(answers[text, number])
    return listed


LM.synbench = _answer


def _check_again(encoder: EmbeddingEncoder, probe: Probe, run: int, number: int, features: Tensor) -> None:
    """SynbenchError if the first batch, of scale `number`, has other features after `run` samples more."""
    check_drift(
        encoder,
        lambda count: probe.batch(number, 0, 0, count).x,
        features,
        run,
        spec=encoder.name,
        dtype=encoder.dtype,
        tf32=False,
    )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _probe(encoder: EmbeddingEncoder, settings: Settings) -> Probe:
    device = encoder.device
    zeros = torch.zeros(2, settings.tokens, encoder.width, device=device)
    features = encoder(zeros).shape[1]
    probe = Probe(
        settings.task(encoder.width),
        settings.config.eps,
        samples=settings.config.samples or max(SAMPLES, 2 * features),
        thresholds=settings.config.thresholds,
        estimator=settings.config.estimator,
        average=settings.average,
        seed=settings.config.seed,
        device=device,
    )
    for line in check_purity(
        encoder,
        lambda count: probe.batch(0, 0, 0, count).x,
        batch_size_of(settings.config),
        spec=encoder.name,
        dtype=encoder.dtype,
        tf32=False,
    ):
        logger.warning("synbench: %s", line)
    return probe


class EmbeddingEncoder:
    """x [B, T, H] -> pooled last hidden states [B, F] of a language model that reads mean + deviation * x.

    Mean and deviation are those of the embeddings of its vocabulary, per element: noise of deviation 1 in x looks to
    the model like tokens drawn at random, as far as first and second moments of single elements go. Encoder-decoder
    models give the hidden states of their encoder.

    Args:
        model: of transformers.
        pool: "mean" over the tokens, or the "last" one.
    """

    def __init__(self, model: Any, pool: str = "mean") -> None:
        embeddings = model.get_input_embeddings()
        weight = next(iter(embeddings.parameters()))
        self.device, self.pool = weight.device, pool
        self._mean, self._deviation = _moments(embeddings, weight)
        self.width, self.dtype = (
            len(self._mean),
            embeddings(torch.zeros(1, dtype=torch.long, device=self.device)).dtype,
        )
        self.name = type(model).__name__
        seq2seq = bool(getattr(model.config, "is_encoder_decoder", False))
        self._run = model.get_encoder() if seq2seq else model
        accepted = inspect.signature(self._run.forward).parameters
        wanted = {"output_hidden_states": True, "return_dict": True, "use_cache": False, "logits_to_keep": 1}
        self._options = {
            key: value for key, value in wanted.items() if key in accepted or key == "output_hidden_states"
        }

    def __call__(self, x: Tensor) -> Tensor:
        embedded = (self._mean + self._deviation * x.double()).to(self.dtype)
        seen = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
        with kept_state():
            output = self._run(inputs_embeds=embedded, attention_mask=seen, **self._options)
        hidden: Tensor = output.hidden_states[-1].float()
        return hidden.mean(1) if self.pool == "mean" else hidden[:, -1]


def _moments(embeddings: nn.Module, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [H] over the vocabulary of what the embedding module gives, in float64."""
    count = len(weight)
    total: Any = 0.0
    squares: Any = 0.0
    with torch.no_grad():
        shift = embeddings(torch.zeros(1, dtype=torch.long, device=weight.device)).double()[0]
        for start in range(0, count, _COLUMNS):
            ids = torch.arange(start, min(start + _COLUMNS, count), device=weight.device)
            part = embeddings(ids).double() - shift
            total, squares = total + part.sum(0), squares + part.square().sum(0)
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0)
    return mean + shift, variance.sqrt()
