"""One file of conf/bon, typed."""

from __future__ import annotations

from dataclasses import dataclass, field

from eval.best_of_n.decoding import Decoding
from rm.errors import InputError

GOLDS = ("verifier", "reward_model")
ENGINES = ("auto", "synthetic", "transformers", "vllm")


@dataclass
class PolicySettings:
    """What answers the prompts, and how it is sampled.

    `model` names a file of conf/model (null: the profile's backbone); `path`, a local folder, takes
    precedence over it. `engine`: auto takes vLLM where it is installed. `rows` samples, of one
    prompt or of several, are decoded at a time. A synthetic policy answers rightly with probability
    `right`; each prompt has `variants` of its right and wrong answers (faults and wordings).
    """

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int = 0
    rows: int = 64
    dtype: str = "float32"
    engine: str = "auto"
    model: str | None = None
    path: str | None = None
    right: float = 0.3
    variants: int = 3

    @property
    def decoding(self) -> Decoding:
        """The settings that a decoder needs."""
        return Decoding(
            self.samples, self.temperature, self.top_p, self.max_new_tokens, self.seed, self.rows
        )


@dataclass
class PromptSettings:
    """`number` held-out prompts; `subsets` of the generated data (empty: all of them)."""

    number: int
    subsets: list[str] = field(default_factory=list)


@dataclass
class GoldSettings:
    """The gold reward model: a `checkpoint` (folder or Hub name), or one trained here.

    Without a checkpoint it is trained on `pairs` generated pairs, under `overrides` of
    conf/train.yaml.
    """

    checkpoint: str | None = None
    pairs: int = 0
    overrides: list[str] = field(default_factory=list)


@dataclass
class ProxySettings:
    """Methods × seeds trained on `pairs` relabelled pairs, under `overrides` of conf/train.yaml.

    `keep`: whether their checkpoints stay on disk once they have scored the samples.
    """

    methods: list[str]
    seeds: list[int]
    pairs: int
    overrides: list[str] = field(default_factory=list)
    keep: bool = False


@dataclass
class BonSettings:
    """Everything that Best-of-N adds to a profile."""

    name: str
    golds: list[str]
    policy: PolicySettings
    prompts: PromptSettings
    gold: GoldSettings
    proxy: ProxySettings
    resamples: int = 2000

    @property
    def synthetic(self) -> bool:
        """Whether the data's generator makes the candidates and the matrix's models pick."""
        return self.policy.engine == "synthetic"

    def check(self) -> None:
        """Raise InputError for a value that makes no sense."""
        self.policy.decoding.check()
        if self.policy.engine not in ENGINES:
            raise InputError(f"bon.policy.engine={self.policy.engine}: choose {', '.join(ENGINES)}")
        unknown = [gold for gold in self.golds if gold not in GOLDS]
        if unknown or not self.golds:
            raise InputError(f"bon.golds={self.golds}: choose from {', '.join(GOLDS)}")
        if self.synthetic and self.golds != ["verifier"]:
            raise InputError(
                f"bon.golds={self.golds}: a synthetic policy's only gold is the verifier; give "
                "bon.policy.engine=auto for another gold"
            )
        if not 0 <= self.policy.right <= 1:
            raise InputError(f"bon.policy.right={self.policy.right}: must lie in [0, 1]")
        if not self.proxy.methods or not self.proxy.seeds:
            raise InputError("bon.proxy.methods and bon.proxy.seeds: name at least one of each")
        for name, value, least in (
            ("proxy.pairs", self.proxy.pairs, 1),
            ("prompts.number", self.prompts.number, 1),
            ("policy.variants", self.policy.variants, 1),
            ("gold.pairs", self.gold.pairs, 0),
            ("resamples", self.resamples, 1),
            *(("proxy.seeds", seed, 0) for seed in self.proxy.seeds),
        ):
            if value < least:
                raise InputError(f"bon.{name}={value}: must be {least} or more")
