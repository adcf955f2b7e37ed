"""Write the outputs that the self-test of judge `efflite0` compares with.

    python tools/efflite0_selftest.py

Run it only where pattern, weights or preprocessing change on purpose: other outputs are another judge.
"""

from __future__ import annotations

import json

from diffusionbench.judges import EFFLITE0
from diffusionbench.judges.efflite0 import SELF_TEST, EfficientNetLite0, patterns

# Every so many of the features and logits are kept.
EVERY = {"features": 20, "logits": 25}


def main() -> None:
    judge = EfficientNetLite0()
    outputs = []
    for picture in patterns():
        found = judge(picture[None])
        outputs.append(
            {name: [round(float(value), 6) for value in found[name][0, ::step]] for name, step in EVERY.items()}
        )
    SELF_TEST.write_text(json.dumps({"weights": EFFLITE0.sha256, "every": EVERY, "outputs": outputs}) + "\n")
    print(SELF_TEST, judge.self_test())


if __name__ == "__main__":
    main()
