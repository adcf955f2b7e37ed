"""Weight files that do not ship with the package: what they are, where they are looked for, how a user gets them.

Nothing here imports torch or opens a connection.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from diffusionbench.commits import at_commit
from diffusionbench.writing import cache_folder, snapshot_folder

# transformers keeps large models in several files of numbered names.
SHARDED: Final = "model.safetensors"


def hub_origin(repository: str, revision: str = "", subfolder: str = "") -> str:
    """Return where files of the hub come from, in words; without a revision none is pinned."""
    return f"https://huggingface.co/{at_commit(repository, revision)}{f', folder {subfolder}' if subfolder else ''}"


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """Files of one origin that a latent space needs.

    Attributes:
        part: what they are in one word, which also names their folder below the one of the latent space.
        names: the files, without folders. `NAME.safetensors` is taken in place of a `NAME.pt` whose content
            is not pinned, and `model.safetensors.index.json` with the files that it lists in place of SHARDED.
        hub: Hugging Face repository that holds them, "org/name"; "" for none.
        revision: its pinned commit; "" where none is known: the hash of what was loaded then tells what was used.
        subfolder: of the repository.
        address: where else to get them.
        licence: as an SPDX name where there is one.
        gated: the licence must be accepted on the hub before a download.
        sha256: of files whose content is pinned, by name.
        bundled: folder beside this file in which they ship; their hashes are pinned there alone.
    """

    part: str
    names: tuple[str, ...]
    hub: str = ""
    revision: str = ""
    subfolder: str = ""
    address: str = ""
    licence: str
    gated: bool = False
    sha256: Mapping[str, str] = field(default_factory=dict)
    bundled: str = ""

    @property
    def origin(self) -> str:
        """Where they come from, in words."""
        return hub_origin(self.hub, self.revision, self.subfolder) if self.hub else self.address

    @property
    def terms(self) -> str:
        """Licence and gate, in words."""
        return f"licence {self.licence}{', gated: accept it there first' if self.gated else ''}"

    def places(self, name: str, folder: Path | None) -> Iterator[Path]:
        """Give the folders in which they are looked for, the first first.

        Args:
            name: of the latent space.
            folder: where the user has them (`latent.weights`).
        """
        for root in ([] if folder is None else [folder]) + [home(name)]:
            yield from (root / self.part, root)
        if self.bundled:
            yield self.shipped
        if self.hub and (snapshot := self.snapshot()) is not None:
            yield snapshot

    @property
    def shipped(self) -> Path:
        """The folder of files that ship."""
        return Path(__file__).with_name(self.bundled)

    def snapshot(self) -> Path | None:
        """Return the folder of the hub's own cache for the files; None where no commit is known."""
        folder = snapshot_folder(self.hub, self.revision)
        return None if folder is None else folder / self.subfolder

    def inside(self, folder: Path) -> list[Path] | None:
        """Return the paths of all the files in a folder, or None where one is missing."""
        found = []
        for name in self.names:
            path = folder / name
            if (
                name not in self.sha256
                and path.suffix == ".pt"
                and (converted := path.with_suffix(".safetensors")).is_file()
            ):
                path = converted
            if name == SHARDED and not path.is_file():
                path = folder / f"{name}.index.json"
                if not all((folder / shard).is_file() for shard in listed(path)):
                    return None
            if not path.is_file():
                return None
            found.append(path)
        return found


def listed(index: Path) -> set[str]:
    """Return the names of the files over which an index spreads the tensors; none where it cannot be read.

    Its reader says then what is wrong with it.
    """
    try:
        return {Path(name).name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def home(name: str) -> Path:
    """Return the folder in which the files of a latent space lie by default; DIFFUSIONBENCH_CACHE moves it."""
    return cache_folder() / "latents" / name


def locate(name: str, weights: WeightFiles, folder: Path | None = None) -> list[Path] | None:
    """Return where files of a latent space lie, in the order of their names, or None where they are nowhere."""
    return next((found for place in weights.places(name, folder) if (found := weights.inside(place))), None)


def remedy(name: str, weights: WeightFiles) -> str:
    """Return how a user gets the files of a latent space, in one sentence."""
    files = " and ".join(weights.names)
    return (
        f"Get {files} from {weights.origin} ({weights.terms}), and put them into {home(name) / weights.part} or into a "
        "folder that latent.weights names."
    )


def presence(name: str, needed: Iterable[WeightFiles], folder: Path | None = None) -> list[str]:
    """Return what is missing of a latent space, each with how to get it; an empty list where all files are there."""
    return [
        f"its {weights.part} is missing. {remedy(name, weights)}"
        for weights in needed
        if locate(name, weights, folder) is None
    ]
