"""Fit the whitening of `minilm-l6-shapes` anew: python -m nanogen.text.fit_whitening.

States after the third layer of MiniLM, of all tokens of the first 2,500 captions that the scenes are trained on. Takes
half a minute on one core; writes `minilm_l6_shapes.safetensors` (16-bit) and `minilm_l6_shapes.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save

from diffusionbench.writing import write_atomic
from nanogen.datasets.shapes import open_shapes
from nanogen.text import EncoderSpec
from nanogen.text.encoder import TextEncoder
from nanogen.text.rows import MINILM_L6_SHAPES
from nanogen.text.whitening import files, fit

NAME: Final = "minilm_l6_shapes"
RECIPE: Final[dict[str, Any]] = {"captions": 2_500, "floor": 0.02}


def main(folder: Path = Path(__file__).parent, spec: EncoderSpec = MINILM_L6_SHAPES) -> dict[str, Any]:
    """Fit, write tensors and card into `folder`; returns the card."""
    data = open_shapes(None, 32, "train")
    captions = list(dict.fromkeys(data.caption(index) for index in range(RECIPE["captions"])))
    encoder = TextEncoder("whitening", replace(spec, whitening=None), "cpu", spec.max_tokens)
    whitening = fit(torch.cat(encoder(captions)), RECIPE["floor"])
    payload = save({"mean": whitening.mean.half(), "matrix": whitening.matrix.half().contiguous()})
    made = {
        "what": "whitening of text states: mean and matrix",
        "data": f"the {len(captions):,} distinct of the first {RECIPE['captions']:,} captions of data set shapes",
        "recipe": RECIPE,
        "encoder": encoder.digest,
        "torch": torch.__version__,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    weights, card = (folder / path.name for path in files(NAME))
    write_atomic(weights, payload)
    write_atomic(card, json.dumps(made, indent=2) + "\n")
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fit the whitening of minilm-l6-shapes anew.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for tensors and card")
    print(json.dumps(main(parser.parse_args().out), indent=2))
