"""Prefix sharing: rewards, distances and gradients of the two-row forward, or a refusal."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma3TextConfig,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from rm.data.templates import common_prefix
from rm.data.tokens import pad
from rm.errors import InputError
from rm.model import attention as prefix
from rm.model import checks
from rm.model.attention import KERNELS, attention_plan, shared_batch
from rm.model.checkpoints import load_reward_model, new_reward_model, save_reward_model
from rm.model.checks import can_share
from rm.model.parts import train_part
from rm.model.reward_model import RewardModel, RewardOutput
from rm.model.tree import batches_by_shared_tokens, row_states, share
from rm.model.trunk import Row, _lower_states, split_backbone
from rm.objective.weights import representation_distance
from tests.rm.conftest import windowed_model

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj", "up_proj"]}
DRAW = random.Random(0)


def tokens(count: int) -> Row:
    return tuple(DRAW.randrange(3, 200) for _ in range(count))


PROMPT = tokens(12)
PAIRS: dict[str, list[Row]] = {
    "long prefix": [PROMPT + tokens(9), PROMPT + tokens(4)],
    "short prefix": [(7, 8, *tokens(9)), (7, 9, *tokens(12))],
    "one token shared": [(7, 8, *tokens(3)), (7, 9, *tokens(2))],
    "nothing shared": [(8, *tokens(10)), (9, *tokens(6))],
    "identical": [(*PROMPT, 5, 6), (*PROMPT, 5, 6)],
    "rejected is a prefix": [PROMPT + tokens(5), PROMPT],
    "chosen is a prefix": [PROMPT, PROMPT + tokens(5)],
    "single tokens": [(4,), (5,)],
    "last token differs": [(*PROMPT, 4), (*PROMPT, 5)],
}
ALL = [pair[side] for side in (0, 1) for pair in PAIRS.values()]
"""All chosen rows, then all rejected ones."""


@pytest.fixture(params=["llama", "gemma"])
def backbone(request: pytest.FixtureRequest, backbones: dict[str, Path]) -> Path:
    return backbones[request.param]


def model_of(backbone: Path, dtype: torch.dtype = torch.float32) -> RewardModel:
    model, _ = new_reward_model(backbone, dtype, seed=0)
    return model.double() if dtype == torch.float64 else model


def two_row(model: RewardModel, rows: Sequence[Row], side: str = "right") -> RewardOutput:
    ids, mask = pad(rows, 0, side)
    return model(mask, input_ids=ids)


def one_tree(model: RewardModel, rows: Sequence[Row]) -> RewardOutput:
    return model(shared=shared_batch(rows))


def error(one: Tensor, other: Tensor) -> float:
    return (torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(one)).item()


def results(
    model: RewardModel, forward: Callable[..., RewardOutput], rows: Sequence[Row] = ALL
) -> dict[str, Tensor]:
    """Rewards, hidden states, distances and all gradients of NormBT's loss without its scale."""
    model.zero_grad()
    output = forward(model, rows)
    chosen, rejected = output.rewards.chunk(2)
    distance = representation_distance(*output.hidden.chunk(2)).detach()
    (-torch.nn.functional.logsigmoid(chosen - rejected) / (distance + 1)).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {
        "rewards": output.rewards.detach(),
        "hidden": output.hidden.detach(),
        "distance": distance,
        **found,
    }


def assert_equal_results(model: RewardModel, tolerance: float) -> None:
    reference, shared = results(model, two_row), results(model, one_tree)
    assert reference.keys() == shared.keys() and len(shared) > 4
    for name, value in reference.items():
        assert error(value, shared[name]) <= tolerance, name


# --- the tree ---------------------------------------------------------------------------------


def test_tree_of_a_pair() -> None:
    tree = share([(1, 2, 4, 5), (1, 2, 3)])
    assert tree.tokens == [1, 2, 3, 4, 5]
    assert tree.positions == [0, 1, 2, 2, 3]
    assert len(tree) == 5
    assert tree == share([(1, 2, 3), (1, 2, 4, 5), (1, 2, 3)])


@pytest.mark.parametrize("name", PAIRS)
def test_runs_give_back_every_row(name: str) -> None:
    tree = share(PAIRS[name])
    assert set(tree.rows) == set(PAIRS[name])
    for row, runs in zip(tree.rows, tree.runs, strict=True):
        places = [place for start, stop in runs for place in range(start, stop)]
        assert tuple(tree.tokens[place] for place in places) == row
        assert [tree.positions[place] for place in places] == list(range(len(row)))


def random_rows(draw: random.Random) -> list[Row]:
    sizes = [draw.randrange(1, 7) for _ in range(draw.randrange(1, 9))]
    return [tuple(draw.randrange(2) for _ in range(size)) for size in sizes]


def prefixes(rows: Sequence[Row]) -> set[Row]:
    return {row[:stop] for row in rows for stop in range(1, len(row) + 1)}


def test_random_trees_give_back_every_row_and_share_all_that_can_be_shared() -> None:
    draw = random.Random(1)
    for _ in range(200):
        rows = random_rows(draw)
        tree = share(rows)
        assert len(tree) == len(prefixes(rows))
        for row, runs in zip(tree.rows, tree.runs, strict=True):
            assert list(row) == [token for a, b in runs for token in tree.tokens[a:b]]


def test_plan_covers_every_token_once_and_no_row_more_than_its_length() -> None:
    tree = share(ALL)
    plan = attention_plan(tree)
    assert sum(plan.queries) == sum(plan.pieces) == len(tree)
    assert [sum(plan.pieces[i] for i in keys) for keys in plan.keys] == [len(r) for r in tree.rows]


def test_a_token_is_seen_from_itself_to_the_end_of_its_subtree() -> None:
    for seed in range(20):
        draw = random.Random(seed)
        rows = [tuple(draw.randrange(3) for _ in range(draw.randrange(1, 9))) for _ in range(6)]
        tree = share(rows)
        places = [[at for run in runs for at in range(*run)] for runs in tree.runs]
        seen = {(row[j], row[i]) for row in places for i in range(len(row)) for j in range(i + 1)}
        ends = enumerate(tree.behind)
        assert seen == {(key, query) for key, end in ends for query in range(key, end)}


def test_common_prefix() -> None:
    assert common_prefix((1, 2, 3), (1, 2, 4)) == 2
    assert common_prefix((1, 2), (1, 2, 4)) == 2
    assert common_prefix((), (1,)) == common_prefix((2,), (1,)) == 0


def test_batch_keeps_the_order_of_the_rows_and_has_no_token_twice() -> None:
    rows = [(1, 2), (9, 9), (1, 3), (9, 8), (1, 2), (9,)]
    batch = shared_batch(rows)
    assert batch.input_ids is not None and batch.input_ids.tolist() == [[1, 2, 3, 9, 8, 9]]
    assert batch.input_ids[0, batch.last].tolist() == [row[-1] for row in rows]
    assert batch.to("cpu").plan.queries == batch.plan.queries


def test_batches_hold_every_row_once_within_the_limit() -> None:
    draw = random.Random(2)
    for tokens in (1, 3, 8, 30):
        rows = [row for _ in range(5) for row in random_rows(draw)]
        batches = list(batches_by_shared_tokens(rows, tokens))
        assert [row for batch in batches for row in batch] == sorted(set(rows))
        assert all(len(batch) == 1 or len(share(batch)) <= tokens for batch in batches)


# --- exactness --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_every_kind_of_pair_alone_in_float32(backbone: Path, name: str) -> None:
    model = model_of(backbone).eval()
    with torch.no_grad():
        alone, together = two_row(model, PAIRS[name]), one_tree(model, PAIRS[name])
    assert error(alone.hidden, together.hidden) <= 1e-5
    assert torch.allclose(alone.rewards, together.rewards, rtol=1e-5, atol=1e-6)


def test_identical_sides_have_distance_zero(backbone: Path) -> None:
    output = one_tree(model_of(backbone), PAIRS["identical"])
    assert output.hidden[0].equal(output.hidden[1])


@pytest.mark.parametrize("part", ["full", "lora", "top_layers"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_gradients_of_many_pairs_in_float32(backbone: Path, part: Any, checkpointing: bool) -> None:
    model = model_of(backbone)
    train_part(model, part, top_layers=2, lora=LORA)
    grow_adapters(model)
    if checkpointing:
        model.classifier.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert_equal_results(model, 1e-5)


def grow_adapters(model: RewardModel) -> None:
    """LoRA's B starts at zero, which would make A's gradient zero too."""
    torch.manual_seed(1)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)


@pytest.mark.parametrize("part", ["full", "lora"])
@pytest.mark.parametrize("products", [False, True], ids=["kernel", "products"])
def test_gradients_in_float64(
    backbone: Path, part: Any, products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if products:  # blocks of three queries, so that rows end inside a block
        monkeypatch.setattr(prefix, "row_attention", lambda *_, **__: prefix.causal_products)
        monkeypatch.setattr(prefix, "BLOCK", 3)
    model = model_of(backbone, torch.float64)
    train_part(model, part, lora=LORA)
    grow_adapters(model)
    for layer in model.modules():
        if type(layer).__name__.endswith("RMSNorm"):
            monkeypatch.setattr(type(layer), "forward", norm_without_float32)
    assert_equal_results(model.double().train(), 1e-10)


def norm_without_float32(self: Any, states: Tensor) -> Tensor:
    """RMS norm; transformers' own rounds to float32 even in a float64 model."""
    scale = (states.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    return states * scale * (self.weight + type(self).__name__.startswith("Gemma"))


@pytest.mark.parametrize("keys", [7, 128, 300])
@pytest.mark.parametrize("queries", [1, 7, 128, 129, 300])
def test_attention_by_products_is_that_of_the_kernel(queries: int, keys: int) -> None:
    """Outputs and gradients in float64, for six heads in two groups."""
    if queries > keys:
        pytest.skip("a row has no more queries than keys")
    torch.manual_seed(0)
    shapes = (6, queries), (2, keys), (2, keys)
    inputs = [torch.randn(1, *shape, 8, dtype=torch.float64).requires_grad_() for shape in shapes]
    module = SimpleNamespace(num_key_value_groups=3, training=True, is_causal=True)
    mask = torch.ones(1, 1, queries, keys, dtype=torch.bool).tril(keys - queries)
    found = []
    for attend in (prefix.plain_attention, prefix.causal_products):
        output = attend(module, *inputs, mask, scaling=0.3)  # type: ignore[arg-type]
        found.append([output, *torch.autograd.grad(output.cos().sum(), inputs)])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "training", "options", "products"),
    [
        (torch.bfloat16, True, {"dropout": 0.0}, True),
        (torch.bfloat16, False, {"dropout": 0.1}, True),
        (torch.bfloat16, True, {"dropout": 0.1}, False),
        (torch.bfloat16, False, {"softcap": 50.0}, False),
        (torch.float32, True, {}, False),
    ],
)
def test_products_are_for_bfloat16_without_dropout_and_cap(
    dtype: torch.dtype, training: bool, options: dict[str, Any], products: bool
) -> None:
    module: Any = SimpleNamespace(training=training)
    chosen = prefix.row_attention(module, torch.zeros(1, 2, 9, 8, dtype=dtype), **options)
    assert chosen is (prefix.causal_products if products else prefix.plain_attention)


def test_a_long_row_trains_by_the_kernel_which_keeps_no_weights() -> None:
    module: Any = SimpleNamespace(training=True)
    values = torch.zeros(1, 1, prefix.LONGEST + 1, 1, dtype=torch.bfloat16)
    assert prefix.row_attention(module, values[:, :, 1:]) is prefix.causal_products
    assert prefix.row_attention(module, values) is prefix.plain_attention
    with torch.no_grad():
        assert prefix.row_attention(module, values) is prefix.causal_products


@pytest.mark.parametrize("longest", [prefix.LONGEST, 4], ids=["products", "kernel"])
def test_bfloat16_differs_by_no_more_than_its_rounding(
    backbone: Path, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both forwards are as far from float32 as each other, and no farther from one another."""
    monkeypatch.setattr(prefix, "LONGEST", longest)
    exact = results(model_of(backbone), two_row)
    model = model_of(backbone, torch.bfloat16)
    reference, shared = results(model, two_row), results(model, one_tree)
    for name, value in exact.items():
        rounding = error(value, reference[name])
        assert error(value, shared[name]) <= max(2 * rounding, 0.01), name
        assert error(reference[name], shared[name]) <= max(2 * rounding, 0.01), name


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_the_reference_is_irrelevant(backbone: Path, side: str) -> None:
    model = model_of(backbone).eval()
    with torch.no_grad():
        assert error(two_row(model, ALL, side).hidden, one_tree(model, ALL).hidden) <= 1e-5


def test_neighbours_in_a_batch_do_not_change_a_row(backbone: Path) -> None:
    model = model_of(backbone).eval()
    with torch.no_grad():
        together = one_tree(model, ALL).hidden
        alone = torch.cat([one_tree(model, [row]).hidden for row in ALL])
        backwards = one_tree(model, ALL[::-1]).hidden
    assert error(alone, together) <= 1e-5
    assert backwards.flip(0).equal(together)


def test_many_responses_to_a_prompt(backbone: Path) -> None:
    stem = PROMPT + tokens(5)
    rows = [stem + tokens(n) for n in (3, 1, 8)] + [PROMPT + tokens(n) for n in (2, 9)]
    rows += [stem, stem, PROMPT, rows[0][:-1]]
    model = model_of(backbone).eval()
    with torch.no_grad():
        assert error(two_row(model, rows).hidden, one_tree(model, rows).hidden) <= 1e-5


def test_trunk_states(backbone: Path) -> None:
    """Trunk states of a tree are the rows' own, and going on from them gives the same results."""
    model = model_of(backbone)
    train_part(model, "top_layers", top_layers=1)
    assert_equal_from_trunk(model, 1)


def assert_equal_from_trunk(model: RewardModel, top: int) -> None:
    reference = results(model, two_row)
    lower = split_backbone(model, top)
    with torch.no_grad():
        states = dict(row_states(ALL, model.shared_states(lower, shared_batch(ALL))))
    alone = _lower_states(model, lower, *pad(ALL, 0))
    for row, expected in zip(ALL, alone, strict=True):
        assert torch.allclose(expected[: len(row)], states[row], rtol=1e-5, atol=1e-5)

    def from_trunk(model: RewardModel, rows: Sequence[Row]) -> RewardOutput:
        return model(shared=shared_batch(rows, states.__getitem__))

    shared = results(model, from_trunk)
    for name, value in reference.items():
        assert error(value, shared[name]) <= 1e-5, name


def test_only_last_tokens_pass_the_last_feed_forward_part(backbone: Path) -> None:
    model = model_of(backbone).eval()
    seen: list[int] = []
    one_tree(model, ALL)
    for layer in model.backbone.layers:
        layer.mlp.up_proj.register_forward_hook(
            lambda _, inputs, __: seen.append(inputs[0].shape[1])
        )
    one_tree(model, ALL)
    count = len(share(ALL))
    assert seen == [count] * (len(model.backbone.layers) - 1) + [len(set(ALL))]


# --- the kernel's place in the model ----------------------------------------------------------


def test_two_row_forward_is_bitwise_the_same_after_sharing(backbone: Path) -> None:
    model = model_of(backbone).eval()
    with torch.no_grad():
        before = two_row(model, ALL)
        one_tree(model, ALL)
        assert model.config._attn_implementation == KERNELS["sdpa"]
        assert two_row(model, ALL).hidden.equal(before.hidden)


def test_saved_checkpoint_knows_nothing_of_it(backbone: Path, tmp_path: Path) -> None:
    model = model_of(backbone).eval()
    before = one_tree(model, ALL).rewards
    save_reward_model(model, AutoTokenizer.from_pretrained(backbone), tmp_path / "rm")
    assert KERNELS["sdpa"] not in (tmp_path / "rm" / "config.json").read_text()
    loaded, _ = load_reward_model(tmp_path / "rm", torch.float32)
    assert loaded.config._attn_implementation == "sdpa"
    assert torch.allclose(one_tree(loaded, ALL).rewards, before, rtol=1e-5, atol=1e-6)


# --- what cannot share ------------------------------------------------------------------------

SIZE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "num_labels": 1,
    "pad_token_id": 0,
}


def classifier(config: Any, **options: Any) -> RewardModel:
    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_config(config, **options)
    return RewardModel(made, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama_and_gemma_can_share(backbone: Path, dtype: torch.dtype) -> None:
    model = model_of(backbone, dtype).train()
    assert can_share(model, 64) is None
    assert model.training


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            Llama4TextConfig(**{**SIZE, "layer_types": ["chunked_attention", "full_attention"]}),
            "do not attend to the whole prefix: chunked_attention",
        ),
        (
            LlamaConfig(
                **SIZE,
                rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            ),
            "rope type dynamic",
        ),
        (
            Gemma3TextConfig(
                **SIZE,
                rope_parameters={
                    "full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            ),
            "rope type dynamic",
        ),
    ],
    ids=["chunks", "dynamic rope", "dynamic rope in some layers"],
)
def test_configurations_that_cannot_share(config: Any, reason: str) -> None:
    config._attn_implementation = "sdpa"
    model = SimpleNamespace(
        config=config, backbone=AnyStack(), classifier=SimpleNamespace(config=config)
    )
    assert reason in (checks._refusal_by_config(model, 16) or "")  # type: ignore[arg-type]


class AnyStack:
    """What the configuration is asked about: a stack of layers that takes position ids."""

    layers: Sequence[Any] = ()

    def forward(self, position_ids: Tensor) -> None: ...


def test_a_window_shorter_than_the_longest_row_is_refused(
    windowed: Callable[[int], RewardModel],
) -> None:
    assert can_share(windowed(16), 16) is None
    assert can_share(windowed(8), 8) is None  # shorter than the trial's rows
    reason = can_share(windowed(16), 17) or ""
    assert "within a sliding window of 16 tokens, and rows have up to 17: lower max_" in reason


@pytest.mark.parametrize("part", ["full", "lora", "top_layers"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_within_a_window_gradients_are_those_of_two_rows(
    windowed: Callable[[int], RewardModel], part: Any, checkpointing: bool
) -> None:
    model = windowed(max(map(len, ALL)))  # the longest row just fits
    train_part(model, part, top_layers=2, lora=LORA)
    grow_adapters(model)
    if checkpointing:
        model.classifier.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert_equal_results(model, 1e-5)


def gemma2(cap: float | None) -> RewardModel:
    """A Gemma 2 whose scores are large enough to be capped."""
    model = windowed_model("gemma2", 64)
    for layer in model.backbone.layers:
        layer.self_attn.attn_logit_softcapping = cap
        layer.self_attn.q_proj.weight.data.mul_(100)
        layer.self_attn.k_proj.weight.data.mul_(100)
    return model


def test_capped_scores_are_those_of_transformers() -> None:
    """Gemma 2 caps its scores, which SDPA cannot: before and after the switch the same rewards."""
    model = gemma2(cap=0.5)
    with torch.no_grad():
        own = two_row(model, ALL).hidden
        assert model.config._attn_implementation == "eager"
        after = [one_tree(model, ALL), *(two_row(model, ALL, side) for side in ("left", "right"))]
        assert model.config._attn_implementation == KERNELS["eager"]
        assert max(error(own, output.hidden) for output in after) <= 1e-5
        assert error(own, two_row(gemma2(cap=None), ALL).hidden) > 1e-2


def test_beyond_a_window_results_would_differ(windowed: Callable[[int], RewardModel]) -> None:
    """Why longer rows are refused: the shared forward does not hide what the window hides."""
    model = windowed(8)
    with torch.no_grad():
        assert error(two_row(model, ALL).hidden, one_tree(model, ALL).hidden) > 1e-3


@pytest.mark.parametrize("top", [1, 2, 4])
def test_within_a_window_trunk_states_are_those_of_two_rows(
    windowed: Callable[[int], RewardModel], top: int
) -> None:
    model = windowed(max(map(len, ALL)))
    train_part(model, "top_layers", top_layers=top)
    assert_equal_from_trunk(model, top)


@pytest.mark.parametrize(
    "config",
    [MistralConfig(**SIZE, sliding_window=None), Qwen2Config(**SIZE)],
    ids=["mistral", "qwen2"],
)
def test_relatives_without_a_window_can_share(config: Any) -> None:
    model = classifier(config).eval()
    assert can_share(model, 64) is None
    rows = [tuple(token % 64 for token in row) for row in ALL]
    with torch.no_grad():
        assert error(two_row(model, rows).hidden, one_tree(model, rows).hidden) <= 1e-5


def test_another_kernel_is_refused_with_advice(backbone: Path) -> None:
    made = AutoModelForSequenceClassification.from_pretrained(
        backbone, num_labels=1, attn_implementation="eager"
    )
    model = RewardModel(made, torch.float32)
    assert can_share(model, 64) == "the attention kernel eager cannot share prefixes: use sdpa"
    with pytest.raises(InputError, match=r"training\.share_prefix=false"):
        one_tree(model, ALL)


def test_a_backbone_without_position_ids_is_refused(
    backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(backbone)
    monkeypatch.setattr(type(model.backbone), "forward", lambda self, input_ids: None)
    assert "takes no position ids" in (can_share(model, 64) or "")


def test_other_numbers_are_refused_and_the_kernel_is_put_back(
    backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(backbone)
    plan = prefix.attention_plan

    def without_masks(tree: Any) -> Any:
        made = plan(tree)
        made.masks = [None for _ in made.masks]
        return made

    monkeypatch.setattr(prefix, "attention_plan", without_masks)
    assert "gives different hidden states" in (can_share(model, 64) or "")
    assert model.config._attn_implementation == "sdpa"


def test_a_backbone_of_another_build_is_refused() -> None:
    config: Any = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64, pad_token_id=0)
    config.num_labels = 1
    assert "not a stack of decoder layers" in (can_share(classifier(config), 64) or "")
