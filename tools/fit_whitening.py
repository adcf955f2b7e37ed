"""Fit the whitening of the text encoder `minilm-l6-shapes` anew.

States after the third layer of MiniLM, of all tokens of the first 2,500 captions that the scenes are trained on; writes
`minilm_l6_shapes.safetensors` (16-bit) and `minilm_l6_shapes.json`.
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
from torch import Tensor

from diffusionbench.writing import write_atomic
from nanogen.datasets.shapes import open_shapes
from nanogen.text import ENCODERS, EncoderSpec
from nanogen.text.encoder import TextEncoder, Whitening, whitening_files

ENCODER: Final = "minilm-l6-shapes"
WEIGHTS, CARD = whitening_files("minilm_l6_shapes")
RECIPE: Final[dict[str, Any]] = {"captions": 2_500, "floor": 0.02}


def fit(states: Tensor, floor: float) -> Whitening:
    """Return principal directions, each divided by sqrt(s^2 + (floor s_1)^2).

    Here s is the deviation in a direction and s_1 the largest of them.

    Args:
        states: [n, width].
        floor: share of the largest deviation; smaller deviations are not blown up to 1.
    """
    mean = states.double().mean(0)
    _, singular, directions = torch.linalg.svd(states.double() - mean, full_matrices=False)
    deviations = singular / len(states) ** 0.5
    matrix = directions.T / (deviations.square() + (floor * deviations[0]).square()).sqrt()
    return Whitening(mean.float(), matrix.float())


def main(folder: Path, spec: EncoderSpec = ENCODERS[ENCODER]) -> dict[str, Any]:
    """Fit, write tensors and card into `folder`, and return the card."""
    data = open_shapes(None, 32, "train")
    captions = list(dict.fromkeys(data.caption(index) for index in range(RECIPE["captions"])))
    encoder = TextEncoder("whitening", replace(spec, whitening=None), "cpu", spec.max_tokens)
    whitening = fit(torch.cat(encoder(captions)), RECIPE["floor"])
    payload = save({"mean": whitening.mean.half(), "matrix": whitening.matrix.half().contiguous()})
    card = {
        "what": "whitening of text states: mean and matrix",
        "data": f"the {len(captions):,} distinct of the first {RECIPE['captions']:,} captions of data set shapes",
        "recipe": RECIPE,
        "encoder": encoder.digest,
        "torch": torch.__version__,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    write_atomic(folder / WEIGHTS.name, payload)
    write_atomic(folder / CARD.name, json.dumps(card, indent=2) + "\n")
    return card


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=f"Fit the whitening of {ENCODER} anew.")
    parser.add_argument("--out", type=Path, default=WEIGHTS.parent, help="folder of the tensors and their card")
    print(json.dumps(main(parser.parse_args().out), indent=2))
