"""Starting the ranks of a run: one class per file of conf/launch; evaluation shares it.

The command composes the configuration once and saves it in the run's folder, where each rank reads
it: ranks that composed it themselves could disagree. If a rank fails, the others are ended and the
error names it (pipeline.launch.ranks).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from pipeline.launch import ranks
from rm.errors import InputError
from rm.provenance import usable_cores

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.5
GRACE_SECONDS = 10
"""How long ranks may take to end by themselves once one of them has failed."""
END_SECONDS = 60
"""How long a launcher may take to end its ranks; torchrun and DeepSpeed kill them after 30."""
CLUSTER_SECONDS = 120
"""How long Slurm may take from stopping a job's processes to ending or requeueing the job."""


class Launcher(ABC):
    """How the ranks of a run are started. `devices`: number of ranks over all machines."""

    @abstractmethod
    def check(self, devices: int) -> None:
        """Raise InputError if so many ranks cannot be started."""

    @abstractmethod
    def command(self, devices: int) -> list[str]:
        """The launcher's module and its options, up to the one that takes the ranks' module."""

    def is_first(self) -> bool:
        """Whether this machine prepares the run and writes its files."""
        return True

    def in_process(self, devices: int) -> bool:
        """Whether the calling process is the only rank."""
        return False

    def covers(self, node: int) -> bool:
        """Whether the launcher's end is the end of all ranks on machine `node`."""
        return True

    @contextlib.contextmanager
    def hold(self, devices: int) -> Iterator[dict[str, str]]:
        """Hold what the ranks need while they run; environment variables for them."""
        yield {}


class OneMachine(Launcher):
    """What the launchers of a single machine share: torchrun on the loopback address."""

    def check(self, devices: int) -> None:
        """Raise InputError if this machine has GPUs, but fewer than `devices`."""
        check_gpus(devices, devices)

    def command(self, devices: int) -> list[str]:
        """Torchrun, which finds a free port."""
        own = ["--standalone", "--local_addr", "127.0.0.1", "--nproc_per_node", str(devices)]
        return ["torch.distributed.run", *own, "-m"]


@dataclass(frozen=True)
class Local(OneMachine):
    """`devices` ranks on this machine."""

    name: str = "local"

    def in_process(self, devices: int) -> bool:
        """One rank needs no launcher."""
        return devices == 1


@dataclass(frozen=True)
class GpuGroup(OneMachine):
    """`devices` GPUs of this machine that no other run of this kind holds.

    Waits until that many are free. `locks`: folder of the lock files, one per machine and GPU. A
    lock ends with its process.
    """

    name: str
    locks: str

    def check(self, devices: int) -> None:
        """Raise InputError if this machine shows fewer GPUs than `devices`."""
        shown = visible_gpus()
        if len(shown) < devices:
            raise InputError(
                f"launch=gpu_group devices={devices}: this process sees {len(shown)} GPUs "
                "(hydra/launcher=machine shows hydra.launcher.gpus_per_node of them)"
            )

    @contextlib.contextmanager
    def hold(self, devices: int) -> Iterator[dict[str, str]]:
        """Hold the first `devices` free GPUs, all or none of them."""
        folder = Path(self.locks) / socket.gethostname()
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            held = _take_free(folder, devices, stack)
            if not held:
                print(f"waiting for {devices} free GPUs", flush=True)
            while not held:
                time.sleep(POLL_SECONDS)
                held = _take_free(folder, devices, stack)
            print(f"GPUs {', '.join(held)}", flush=True)
            yield {"CUDA_VISIBLE_DEVICES": ",".join(held)}


@dataclass(frozen=True)
class Hostfile(Launcher):
    """Several machines, started from this one by DeepSpeed's launcher, pdsh and ssh.

    `hostfile`: lines "HOST slots=GPUS". Without `master_address`, DeepSpeed finds the first host's.
    """

    name: str
    hostfile: str
    master_address: str | None
    master_port: int

    def check(self, devices: int) -> None:
        """Raise InputError for a bad hostfile, slots that are not `devices`, or without pdsh."""
        slots = self.slots()
        if sum(slots.values()) != devices:
            raise InputError(
                f"{self.hostfile} has {sum(slots.values())} slots on {len(slots)} hosts and "
                f"devices={devices}: make them equal"
            )
        if shutil.which("pdsh") is None:
            raise InputError("launch=hostfile needs pdsh: install it, or use launch=torchrun")

    def slots(self) -> dict[str, int]:
        """Host → slots. Raises InputError if the file isn't there or DeepSpeed can't read it."""
        from deepspeed.launcher.runner import fetch_hostfile

        if not Path(self.hostfile).is_file():
            raise InputError(f"launch.hostfile={self.hostfile}: no such file")
        try:
            return dict(fetch_hostfile(self.hostfile))
        except ValueError as error:
            raise InputError(f"{self.hostfile}: {error}") from error

    def command(self, devices: int) -> list[str]:
        """DeepSpeed's launcher; it finds the address of the first host if none is given."""
        words = ["deepspeed.launcher.runner", "--hostfile", self.hostfile]
        words += ["--master_port", str(self.master_port)]
        if self.master_address is not None:
            words += ["--master_addr", self.master_address]
        return [*words, "--no_local_rank", "--module"]


@dataclass(frozen=True)
class Torchrun(Launcher):
    """The same command on several machines, which meet by torchrun's static rendezvous.

    `node`: this machine, 0 to `nodes` − 1; `master_address`: machine 0's; `wait_minutes`: how long
    one waits for the others. If one of the first three is None, an error says what to give.
    """

    name: str
    nodes: int | None
    node: int | None
    master_address: str | None
    master_port: int
    wait_minutes: float

    def check(self, devices: int) -> None:
        """Raise InputError if something is not given, or `devices` do not divide among machines."""
        for key in ("nodes", "node", "master_address"):
            if getattr(self, key) is None:
                raise InputError(f"launch=torchrun outside Slurm needs launch.{key}=…")
        assert self.nodes is not None and self.node is not None
        if not 0 <= self.node < self.nodes:
            raise InputError(
                f"launch.node={self.node}: {self.nodes} machines are numbered 0 to {self.nodes - 1}"
            )
        if devices % self.nodes:
            raise InputError(
                f"devices={devices} is not a multiple of launch.nodes={self.nodes}: each machine "
                "has equally many ranks"
            )
        check_gpus(devices // self.nodes, devices)

    def command(self, devices: int) -> list[str]:
        """Torchrun for this machine's share of the ranks."""
        assert self.nodes is not None
        words = ["torch.distributed.run", "--nnodes", str(self.nodes)]
        words += ["--nproc_per_node", str(devices // self.nodes), "--node_rank", str(self.node)]
        words += ["--master_addr", str(self.master_address), "--master_port", str(self.master_port)]
        return [*words, "--rdzv_conf", f"timeout={round(60 * self.wait_minutes)}", "-m"]

    def is_first(self) -> bool:
        """True on machine 0."""
        return self.node == 0

    def covers(self, node: int) -> bool:
        """A machine's torchrun knows only its own ranks."""
        return node == self.node


def check_gpus(here: int, devices: int) -> None:
    """Raise InputError if this machine has GPUs, but fewer than its ranks, `here` of `devices`."""
    if torch.cuda.is_available() and here > torch.cuda.device_count():
        raise InputError(
            f"devices={devices}: {here} ranks on this machine, which has "
            f"{torch.cuda.device_count()} GPUs"
        )


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by CUDA_VISIBLE_DEVICES or all of the machine."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [word.strip() for word in named.split(",") if word.strip()]


def _take_free(folder: Path, wanted: int, stack: contextlib.ExitStack) -> list[str]:
    """Lock the first `wanted` free GPUs until `stack` ends; [] if fewer are free."""
    held = []
    with FileLock(folder / ".choosing.lock"), contextlib.ExitStack() as chosen:
        for gpu in visible_gpus():
            with contextlib.suppress(Timeout):
                path = folder / f"{gpu.replace('/', '_')}.lock"  # MIG names hold slashes
                chosen.enter_context(FileLock(path).acquire(timeout=0))
                held.append(gpu)
            if len(held) == wanted:
                stack.enter_context(chosen.pop_all())
                return held
    return []


def start_ranks(launch: Launcher, module: str, folder: Path, devices: int, *arguments: str) -> None:
    """Run `python -m <module> <folder> <arguments>` on all ranks and wait for them.

    If a rank fails, the others are ended. Raises InputError if the rank failed with one, otherwise
    InterruptedRunError, with the rank's name, host, error and log.
    """
    with launch.hold(devices) as own, ranks.lifeline() as line:
        if launch.is_first():
            ranks.clear(folder)
        words = [*launch.command(devices), module, str(folder.resolve()), *arguments]
        process = subprocess.Popen(
            [sys.executable, "-m", *words], env={**_variables(devices), **own, **line}
        )
        try:
            status = _wait(process, folder)
        finally:
            _end(process)
    if status:
        ranks.note_killed(folder, launch.covers)
        if not ranks.any_failed(folder) and "SLURM_JOB_ID" in os.environ:
            # The ranks were stopped: the job is preempted. If this process ended before Slurm ends
            # it, the job would count as done and would not be queued again.
            time.sleep(CLUSTER_SECONDS)
        raise ranks.failure(folder, status)
    if launch.is_first():
        ranks.clear(folder)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait for a launcher, at most GRACE_SECONDS after a rank has failed; return its status."""
    while process.poll() is None and not ranks.any_failed(folder):
        time.sleep(POLL_SECONDS)
    try:
        return process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return 1


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a launcher, which ends its ranks."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _variables(devices: int) -> dict[str, str]:
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), variables.get("PYTHONPATH", "")])
    if not torch.cuda.is_available():
        variables["DS_ACCELERATOR"] = "cpu"
        # Ranks that each use all cores slow one another down: divide the cores among them.
        variables.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // devices)))
    return variables
