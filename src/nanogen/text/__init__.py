"""The table of frozen text encoders: rows of data, readable without torch, transformers or weights.

To add an encoder that transformers can open: one row. `open_spec` also takes any local folder of such a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusionbench import bounds
from diffusionbench.errors import ConfigError
from diffusionbench.limits import parse_json, read_small
from diffusionbench.registry import Registry, nearest

ENCODERS = Registry(
    "text encoder",
    {
        "minilm-l6": "nanogen.text.rows:MINILM_L6",
        "minilm-l6-shapes": "nanogen.text.rows:MINILM_L6_SHAPES",
        "qwen3-0.6b": "nanogen.text.rows:QWEN3_06B",
        "t5-v1.1-base": "nanogen.text.rows:T5_BASE",
        "t5-v1.1-xl": "nanogen.text.rows:T5_XL",
        "t5-v1.1-xxl": "nanogen.text.rows:T5_XXL",
        "clip-l": "nanogen.text.rows:CLIP_L",
        "clip-g": "nanogen.text.rows:CLIP_G",
    },
    group="nanogen.text_encoders",
)

Loader = Literal["AutoModel", "T5EncoderModel", "CLIPTextModel"]


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """One frozen encoder whose states, one per token, are the condition.

    Attributes:
        source: "package:name/folder" for files that came with a Python package, "hub:org/name", or "folder:path".
        width: of a state.
        max_tokens: the longest text it was made for.
        loader: class of transformers that opens it without an output head.
        layers: the first so many layers run and give the states; None: all of them.
        whitening: name of one that ships with the package and is applied to the states, or None.
        sha256: of `model.safetensors` where that is pinned, else None.
        title: one line for people, with the source.
    """

    source: str
    width: int
    max_tokens: int
    loader: Loader = "AutoModel"
    layers: int | None = None
    whitening: str | None = None
    sha256: str | None = None
    title: str = ""


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
        row: EncoderSpec = ENCODERS.load(name)
        return row
    folder = Path(name)
    if not folder.is_dir():
        raise ConfigError(
            f"unknown text encoder '{name}': neither a name nor a folder. {nearest(name, list(ENCODERS))} "
            "Folders hold config.json, tokenizer files and model.safetensors."
        )
    return _from_folder(folder)


# model_type of config.json -> the class that leaves out what is not needed.
_LOADERS: dict[str, Loader] = {"t5": "T5EncoderModel", "clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel"}
_WIDTHS, _LIMITS = ("hidden_size", "d_model", "n_embd"), ("max_position_embeddings", "n_positions")
# Models with rotary or relative positions say thousands or nothing; longer captions than this are not expected.
_LONGEST = 512


def _from_folder(folder: Path) -> EncoderSpec:
    try:
        facts = parse_json(read_small(folder / "config.json"))
        inner = facts.get("text_config") or facts
        width = next(inner[key] for key in _WIDTHS if key in inner)
        if type(width) is not int or not 1 <= width <= bounds.WIDTH:
            raise ValueError("no width")
    except (OSError, ValueError, AttributeError, TypeError, StopIteration):
        raise ConfigError(
            f"text encoder folder {folder} has no config.json that states the width of a text model. "
            "Save the model there with save_pretrained."
        ) from None
    limit = next((inner[key] for key in _LIMITS if type(inner.get(key)) is int and inner[key] > 0), _LONGEST)
    return EncoderSpec(
        source=f"folder:{folder}",
        width=width,
        max_tokens=min(limit, _LONGEST),
        loader=_LOADERS.get(str(facts.get("model_type")), "AutoModel"),
        title=f"local {facts.get('model_type', 'model')}",
    )
