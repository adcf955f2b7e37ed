"""Code, packages and machine that a number comes from."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("diffusionbench", "torch", "numpy", "pillow", "safetensors", "scikit-learn", "timm", "transformers")


def packages() -> dict[str, str]:
    """Return versions of Python and of the packages that a number can depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit(of: Path = Path(__file__)) -> tuple[str | None, bool | None]:
    """Return the commit of the repository that tracks a file, and whether files differ; (None, None) without."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(of.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository: only one that tracks the file counts.
        git("ls-files", "--error-unmatch", of.name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def hardware(device: str = "cpu") -> str:
    """Return processor and number of usable cores; for an accelerator its name in front."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described = f"{_processor()}, {cores} cores"
    if device.startswith("cuda"):
        import torch

        described = f"{torch.cuda.get_device_name(device)}; {described}"
    return described


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
