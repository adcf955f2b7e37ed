"""DiffusionBench scores image generators and keeps every number as a reproducible record."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusionbench.api import compare, evaluate
    from diffusionbench.record import Record, load

__version__ = "0.1.0"
__all__ = ["Record", "__version__", "compare", "evaluate", "load"]

# Imported at the first use: a command line answers without torch.
_PLACES = {"compare": "api", "evaluate": "api", "Record": "record", "load": "record"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'diffusionbench' has no attribute '{name}'")
    return getattr(import_module(f"diffusionbench.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
