"""Host memory that a model takes while it is read: its stored dtype, its share under ZeRO-3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rm.data.templates import ChatTemplate
from rm.data.tokens import pad
from rm.model.checkpoints import load_reward_model, new_reward_model, save_reward_model
from rm.model.reward_model import RewardModel
from tests.models import gemma3_folder, move_weights, save

ROOT = Path(__file__).resolve().parents[3]
TEXTS = ("Yes.", "No, it is not at all like that.")


@pytest.fixture(params=["llama", "gemma", "gemma3"])
def trained(request: pytest.FixtureRequest, backbones: dict[str, Path], tmp_path: Path) -> Path:
    """A reward model of each family, stored in float32, so that reading it in bfloat16 rounds."""
    own = request.param
    backbone = backbones.get(own) or gemma3_folder(backbones["gemma"], tmp_path / "g3", window=8)
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=5)
    move_weights(model)
    save_reward_model(model, tokenizer, tmp_path / "trained")
    return tmp_path / "trained"


def read_wide(folder: Path) -> RewardModel:
    """The model read in float32 and then rounded, in which everything but matrices stays wide."""
    model, _ = load_reward_model(folder, torch.float32)
    for module in model.backbone.modules():
        matrix = isinstance(module, nn.Linear)
        for value in module.parameters(recurse=False):
            value.data = value.data.bfloat16().to(torch.bfloat16 if matrix else torch.float32)
    model.compute_dtype = torch.bfloat16
    return model


def test_a_model_read_in_bfloat16_gives_the_bits_of_one_rounded_later(trained: Path) -> None:
    model, tokenizer = load_reward_model(trained, torch.bfloat16)
    template = ChatTemplate(tokenizer)
    rows = [template.encode([{"role": "user", "content": "Is it?"}], text) for text in TEXTS]
    ids, mask = pad(rows, int(tokenizer.pad_token_id))
    with torch.no_grad():
        found, expected = (one(mask, input_ids=ids) for one in (model, read_wide(trained)))
    assert found.rewards.dtype == found.hidden.dtype == torch.float32
    assert found.rewards.equal(expected.rewards) and found.hidden.equal(expected.hidden)
    assert len(set(found.rewards.tolist())) == len(TEXTS)
    assert "Lowered" not in type(model.classifier).__name__
    assert type(model.classifier).__module__.startswith("transformers.")


def test_matrices_and_embeddings_take_two_bytes_and_the_head_four(trained: Path) -> None:
    model, _ = load_reward_model(trained, torch.bfloat16)
    for module in model.backbone.modules():
        if type(module) in (nn.Linear, nn.Embedding):
            assert module.weight.dtype == torch.bfloat16
    assert next(model.score.parameters()).dtype == torch.float32


LLAMA: dict[str, Any] = {
    **{"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12},
    **{"num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 512},
}
LARGE = LLAMA | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
PEAK = """
import json, sys, torch
from pathlib import Path
from rm.model.checkpoints import load_reward_model

def now(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(kind))

load_reward_model(Path(sys.argv[2]), torch.bfloat16)  # a tiny one: whatever is loaded once
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = now("VmRSS")
model, _ = load_reward_model(Path(sys.argv[1]), torch.bfloat16)
numbers = sum(value.numel() for value in model.parameters())
print(json.dumps((now("VmHWM") - before) / numbers))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_reading_a_bfloat16_model_takes_about_two_bytes_per_parameter(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    names = AutoTokenizer.from_pretrained(backbones["llama"])
    ids = {"bos_token_id": names.bos_token_id, "eos_token_id": names.eos_token_id}
    config = LlamaConfig(vocab_size=len(names), **LLAMA, **ids)
    big = save(LlamaForCausalLM(config), backbones["llama"], tmp_path / "big")
    for source, target in ((big, "trained"), (backbones["llama"], "tiny")):
        model, tokenizer = new_reward_model(source, torch.bfloat16, seed=0)
        save_reward_model(model, tokenizer, tmp_path / target)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "trained", tmp_path / "tiny"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 1.5 < json.loads(done.stdout.splitlines()[-1]) < 3


@pytest.mark.slow
@pytest.mark.parametrize("size", [LLAMA, LARGE], ids=["40M", "400M"])
def test_a_rank_of_zero3_reads_its_share_alone(
    size: dict[str, Any], backbones: dict[str, Path], tmp_path: Path
) -> None:
    names = AutoTokenizer.from_pretrained(backbones["llama"])
    ids = {"bos_token_id": names.bos_token_id, "eos_token_id": names.eos_token_id}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(names), **size, **ids)
    folder = save(LlamaForCausalLM(config), backbones["llama"], tmp_path / "big")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    rank = Path(__file__).with_name("zero3_rank.py")
    done = subprocess.run(
        [*command, rank, folder, backbones["llama"], tmp_path],
        cwd=ROOT,
        # Large blocks come from the system and go back to it, so that the peak is what is held.
        env={
            **os.environ,
            **{"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"},
            "MALLOC_MMAP_THRESHOLD_": "65536",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole, _ = new_reward_model(folder, torch.float32, seed=3)
    numbers = sum(value.numel() for value in whole.parameters())
    for number in (0, 1):
        found = json.loads((tmp_path / f"rank{number}.json").read_text())
        assert found["held"] == pytest.approx(numbers / 2, rel=0.01)
        # Half of the parameters, and the largest one whole while it is read.
        assert found["peak_bytes"] < 0.75 * 4 * numbers
    gathered = torch.load(tmp_path / "gathered.pt")
    for name, value in whole.named_parameters():
        assert value.equal(gathered[name]), name
