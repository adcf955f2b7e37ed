"""Checks by others: images sampled again from the weights (guard G9), and the claims of a record.

The verifier draws at random, after all images were handed in, which are sampled again: nobody can prepare for the draw.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusionbench import record as records
from diffusionbench.benchmarks.simpleeval import guards, scorecard
from diffusionbench.benchmarks.simpleeval.claims import claim_of
from diffusionbench.errors import RequestError
from diffusionbench.limits import reads_extra
from diffusionbench.prompts import PROMPTS, PromptChoice, PromptList
from diffusionbench.request import Evaluation
from diffusionbench.sample import Sample
from diffusionbench.source import ImageSource, PromptFolderSource, UnreadableImages


def draw_again(prompts: PromptList) -> str:
    """Draw 2 % of a set's images by the operating system's randomness, as JSON Lines: file, text and noise seed."""
    chosen = sorted(secrets.SystemRandom().sample(range(prompts.count), guards.num_regenerated(prompts.count)))
    samples = map(prompts.sample, chosen)
    rows = [{"file": f"{sample.file}.png", "text": sample.prompt, "seed": sample.seed} for sample in samples]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def differences(samples: Sequence[Sample], images: ImageSource, again: ImageSource) -> dict[str, float]:
    """Compare images with the same samples made `again` from their ruled noise seeds; missing ones are left out.

    Returns:
        Mean absolute difference in 8-bit levels by `<prompt id>/<k>`; 255 where the sizes differ.
    """
    out = {}
    for sample in samples:
        try:
            (second,), (first,) = again.images([sample]), images.images([sample])
        except UnreadableImages:
            continue
        same_size = first.shape == second.shape
        out[sample.file] = float(np.abs(first.astype(float) - second).mean()) if same_size else 255.0
    return out


def compare_again(evaluation: Evaluation, images: ImageSource, folder: Path) -> Evaluation:
    """Return the evaluation with the differences to images that were sampled again.

    Raises:
        RequestError: if the folder holds no image of the set.
    """
    samples, choice = evaluation.samples(images), evaluation.request.prompts
    found = differences(samples, images, PromptFolderSource(folder))
    if not found or choice is None:
        raise RequestError(
            f"folder {folder} holds no image of this set, such as {samples[0].file}.png. Sample those again "
            "that `diffusionbench prompts --again` draws."
        )
    claim = {**choice.claim, "again": found}
    return evaluation.updated(prompts=choice.model_copy(update={"claim": claim}))


@reads_extra
def verify_record(path: Path) -> str:
    """Check a record of SimpleEval: its set digest must be that of its seed and layout, and its status must hold.

    Raises:
        RequestError: if the record has no SimpleEval score, or does not hold.
    """
    found = records.load(path)
    facts = {key: value for key, value in records.facts_of(found).items() if key in scorecard.SCORINGS}
    if not facts:
        raise RequestError(f"record {path} has no SimpleEval score. Score images with --metrics simpleeval_v1 first.")
    lines = []
    for key, fact in facts.items():
        claim = claim_of(PromptChoice.model_validate(found.extra["request"]["prompts"]))
        opened = PROMPTS.load(key).open(fact["seed"], fact["layout"])
        if opened.digest != fact["set_digest"]:
            raise RequestError(
                f"record {path}: seed {fact['seed']} gives the set {opened.digest[:12]}, and the record names "
                f"{fact['set_digest'][:12]}. It was made by another version or changed; score the images again."
            )
        shown = {
            name: guards.Guard(one["name"], one["value"], flagged=bool(one["flagged"]), note=one["note"])
            for name, one in fact["guards"].items()
        }
        # The record's own G9 might be made up, so the images sampled again are counted once more.
        shown["G9"] = guards.regeneration(claim.again, guards.num_regenerated(opened.count))
        scored = 0.0 if fact["status"] == "incomplete" else 1.0
        _, reasons = scorecard.status_of(scorecard.SCORINGS[key], scored, fact["seed"], claim, shown)
        if fact["status"] == "ranked" and reasons:
            raise RequestError(f"record {path} calls itself ranked, but {reasons[0]}. Do not rank it.")
        lines.append(f"{key}: set {opened.digest[:12]} is that of seed {fact['seed']}; status {fact['status']}")
        lines += [f"  not ranked: {reason}" for reason in reasons]
    return "\n".join(lines)
