"""A page that samples a small trained network in the browser; weights and noise are in it."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffusionbench.registry import require
from diffusionbench.writing import check_gives_way, write_result
from nanogen.config import Config
from nanogen.pipeline import Loaded
from nanogen.resolve import resolve
from nanogen.rng import sampling_noise

FILE = "live.html"
# Noises in the page, and the most values of a network that one page should carry (4 bytes each).
SEEDS, MAX_VALUES = 32, 4_000_000


def why_not(config: Config) -> str | None:
    """Return why a network cannot be sampled in the page, or None where it can."""
    derived = resolve(config)
    shape, objective = derived.shape, config.objective
    reasons = {
        "it is conditioned on text": shape.num_classes is None,
        f"its latent space is {config.latent.name}, and the page knows pixels": config.latent.name != "pixel",
        f"its objective is {objective['name']}, and the page knows flow": objective["name"] != "flow",
        "it has no decoder": not shape.has_decoder,
        "it has an early output": shape.early_depth is not None,
        f"its sampler is {config.sampler.name}, and the page knows euler": config.sampler.name != "euler",
        f"it has more than {MAX_VALUES:,} parameters": shape.num_parameters() > MAX_VALUES,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def live_data(loaded: Loaded) -> dict[str, Any]:
    """Return what `live.js` reads: shape, weights and noise; seed i is the noise of image i of `nanogen sample`."""
    config, net, derived = loaded.config, loaded.net, resolve(loaded.config)
    shape = net.shape
    tensors: dict[str, Tensor] = dict(net.state_dict())
    for name in ("encoder", "decoder"):
        tensors[f"{name}_cos"], tensors[f"{name}_sin"] = net.get_buffer(f"{name}_rotary")
    noise = sampling_noise(0, range(SEEDS)).normal("noise", shape.latent_shape)
    facts = {
        "encoder": {"depth": shape.encoder_depth, "heads": shape.encoder_num_heads},
        "decoder": {"depth": shape.decoder_depth, "heads": shape.decoder_num_heads},
        "latent": shape.latent_shape,
        "patch": shape.patch_size,
        "tokens": shape.num_image_tokens,
        "classes": shape.num_classes,
        "predict": config.objective["predict"],
        "interval": config.guidance.interval,
        "shift": derived.sampler_shift,
    }
    return {
        "shape": facts,
        "tensors": [[name, tensor.numel()] for name, tensor in tensors.items()],
        "weights": _packed(*tensors.values()),
        "noise_size": noise[0].numel(),
        "noise": _packed(noise),
    }


def _packed(*tensors: Tensor) -> str:
    """Return tensors after each other as base64 of little-endian float32."""
    values = np.concatenate([tensor.detach().cpu().float().numpy().ravel() for tensor in tensors])
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def write_live(loaded: Loaded, out: Path) -> None:
    """Write the page of a network for which `why_not` has no reason; what is no such page is not written over."""
    jinja2 = require("jinja2", "demo", "A live page")
    templates = files("nanogen") / "templates"
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
        (templates / "live.html").read_text(encoding="utf-8")
    )
    config = loaded.config
    classes = loaded.run.facts.get("classes") if loaded.run else None
    text = page.render(
        name=loaded.path.name,
        classes=classes or [str(label) for label in range(loaded.net.shape.num_classes or 0)],
        guidance=config.guidance.scale,
        steps=config.sampler.num_steps,
        seeds=SEEDS,
        step=loaded.step,
        parameters=loaded.net.shape.num_parameters(),
        script=(templates / "live.js").read_text(encoding="utf-8"),
        data=json.dumps(live_data(loaded)),
    )
    check_gives_way(out, "NanoGen live</title>")
    write_result(out, text)
