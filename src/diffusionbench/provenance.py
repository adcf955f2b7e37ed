"""Code, packages and machine that a number comes from, and the state of an installation."""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from diffusionbench.available import check_judge, judge_facts
from diffusionbench.errors import RequestError, UserError
from diffusionbench.judges import JUDGES
from diffusionbench.shown import first_line
from diffusionbench.writing import cache_folder

PACKAGES = ("diffusionbench", "torch", "numpy", "pillow", "safetensors", "timm", "transformers")
OPTIONAL = ("pyarrow", "datasets", "transformers", "timm", "jinja2", "altair", "tensorboard")
_FORM: Final = re.compile(r"cpu|mps|cuda(?::([0-9]{1,3}))?")


def packages() -> dict[str, str]:
    """Return versions of Python and of the packages that a number can depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
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


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware(device: str = "cpu") -> str:
    """Return processor and number of usable cores; for an accelerator its name in front."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        found = re.search(r"^model name[^:\n]*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        processor = found[1].strip() if found else processor
    described = f"{processor}, {usable_cores()} cores"
    if device.startswith("cuda"):
        import torch

        described = f"{torch.cuda.get_device_name(device)}; {described}"
    return described


def check_device(device: str) -> str:
    """Return a device if something can be computed on it here; torch is imported only where it must be asked.

    Raises:
        RequestError: if the name is none of "cpu", "cuda", "cuda:N" and "mps", or torch finds no such device.
    """
    form = _FORM.fullmatch(device)
    if form is None:
        raise RequestError(f"device '{device}' cannot be used: unknown. Allowed: cpu, cuda, cuda:N, mps.")
    if device == "cpu":
        return device
    import torch

    kind: Any = torch.mps if device == "mps" else torch.cuda
    if kind.device_count() <= int(form[1] or 0):
        raise RequestError(
            f"device '{device}' cannot be used: torch finds {kind.device_count()} of this kind here. Take 'cpu'."
        )
    return device


def examine() -> dict[str, Any]:
    """Return findings by name, as text."""
    found: dict[str, Any] = {"hardware": hardware(), **packages()}
    for package in OPTIONAL:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found.setdefault(package, "not installed")
    found["torchvision"] = torchvision_state()
    found["cache folder"] = str(cache_folder())
    for kind, about in (("features", "of real images"), ("selftests", "of judges")):
        files = [file.stat().st_size for file in (cache_folder() / kind).glob("*") if file.is_file()]
        found[f"cache of {kind}"] = f"{len(files)} files {about}, {sum(files) / 1e6:.1f} MB"
    for name in JUDGES:
        try:
            check_judge(name)
            found[f"judge {name}"] = f"ready; self-test: {judge_facts(JUDGES[name])['self_test']}"
        except UserError as error:
            found[f"judge {name}"] = str(error)
    return found


def torchvision_state() -> str:
    """Return whether torchvision, which is never imported here, loads beside this torch; and the cure if not."""
    try:
        installed = version("torchvision")
    except PackageNotFoundError:
        return "not installed (not needed)"
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, ImportError, OSError) as error:
        return (
            f"{installed} does not load beside this torch ({first_line(error)}), and packages that import it "
            "fail too. Install torch and torchvision from the same index, or uninstall torchvision."
        )
    return installed
