"""The same samples file by vLLM, where it is installed (an optional extra).

Not tested against vLLM itself, which needs a GPU and is not in requirements.txt: the tests replace
vLLM by a stand-in and check what it is asked for. vLLM draws other random numbers than
transformers, so the two engines give different samples of the same distribution.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.best_of_n.decoding import Decoding, PolicyText, stream_seed
from eval.best_of_n.prompts import Prompt
from eval.best_of_n.sampling import Sampled, Sampler, answered, encode_all
from rm.errors import InputError


def is_installed() -> bool:
    """Whether vLLM can be imported."""
    return importlib.util.find_spec("vllm") is not None


def vllm_sampler(folder: Path, policy: PolicyText, settings: Decoding, dtype: str) -> Sampler:
    """Sample with vLLM: every sample is a request with its own seed, and the prefix is cached.

    Raises InputError if vLLM is not installed.
    """
    if not is_installed():
        raise InputError(
            "bon.policy.engine=vllm: vLLM is not installed; pip install vllm or give engine=auto"
        )
    from vllm import LLM, SamplingParams

    engine: Any = LLM(model=str(folder), dtype=dtype, enable_prefix_caching=True)

    def sample(prompts: Sequence[Prompt]) -> list[Sampled]:
        ids, skipped = encode_all(policy, prompts, settings.max_new_tokens)
        rows = [(name, index) for name in ids for index in range(settings.samples)]
        requests = [{"prompt_token_ids": ids[name]} for name, _ in rows]
        parameters = [
            SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=settings.max_new_tokens,
                seed=stream_seed(settings.seed, name, index) % 2**31,
                stop_token_ids=sorted(policy.stops),
            )
            for name, index in rows
        ]
        answers = engine.generate(requests, parameters, use_tqdm=False) if rows else []
        written: dict[str, list[list[int]]] = {name: [] for name in ids}
        for (name, _), answer in zip(rows, answers, strict=True):
            written[name].append(list(answer.outputs[0].token_ids))
        return [answered(policy, prompt, written, skipped) for prompt in prompts]

    return sample
