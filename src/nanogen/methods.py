"""What each method is: what follows from its row, the papers, and the files that it needs; no torch.

The published methods are those of `diffusionbench.study.published.METHODS`, under the same names; all others are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from diffusionbench.available import judge_facts
from diffusionbench.judges import JUDGES
from diffusionbench.study.published import METHODS
from nanogen.config import Config, compose, method_names, plain, read_own
from nanogen.latents import LATENTS
from nanogen.latents.files import WeightFiles, locate
from nanogen.losses import frozen_networks
from nanogen.objectives import OBJECTIVES
from nanogen.resolve import resolve


@dataclass(frozen=True)
class NeededFile:
    """What a method reads from the disk and does not ship; `gated` ones need their licence accepted on the hub."""

    what: str
    licence: str
    gated: bool
    present: bool


@dataclass(frozen=True)
class MethodFacts:
    """One row of `configs/methods.yaml`.

    Attributes:
        published, upstream: names in the published tables and in the public implementation; "" for ours.
        paper: arXiv number of what the method adds, else of its latent space; "" for none.
        differs: from that paper, in words.
        losses: weight of each extra loss.
        parameters: of the network for 1,000 classes, at paper scale or, of rows of 32 px images, at laptop scale.
        needs: files that do not ship.
    """

    name: str
    title: str
    published: str
    upstream: str
    paper: str
    differs: str
    latent: str
    objective: str
    predict: str
    losses: dict[str, float]
    parameters: int
    needs: tuple[NeededFile, ...]

    @property
    def adds(self) -> str:
        """Latent space, objective and extra losses in a few words."""
        parts = [f"latent {self.latent}", f"{self.objective}, {self.predict}-prediction"]
        return ", ".join(parts + [f"{name} {weight:g}" for name, weight in self.losses.items()])

    @property
    def text(self) -> str:
        """One line for a list."""
        licences = dict.fromkeys(f"{need.licence}{' (gated)' * need.gated}" for need in self.needs)
        missing = [need.what for need in self.needs if not need.present]
        parts = [
            f"{'' if self.published else '(ours) '}{self.title}",
            self.adds,
            f"{self.parameters:,} parameters",
            f"arXiv {self.paper}" if self.paper else "",
            f"licences: {', '.join(licences)}" if licences else "",
            f"missing: {', '.join(missing)}" if missing else "all files are here",
        ]
        return "; ".join(filter(None, parts))

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, with `text` and whether all files are `present`."""
        return {**asdict(self), "text": self.text, "present": all(need.present for need in self.needs)}


def method_facts(name: str) -> MethodFacts:
    """Return what a method is and needs."""
    row = read_own("methods.yaml")[0][name]
    small = any("data.image_size" in one for one in (row, read_own("methods.yaml")[0].get(row.get("like"), {})))
    task, scale = ("digits", "laptop") if small else ("imagenet256", "paper")
    config = compose(task, name, scale, overrides=["condition.num_classes=1000"]).config
    about = plain(row.get("about", {}))
    latent, known = LATENTS[config.latent.name], METHODS.get(name)
    return MethodFacts(
        name=name,
        title=about.get("title", latent.title),
        published=known.published if known else "",
        upstream=known.upstream if known else "",
        paper=about.get("paper", latent.paper),
        differs=about.get("differs", "" if about else "the backbone of all rows"),
        latent=config.latent.name,
        objective=config.objective["name"],
        predict=config.objective["predict"],
        losses={loss: options["weight"] for loss, options in config.losses.items()},
        parameters=resolve(config).shape.num_parameters(),
        needs=tuple(_needed(config)),
    )


def all_methods() -> list[MethodFacts]:
    """Return every row in the order of the table."""
    return [method_facts(name) for name in method_names()]


def _needed(config: Config) -> Iterator[NeededFile]:
    """Give the files of a config's latent space, then those of the frozen networks that its training reads."""
    for weights in LATENTS[config.latent.name].weights:
        if not weights.bundled:
            yield _of(config.latent.name, weights)
    objective = OBJECTIVES[config.objective["name"]]
    read = objective.networks(objective.options.model_validate(config.objective))
    for network in dict.fromkeys((*read, *frozen_networks(config.losses))):
        if network in LATENTS:
            if network != config.latent.name:
                yield from (_of(network, weights) for weights in LATENTS[network].weights if weights.part == "encoder")
        else:
            facts = judge_facts(JUDGES[network])
            yield NeededFile(", ".join(facts["needs"]), facts["licence"], False, facts["present"])


def _of(name: str, weights: WeightFiles) -> NeededFile:
    here = locate(name, weights) is not None
    return NeededFile(f"{weights.part} of {name}", weights.licence, weights.gated, here)
