"""The script that timm's bulk_runner.py runs for each model: `python -m synbench_fast.integrations.timm_bulk`.

    python bulk_runner.py --model-list 'vit_tiny*' --results-file scores.csv --sort-key score_eps0_a0.6 \\
        --module yes synbench_fast.integrations.timm_bulk --preset quick --device cuda

The runner adds --model NAME, for some lists --img-size and --crop-pct too, takes what follows the last "--result" on
standard output as one JSON object, and writes these as rows of a CSV file, whose columns are those of the first. An
object with "error" is counted among the errors, with the reason, and leaves the others as they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

from synbench_fast import arguments
from synbench_fast.config import ScoreConfig, options
from synbench_fast.errors import SynbenchError, first_line
from synbench_fast.runtime.messages import say, standard_streams

__all__ = ["main", "measure"]


# The options that are fields of ScoreConfig.
_READ = (
    "eps", "thresholds", "preset", "estimator", "scales", "samples", "seed", "device", "dtype", "batch_size", "threads",
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m synbench_fast.integrations.timm_bulk",
        description="SynBench score of one timm model, for bulk_runner.py of timm.",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="as bulk_runner.py gives it")
    parser.add_argument("--img-size", metavar="N", help="height and width of the input, not the model's own")
    parser.add_argument(
        "--crop-pct", metavar="P", help="recorded alone: the samples are drawn at the input's size"
    )
    parser.add_argument("--random-init", action="store_true", help="untrained weights, nothing is downloaded")
    parser.add_argument("--eps", default="0,0.2", metavar="E,...")
    parser.add_argument("--thresholds", default="0.6", metavar="A,...")
    parser.add_argument("--preset", default="standard", metavar="quick|standard|paper")
    parser.add_argument(
        "--estimator", default=arguments.ESTIMATORS[0], metavar="|".join(arguments.ESTIMATORS)
    )
    parser.add_argument("--scales", metavar="N|S,...")
    parser.add_argument("--samples", metavar="N")
    parser.add_argument("--seed", default="0", metavar="N")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]")
    parser.add_argument("--dtype", default="auto", metavar="auto|float32|...")
    parser.add_argument("--batch-size", "-b", default="auto", metavar="auto|N")
    parser.add_argument("--threads", metavar="N")
    parser.add_argument("--out", metavar="DIR", help="also keep the whole result of each model there")
    return parser


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The row of one model.

    Raises:
        SynbenchError: as `score`, and for options that are no numbers.
    """
    texts = {name: getattr(given, name) for name in _READ if getattr(given, name) is not None}
    known = options()
    values = {
        name: known[name][0].kind.read("--" + name.replace("_", "-"), text) for name, text in texts.items()
    }
    config = ScoreConfig(**values, random_init=given.random_init)
    crop = None if given.crop_pct in (None, "None") else arguments.number("--crop-pct", given.crop_pct)
    spec = f"timm:{given.model}"
    if given.img_size is not None:
        size = arguments.integer("--img-size", given.img_size, low=1)
        config = replace(config, input_shape=(_channels(given.model, spec), size, size))
    folder = None if given.out is None else arguments.folder("--out", given.out)

    from synbench_fast.engine.score import score
    from synbench_fast.integrations import named_numbers

    result = score(spec, config=config)
    if folder is not None:
        result.save(folder / result.file_name())
    return {
        "model": given.model,
        # The runner writes the columns of the first row, and fails on any other: what is not known is NaN.
        **named_numbers(result.scores, result.robust_area, finite=False),
        "estimator": result.estimator,
        "feature_dim": result.encoder.feature_dim,
        "param_count": round((result.encoder.parameters or 0) / 1e6, 2),
        "img_size": result.encoder.preprocessing.input_shape[-1],
        "crop_pct": crop,
        "images": result.cost.images,
        "images_per_second": round(result.cost.images_per_second, 2),
        "seconds": round(result.cost.seconds["total"], 2),
        "device": result.cost.device,
        "dtype": result.cost.dtype,
        "weights_sha256": result.encoder.weights_sha256,
        "warnings": len(result.warnings),
    }


def _channels(model: str, spec: str) -> int:
    from synbench_fast.encoders.registry import require

    config = require("timm", "timm", spec).get_pretrained_cfg(model)
    return int(config.input_size[0]) if config is not None else 3


def main(argv: Sequence[str] | None = None) -> int:
    """Print the row, or why there is none, as the runner reads it. The exit code is 0 then: it drops all else."""
    given = _parser().parse_args(argv)
    with (
        standard_streams(),
        redirect_stdout(sys.stderr),
    ):  # libraries that print must not end up behind "--result"
        try:
            row = measure(given)
        except Exception as error:
            text = str(error) if isinstance(error, SynbenchError) else first_line(error)
            row = {"model": given.model, "error": text}
            say(f"{given.model}: {text}")
    print(f"--result\n{json.dumps(row, indent=4)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
