"""The device to compute on, and the dtype of its fast matrix products."""

from __future__ import annotations

import platform

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def best_device() -> str:
    """Name of the device to compute on: cuda where there is a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def multiplies_bfloat16(device: str) -> bool:
    """Whether `device` ("cpu", "cuda", "cuda:1") multiplies bfloat16 matrices in hardware.

    True for GPUs from Ampere on, x86 processors with AVX-512 BF16 or AMX, and Arm processors with
    BF16. Others emulate it: on an AVX2 processor a product took 7 times as long as in float32.
    False if this build of torch cannot tell (on Apple silicon it has no mkldnn).
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("aarch64", "arm64"):
        probe = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    else:
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return probe is not None and bool(probe())


def fast_dtype() -> str:
    """Name of the dtype for matrix products on this machine: bfloat16, float32 if it's emulated."""
    return "bfloat16" if multiplies_bfloat16(best_device()) else "float32"


def emulation(dtype: torch.dtype, key: str) -> str | None:
    """Warning if this machine only emulates `dtype`, else None; `key` is the configuration key."""
    if dtype != torch.bfloat16 or multiplies_bfloat16(best_device()):
        return None
    return f"bfloat16 is emulated on this machine: {key}=float32 takes a fraction of the time"
