"""The Hugging Face hub: files fetched from it and folders put there, each at a commit that is said.

A name is `hf:OWNER/NAME`, with `@COMMIT` for one state of it. What the hub refuses becomes one sentence, and a hub
that does not answer is said at once.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from diffusionbench.errors import RequestError
from diffusionbench.fetching import reachable
from diffusionbench.registry import require
from diffusionbench.shown import clipped, first_line
from nanogen.log import say

PREFIX: Final = "hf:"
Kind = Literal["model", "dataset"]

# Errors of huggingface_hub -> what they mean.
_MEANING: Final = {
    "GatedRepoError": "it is gated: its licence must be accepted on its page, and this machine be logged in (hf auth "
    "login)",
    "RepositoryNotFoundError": "the hub has no repository of that name; it was renamed, removed or made private",
    "RevisionNotFoundError": "its repository has no such commit; it was rewritten",
}


@contextmanager
def opened_hub(lacks: str, remedy: str, extra: str) -> Iterator[Callable[..., str]]:
    """Give `snapshot_download` of the hub; what it raises becomes one sentence.

    Args:
        lacks: who needs what, such as "latent space 'x' needs its vae".
        remedy: a sentence that says what to do.
        extra: of this package, which installs huggingface_hub.

    Raises:
        RequestError: if the hub must not be asked, or cannot give the files.
    """
    # As its package reads it: "0", "false" and "no" ask for nothing.
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise RequestError(f"{lacks}, and HF_HUB_OFFLINE is set. {remedy}")
    if not reachable():
        raise RequestError(f"{lacks}, and the hub does not answer from here. {remedy}")
    hub = require("huggingface_hub", extra, lacks[0].upper() + lacks[1:])
    # The package loads its parts when they are asked for by name.
    logging = importlib.import_module("huggingface_hub.utils.logging")
    before = logging.get_verbosity()
    # It tells each attempt to reach the hub.
    logging.set_verbosity_error()
    try:
        yield hub.snapshot_download
    except Exception as error:
        reason = _MEANING.get(type(error).__name__) or first_line(error).rstrip(".")
        raise RequestError(f"{lacks}, which cannot be fetched: {reason}. {remedy}") from None
    finally:
        logging.set_verbosity(before)


class Client:
    """What is asked of the hub, through its own package."""

    def fetch(self, repository: str, kind: Kind, revision: str | None, patterns: list[str], cached: bool) -> Path:
        """Return the folder of a repository's files, called after their commit; `cached`: from this machine alone."""
        hub = require("huggingface_hub", "hub", f"{PREFIX}{repository}")
        options = {"repo_type": kind, "revision": revision, "allow_patterns": patterns}
        return Path(hub.snapshot_download(repository, local_files_only=cached, **options))

    def push(self, repository: str, folder: Path, message: str, private: bool) -> str:
        """Make or change a repository of a model, and return the commit."""
        api = require("huggingface_hub", "hub", f"{PREFIX}{repository}").HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message).oid)


CLIENT = Client()


@dataclass(frozen=True)
class HubName:
    """A repository of the hub at a commit, or at its newest one."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}{f'@{self.revision}' if self.revision else ''}"


def is_hub(text: object) -> bool:
    """Return whether a path or text names a repository of the hub."""
    return str(text).startswith(PREFIX)


def parse(text: str) -> HubName:
    """Return the parts of `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`; the prefix may be left out."""
    found = re.fullmatch(r"(?:hf:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text)
    if found is None or ".." in text:
        raise RequestError(f"'{clipped(text, 100)}' is no name on the hub. Write {PREFIX}OWNER/NAME or with @COMMIT.")
    return HubName(found[1], found[2])


def pinned(name: HubName, kind: Kind, patterns: list[str]) -> tuple[HubName, Path]:
    """Return a repository at its commit, and the folder of its files; fetches what is not on this machine.

    A commit that was fetched before needs no network; where the hub does not answer, neither does a name without one.
    """
    if re.fullmatch(r"[0-9a-f]{40}", name.revision or "") or not reachable():
        with suppress(Exception):
            folder = CLIENT.fetch(name.repository, kind, name.revision, patterns, cached=True)
            return replace(name, revision=folder.name), folder
    remedy = f"Check the name and the connection, or log in (hf auth login) where the {kind} is private."
    with opened_hub(f"{name} is not on this machine", remedy, "hub"):
        folder = CLIENT.fetch(name.repository, kind, name.revision, patterns, cached=False)
    return replace(name, revision=folder.name), folder


def weights_of(text: str) -> Path:
    """Return the weights file of a network on the hub, as `nanogen push` put it there."""
    name, folder = pinned(parse(text), "model", ["ema.safetensors", "config.yaml"])
    path = folder / "ema.safetensors"
    if not path.is_file():
        raise RequestError(f"{name} holds no ema.safetensors. Name a repository that `nanogen push` filled.")
    say(f"weights of {name}")
    return path


def data_of(text: str) -> tuple[HubName, Path]:
    """Return a data set of the hub at its commit, and the folder of its Parquet files, tars or pictures."""
    return pinned(parse(text), "dataset", ["*"])
