"""The task of the Language Model Evaluation Harness, run by the harness itself on a tiny model, offline."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import PATIENCE, refused

import synbench_fast as sb

pytest.importorskip("lm_eval", reason="lm_eval is not installed", exc_type=ImportError)
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed", exc_type=ImportError
)

# The harness, datasets and transformers warn of their own settings and of each other's versions.
pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = ["[PAD]", "[UNK]", "the", "cat", "sat", "dog", "ran", "on", "mat", "."]
H = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of two layers and a tokenizer of ten words, as save_pretrained writes them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=H, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    made = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():  # embeddings that are neither centred nor of one size
        made.transformer.wte.weight.mul_(torch.linspace(1, 20, H)).add_(torch.linspace(-1, 1, H))
    made.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[PAD]", bos_token="[PAD]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture(scope="module")
def folder() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "synbench_fast.integrations.lm_eval_tasks"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip(), "synbench.yaml").is_file()
    return done.stdout.strip()


def expected(model: Path, **options: Any) -> sb.Result:
    """The same score by score(), with a plain callable."""
    made = transformers.GPT2LMHeadModel.from_pretrained(model).eval()
    weight = made.transformer.wte.weight.detach().double()
    mean, deviation = weight.mean(0), weight.std(0, correction=0)

    def encode(x: torch.Tensor) -> torch.Tensor:
        hidden = made.transformer(inputs_embeds=(mean + deviation * x.double()).float()).last_hidden_state
        return hidden.mean(1) if options.get("pool") != "last" else hidden[:, -1]

    kept = {key: value for key, value in options.items() if key != "pool"}
    return sb.score(
        encode, center=0.0, preset="quick", thresholds=0.6, batch_size=64, input_shape=(8, H), **kept
    )


def test_command_line(
    model: Path,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lm_eval.__main__ import cli_evaluate

    settings = {"synbench": {"tokens": 8, "samples": 64}}
    words = [
        "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--device", "cpu",
        "--tasks", "synbench", "--include_path", folder, "--output_path", str(tmp_path / "out"),
        "--metadata", json.dumps(settings), "--log_samples", "--num_fewshot", "2",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    cli_evaluate()
    (path,) = (tmp_path / "out").rglob("results_*.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    found = document["results"]["synbench"]
    result = expected(model, samples=64)
    for one in result.scores:
        name = f"score_eps{one.eps:g}_a0.6"
        assert found[f"{name},none"] == pytest.approx(one.score, abs=1e-6)
        assert found[f"{name}_stderr,none"] == pytest.approx(one.stderr, rel=1e-4)
    assert found["robust_area,none"] == pytest.approx(result.robust_area.value, abs=1e-6)
    assert found["robust_area_stderr,none"] == pytest.approx(result.robust_area.stderr, rel=1e-4)
    assert document["n-samples"]["synbench"] == {"original": 12, "effective": 12}
    assert document["higher_is_better"]["synbench"]["robust_area"] is True
    assert document["configs"]["synbench"]["metadata"]["synbench"]["tokens"] == 8
    assert document["versions"]["synbench"] == 1
    table = [line for line in capsys.readouterr().out.splitlines() if "score_eps0_a0.6" in line]
    assert len(table) == 1 and f"{result.scores[0].score:.4f}" in table[0]
    assert f"{result.scores[0].stderr:.4f}" in table[0]
    (samples,) = (tmp_path / "out").rglob("samples_synbench_*.jsonl")
    lines = [json.loads(one) for one in samples.read_text(encoding="utf-8").splitlines()]
    assert [one["doc"]["number"] for one in lines] == list(range(12))


def evaluated(
    model: Path, tasks: list[str], paths: list[str], settings: dict[str, Any], **options: Any
) -> Any:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    return simple_evaluate(
        model="hf", model_args={"pretrained": str(model), "dtype": "float32"}, device="cpu", tasks=tasks,
        task_manager=TaskManager(include_path=paths, include_defaults=False, metadata={"synbench": settings}),
        bootstrap_iters=10, **options,
    )  # fmt: skip


def test_beside_another_task(model: Path, folder: str, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"q": "the cat", "a": " sat"}\n{"q": "the dog", "a": " ran"}\n', encoding="utf-8")
    (tmp_path / "words.yaml").write_text(
        f"""
task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{a}}}}"
metric_list: [{{metric: perplexity, aggregation: perplexity, higher_is_better: false}}]
""",
        encoding="utf-8",
    )
    settings = {"tokens": 8, "samples": 64, "pool": "last", "eps": [0.1]}
    state = torch.get_rng_state()
    results = evaluated(
        model, ["synbench", "words"], [folder, str(tmp_path)], settings, torch_random_seed=None
    )["results"]
    assert torch.equal(torch.get_rng_state(), state)
    one = expected(model, samples=64, pool="last", eps=0.1).scores[0]
    assert results["synbench"]["score_eps0.1_a0.6,none"] == pytest.approx(one.score, abs=1e-6)
    assert results["words"]["perplexity,none"] > 1


def test_a_limit_is_another_score(model: Path, folder: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"tokens": 8, "samples": 64, "scales": [1.0, 2.0, 3.0]}
    with caplog.at_level(logging.WARNING, "synbench_fast"):
        results = evaluated(model, ["synbench"], [folder], settings, limit=2)["results"]
    words = "synbench: the mean over 2 of 3 scales only, which is another score"
    assert caplog.messages.count(words) == 1
    one = expected(model, samples=64, scales=(1.0, 2.0)).scores[0]
    assert results["synbench"]["score_eps0_a0.6,none"] == pytest.approx(one.score, abs=1e-6)


def scores(results: Any) -> dict[str, float]:
    return {key: value for key, value in results["results"]["synbench"].items() if isinstance(value, float)}


def test_the_cache_of_answers(model: Path, folder: str, tmp_path: Path) -> None:
    """The harness keeps those of its own request types; ours are computed again, and with other settings anew."""
    settings = {"tokens": 8, "samples": 64, "scales": 5}
    expected = scores(evaluated(model, ["synbench"], [folder], settings))
    for _ in range(2):
        results = evaluated(model, ["synbench"], [folder], settings, use_cache=str(tmp_path / "cache"))
        assert scores(results) == expected
    assert (tmp_path / "cache_rank0.db").is_file()
    other = {**settings, "tokens": 16}
    results = evaluated(model, ["synbench"], [folder], other, use_cache=str(tmp_path / "cache"))
    assert scores(results) == scores(evaluated(model, ["synbench"], [folder], other)) != expected


def test_the_cache_of_requests_does_not_mix_settings(
    model: Path, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.caching import cache

    monkeypatch.setattr(cache, "PATH", str(tmp_path))
    settings = {"tokens": 8, "samples": 64, "scales": 5}
    for change in ({}, {"tokens": 16}):
        plain, kept = (
            scores(evaluated(model, ["synbench"], [folder], {**settings, **change}, cache_requests=one))
            for one in (False, True)
        )
        assert kept == plain


def test_answers_of_two_processes_make_one_score(model: Path) -> None:
    """As the harness splits documents over ranks, repeats the last request of the shorter one, and gathers."""
    from lm_eval.models.huggingface import HFLM

    from synbench_fast.integrations.lm_eval import SynBench

    task = SynBench({"metadata": {"synbench": {"tokens": 8, "samples": 64, "scales": 5}}})
    model_of_rank = HFLM(pretrained=str(model), device="cpu")
    gathered: dict[str, list[Any]] = {}
    for rank in range(2):
        task.build_all_requests(rank=rank, world_size=2)
        requests = [*task.instances, *[task.instances[-1]] * (3 - len(task.instances))]
        answers = model_of_rank.synbench(requests)
        assert len(answers) == 3
        documents = list(task.doc_iterator(rank=rank, world_size=2))
        for (_, doc), answer in zip(documents, answers, strict=False):
            for name, value in task.process_results(doc, [answer]).items():
                gathered.setdefault(name, []).append(value)
    one = expected(model, samples=64, scales=5, average="published").scores[0]
    assert len(gathered["score_eps0_a0.6"]) == 5
    assert task.aggregation()["score_eps0_a0.6"](gathered["score_eps0_a0.6"]) == pytest.approx(
        one.score, abs=1e-6
    )


def test_an_encoder_decoder_gives_its_encoder(tmp_path: Path) -> None:
    from synbench_fast.integrations.lm_eval import EmbeddingEncoder

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    made = transformers.T5ForConditionalGeneration(config).eval()
    encoder = EmbeddingEncoder(made)
    x = torch.randn(3, 5, 8)
    weight = made.shared.weight.detach()
    expected = made.encoder(inputs_embeds=weight.mean(0) + weight.std(0, correction=0) * x).last_hidden_state
    torch.testing.assert_close(encoder(x), expected.mean(1))


def test_mistakes_are_one_line(model: Path, folder: str) -> None:
    from lm_eval.models.dummy import DummyLM

    from synbench_fast.integrations.lm_eval import Settings, SynBench

    with refused("synbench: expected some of tokens, pool", "got 'token'", "did you mean tokens?"):
        SynBench({"metadata": {"synbench": {"token": 4}}})
    with refused("synbench: expected a mapping", "got 3"):
        SynBench({"metadata": {"synbench": 3}})
    with refused("tokens: expected a positive integer, got 0"):
        Settings.of({"tokens": 0})
    with refused("pool: expected one of ['mean', 'last'], got 'cls'"):
        Settings.of({"pool": "cls"})
    with refused("eps: expected values in [0, 1)"):
        Settings.of({"eps": [1.5]})
    with refused("samples: expected an integer of at least 4 per scale, got 1"):
        Settings.of({"samples": 1})
    task = SynBench()
    task.build_all_requests()
    with refused("synbench: expected a model whose weights are in this process", "got DummyLM"):
        DummyLM().synbench(task.instances)


RANK = '''
import sys, warnings
warnings.filterwarnings("ignore")
import torch, torch.distributed as dist
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

rank, path, model, folder = int(sys.argv[1]), *sys.argv[2:]
dist.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2)


class Parallel(HFLM):
    """With the harness's own interface to other processes, over gloo in place of accelerate."""

    def all_gather(self, tensor):
        found = [torch.zeros_like(tensor.reshape(1)) for _ in range(2)]
        dist.all_gather(found, tensor.reshape(1))
        return torch.cat(found)

    def gather_object(self, obj, dst=0):
        found = [None, None] if rank == dst else None
        dist.gather_object(obj, found, dst=dst)
        return found

    def barrier(self):
        dist.barrier()


lm = Parallel(pretrained=model, device="cpu", dtype="float32")
lm._rank, lm._world_size = rank, 2
settings = {"tokens": 8, "samples": 64, "scales": 5}
manager = TaskManager(include_path=folder, include_defaults=False, metadata={"synbench": settings})
results = evaluate(lm, manager.load(["synbench"]))
assert (results is None) == (rank == 1)
if rank == 0:
    found = results["results"]["synbench"]
    torch.save({key: float(value) for key, value in found.items() if isinstance(value, float)}, f"{path}/found.pt")
dist.destroy_process_group()
'''


@pytest.mark.slow
def test_two_processes_make_one_score(model: Path, folder: str, tmp_path: Path) -> None:
    """Five documents over two ranks: the harness repeats a request of the one that has fewer, and gathers."""
    code = f"import sys; sys.path[:0] = {sys.path!r}\n{RANK}"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path), str(model), folder],
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for one in running:
        _, text = one.communicate(timeout=PATIENCE)
        assert one.returncode == 0, text
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    one = expected(model, samples=64, scales=5, average="published").scores[0]
    assert found["score_eps0_a0.6,none"] == pytest.approx(one.score, abs=1e-6)
    assert found["score_eps0_a0.6_stderr,none"] == pytest.approx(one.stderr, rel=1e-4)
