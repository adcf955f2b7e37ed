"""Write the outputs that the self-test of judge `efflite0` compares with: `python tools/efflite0_selftest.py`.

Run it only where pattern, weights or preprocessing change on purpose: other outputs are another judge.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from diffusionbench.judges import EFFLITE0
from diffusionbench.judges.efflite0 import SELF_TEST, EfficientNetLite0, patterns
from diffusionbench.writing import write_atomic

# Every so many of the features and logits are kept.
EVERY = {"features": 20, "logits": 25}


def main(out: Path) -> None:
    """Judge the patterns and write the outputs."""
    judge = EfficientNetLite0()
    outputs = []
    for picture in patterns():
        found = judge(picture[None])
        outputs.append(
            {name: [round(float(value), 6) for value in found[name][0, ::step]] for name, step in EVERY.items()}
        )
    write_atomic(out, json.dumps({"weights": EFFLITE0.sha256, "every": EVERY, "outputs": outputs}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Write the outputs that the self-test of judge efflite0 compares with."
    )
    parser.add_argument("--out", type=Path, default=SELF_TEST, help="file of the outputs")
    main(parser.parse_args().out)
