"""Measures SimpleEval itself on the `shapes` world.

python tools/calibrate_simpleeval.py readers ladders ...

Each part prints the table that docs/simpleeval.md quotes: readers (rendered truth), ladders (blur, noise, ability,
shuffled captions), looks (changes that must not matter), spread (over seeds), cost.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from diffusionbench.benchmarks.simpleeval import renderer
from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.answers import SetAnswers
from diffusionbench.benchmarks.simpleeval.blocks import Prompt, PromptSet
from diffusionbench.benchmarks.simpleeval.evidence import SHAPES_RULE, ConsensusRule, consensus, majority
from diffusionbench.benchmarks.simpleeval.image_ops import resize
from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.scorecard import SHAPES, ScoreCard
from diffusionbench.benchmarks.simpleeval.shapes_scorer import ShapesScorer
from diffusionbench.benchmarks.simpleeval.stream import HashStream, octets
from diffusionbench.benchmarks.simpleeval.stress.baseline import subset
from diffusionbench.benchmarks.simpleeval.stress.perturbations import restyle
from diffusionbench.benchmarks.simpleeval.stress.simulate import draw, simulate, truth_answers
from diffusionbench.benchmarks.simpleeval.stress.targets import SimpleEvalTarget
from diffusionbench.stats import wilson

LADDERS: Final[dict[str, tuple[float, ...]]] = {
    "blur": (0.5, 1, 1.5, 2, 3, 5),
    "noise": (10, 20, 40, 60),
    "desaturation": (0.3, 0.6, 0.8),
    "resolution": (48, 32, 24, 16),
}
ABILITIES: Final = (1, 0.95, 0.9, 0.8, 0.7, 0.6, 0.4)
NUISANCES: Final = (
    "saturation 1.3",
    "contrast 1.2",
    "unsharp 0.8",
    "jpeg 85",
    "jpeg-full-colour 85",
    "brightness +5 %",
    "brightness -5 %",
    "crop 1 %",
)


def degrade(image: np.ndarray, kind: str, amount: float) -> np.ndarray:
    """Damage an image by one rung of a ladder.

    Args:
        image: uint8 [H, W, 3].
        kind: key in `LADDERS`.
        amount: Gaussian sigma in pixels; noise deviation in levels; share of colour removed; side in pixels.
    """
    if kind == "blur":
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(amount)))
    if kind == "desaturation":
        return restyle(image, {"saturation": 1 - amount})
    if kind == "resolution":
        return resize(renderer.shrink(image, int(amount)), image.shape[0])
    raw = np.frombuffer(octets("noise", str(image.sum()), 12 * image.size), np.uint8)
    # The sum of twelve uniform numbers is close to normal.
    normal = (raw.reshape(12, *image.shape).sum(axis=0) - 12 * 127.5) / (256 * 1.0)
    return np.clip(np.rint(image + amount * normal), 0, 255).astype(np.uint8)


def nuisance(image: np.ndarray, name: str) -> np.ndarray:
    """Change the looks of an image, but none of its facts, by a name of `NUISANCES`."""
    kind, amount = name.split(" ", 1)
    if kind.startswith("jpeg"):
        buffer = io.BytesIO()
        # The usual file halves the resolution of colour; the other one only quantises.
        Image.fromarray(image).save(
            buffer, "JPEG", quality=int(amount), subsampling="4:4:4" if "full" in kind else "4:2:0"
        )
        return np.asarray(Image.open(buffer))
    if kind == "crop":
        return resize(image[1:-1, 1:-1], image.shape[0])
    if kind == "brightness":
        return restyle(image, {"brightness": float(amount.removesuffix(" %")) / 100})
    return restyle(image, {"sharpness" if kind == "unsharp" else kind: float(amount)})


def score(target: SimpleEvalTarget, prompt_set: PromptSet, images: Sequence[np.ndarray]) -> float:
    """Return SimpleEval of one image a prompt."""
    judged = target.judge(images, prompt_set.prompts)
    return float(target.values(prompt_set, judged, np.ones((1, prompt_set.num_blocks)))[0])


def images_of(prompt_set: PromptSet, accuracy: float, size: int = renderer.CANVAS) -> list[np.ndarray]:
    """Draw one image a prompt of a generator of known accuracy."""
    return [draw(prompt, 0, accuracy, "calibrate", size).image for prompt in prompt_set.prompts]


def ladder(target: SimpleEvalTarget, prompt_set: PromptSet, kind: str, amounts: Sequence[float]) -> list[float]:
    """Return SimpleEval of rendered truth under growing damage."""
    truth = images_of(prompt_set, 1.0)
    return [score(target, prompt_set, [degrade(image, kind, amount) for image in truth]) for amount in amounts]


def abilities(target: SimpleEvalTarget, prompt_set: PromptSet, accuracies: Sequence[float]) -> list[float]:
    """Return SimpleEval of generators of falling accuracy."""
    return [score(target, prompt_set, images_of(prompt_set, p)) for p in accuracies]


def shuffled(target: SimpleEvalTarget, prompt_set: PromptSet, shares: Sequence[float]) -> list[float]:
    """Return SimpleEval of rendered truth with a share of the images given to other prompts."""
    truth = images_of(prompt_set, 1.0)
    order = HashStream("calibrate", "shuffle").shuffle(range(len(truth)))
    out = []
    for share in shares:
        moved = order[: round(share * len(order))]
        images = list(truth)
        for place, source in zip(moved, moved[1:] + moved[:1], strict=True):
            images[place] = truth[source]
        out.append(score(target, prompt_set, images))
    return out


def reader_shares(scenes: int, size: int = renderer.CANVAS) -> dict[str, tuple[int, int, int, int]]:
    """Count right answers on rendered truth by kind of fact: (consensus, components alone, filters alone, asked)."""
    scorer = ShapesScorer()
    counts: dict[str, np.ndarray] = {name: np.zeros(4, int) for name in world.VOCABULARY}
    prompts = build("shapes", "public-3", "full").prompts
    for prompt in (prompts[i * len(prompts) // scenes] for i in range(scenes)):
        one = draw(prompt, 0, 1.0, "rendered truth", size)
        alone = majority(scorer.predict([one.image], [prompt])[0], SHAPES_RULE.need)
        both, wanted = consensus(alone), truth_answers(prompt, one.truth)
        for q, question in enumerate(prompt.questions):
            right = [both[q] == wanted[q], alone[0, q] == wanted[q], alone[1, q] == wanted[q], True]
            counts[world.kind(question.slot)] += right
    return {name: tuple(found.tolist()) for name, found in counts.items()}


def competence(judged: Iterable[tuple[Prompt, np.ndarray]], rule: ConsensusRule) -> dict[str, dict[str, float]]:
    """Measure recall and precision by family on images that are known to show the facts of their prompt.

    Args:
        judged: prompts with the predictions int8 [2, 1 + V, Q] on such an image.
        rule: of the scorers.

    Returns:
        family -> recall, precision (1 where the scorers always abstained), n.
    """
    counts: dict[str, np.ndarray] = {}
    for prompt, predictions in judged:
        answers = consensus(majority(predictions, rule.need))
        for question, answer in zip(prompt.questions, answers.tolist(), strict=True):
            if question.answer >= 0:
                found = counts.setdefault(question.family, np.zeros(3, int))
                found += [answer == question.answer, answer >= 0, True]
    return {
        family: {"recall": right / asked, "precision": right / answered if answered else 1.0, "n": asked}
        for family, (right, answered, asked) in ((name, found.tolist()) for name, found in counts.items())
    }


def full_card(prompt_set: PromptSet, accuracy: float, seed: str = "spread") -> ScoreCard:
    """Return the card of a simulated generator, all images, through the readers."""
    target = SimpleEvalTarget()
    drawn = list(simulate(prompt_set, accuracy, seed))
    judged = target.judge([one.image for one in drawn], [one.prompt for one in drawn])
    target.pool.shutdown()
    predictions: dict[str, list[np.ndarray | None]] = {}
    for one, found in zip(drawn, judged, strict=True):
        predictions.setdefault(one.prompt.id, []).append(found)
    return ScoreCard(SetAnswers(prompt_set, predictions, SHAPES_RULE), SHAPES)


def icc(scores: np.ndarray) -> float:
    """Return ICC(2,1) of [generators, seeds]: agreement of single scores (Shrout and Fleiss 1979)."""
    n, k = scores.shape
    mean = scores.mean()
    rows = k * ((scores.mean(axis=1) - mean) ** 2).sum() / (n - 1)
    columns = n * ((scores.mean(axis=0) - mean) ** 2).sum() / (k - 1)
    rest = ((scores - mean) ** 2).sum() - rows * (n - 1) - columns * (k - 1)
    error = rest / ((n - 1) * (k - 1))
    return float((rows - error) / (rows + (k - 1) * error + k * (columns - error) / n))


def print_readers() -> None:
    """Print shares of right answers on rendered truth."""
    for size in (64, 32):
        for name, (right, first, second, asked) in reader_shares(1000, size).items():
            low, _ = wilson(right, asked)
            print(
                f"{size} px {name:<11} {right / asked:.4f} (lower bound {low:.4f})  components {first / asked:.4f}  "
                f"filters {second / asked:.4f}  n {asked}"
            )


def print_ladders(target: SimpleEvalTarget) -> None:
    """Print scores under growing damage, of falling ability, and with shuffled captions."""

    def row(name: str, rungs: Sequence[float], scores: Sequence[float]) -> None:
        print(f"{name} {'/'.join(map(str, rungs))}: {' '.join(f'{value:.2f}' for value in scores)}")

    whole = replace(build("shapes", "public-0", "quick"), images_per_prompt=1)
    part, shares = subset(whole, 36), (0, 0.25, 0.5, 0.75, 1)
    for kind, amounts in LADDERS.items():
        row(kind, amounts, ladder(target, part, kind, amounts))
    row("ability", ABILITIES, abilities(target, whole, ABILITIES))
    row("shuffled", shares, shuffled(target, part, shares))


def print_looks(target: SimpleEvalTarget) -> None:
    """Print how much a change of looks moves the score."""
    part = subset(replace(build("shapes", "public-0", "quick"), images_per_prompt=1), 36)
    for accuracy in (1.0, 0.8):
        images = images_of(part, accuracy)
        before = score(target, part, images)
        for name in NUISANCES:
            change = score(target, part, [nuisance(image, name) for image in images]) - before
            print(f"accuracy {accuracy}: {name}: {change:+.4f}")


def print_spread(layout: str) -> None:
    """Print scores, errors and guards of four abilities on the five public seeds."""
    accuracies = (0.9, 0.8, 0.7, 0.6)
    cards = [[full_card(build("shapes", f"public-{i}", layout), p) for i in range(5)] for p in accuracies]
    scores = np.asarray([[card.score.value for card in row] for row in cards])
    for p, row, values in zip(accuracies, cards, scores, strict=True):
        stderr = np.mean([card.score.stderr or 0.0 for card in row])
        print(
            f"{layout} accuracy {p}: mean {values.mean():.3f} sd {values.std(ddof=1):.4f} mean stderr {stderr:.4f} "
            + " ".join(f"{value:.3f}" for value in values)
        )
        for card in row:
            print("   " + card.text().splitlines()[-1])
    print(f"{layout} ICC(2,1) {icc(scores):.4f}")


def print_cost() -> None:
    """Print the processor time of the readers."""
    scorer = ShapesScorer()
    prompts = build("shapes", "public-0", "quick").prompts[:200]
    images = [draw(prompt, 0, 1.0, "cost").image for prompt in prompts]
    scorer.predict(images[:2], prompts[:2])
    started = time.process_time()
    scorer.predict(images, prompts)
    spent = 1000 * (time.process_time() - started) / len(images)
    print(f"{spent:.1f} ms of processor time an image, four copies read by both readers")


def main() -> None:
    """Print the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=["readers", "ladders", "looks", "spread", "cost"])
    parser.add_argument("--layout", default="quick", help="of part spread")
    arguments = parser.parse_args()
    target = SimpleEvalTarget()
    parts = {
        "readers": print_readers,
        "ladders": lambda: print_ladders(target),
        "looks": lambda: print_looks(target),
        "spread": lambda: print_spread(arguments.layout),
        "cost": print_cost,
    }
    for part in arguments.parts:
        parts[part]()
    target.pool.shutdown()


if __name__ == "__main__":
    main()
