"""Configs and tables as text for the terminal; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusionbench.errors import ConfigError
from diffusionbench.registry import Table
from diffusionbench.shown import printable
from nanogen.conditions import CONDITIONS
from nanogen.config import SCALES, ComposedConfig, Config, differences, leaves, read_own, task_names
from nanogen.datasets import DATASETS
from nanogen.latents import LATENTS, LatentSpec
from nanogen.latents.files import locate, presence
from nanogen.losses import LOSSES
from nanogen.methods import all_methods
from nanogen.objectives import OBJECTIVES
from nanogen.optimizers import OPTIMIZERS
from nanogen.resolve import Derived, resolve
from nanogen.samplers import SAMPLERS
from nanogen.text import ENCODERS
from nanogen.tokenizer.settings import recipe_names


def derived_values(derived: Derived) -> dict[str, Any]:
    """Return the derived values of a config by name."""
    shape = derived.shape
    return {
        "latent_shape": list(shape.latent_shape),
        "patch_size": shape.patch_size,
        "image_tokens": shape.num_image_tokens,
        "token_width": shape.token_width,
        "time_shift": derived.train_shift,
        "sampler_shift": derived.sampler_shift,
        "parameters": shape.num_parameters(),
        "forward_gflops_per_image": shape.forward_flops() / 1e9,
    }


def _derive(config: Config) -> tuple[Derived | None, str]:
    """Return the derived values of a config, or None and the reason where they depend on the data."""
    try:
        return resolve(config), ""
    except ConfigError as error:
        if config.condition.num_classes != "auto":
            raise
        return None, str(error)


def as_dict(composed: ComposedConfig) -> dict[str, Any]:
    """Return choice, config, hash, origins and derived values as plain data."""
    derived, _ = _derive(composed.config)
    return {
        **composed.choice,
        "hash": composed.config.hash,
        "config": composed.config.model_dump(mode="json"),
        "origins": composed.origins,
        "derived": None if derived is None else derived_values(derived),
    }


def as_text(composed: ComposedConfig, why: bool = False) -> str:
    """Return one `key: value` line per setting, then the derived values as comments.

    Args:
        why: add the layers, and to each setting the file and line it comes from.
    """
    choice, (derived, reason) = composed.choice, _derive(composed.config)
    lines = [f"# {choice['task']} / {choice['method']} / {choice['scale']}   hash {composed.config.hash[:16]}"]
    if why:
        lines += ["# layers; a later one wins:", *(f"#   {layer}" for layer in composed.layers)]
    rows = [
        (f"{key}: {json.dumps(value) if not isinstance(value, str) else value}", composed.origins.get(key, ""))
        for key, value in leaves(composed.config.model_dump(mode="json")).items()
    ]
    width = max(len(row) for row, _ in rows)
    lines += [f"{row:<{width}}  # {origin}" if why else row for row, origin in rows]
    if derived is None:
        lines.append(f"# {reason}")
    else:
        lines.append("# derived, never written")
        for name, value in derived_values(derived).items():
            shown = f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else value
            lines.append(f"# {name}: {shown}")
        name, weights = composed.config.latent.name, composed.config.latent.weights
        for lack in presence(name, derived.latent.weights, None if weights is None else Path(weights)):
            lines.append(f"# cannot train yet: latent space '{name}': {lack}")
    return "\n".join(map(printable, lines))


def as_difference(names: tuple[str, str], pair: tuple[ComposedConfig, ComposedConfig], as_json: bool) -> str:
    """Return the keys in which two composed configs of these names differ, with both values, none of them derived.

    Args:
        as_json: one JSON object, key -> [first value, second value].
    """
    found = differences(pair[0].config, pair[1].config)
    if as_json:
        return json.dumps({key: list(values) for key, values in found.items()}, indent=2)
    choice = pair[0].choice
    rows = [("key", *names), *((key, *map(json.dumps, values)) for key, values in found.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines.append(f"# {len(found)} keys differ ({choice['method']}, {choice['scale']})")
    return "\n".join(map(printable, lines))


def tables() -> dict[str, dict[str, Any]]:
    """Return everything that can be chosen: list -> name -> a few words, or facts of which `text` is shown."""

    def headline(*parts: str) -> str:
        tree, _ = read_own(*parts)
        return tree.ca.comment[1][0].value.lstrip("# ").strip().partition(" -- ")[2]

    def facts(spec: LatentSpec) -> Iterator[str]:
        yield from (f"{spec.channels} channels", f"stride {spec.stride}")
        if spec.licence:
            yield f"licence {spec.licence}"
        if spec.paper:
            yield f"arXiv {spec.paper}"
        for weights in spec.weights:
            where = locate(spec.name, weights)
            here = "missing" if where is None else f"in {where[0].parent}"
            yield f"{weights.part} {here}: {weights.origin} (licence {weights.licence}{', gated' * weights.gated})"

    titled: dict[str, Table[Any]] = {
        "objectives": OBJECTIVES,
        "optimizers": OPTIMIZERS,
        "losses": LOSSES,
        "samplers": SAMPLERS,
        "data": DATASETS,
        "conditions": CONDITIONS,
        "encoders": ENCODERS,
    }
    return {
        "tasks": {name: headline("task", f"{name}.yaml") for name in task_names()},
        "methods": {method.name: method.as_dict() for method in all_methods()},
        "scales": {name: headline("scale", f"{name}.yaml") for name in SCALES},
        "tokenizers": {name: headline("tokenizer", f"{name}.yaml") for name in recipe_names()},
        "latents": {name: f"{spec.title}: {', '.join(facts(spec))}" for name, spec in LATENTS.items()},
        **{name: {key: row.title for key, row in table.items()} for name, table in titled.items()},
    }
