"""What the callbacks share: score an encoder in the midst of its training and leave no trace of it."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from synbench_fast.checks import ESTIMATORS, check_integer
from synbench_fast.config import ScoreConfig
from synbench_fast.engine.curve import Curve
from synbench_fast.engine.probe import Probe
from synbench_fast.engine.purity import check_drift, check_purity
from synbench_fast.errors import SynbenchError, first_line, suggest
from synbench_fast.integrations import named_numbers
from synbench_fast.runtime.global_state import kept_state, known_state, seeded
from synbench_fast.stats.smooth import FEWEST_SCALES
from synbench_fast.tasks.task import GaussianTask

__all__ = ["MONITORED", "SAMPLES", "Monitor", "batch_size_of", "undisturbed"]

logger = logging.getLogger("synbench_fast")

SAMPLES = 256  # per scale, if 2 F is no more
READ = ("eps", "thresholds", "scales", "samples", "estimator", "seed", "mean", "std", "center", "batch_size")
MONITORED = ScoreConfig(scales=12, thresholds=(0.6,), batch_size=64)
Find = Callable[[Any], Callable[[Tensor], Any]]


class Monitor:
    """Scores the encoder of a training every `every` optimizer steps, always on the same samples.

    During a score all submodules are in eval mode and nothing else changes that training could notice: flags,
    random states, buffers and gradients are put back, autocast is off, and the same steps follow to the bit. Numbers
    are named as by `synbench-fast export`, after `prefix`: synbench/score_eps0_a0.6, synbench/stderr_eps0_a0.6,
    synbench/ci95_low_eps0_a0.6, synbench/ci95_high_eps0_a0.6, ..., synbench/robust_area. `history` keeps the curves.

    What goes wrong in a score is one line of the logger `synbench_fast`, and training goes on.

    Args:
        encoder: what maps x [B, *input_shape] to features [B, F]: the name of an attribute such as "model.backbone",
            a function from the module that is trained to a Module or another callable, or None for the module itself.
        input_shape: of one sample.
        every: optimizer steps from score to score.
        at_end: whether to score after the last step, too.
        prefix: of the names.
        strict: raise what goes wrong in a score.
        config: arguments of the scores; None for `MONITORED`: 12 scales, the threshold 0.6, batches of 64. Read are
            those in READ. samples None is 256 per scale, or 2 F where that is more. A number of at least 5 scales gives
            the mean over the published 49 by a fit, as in `score` with its presets; fewer, and values, the mean over
            themselves. The batch size is the same on every rank, so that sharded modules stay in step.
        arguments: fields of `ScoreConfig` in place of those of `config`.

    Raises:
        SynbenchError: any argument out of range.
    """

    def __init__(
        self,
        encoder: str | Find | None,
        input_shape: Sequence[int],
        *,
        every: int = 500,
        at_end: bool = True,
        prefix: str = "synbench/",
        strict: bool = False,
        config: ScoreConfig | None = None,
        **arguments: Any,
    ) -> None:
        if encoder is not None and not isinstance(encoder, str) and not callable(encoder):
            raise SynbenchError(
                f"encoder: expected the name of an attribute, a function or None, got {type(encoder).__name__}"
            )
        self.encoder = encoder
        self.every = check_integer("every", every, 1, "a positive number of steps")
        self.at_end, self.prefix, self.strict = at_end, prefix, strict
        for name in arguments:
            if name not in READ:
                raise SynbenchError(f"{name}: expected some of {', '.join(READ)}{suggest(name, READ)}")
        self.config = ScoreConfig.of(config or MONITORED, arguments)
        values = self.config.scale_values
        self.task = GaussianTask(tuple(input_shape), values, center=self.config.center)
        self.batch_size = batch_size_of(self.config)
        fitted = not isinstance(self.config.scales, tuple) and len(values) >= FEWEST_SCALES
        self.average = "published" if fitted and self.config.estimator in ESTIMATORS else "sampled"
        self.history: list[tuple[int, Curve]] = []
        self._seen = 0
        self._scored: int | None = None  # the last step of this training that has a score
        self._width: int | None = None

    def begin(self, module: nn.Module, step: int) -> None:
        """Training starts, or goes on, after `step` steps; SynbenchError if the module has no such encoder."""
        self._find(module)
        self._seen, self._scored = step, None

    def due(self, step: int) -> bool:
        """Whether a multiple of `every` was reached since this was last asked."""
        seen, self._seen = self._seen, step
        return step // self.every > seen // self.every

    def due_at_end(self, step: int) -> bool:
        """Whether the last step is still to be scored."""
        return self.at_end and self._scored != step

    def measure(self, module: nn.Module, step: int) -> dict[str, float] | None:
        """The numbers to log, or None after a failure that was logged."""
        try:
            curve = self._score(module)
        except Exception as error:
            if self.strict:
                raise
            text = str(error) if isinstance(error, SynbenchError) else first_line(error)
            logger.warning("synbench: no score at step %d: %s", step, text)
            return None
        self.history.append((step, curve))
        self._scored = step
        return named_numbers(curve.scores, curve.robust_area, self.prefix)

    def _score(self, module: nn.Module) -> Curve:
        config = self.config
        encode = self._find(module)
        holder = encode if isinstance(encode, nn.Module) else module
        like = next((one for one in holder.parameters() if one.is_floating_point()), torch.empty(0))
        modules = [module, encode] if isinstance(encode, nn.Module) else [module]
        with undisturbed(modules, self.config.seed):
            if self._width is None:
                zeros = torch.zeros(2, *self.task.shape, dtype=like.dtype, device=like.device)
                self._width = _features(encode, zeros).shape[-1]
            probe = Probe(
                self.task,
                config.eps,
                samples=config.samples or max(SAMPLES, 2 * self._width),
                estimator=config.estimator,
                thresholds=config.thresholds,
                average=self.average,
                seed=config.seed,
                mean=config.mean,
                std=config.std,
                dtype=like.dtype,
                device=like.device,
            )
            kind: dict[str, Any] = {"spec": type(encode).__name__, "dtype": like.dtype, "tf32": False}

            def features(x: Tensor) -> Tensor:
                return _features(encode, x)

            def draw(count: int) -> Tensor:
                return probe.batch(0, 0, 0, count).x

            for line in check_purity(features, draw, self.batch_size, **kind):
                logger.warning("synbench: %s", line)
            first: Tensor | None = None
            for batch in probe.batches(self.batch_size):
                found = features(batch.x)
                first = found.detach().to("cpu", copy=True) if first is None else first
                probe.update(batch, found)
            if first is not None:
                check_drift(features, draw, first, probe.images, **kind)
            return probe.compute()

    def _find(self, module: nn.Module) -> Callable[[Tensor], Any]:
        """The encoder; a function that makes layers for it draws their weights from the seed."""
        found: Any = module
        if isinstance(self.encoder, str):
            for name in self.encoder.split("."):
                if not hasattr(found, name):
                    known = [key for key, _ in found.named_children()] if isinstance(found, nn.Module) else []
                    raise SynbenchError(
                        f"encoder: expected an attribute of {type(found).__name__}, got {name!r} in "
                        f"{self.encoder!r}{suggest(name, known)}"
                    )
                found = getattr(found, name)
        elif self.encoder is not None:
            with seeded(self.config.seed):
                found = self.encoder(module)
        if not callable(found):
            raise SynbenchError(f"encoder: expected a Module or a callable, got {type(found).__name__}")
        return found  # type: ignore[no-any-return]


def batch_size_of(config: ScoreConfig) -> int:
    """The images per forward pass; they are a number here, because no run could find out how many are fast."""
    return check_integer("batch_size", config.batch_size, 1, "a positive integer")


def _features(encode: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    with kept_state():
        output = encode(x)
    if not isinstance(output, Tensor):
        raise SynbenchError(
            f"encoder: expected a Tensor [B, F] as output, got {type(output).__name__}; pass a function from the "
            "module to a callable that returns one"
        )
    return output.flatten(1) if output.ndim > 2 and all(n == 1 for n in output.shape[2:]) else output


@contextmanager
def undisturbed(modules: Sequence[nn.Module], seed: int) -> Iterator[None]:
    """Inside: known global state (see `global_state`), random numbers from `seed`, no gradients, every submodule in eval
    mode; then all as before.

    Training flags are set one by one and not by `Module.eval`, which modules may override with work on their weights.
    Compiled modules run as they were written, so that eval mode is not compiled as well.
    """
    with ExitStack() as stack:
        stack.enter_context(known_state())
        stack.enter_context(seeded(seed))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        every = {id(one): one for root in modules for one in root.modules()}.values()
        stack.callback(_put_back, [(one, one.training, _buffers(one)) for one in every])
        for one in every:
            one.training = False
        yield


def _buffers(module: nn.Module) -> Mapping[str, tuple[Tensor, Tensor, float] | None]:
    """Per name the buffer, its values and its version; versions of inference tensors are not counted."""
    return {
        name: None
        if buffer is None
        else (buffer, buffer.clone(), math.nan if buffer.is_inference() else buffer._version)
        for name, buffer in module._buffers.items()
    }


def _put_back(
    states: Sequence[tuple[nn.Module, bool, Mapping[str, tuple[Tensor, Tensor, float] | None]]],
) -> None:
    for module, training, buffers in states:
        module.training = training
        for name in [one for one in module._buffers if one not in buffers]:
            del module._buffers[name]
        for name, held in buffers.items():
            if held is None:
                module._buffers[name] = None
                continue
            buffer, values, version = held
            module._buffers[name] = buffer
            if not buffer.is_inference() and buffer._version != version:
                buffer.copy_(values)
