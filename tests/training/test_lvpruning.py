"""Training LVPruning: masking is dropping, decisions feel gradients, and a stopped run goes on as if never stopped."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from steadyvlm.errors import CheckpointError, InvalidOption, SampleError, UnknownName, Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.llava import Llava
from steadyvlm.records import Grade, Sample
from steadyvlm.reduction.lvpruning_files import CONFIG, WEIGHTS, read_config
from steadyvlm.reduction.lvpruning_module import PruningModule
from steadyvlm.training.lvpruning import TrainingOptions, train, training_task
from steadyvlm.training.lvpruning.calibrate import calibrate
from steadyvlm.training.lvpruning.decisions import firm_decisions, gumbel_decisions, ratio_loss
from steadyvlm.training.lvpruning.examples import Examples, reference, rows_of_step
from steadyvlm.training.lvpruning.forward import Batch, Result, attention_bias, masked_forward
from steadyvlm.training.lvpruning.run import PARTIAL
from tiny import VISUAL, make_image, make_image_processor, make_module, make_tokenizer, tiny_llava
from tiny_families import tiny_family

DEPTH = 6
STAGES = (1, 2, 3)


@dataclass(frozen=True)
class Picture:
    seed: int

    def load(self) -> Any:
        return make_image(self.seed)

    def sha256(self) -> str:
        return f"picture {self.seed}"


@dataclass(frozen=True)
class MemoryTask:
    """Questions of different lengths about a few pictures; one has two pictures, one none."""

    references: tuple[str, ...] = ("red",)
    pictures: tuple[tuple[int, ...], ...] = ((1,), (2,), (1, 3), (), (2,), (4,))
    name: str = field(default="memory", init=False)
    version: str = field(default="1", init=False)
    max_new_tokens: int = field(default=4, init=False)
    stop: tuple[str, ...] = field(default=(), init=False)
    soft_threshold: float = field(default=0.5, init=False)

    def samples(self) -> list[Sample]:
        return [
            Sample(
                f"s{n}",
                self.name,
                "what?",
                "what colour is it?" + " the" * n,
                "open",
                self.references,
                images=tuple(Picture(seed) for seed in seeds),
            )
            for n, seeds in enumerate(self.pictures)
        ]

    def grade(self, sample: Sample, text: str) -> Grade:
        return Grade(text, float(text in sample.references))


def model_of(text: str = "llama", **options: Any) -> Llava:
    return tiny_llava(text, layers=DEPTH, **options)


@torch.no_grad()
def make_modules(model: VisionLanguageModel, batch: Batch) -> dict[int, PruningModule]:
    """Random modules, each of which would drop a third of this batch's visual tokens."""
    generator = torch.Generator().manual_seed(0)
    modules: dict[int, PruningModule] = {}
    for layer in STAGES:
        module = modules[layer] = PruningModule(model.info.width, 16, 4)
        for name, weight in sorted(module.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(torch.ones_like(weight) if "norm" in name else 0.5 * noise)
        seen: list[Tensor] = []
        masked_forward(model, batch, modules, lambda logits, seen=seen: seen.append(logits) or firm_decisions(logits))
        module.decide.bias[0] -= (seen[-1][..., 0] - seen[-1][..., 1])[batch.visual].quantile(0.33)
    return modules


@torch.no_grad()
def dropped_forward(model: VisionLanguageModel, batch: Batch, modules: dict[int, PruningModule]) -> Tensor:
    """The definition of inference: one prompt at a time, tokens really removed, plain causal attention."""
    answers = []
    decoder: Any = model.module.model.language_model  # type: ignore[union-attr]  # as in `forward`
    for row in range(batch.hidden.shape[0]):
        length = int((batch.targets[row] >= 0).nonzero().max()) + 2
        parts = [getattr(batch, item.name)[row : row + 1, :length] for item in dataclasses.fields(batch)]
        for index, layer in enumerate(decoder.layers):
            hidden, positions, visual, question, _ = parts
            if index in modules:
                logits = modules[index](hidden[visual], hidden[question])
                left = ~visual[0]
                left[visual[0]] = logits[:, 0] > logits[:, 1]
                parts = [part[:, left] for part in parts]
                hidden, positions = parts[:2]
            seen = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).tril()
            if model.info.sliding_window is not None:
                places = positions[0]
                seen &= places[:, None] - places[None, :] < model.info.sliding_window
            mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[None, None]
            angles = decoder.rotary_emb(hidden, positions.permute(2, 0, 1) if positions.dim() == 3 else positions)
            parts[0] = layer(hidden, attention_mask=mask, position_embeddings=angles)
        answers.append(model.logits(parts[0][parts[4] >= 0]))
    return torch.cat(answers)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: model_of(), id="llama"),
        pytest.param(lambda: model_of("mistral", sliding_window=24), id="mistral-window"),
        pytest.param(lambda: tiny_family("llava_next"), id="llava-next"),
        pytest.param(lambda: tiny_family("qwen2_vl"), id="qwen2-vl"),
        pytest.param(lambda: tiny_family("qwen2_5_vl"), id="qwen2.5-vl"),
    ],
)
def test_masking_is_dropping(model: Callable[[], VisionLanguageModel]) -> None:
    tiny = model()
    batch = Examples(tiny, MemoryTask(), cache_images=9).batch(range(5))
    modules = make_modules(tiny, batch)
    with torch.no_grad():
        result = masked_forward(tiny, batch, modules, firm_decisions)
    shares = [float(kept[batch.visual].mean()) for kept in result.kept]
    assert 0.9 > shares[0] > shares[1] > shares[2] > 0.1, "the modules must drop something at each stage, and not all"
    torch.testing.assert_close(result.logits, dropped_forward(tiny, batch, modules), rtol=1e-4, atol=1e-4)


def test_without_modules_it_is_the_original_and_batching_changes_nothing() -> None:
    tiny = model_of()
    examples = Examples(tiny, MemoryTask(), cache_images=9)
    with torch.no_grad():
        together = masked_forward(tiny, examples.batch([0, 2]), {}, firm_decisions)
        alone = [masked_forward(tiny, examples.batch([row]), {}, firm_decisions).logits for row in (0, 2)]
    assert together.kept == []
    torch.testing.assert_close(together.logits, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_the_prompt_is_the_engines_and_the_answer_follows_it() -> None:
    tiny = model_of()
    batch = Examples(tiny, MemoryTask(), cache_images=9).batch([2])  # two pictures
    sample = MemoryTask().samples()[2]
    prompt = tiny.tokenize(sample.prompt, 2)
    answer = tiny.answer_ids(sample.prompt, 2, "red")
    assert answer[-1] == tiny.info.eos_token_ids[0]
    assert tiny.text(answer) == " red"
    length = len(prompt) - 2 + 2 * VISUAL
    assert batch.hidden.shape[1] == length + len(answer)
    assert int(batch.visual.sum()) == 2 * VISUAL
    assert batch.positions[0].tolist() == list(range(length + len(answer)))
    last = int(batch.visual[0].nonzero().max())
    assert batch.question[0].nonzero().flatten().tolist() == list(range(last + 1, length))
    asked = (batch.targets[0] >= 0).nonzero().flatten().tolist()
    assert asked == list(range(length - 1, length + len(answer) - 1))
    assert batch.targets[0, asked].tolist() == list(answer)


def test_the_bias_gives_the_masked_attention_of_the_definition_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 6, generator=generator, dtype=torch.float64) * 3
    weights = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    kept = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    ours = (scores + attention_bias(kept, seen)[0, 0]).softmax(dim=-1)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), kept)
    total = kept.new_zeros(())
    for i in range(6):
        row = [scores[i, j].exp() * (1.0 if i == j else kept[0, j]) for j in range(i + 1)]
        for j, entry in enumerate(row):
            share = entry / torch.stack(row).sum() if i else scores.new_ones(())
            torch.testing.assert_close(ours[i, j], share, rtol=1e-9, atol=1e-9)
            total = total + share * weights[i, j]
    (expected,) = torch.autograd.grad(total, kept)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)
    assert (gradient[0, [1, 3, 4]].abs() > 1e-4).all(), "a dropped token must feel what it would have been worth"


def run_once(model: VisionLanguageModel, temperature: float = 1.0) -> tuple[Result, Batch, dict[int, PruningModule]]:
    batch = Examples(model, MemoryTask(), cache_images=9).batch([0, 1])
    modules = make_modules(model, batch)
    decide = gumbel_decisions(temperature, torch.Generator().manual_seed(1))
    return masked_forward(model, batch, modules, decide), batch, modules


def test_the_answer_teaches_every_module() -> None:
    result, _, modules = run_once(model_of())
    result.logits.square().mean().backward()  # type: ignore[no-untyped-call]
    for module in modules.values():
        for name, weight in module.named_parameters():
            assert weight.grad is not None
            assert torch.isfinite(weight.grad).all(), name
            assert bool((weight.grad != 0).any()), name


def test_draws_are_hard_cumulative_and_as_likely_as_the_logits_say() -> None:
    result, batch, _ = run_once(model_of())
    before = torch.ones_like(result.kept[0])
    for kept in result.kept:
        assert set(kept.unique().tolist()) <= {0.0, 1.0}
        assert bool((kept <= before).all())
        assert bool((kept[~batch.visual] == 1).all())
        before = kept
    logits = torch.tensor([1.0, -0.5]).repeat(20_000, 1).requires_grad_()
    drawn = gumbel_decisions(0.5, torch.Generator().manual_seed(0))(logits)
    assert float(drawn.detach().mean()) == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.01)
    drawn.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool((logits.grad[:, 0] >= 0).all())  # a draw that was very sure feels nothing
    assert float(logits.grad[:, 0].mean()) > 0.05
    assert torch.allclose(logits.grad[:, 1], -logits.grad[:, 0], atol=1e-6)


def test_ratio_loss_counts_visual_tokens_of_the_whole_batch() -> None:
    visual = torch.tensor([[False, True, True, True], [True, False, False, False]])
    first = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    second = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]])
    loss = ratio_loss([first, second], visual, (0.5, 0.1))
    assert float(loss.detach()) == pytest.approx((0.5 - 0.75) ** 2 + (0.1 - 0.25) ** 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    assert torch.allclose(first.grad, visual * 2 * 0.25 / 4)


def quick(**changes: Any) -> TrainingOptions:
    options: dict[str, Any] = {"steps": 4, "batch": 2, "inner": 8, "heads": 2, "checkpoint_s": 0.0}
    return TrainingOptions(**(options | changes))


def quiet(line: str) -> None:
    """Say nothing."""


def test_training_meets_its_ratios_and_leaves_the_model_alone(tmp_path: Path, monkeypatch: Any) -> None:
    wanted = (0.9, 0.6, 0.3)
    monkeypatch.setattr("steadyvlm.training.lvpruning.run.KEEP_RATIOS", wanted)
    tiny = model_of()
    before = {name: weight.clone() for name, weight in tiny.module.state_dict().items()}
    lines: list[str] = []
    config = train(tiny, MemoryTask(), tmp_path, quick(steps=40, batch=5, learning_rate=0.03), log=lines.append)
    assert all(torch.equal(weight, before[name]) for name, weight in tiny.module.state_dict().items())
    assert all(weight.requires_grad for weight in tiny.module.parameters())
    assert (config.layers, config.keep_ratios) == (STAGES, wanted)
    assert config.weights_sha256 == tiny.weights_sha256()
    assert read_config(tmp_path) == config
    assert read_config(tmp_path).training == json.loads((tmp_path / CONFIG).read_text())["training"] == config.training
    drawn = [[float(share) for share in line.split("kept ")[1].split()] for line in (lines[0], lines[-2])]
    first, last = (sum(abs(a - b) for a, b in zip(shares, wanted, strict=True)) for shares in drawn)
    assert last < 0.5 * first, "the ratio loss must pull"
    assert config.training["adaptive_share_kept"] == pytest.approx(wanted, abs=0.005), "calibrated"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CONFIG, WEIGHTS])


@pytest.mark.parametrize("ratios", [(0.66, 0.35, 0.10), (1.0, 0.5, 0.5)])
def test_calibrated_modules_leave_the_wanted_shares_in_the_same_order(ratios: tuple[float, ...]) -> None:
    tiny = model_of()
    examples = Examples(tiny, MemoryTask(), cache_images=9)
    batches = [examples.batch([0, 1, 2]), examples.batch([3, 4])]
    modules = make_modules(tiny, batches[0])
    before = {name: weight.clone() for layer in STAGES for name, weight in modules[layer].named_parameters(str(layer))}
    calibrate(tiny, batches, modules, ratios)
    after = {name: weight for layer in STAGES for name, weight in modules[layer].named_parameters(str(layer))}
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"{layer}.decide.bias" for layer in STAGES
    }
    total = sum(int(batch.visual.sum()) for batch in batches)
    results = [masked_forward(tiny, batch, modules, firm_decisions) for batch in batches]
    for stage, ratio in enumerate(ratios):
        kept = sum(int(r.kept[stage][b.visual].sum()) for r, b in zip(results, batches, strict=True))
        assert kept == int(ratio * total)


def test_a_stopped_run_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    tiny = model_of()
    train(tiny, MemoryTask(), tmp_path / "whole", quick(steps=12), log=quiet)

    def stop(line: str) -> None:
        if line.startswith("lvpruning 10/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny, MemoryTask(), tmp_path / "parts", quick(steps=12), log=stop)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [PARTIAL]
    with pytest.raises(CheckpointError, match=r"other settings \(steps, seed differ\)"):
        train(tiny, MemoryTask(), tmp_path / "parts", quick(steps=9, seed=2), log=quiet)
    lines: list[str] = []
    train(tiny, MemoryTask(), tmp_path / "parts", quick(steps=12), log=lines.append)
    assert lines[0].startswith("lvpruning 10/12")
    whole, parts = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert not (tmp_path / "parts" / PARTIAL).exists()
    with pytest.raises(CheckpointError, match="holds trained modules already"):
        train(tiny, MemoryTask(), tmp_path / "parts", quick(steps=12), log=quiet)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    for seed in (0, 1):
        train(model_of(), MemoryTask(), tmp_path / str(seed), quick(steps=1, seed=seed), log=quiet)
    first, second = (load_file(tmp_path / name / WEIGHTS) for name in "01")
    assert not torch.equal(first["0.key.weight"], second["0.key.weight"])


def test_an_unreadable_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / PARTIAL).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        train(model_of(), MemoryTask(), tmp_path, quick(), log=quiet)


def test_models_it_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="4 layers is too shallow"):
        train(tiny_llava(), MemoryTask(), tmp_path, quick(), log=quiet)
    half = Llava(make_module(layers=DEPTH).half(), make_tokenizer(), make_image_processor())
    with pytest.raises(Unsupported, match="float16"):
        train(half, MemoryTask(), tmp_path, quick(), log=quiet)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"steps": 0}, "steps"),
        ({"batch": 0}, "batch"),
        ({"learning_rate": float("nan")}, "rate"),
        ({"inner": 9}, "inner"),
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidOption, match=name):
        quick(**change)


def test_the_inner_width_follows_the_decoders() -> None:
    assert [TrainingOptions().width_inside(width) for width in (128, 2048, 4096)] == [64, 512, 1024]
    assert TrainingOptions(inner=40).width_inside(4096) == 40


def test_questions_that_teach_nothing_are_refused() -> None:
    with pytest.raises(SampleError, match="no question of task 'memory' has a picture"):
        Examples(model_of(), MemoryTask(pictures=((),)), cache_images=1)
    with pytest.raises(SampleError):
        Examples(model_of(), MemoryTask(references=()), cache_images=1).batch([0])
    with pytest.raises(SampleError, match="no reference"):
        reference(Sample("a", "t", "what?", "what?", "open", ()))


def test_annotators_vote() -> None:
    assert reference(Sample("a", "t", "what?", "what?", "open_ten", ("red", "blue", "blue"))) == "blue"


def test_pictures_are_encoded_once_and_few_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = model_of()
    encoded: list[int] = []
    encode = type(tiny).encode
    monkeypatch.setattr(
        type(tiny), "encode", lambda self, pixels, needs: encoded.append(len(pixels)) or encode(self, pixels, needs)
    )
    examples = Examples(tiny, MemoryTask(), cache_images=2)
    assert len(examples) == 5
    for rows in ([0, 2], [0], [1], [0, 2]):
        examples.batch(rows)
    assert encoded == [2, 1, 1], "pictures 1 and 3; none; 2 instead of 3, which was used longest ago; 3 again"


def test_every_epoch_has_every_question_once() -> None:
    rows = [row for step in range(6) for row in rows_of_step(step, 3, 9, seed=4)]
    assert sorted(rows[:9]) == sorted(rows[9:]) == list(range(9))
    assert rows[:9] != rows[9:]
    assert rows_of_step(0, 3, 9, seed=4) != rows_of_step(0, 3, 9, seed=5)


def test_a_task_with_splits_gives_its_training_split_and_never_its_test() -> None:
    assert training_task("pocket(limit=2)").samples()[0].id.startswith("train-0-")
    assert training_task("pocket(split='validation', limit=2)").samples()[0].id.startswith("validation-0-")
    with pytest.raises(InvalidOption, match="nothing may be trained on them"):
        training_task("pocket(split='test')")
    with pytest.raises(UnknownName, match="no task is called 'pockte'"):
        training_task("pockte")
