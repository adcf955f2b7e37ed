"""A record whose images carry boxes, answers and verdicts, as the judges of text-to-image benchmarks write them."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from site_records import measured

from diffusionbench.record import PER_SAMPLE, Attachment, Record

TEXTS = {
    f"geneval/{place:05d}": (task, text)
    for place, (task, text) in enumerate(
        (("counting", "three <b>dogs</b>"), ("colors", "a red bench"), ("position", "a cat left of a bus"))
    )
}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def attached(text: str) -> Attachment:
    return Attachment(sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)


def boxed_record(name: str = "boxed", right=(1.0, 0.0, None, 1.0, 0.0, 1.0)) -> Record:
    """Three items with two images each; the third image could not be judged."""
    samples = [[index, f"geneval/{index // 2:05d}", index % 2, "0" * 64] for index in range(6)]
    boxes, answers = [], []
    for index, item, k, image in samples:
        about = {"sample": index, "item": item, "k": k, "image": image}
        found = [{"label": "dog", "score": 0.91, "box": [8, 10, 40, 60.5]}, {"label": HOSTILE, "box": [30, 4, 70, 50]}]
        boxes.append({**about, **({"unjudged": "too dark"} if index == 2 else {"row": {"boxes": found}})})
        asked = {"question": f"is there {HOSTILE}?", "answer": "yes", "probability": 0.625, "reason": "seen"}
        answers.append({**about, "row": {"answers": [asked]}})
    verdicts = {
        str(index): {"correct": bool(value), "reasons": [] if value else ["expected 3 dogs, found 1"]}
        for index, value in enumerate(right)
        if value is not None
    }
    table = {"samples": samples, "values": {"geneval_overall": list(right)}}
    record = measured(name, "t2i", {"geneval_overall": 0.5})
    evidence = {"ssd.jsonl": boxes, "vqa.jsonl": answers}
    return record.model_copy(
        update={
            "evidence": {
                PER_SAMPLE: attached(json.dumps(table)),
                **{file: attached("".join(json.dumps(row) + "\n" for row in rows)) for file, rows in evidence.items()},
            },
            "unscored": ("image 2: too dark",),
            "extra": {"facts": {"geneval_overall": {"verdicts": verdicts}}},
        }
    )


def pictures(sample: int) -> np.ndarray | None:
    """A picture of 80 x 64, and none of the last sample."""
    return None if sample == 5 else np.full((64, 80, 3), 40 * sample, np.uint8)
