"""Small networks of the classes behind the feature networks, with random weights, as folders on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusionbench.judges import JUDGES

LAYERS, HEADS, HIDDEN = 1, 8, 16


def settings(name: str) -> tuple[str, dict[str, Any]]:
    """Class whose files the hub holds, which may be more than a judge reads, and a configuration as wide as the row."""
    width = JUDGES[name].dim
    vit = {"hidden_size": width, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    tower = {**vit, "intermediate_size": HIDDEN}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    decoder = {f"decoder_{key}": value for key, value in text.items()}
    both = {"text_config": {**text, "vocab_size": 64}}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "convnext": ("ConvNextV2ForImageClassification", {"hidden_sizes": [8, 8, 16, width], "depths": [1, 1, 2, 1]}),
        "dinov2": ("Dinov2Model", {**vit, "mlp_ratio": 1, "image_size": 518, "patch_size": 14}),
        "mae": ("ViTMAEForPreTraining", {**tower, **decoder}),
        "siglip": ("SiglipModel", {**both, "vision_config": {**tower, "image_size": 256, "patch_size": 16}}),
        "clip": ("CLIPModel", {**both, "vision_config": {**tower, "image_size": 224, "patch_size": 14}}),
    }
    return found[name]


def save_network(name: str, folder: Path) -> Path:
    """Write a network of a judge into a folder; every parameter is random, those of norms around 1."""
    import torch
    import transformers

    kind, given = settings(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, kind)
        net = model(model.config_class(**given))
        for key, parameter in net.named_parameters():
            gain = key.endswith("weight") and any(part in key for part in ("norm", "layrnorm", "ln_"))
            torch.nn.init.normal_(parameter, float(gain), 0.1)
        net.save_pretrained(folder)
    return folder
