"""Write the outputs that self-tests of judges compare with: `python tools/judge_selftests.py JUDGE`.

Run it only where pattern, weights or preprocessing change on purpose: other outputs are another judge.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from diffusionbench.judges import JUDGES
from diffusionbench.judges.network import patterns
from diffusionbench.writing import write_atomic

# Of each judge, every so many of its numbers that are kept.
KEPT = {"efflite0": {"features": 20, "logits": 25}, "coco_ssd": {"scores": 20, "boxes": 79}}


def main(name: str, out: Path | None = None) -> None:
    """Judge the patterns and write the outputs."""
    judge: Any = JUDGES.load(name)()
    every = KEPT[name]
    outputs = []
    for picture in patterns():
        found = judge.numbers(picture)
        outputs.append({key: [round(float(value), 8) for value in found[key][::step]] for key, step in every.items()})
    content = {"weights": JUDGES[name].sha256, "every": every, "outputs": outputs}
    write_atomic(out or judge.shipped, json.dumps(content) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the outputs that the self-test of a judge compares with.")
    parser.add_argument("judge", choices=list(KEPT))
    parser.add_argument("--out", type=Path, help="file of the outputs; by default the one in the package")
    given = parser.parse_args()
    main(given.judge, given.out)
