"""State of an installation: versions, weights, and the one mismatch that breaks packages beside a CPU torch."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from diffusionbench import provenance
from diffusionbench.errors import UserError
from diffusionbench.folders import cache_folder
from diffusionbench.judges import JUDGES
from diffusionbench.shown import first_line

OPTIONAL = ("scikit-learn", "pyarrow", "datasets", "transformers", "timm", "jinja2", "altair", "tensorboard")


def examine() -> dict[str, Any]:
    """Return findings by name, as text."""
    found: dict[str, Any] = {"hardware": provenance.hardware(), **provenance.packages()}
    for package in OPTIONAL:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found.setdefault(package, "not installed")
    found["torchvision"] = torchvision_state()
    found["cache folder"] = str(cache_folder())
    for name in JUDGES:
        try:
            JUDGES.load(name).check()
            found[f"judge {name}"] = "ready"
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
