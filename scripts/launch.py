"""Starting the ranks of a run on this machine: what training and evaluation share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from scripts.ranks import watched

ROOT = Path(__file__).resolve().parent.parent


def start_ranks(launcher: Sequence[str], module: str, folder: Path, devices: int) -> None:
    """Run `python -m <launcher> … <module> <folder>` on `devices` ranks to their end.

    `launcher`: the launcher's module and its own options, up to the one that takes a module. Each
    rank reads the configuration that was saved in `folder`: it is composed once (pitfall 18).
    Raises InterruptedRunError, naming the rank, if one fails or is killed.
    """
    command = [sys.executable, "-m", launcher[0], "--master_addr", "127.0.0.1"]
    command += ["--master_port", str(_free_port()), *launcher[1:], module, str(folder.resolve())]
    with watched(folder, devices):
        subprocess.run(command, env=_variables(devices))


def _variables(devices: int) -> dict[str, str]:
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), variables.get("PYTHONPATH", "")])
    if not torch.cuda.is_available():
        variables["DS_ACCELERATOR"] = "cpu"
        # Ranks that each take all cores wait for one another: divide the cores among them.
        variables.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    return variables


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
