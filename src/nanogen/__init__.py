"""NanoGen trains and samples diffusion transformers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanogen.api import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Imported at the first use: a command line answers without torch.
    if name != "load":
        raise AttributeError(f"module 'nanogen' has no attribute '{name}'")
    return import_module("nanogen.api").load


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
