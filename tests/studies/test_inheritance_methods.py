"""Methods of fine-tuning: what defines every one of them."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checks import refused
from inheritance_cases import (
    CLASSES,
    SHAPE,
    TRAINING,
    equal,
    logits_of,
    make_bench,
    make_classifier,
    make_part,
    pretrained,
    weights,
)
from torch import Tensor, nn

from synbench_fast.studies.inheritance import methods as methods_package
from synbench_fast.studies.inheritance.bench import Bench
from synbench_fast.studies.inheritance.cells import TrainingSummary
from synbench_fast.studies.inheritance.data import in_memory
from synbench_fast.studies.inheritance.methods import find, names
from synbench_fast.studies.inheritance.methods.ewc import fisher
from synbench_fast.studies.inheritance.methods.prompt import Prompted
from synbench_fast.studies.inheritance.model import Classifier, split_head, weighted_mean
from synbench_fast.studies.inheritance.training import Training, fit


@pytest.fixture(scope="module")
def original() -> Classifier:
    return pretrained()


def test_registry_has_a_file_per_method() -> None:
    assert names() == ("ewc", "ft", "l2sp", "lora", "lp", "lp-ft", "lwf", "prompt", "soup", "wise")
    folder = Path(methods_package.__file__).parent
    for name in names():
        assert (folder / f"{name.replace('-', '_')}.py").is_file()
        assert find(name).title


@pytest.mark.parametrize("name", names())
def test_methods_leave_the_original_alone_and_repeat(name: str, original: Classifier) -> None:
    before = weights(original)
    first, summary = make_bench(original).tune(name)
    second, _ = make_bench(original).tune(name)
    assert equal(before, weights(original))
    assert equal(weights(first), weights(second))
    assert not equal(before, weights(first))
    assert summary.steps >= 16 and math.isfinite(summary.loss)
    assert not first.training


def test_fine_tuning_learns(original: Classifier) -> None:
    part = make_part(2, shift=0.4)
    model, _ = make_bench(original, part, epochs=10).tune("ft")

    def loss(one: Classifier) -> float:
        return float(nn.functional.cross_entropy(part.restrict(logits_of(one, part)), part.y))

    assert loss(model) < 0.2 * loss(original)


def test_linear_probing_leaves_the_body_bit_identical(original: Classifier) -> None:
    model, _ = make_bench(original).tune("lp")
    assert equal(weights(model.body), weights(original.body))
    assert not torch.equal(model.head.weight, original.head.weight)


def test_lp_ft_starts_from_the_probe(original: Classifier) -> None:
    bench = make_bench(original)
    probe, first = bench.tune("lp")
    model, both = bench.tune("lp-ft")
    again, _ = bench.fit(probe)
    assert equal(weights(model), weights(again))
    assert not equal(weights(model.body), weights(original.body))
    assert both.steps == 2 * first.steps


def test_lora_changes_only_low_rank_updates(original: Classifier) -> None:
    rank = 2
    model, _ = make_bench(original).tune(f"lora?rank={rank}&alpha=4")
    before, after = weights(original), weights(model)
    assert before.keys() == after.keys()
    for name in before:
        if name in ("body.conv.weight", "body.last.weight"):
            update = (after[name] - before[name]).flatten(1).double()
            values = torch.linalg.svdvals(update)
            assert values[0] > 1e-4
            assert values[rank:].max() < 1e-5 * values[0] + 1e-7
        else:
            assert torch.equal(before[name], after[name]), name


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18)
        self.proj = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(1).view(len(x), 6, 6)).chunk(3, dim=-1)
        mixed = (q @ k.transpose(1, 2)).softmax(-1) @ v
        made: Tensor = self.proj(mixed).mean(1)
        return made


def test_lora_of_a_joined_projection_leaves_keys_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Classifier(Attention(), nn.Linear(6, CLASSES), mean=(0.4,), std=(0.5,), shape=SHAPE).clone()
    tuned, _ = make_bench(model).tune("lora?rank=1&alpha=4")
    before, after = weights(model), weights(tuned)
    assert before.keys() == after.keys()
    parts = (after["body.qkv.weight"] - before["body.qkv.weight"]).chunk(3)
    assert [bool(one.abs().max() > 0) for one in parts] == [True, False, True]
    assert all(torch.linalg.matrix_rank(parts[i].double(), rtol=1e-4) == 1 for i in (0, 2))
    assert all(torch.equal(before[name], after[name]) for name in before if name != "body.qkv.weight")


class TorchAttention(nn.Module):
    def __init__(self, kdim: int | None = None) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, kdim=kdim, vdim=kdim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1).view(len(x), 6, 6)
        width = self.inner.kdim
        made: Tensor = self.inner(x, x[:, :, :width], x[:, :, :width], need_weights=False)[0]
        return made.mean(1)


@pytest.mark.parametrize("kdim", [None, 5])
def test_lora_of_torch_attention(kdim: int | None) -> None:
    """Rows of queries and values have updates of the rank; keys, biases and all else stay bit for bit."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        body = TorchAttention(kdim)
        model = Classifier(body, nn.Linear(6, CLASSES), mean=(0.4,), std=(0.5,), shape=SHAPE).clone()
    moved: list[set[str]] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, closure: None = None) -> Any:
        moved.append({tuple(one.shape) for one in self.param_groups[0]["params"]})
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", spy)
        tuned, _ = make_bench(model).tune("lora?rank=1&alpha=4")
    width = kdim or 6
    assert moved[0] == ({(2, 1, 6), (2, 6, 1)} if kdim is None else {(1, 1, 6), (1, 6, 1), (1, 1, width)})
    before, after = weights(model), weights(tuned)
    assert before.keys() == after.keys() and type(tuned.body.inner) is nn.MultiheadAttention
    prefix = "body.inner."
    changed = {"in_proj_weight"} if kdim is None else {"q_proj_weight", "v_proj_weight"}
    for name in before:
        if name.removeprefix(prefix) not in changed:
            assert torch.equal(before[name], after[name]), name
            continue
        parts = (after[name] - before[name]).chunk(3 if kdim is None else 1)
        expected = [True, False, True] if kdim is None else [True]
        assert [bool(one.abs().max() > 0) for one in parts] == expected
        assert all(torch.linalg.matrix_rank(one.double(), rtol=1e-4) == 1 for one in parts if one.any())


def test_lora_draws_from_the_seed_on_every_device() -> None:
    """From the CPU's generator, which has it, wherever the weight lies."""
    from synbench_fast.studies.inheritance.methods.lora import _Update

    states = []
    for device in ("cpu", "meta"):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            update = _Update(torch.empty(6, 4, device=device), 3, (0, 2), 2, 0.5)
            states.append(torch.get_rng_state())
        assert update.lora_a.device.type == device and update.lora_a.shape == (2, 2, 4)
    assert torch.equal(*states)


def test_lora_of_torch_attention_starts_from_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step and, adapted or merged, after the last one."""
    from synbench_fast.studies.inheritance.methods import lora

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Classifier(
            TorchAttention(), nn.Linear(6, CLASSES), mean=(0.4,), std=(0.5,), shape=SHAPE
        ).clone()
    x = make_part(5).load(torch.arange(20))
    expected, seen = model(x), []
    real = lora.fit

    def spy(adapted: Classifier, *arguments: Any, **options: Any) -> TrainingSummary:
        assert torch.equal(adapted(x), expected)
        summary = real(adapted, *arguments, **options)
        seen.append(adapted(x).detach())
        return summary

    monkeypatch.setattr(lora, "fit", spy)
    tuned, _ = make_bench(model).tune("lora?rank=2&alpha=4")
    assert not torch.equal(seen[0], expected)
    assert torch.equal(tuned(x), seen[0])


def test_lora_of_a_torchvision_transformer() -> None:
    from torchvision.models import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = VisionTransformer(
            image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
        )
        nn.init.normal_(whole.heads.head.weight)  # zeros at first, through which no gradient comes
    model = split_head(whole, 3, spec="s", mean=(0.5,) * 3, std=(0.5,) * 3, shape=(3, 16, 16)).clone()
    draws = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    part = in_memory(draws, torch.arange(6) % 3, (0, 1, 2))
    bench = Bench(model, part, Training(epochs=2, batch_size=3, lr=0.1, warmup=0), seed=0)
    before, after = weights(model), weights(bench.tune("lora?rank=2&alpha=8")[0])
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 2 and all(name.endswith("self_attention.in_proj_weight") for name in changed)
    for name in changed:
        update = (after[name] - before[name]).chunk(3)
        assert not update[1].any()
        for one in (update[0], update[2]):
            assert torch.linalg.matrix_rank(one.double(), rtol=1e-4) <= 2 and one.any()


def of_body(body: nn.Module, width: int) -> Classifier:
    return Classifier(body, nn.Linear(width, CLASSES), mean=(0.4,), std=(0.5,), shape=SHAPE).clone()


class Halves(nn.Module):
    """Attention with keys and values of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(6, 6), nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1).view(len(x), 6, 6)
        k, v = self.kv(rows).chunk(2, dim=-1)
        made: Tensor = ((self.q(rows) @ k.transpose(1, 2)).softmax(-1) @ v).mean(1)
        return made


def test_lora_of_joined_keys_and_values_adapts_the_values() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = of_body(Halves(), 6)
    before, after = weights(model), weights(make_bench(model).tune("lora?rank=1&alpha=4")[0])
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"body.q.weight", "body.kv.weight"}
    keys, values = (after["body.kv.weight"] - before["body.kv.weight"]).chunk(2)
    assert not keys.any() and torch.linalg.matrix_rank(values.double(), rtol=1e-4) == 1


class Reading(nn.Module):
    """Attention that reads the weight of its joined projection, as some networks of timm do; bias of queries apart."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, x.new_zeros(12)])
        rows = x.flatten(1).view(len(x), 6, 6)
        q, k, v = nn.functional.linear(rows, self.qkv.weight, bias).chunk(3, dim=-1)
        made: Tensor = ((q @ k.transpose(1, 2)).softmax(-1) @ v).mean(1)
        return made


def test_lora_of_a_joined_projection_that_is_not_called() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = of_body(Reading(), 6)
    tuned, _ = make_bench(model).tune("lora?rank=1&alpha=4")
    before, after = weights(model), weights(tuned)
    assert before.keys() == after.keys()
    parts = (after["body.qkv.weight"] - before["body.qkv.weight"]).chunk(3)
    assert [bool(one.abs().max() > 0) for one in parts] == [True, False, True]
    assert all(torch.linalg.matrix_rank(parts[i].double(), rtol=1e-4) == 1 for i in (0, 2))


def test_lora_adapts_no_layer_whose_name_only_ends_like_another() -> None:
    """A top layer called 1, and a normalisation called 0.1."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        body = nn.Sequential(first, nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(144, 8))
        model = of_body(body, 8)
    tuned, _ = make_bench(model).tune("lora")
    changed = {name for name, value in weights(tuned).items() if not torch.equal(value, weights(model)[name])}
    assert changed == {"body.0.0.weight", "body.1.weight", "body.3.weight"}


@pytest.mark.parametrize("groups", [2, 32])
def test_lora_of_convolutions_in_groups(groups: int) -> None:
    """Of which peft merges none, and adapts only those whose groups divide the rank."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        apart = nn.Conv2d(32, 32, 3, padding=1, groups=groups)
        body = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), apart, nn.Flatten(), nn.Linear(32 * 36, 8))
        model = of_body(body, 8)
    tuned, _ = make_bench(model).tune("lora?rank=2&alpha=4")
    before, after = weights(model), weights(tuned)
    assert before.keys() == after.keys() and type(tuned.body[1]) is nn.Conv2d
    update = (after["body.1.weight"] - before["body.1.weight"]).flatten(1).double()
    assert torch.linalg.matrix_rank(update, rtol=1e-4) == 2
    assert not torch.equal(before["body.0.weight"], after["body.0.weight"])
    assert torch.equal(before["body.1.bias"], after["body.1.bias"])


def test_prompt_leaves_the_network_bit_identical(original: Classifier) -> None:
    model, _ = make_bench(original).tune("prompt?share=0.2")
    assert isinstance(model.body, Prompted)
    assert equal(weights(model.body.encoder), weights(original.body))
    assert equal(weights(model.head), weights(original.head))
    frame = model.body.frame[0]
    assert frame.sum() == 36 - 16 and frame[1:5, 1:5].sum() == 0
    x = make_part(5).load(torch.arange(3))
    added = model.normalise(x) + model.body.border * frame
    assert torch.equal(model(x), original.head(original.body(added)))


def test_ewc_pulls_along_the_fisher_directions() -> None:
    """A strong penalty holds what the original's predictions depend on, and lets the rest move."""
    unsure = make_classifier()  # a certain one has no Fisher information to speak of
    fit(unsure, make_part(21), replace(TRAINING, lr=0.01), parameters=unsure.parameters(), seed=0)
    information = torch.cat([one.flatten() for one in fisher(unsure, make_part(21), 60, 0)])
    start = torch.cat([one.detach().flatten() for one in unsure.parameters()])

    def moved(method: str) -> tuple[float, float]:
        tuned, _ = make_bench(unsure).tune(method)
        change = torch.cat([one.detach().flatten() for one in tuned.parameters()]) - start
        return float((information * change.square()).sum()), float(change.square().sum())

    plain, held = moved("ft"), moved("ewc?weight=400&samples=60")
    assert held[0] < 0.2 * plain[0]
    assert held[0] / plain[0] < 0.3 * held[1] / plain[1]


def test_fisher_of_logistic_regression_in_closed_form() -> None:
    """For p = softmax(W x + b), F of b_k is the mean of p_k (1 - p_k)."""
    head = nn.Linear(36, 3)
    model = Classifier(nn.Flatten(), head, mean=(0.0,), std=(1.0,), shape=SHAPE).clone()
    part = make_part(9, (0, 1, 2), n=1000)
    *_, bias = fisher(model, part, 1000, 0)
    p = logits_of(model, part).softmax(1)
    expected = (p * (1 - p)).mean(0)
    # the drawn labels' spread: (1 - p)^2 with probability p, p^2 otherwise
    spread = (p * (1 - p) * (1 - 2 * p).square()).mean(0).sqrt() / math.sqrt(len(part))
    assert ((bias - expected).abs() <= 5 * spread + 1e-4).all()


def test_l2sp_stays_nearer_the_heavier_it_is(original: Classifier) -> None:
    def distance(weight: float) -> float:
        tuned, _ = make_bench(original).tune(f"l2sp?weight={weight}")
        pairs = zip(tuned.parameters(), original.parameters(), strict=True)
        return sum(float((a - b).detach().square().sum()) for a, b in pairs)

    assert equal(
        weights(make_bench(original).tune("l2sp?weight=0")[0]), weights(make_bench(original).tune("ft")[0])
    )
    assert distance(0) > distance(0.1) > distance(1) > 0


def test_lwf_keeps_old_outputs(original: Classifier) -> None:
    part = make_part(2, shift=0.2)
    wrong = replace(part, y=(part.y + 1) % CLASSES)  # labels that contradict what the original says
    old = (part.restrict(logits_of(original, part)) / 2).log_softmax(1)

    def divergence(method: str) -> float:
        tuned, _ = make_bench(original, wrong, epochs=8, lr=0.01).tune(method)
        new = (part.restrict(logits_of(tuned, part)) / 2).log_softmax(1)
        return float(nn.functional.kl_div(new, old, reduction="batchmean", log_target=True))

    assert divergence("lwf?weight=0") == divergence("ft")
    assert divergence("lwf?weight=10") < 0.2 * divergence("ft")
    assert divergence("lwf?weight=10") < divergence("lwf") < divergence("ft")


def test_lwf_of_equal_outputs_is_0_in_mixed_precision(
    original: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a class of two columns, whose sum of exponentials is not one of bfloat16."""
    part = replace(make_part(2, shift=0.2, classes=(0, 1, 2)), columns=((0, 3), (1,), (2,)))
    made: list[Any] = []
    monkeypatch.setattr(Bench, "fit", lambda self, start, penalty: made.append(penalty) or (start, None))
    find("lwf").fine_tune(make_bench(original, part))
    x = part.load(torch.arange(60))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = part.restrict(original(x).float())
        value = made[0](original)(x, logits)
    assert abs(float(value)) < 1e-7


def test_wise_at_its_ends_and_between(original: Classifier) -> None:
    bench = make_bench(original)
    tuned, _ = bench.tune("ft")
    assert equal(weights(bench.tune("wise?alpha=0")[0]), weights(original))
    assert equal(weights(bench.tune("wise?alpha=1")[0]), weights(tuned))
    middle = weights(bench.tune("wise?alpha=0.25")[0])
    for name, value in weights(original).items():
        if value.is_floating_point():
            assert torch.allclose(middle[name], 0.75 * value + 0.25 * weights(tuned)[name], atol=1e-6)


def test_soup_is_the_mean(original: Classifier) -> None:
    bench = make_bench(original)
    members = [bench.rerun(number).tune("ft")[0] for number in range(3)]
    soup = weights(bench.tune("soup")[0])
    assert not equal(weights(members[0]), weights(members[1]))
    for name, value in soup.items():
        if value.is_floating_point():
            mean = torch.stack([weights(one)[name] for one in members]).mean(0)
            assert torch.allclose(value, mean, atol=1e-6)
    half = weights(bench.tune("wise")[0])
    other = weights(bench.tune("soup?of=pre+ft&runs=1")[0])
    assert all(torch.allclose(half[name], other[name]) for name in half if half[name].is_floating_point())


def test_the_published_soup_is_the_mean_of_its_four_methods(original: Classifier) -> None:
    """The published code averages what it calls PRE, FT, EWC (which has no Fisher weights: l2sp here) and LwF."""
    page = (Path(__file__).parents[2] / "docs" / "inherit.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"published soup is `(soup\?[^`]*)`", page)
    bench = make_bench(original)
    members = [weights(original), *(weights(bench.tune(one)[0]) for one in ("ft", "l2sp", "lwf"))]
    for name, value in weights(bench.tune(text)[0]).items():
        if value.is_floating_point():
            assert torch.allclose(value, torch.stack([one[name] for one in members]).mean(0), atol=1e-6)


def test_mean_of_models_without_weight_leaves_them_out(original: Classifier) -> None:
    broken = original.clone()
    nn.init.constant_(broken.head.weight, math.nan)
    assert equal(weights(weighted_mean([original, broken], [1.0, 0.0])), weights(original))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftt", ("methods: expected one of ewc, ft", "did you mean ft?")),
        ("wise?alpa=1", ("methods: expected wise with alpha=0.5", "did you mean alpha?")),
        ("ft?x=1", ("methods: expected ft with no options",)),
        ("wise?alpha=2", ("methods: expected alpha in [0, 1] for wise, got 2",)),
        ("wise?alpha=x", ("methods: expected a number for alpha, got 'x'",)),
        ("lora?rank=1.5", ("methods: expected an integer for rank, got '1.5'",)),
        ("lora?rank=0", ("methods: expected rank of at least 1 for lora, got 0",)),
        ("lwf?temperature=0", ("methods: expected temperature of at least 0.001 for lwf, got 0",)),
        ("prompt?share=0.6", ("methods: expected share in [0, 0.5] for prompt, got 0.6",)),
        (
            "soup?of=ft+prompt",
            ("methods: expected pre and methods that keep the weights' shapes", "'prompt'"),
        ),
        ("soup?of=nothing", ("methods: expected one of",)),
    ],
)
def test_method_texts(text: str, words: tuple[str, ...]) -> None:
    with refused(*words):
        find(text)


def test_ewc_without_pretraining_images(original: Classifier) -> None:
    bench = Bench(original, make_part(1), TRAINING, seed=0)
    with refused(
        "methods: expected images of the pre-training data's training part for ewc", "l2sp needs none"
    ):
        bench.tune("ewc")


def test_lora_needs_layers(original: Classifier) -> None:
    flat = Classifier(nn.Flatten(), nn.Linear(36, CLASSES), mean=(0.0,), std=(1.0,), shape=SHAPE)
    with refused("methods: expected a body with linear or convolution layers for lora, got none"):
        make_bench(flat).tune("lora")
