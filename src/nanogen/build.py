"""From a config to what runs: latent space, objective, conditioner, network, extra losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diffusionbench.errors import ConfigError, RequestError
from nanogen.conditions import CONDITIONS, Conditioner
from nanogen.config import Config
from nanogen.latents import Latent, open_latent
from nanogen.losses import LOSSES
from nanogen.losses.loss import ExtraLoss
from nanogen.model.dit import DDT
from nanogen.objectives import OBJECTIVES
from nanogen.objectives.objective import Objective
from nanogen.precision import Precision
from nanogen.resolve import Derived, resolve
from nanogen.rng import initial_seed


@dataclass(frozen=True)
class Components:
    """All that a config implies beside the weights: built once for training, and once for sampling.

    Attributes:
        derived: latent shape, network numbers, shifts.
        objective, latent, conditioner: the rows that the config names, loaded and constructed.
        device, precision: where and in which number type the network runs.
    """

    derived: Derived
    objective: Objective
    latent: Latent
    conditioner: Conditioner
    device: str
    precision: Precision


def build_components(
    config: Config,
    device: str,
    precision: Precision,
    latent: Latent | None = None,
    conditioner: Conditioner | None = None,
) -> Components:
    """Construct everything but the network.

    Args:
        latent, conditioner: in place of the config's own.

    Raises:
        ConfigError: if the components do not fit each other.
        RequestError: if the latent space cannot run.
    """
    derived = resolve(config)
    name = config.objective["name"]
    options = OBJECTIVES[name].options.model_validate(config.objective)
    return Components(
        derived=derived,
        objective=OBJECTIVES.load(name)(options, config.time.mu, config.time.sigma, derived.train_shift, device),
        latent=latent or open_latent(config.latent.name, device, config.latent.weights),
        conditioner=conditioner or CONDITIONS.load(config.condition.kind)(config.condition.model_dump(), device),
        device=device,
        precision=precision,
    )


def build_network(components: Components) -> DDT:
    """Return the network with the heads of its objective; initial weights are drawn from torch's own generator."""
    net = DDT(components.derived.shape)
    net.heads.update(components.objective.heads(components.derived.shape))
    return net


def build_losses(config: Config, components: Components, net: DDT) -> dict[str, ExtraLoss]:
    """Return the extra losses with a weight by name, on the device; initial weights depend on seed and name only.

    Raises:
        ConfigError: if one reads a feature that the network does not have.
        RequestError: if files of its frozen network are missing.
    """
    losses: dict[str, ExtraLoss] = {}
    taps = (*components.derived.shape.taps, *net.heads)
    for name, values in config.losses.items():
        options = LOSSES[name].options.model_validate(values)
        if not options.weight:
            continue
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(initial_seed(config.seed, f"weights of {name}"))
                loss = LOSSES.load(name)(options, components)
        except RequestError as error:
            raise RequestError(f"losses.{name}: {error} Or train without it: losses.{name}.weight=0.") from None
        for tap in loss.taps:
            if tap not in taps:
                raise ConfigError(
                    f"extra loss '{name}' reads '{tap}', and the network has {', '.join(taps)}. Change losses.{name}.* "
                    "or model.*."
                )
        losses[name] = loss.to(components.device)
    return losses
