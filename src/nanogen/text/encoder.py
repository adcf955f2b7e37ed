"""A frozen text encoder through transformers: captions to states, one per token, without padding.

The weights are verified by hash, read without running code, and never trained.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusionbench.commits import pinned
from diffusionbench.errors import CheckpointError, RequestError
from diffusionbench.judges.hub import UNREADABLE
from diffusionbench.registry import install_command, require
from diffusionbench.schema import file_digest, verify_bundled_weights
from diffusionbench.shown import first_line
from nanogen.hub import opened_hub
from nanogen.latents.files import listed
from nanogen.latents.weights import check_whole, open_pretrained
from nanogen.log import say
from nanogen.moving import moved
from nanogen.text import EncoderSpec

# Captions in one forward pass; sorted by length, so that little is padded.
BATCH_SIZE = 64
# Files that decide the states beside the weights.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("vocab.txt", "vocab.json", "merges.txt"),
)
# Weights in the format of transformers, in the order in which it looks for them; several files have an index.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Patterns of what is fetched: some repositories hold pickled ones alone.
_FETCHED = ("*.safetensors", "pytorch_model*.bin")


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model in the order of names, those alone that transformers reads; none if one lacks.

    Of an index that lists none, the index itself is returned: its reader says what is wrong.
    """
    first = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        return []
    files = [folder / name for name in sorted(listed(first))] if first.suffix == ".json" else [first]
    return files or [first] if all(file.is_file() for file in files) else []


def lacking_files(folder: Path) -> str | None:
    """Return what a folder of an encoder lacks, in words; None where all is there."""
    if not (folder / "config.json").is_file() or not weight_files(folder):
        return (
            "config.json with model.safetensors or pytorch_model.bin, or not all files that an index of several lists"
        )
    # Without them transformers makes a tokenizer that knows no word.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return f"tokenizer, which is one of {', '.join(TOKENIZER_FILES)}"
    return None


@dataclass(frozen=True)
class Whitening:
    """The map x -> (x - mean) matrix, after which the states of all captions vary alike in every direction.

    States lie in a narrow cone, and a few directions hold most of their variance: what tells captions apart is small
    beside what all share. A network that is trained for minutes learns from those directions alone.

    Attributes:
        mean: float32 [width].
        matrix: float32 [width, width].

    Sources: whitening of BERT's states, Su et al. 2021 (arXiv 2103.15316); their few dominant directions, Timkey and
    van Schijndel 2021 (arXiv 2109.04404).
    """

    mean: Tensor
    matrix: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """Map states [..., width] to float32 [..., width]."""
        return (states.float() - self.mean) @ self.matrix


def whitening_files(name: str) -> tuple[Path, Path]:
    """Return where the tensors and the card of a shipped whitening lie."""
    return Path(__file__).with_name(f"{name}.safetensors"), Path(__file__).with_name(f"{name}.json")


def whitening_card(name: str) -> dict[str, Any]:
    """Return recipe and hash of a shipped whitening, as tools/fit_whitening.py wrote them."""
    return json.loads(whitening_files(name)[1].read_text())


def open_whitening(name: str, device: str) -> Whitening:
    """Return a whitening that ships with the package; RequestError unless its file is the one its card names."""
    weights, _ = whitening_files(name)
    verify_bundled_weights(f"whitening '{name}'", weights, whitening_card(name)["sha256"])
    tensors = load_file(weights, device=device)
    return Whitening(tensors["mean"].float(), tensors["matrix"].float())


class TextEncoder:
    """One row of the table, opened where it is first needed.

    Args:
        name: what the config calls it, for messages.
        spec: the row.
        device: where it runs.
        max_tokens: longer captions are cut; at most the encoder's own limit is used.

    Attributes:
        truncated: captions cut so far, each counted once.
    """

    def __init__(self, name: str, spec: EncoderSpec, device: str, max_tokens: int) -> None:
        self.name, self.spec, self.device = name, spec, device
        self.max_tokens = min(max_tokens, spec.max_tokens)
        self.truncated = 0

    @cached_property
    def folder(self) -> Path:
        """Folder of the files; those of the hub are fetched once; RequestError if they are missing."""
        kind, _, place = self.spec.source.partition(":")
        if kind == "package":
            package, _, inside = place.partition("/")
            module = importlib.util.find_spec(package)
            if module is None or module.origin is None:
                raise RequestError(
                    f"text encoder '{self.name}' comes with the package {package.replace('_', '-')}, which is not "
                    f"installed. Run: {install_command('t2i')}"
                )
            folder = Path(module.origin).parent / inside
        else:
            folder = self._fetch(place) if kind == "hub" else Path(place)
        if (lacks := lacking_files(folder)) is not None:
            raise RequestError(
                f"text encoder '{self.name}': {folder} holds no {lacks}. Save the model and its tokenizer there with "
                "save_pretrained, or install or fetch it again."
            )
        weights, expected = folder / "model.safetensors", self.spec.sha256
        if expected is not None and (found := file_digest(weights)) != expected:
            raise CheckpointError(
                f"text encoder '{self.name}': {weights} has SHA-256 {found}, expected {expected}. The file is damaged "
                "or another model; install or fetch it again."
            )
        return folder

    def _fetch(self, repository: str) -> Path:
        hub = require("huggingface_hub", "t2i", f"Fetching text encoder '{self.name}'")
        commit = pinned(repository) or None
        # An unreachable hub takes long to fail, so the local cache is tried first. Others may have put a part there.
        with suppress(Exception):
            folder = Path(hub.snapshot_download(repository, revision=commit, local_files_only=True))
            if lacking_files(folder) is None:
                return folder
        remedy = "Check the connection, or give condition.encoder a folder that holds the files."
        with opened_hub(f"text encoder '{self.name}' needs the files of {self.spec.origin}", remedy, "t2i") as download:
            say(f"fetching text encoder '{self.name}' from {self.spec.origin}")
            for weights in _FETCHED:
                patterns = ["*.json", "*.txt", "*.model", weights]
                folder = Path(download(repository, revision=commit, allow_patterns=patterns))
                if weight_files(folder):
                    break
            return folder

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that decides the states of a caption: weights, tokenizer and the row."""
        files = weight_files(self.folder)
        files += [self.folder / name for name in TOKENIZER_FILES if (self.folder / name).is_file()]
        sha = hashlib.sha256(self.spec.model_class.encode())
        if self.spec.layers is not None:
            sha.update(f" layers {self.spec.layers}\n".encode())
        if self.spec.whitening is not None:
            sha.update(f" whitening {whitening_card(self.spec.whitening)['sha256']}\n".encode())
        for file in files:
            known = file.name == "model.safetensors" and self.spec.sha256
            sha.update(f"{file.name} {known or file_digest(file)}\n".encode())
        return sha.hexdigest()

    @cached_property
    def _tokenizer(self) -> Any:
        transformers = require("transformers", "t2i", "Reading captions")
        try:
            # Right padding: a causal encoder must not see padding before the text.
            return transformers.AutoTokenizer.from_pretrained(self.folder, padding_side="right")
        except UNREADABLE as error:
            raise RequestError(
                f"text encoder '{self.name}': transformers cannot open the tokenizer in {self.folder}: "
                f"{first_line(error).rstrip('.')}. Fetch or save it again."
            ) from None

    @cached_property
    def _model(self) -> Any:
        transformers = require("transformers", "t2i", "Encoding captions")
        # On a CPU float32 is faster than emulated half precision; elsewhere the type of the file.
        dtype = torch.float32 if self.device.startswith("cpu") else "auto"
        fewer = {} if self.spec.layers is None else {"num_hidden_layers": self.spec.layers}
        # Safetensors where there are some; a pickled file is read by the restricted loader.
        options: dict[str, Any] = {"dtype": dtype, "weights_only": True, "ignore_mismatched_sizes": True, **fewer}
        owner = f"text encoder '{self.name}'"
        model, loaded = open_pretrained(transformers, self.spec.model_class, self.folder, owner, **options)
        # Pooled states are not used, and some files have no weights for them.
        check_whole(loaded, self.folder, owner, unused="pooler.")
        return model.to(self.device).eval().requires_grad_(False)

    @cached_property
    def _whitening(self) -> Whitening | None:
        return None if self.spec.whitening is None else open_whitening(self.spec.whitening, self.device)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> list[Tensor]:
        """Return the states of each caption, float [L, width] on the device; an empty one has L = 0: no condition.

        A caption's states depend on the others of its batch by float rounding only.

        Raises:
            RequestError: if the encoder cannot be opened, or knows fewer tokens than its tokenizer gives.
            CheckpointError: if its weights are damaged or another model's.
        """
        states: list[Tensor] = [torch.empty(0, self.spec.width, device=self.device)] * len(captions)
        places = [place for place, caption in enumerate(captions) if caption.strip()]
        if not places:
            return states
        ids = self._tokenizer([captions[place] for place in places], truncation=False, verbose=False)["input_ids"]
        self.truncated += sum(len(row) > self.max_tokens for row in ids)
        places.sort(key=dict(zip(places, map(len, ids), strict=True)).__getitem__)
        for start in range(0, len(places), BATCH_SIZE):
            some = places[start : start + BATCH_SIZE]
            tokens = self._tokenizer(
                [captions[place] for place in some],
                truncation=True,
                max_length=self.max_tokens,
                padding=True,
                return_tensors="pt",
            )
            # Counted before they are moved: nothing waits for the device.
            lengths = tokens["attention_mask"].sum(1).tolist()
            known, highest = self._model.get_input_embeddings().num_embeddings, int(tokens["input_ids"].max())
            if highest >= known:
                raise RequestError(
                    f"text encoder '{self.name}': its tokenizer gives token {highest} and its model knows {known}, so "
                    f"they do not belong together. Save both anew in {self.folder}."
                )
            tokens = {name: moved(tokens[name], self.device) for name in ("input_ids", "attention_mask")}
            mask = tokens["attention_mask"]
            last = self._model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
            if self._whitening is not None:
                last = self._whitening(last)
            for place, row, length in zip(some, last, lengths, strict=True):
                states[place] = row[:length].clone()
        return states
