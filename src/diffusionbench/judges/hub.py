"""Networks of the Hugging Face hub, loaded through transformers; absent ones are said in a sentence."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError

from diffusionbench.available import is_fetched
from diffusionbench.commits import at_commit, pinned
from diffusionbench.errors import DataError, RequestError, lacking
from diffusionbench.fetching import reachable
from diffusionbench.judges import JudgeSpec
from diffusionbench.judges.judge import Needs
from diffusionbench.registry import require
from diffusionbench.shown import clipped, few, first_line
from diffusionbench.writing import model_folder

EXTRA: Final = "eval-t2i"
# Parameters: a quarter of those of CLIP ViT-L/14, the smallest network that is asked in words.
_SMALLEST: Final = 100_000_000
# Class of transformers -> names of tensors in its older files, as patterns, and what the library calls them now.
RENAMED: Final = {"ConvNextV2Model": {r"\.grn\.gamma$": ".grn.weight", r"\.grn\.beta$": ".grn.bias"}}

# What transformers and diffusers raise over damaged files, or files of other content than they expect.
UNREADABLE: Final = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    *(SafetensorError, pickle.UnpicklingError),
)


def unreadable(error: Exception) -> str:
    """Return why weights cannot be read, in a few words; torch itself advises to run the code that is in them."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "they are pickled, and hold more than plain tensors or are damaged"
    # Lines after the first name the tensors.
    return clipped(" ".join(str(error).split()), 400).rstrip(".") or type(error).__name__


def place(repository: str) -> str:
    """Return the folder of a local copy of a repository, else its hub id."""
    copy = model_folder(repository)
    return str(copy) if copy.is_dir() else repository


def access(source: str) -> dict[str, Any]:
    """Return the options of `from_pretrained` for a folder or hub id: the pinned commit, and where it is looked for.

    Only cached files are, where the hub does not answer: asked all the same, transformers would try for tens of
    seconds.
    """
    if Path(source).is_dir():
        return {"local_files_only": False}
    commit = pinned(source)
    return {"local_files_only": not reachable(), **({"revision": commit} if commit else {})}


def pretrained(kind: Any, repository: str, **options: Any) -> Any:
    """Return what a class of transformers makes of a local copy of a repository, else of its pinned commit."""
    source = place(repository)
    return kind.from_pretrained(source, **access(source), **options)


@contextmanager
def found(name: str, source: str) -> Iterator[None]:
    """Turn what transformers raises where a model is not at a hub id or folder into one sentence.

    Raises:
        RequestError: naming the model and the place.
    """
    where = place(source) if Path(place(source)).is_dir() else at_commit(source, pinned(source))
    lacks = f"the weights of {name} were not found at '{where}'"
    remedy = (
        "Run once with a connection, put a copy into models/ of the cache folder, or score by what needs no hub: "
        "geneval_ssd or simpleeval_shapes_v1 for text-to-image, fd_efflite0 against real images."
    )
    if not Path(source).is_dir() and not is_fetched(source) and not reachable():
        raise RequestError(f"{lacks} (they are not cached, and the hub does not answer). {remedy}")
    try:
        yield
    except (OSError, ValueError) as error:
        raise RequestError(f"{lacks} ({first_line(error)}). {remedy}") from None
    except UNREADABLE as error:
        if lacking(error) is not None:
            raise
        raise RequestError(
            f"the weights of {name} at '{where}' cannot be opened ({unreadable(error)}): a file is damaged or of "
            "another kind. Get the files again."
        ) from None


def check(row: JudgeSpec, memory_mb: int = 0) -> Needs:
    """Verify that transformers is installed and that the models of a row are there by their small files.

    Raises:
        MissingPackageError: if the package is not installed.
        RequestError: if a model is neither in the cache nor on the hub.
    """
    transformers = require("transformers", EXTRA, f"judge '{row.name}'")
    for source in row.hub:
        with found(f"judge '{row.name}'", source):
            transformers.PretrainedConfig.get_config_dict(place(source), **access(place(source)))
    return Needs(packages=("transformers",), memory_mb=memory_mb)


def load(row: JudgeSpec, architecture: Any, device: str, **options: Any) -> Any:
    """Return a frozen network of transformers with the weights of a row's first repository, in its precision.

    Args:
        architecture: its class, or the name of one of transformers.
        options: of `from_pretrained`.

    Raises:
        MissingPackageError, RequestError: as `check`.
        DataError: if tensors are missing or have another shape; names them.
    """
    transformers = require("transformers", EXTRA, f"judge '{row.name}'")
    kind = getattr(transformers, architecture) if isinstance(architecture, str) else architecture
    with found(f"judge '{row.name}'", row.hub[0]):
        network, report = pretrained(
            kind,
            row.hub[0],
            # What follows a semicolon is the judge's own affair.
            dtype=getattr(torch, row.precision.partition(";")[0]),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **{"key_mapping": RENAMED.get(architecture), **options},
        )
    # T5 keeps its embeddings under further names.
    missing = {name for name in report["missing_keys"] if not name.endswith("embed_tokens.weight")}
    if wrong := sorted(missing | {name for name, *_ in report["mismatched_keys"]}):
        raise DataError(
            f"judge '{row.name}': in {place(row.hub[0])} {len(wrong)} tensors are missing or have another shape: "
            f"{few(wrong)}. It is another model; get the checkpoint again."
        )
    return network.to(device).eval().requires_grad_(False)


def processor(row: JudgeSpec, kind: str) -> Any:
    """Return a tokenizer or processor of transformers ("AutoTokenizer", ...) from a row's first repository.

    Raises:
        MissingPackageError, RequestError: as `check`.
    """
    transformers = require("transformers", EXTRA, f"judge '{row.name}'")
    with found(f"judge '{row.name}'", row.hub[0]):
        return pretrained(getattr(transformers, kind), row.hub[0])


def is_stand_in(network: torch.nn.Module) -> bool:
    """Return whether a network is far smaller than any that is published for its purpose, as tests put in its place."""
    return sum(one.numel() for one in network.parameters()) < _SMALLEST


def weights_digest(network: torch.nn.Module) -> str:
    """Return the SHA-256 over names and float32 values of all weights: the same for every file format they came in."""
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
