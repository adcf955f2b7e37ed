"""Measures SimpleEval itself on the `shapes` world.

python -m diffusionbench.benchmarks.simpleeval.calibrate readers ladders ...

Each part prints the table that docs/simpleeval.md quotes: readers (rendered truth), ladders (blur, noise, ability),
shuffles, looks (what must not matter), spread (over seeds), cost.
"""

from __future__ import annotations

import argparse
import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from diffusionbench.benchmarks.simpleeval import attacks, credit, shapes, worlds
from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.answers import agreed, joint
from diffusionbench.benchmarks.simpleeval.blocks import PromptSet
from diffusionbench.benchmarks.simpleeval.builder import build
from diffusionbench.benchmarks.simpleeval.pixels import resize
from diffusionbench.benchmarks.simpleeval.report import Report, SeedClaim, report
from diffusionbench.benchmarks.simpleeval.shapes_answerer import ShapesAnswerer
from diffusionbench.benchmarks.simpleeval.simulate import draw, simulate, truth_answers
from diffusionbench.benchmarks.simpleeval.stream import Stream, octets
from diffusionbench.benchmarks.simpleeval.stress_bench import subset
from diffusionbench.benchmarks.simpleeval.stress_targets import SimpleEvalTarget
from diffusionbench.stats import wilson

Change = Callable[[np.ndarray], np.ndarray]
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
    """One rung of a ladder.

    Args:
        image: uint8 [H, W, 3].
        kind: key in `LADDERS`.
        amount: Gaussian sigma in pixels; noise deviation in levels; share of colour removed; side in pixels.
    """
    if kind == "blur":
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(amount)))
    if kind == "desaturation":
        return attacks.restyle(image, {"saturation": 1 - amount})
    if kind == "resolution":
        return resize(shapes.shrink(image, int(amount)), image.shape[0])
    raw = np.frombuffer(octets("noise", str(image.sum()), 12 * image.size), np.uint8)
    # The sum of twelve uniform numbers is close to normal.
    normal = (raw.reshape(12, *image.shape).sum(axis=0) - 12 * 127.5) / (256 * 1.0)
    return np.clip(np.rint(image + amount * normal), 0, 255).astype(np.uint8)


def nuisance(image: np.ndarray, name: str) -> np.ndarray:
    """A change of looks that shows the same facts; a name of `NUISANCES`."""
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
        return attacks.restyle(image, {"brightness": float(amount.removesuffix(" %")) / 100})
    return attacks.restyle(image, {"sharpness" if kind == "unsharp" else kind: float(amount)})


def score(target: SimpleEvalTarget, prompt_set: PromptSet, images: Sequence[np.ndarray]) -> float:
    """SimpleEval of one image a prompt."""
    judged = target.judge(images, prompt_set.prompts)
    return float(target.values(prompt_set, judged, np.ones((1, prompt_set.num_blocks)))[0])


def images_of(prompt_set: PromptSet, accuracy: float, size: int = shapes.CANVAS) -> list[np.ndarray]:
    """One image a prompt of a generator of known accuracy."""
    return [draw(prompt, 0, accuracy, "calibrate", size).image for prompt in prompt_set.prompts]


def ladder(target: SimpleEvalTarget, prompt_set: PromptSet, kind: str, amounts: Sequence[float]) -> list[float]:
    """SimpleEval of rendered truth under growing damage."""
    truth = images_of(prompt_set, 1.0)
    return [score(target, prompt_set, [degrade(image, kind, amount) for image in truth]) for amount in amounts]


def abilities(target: SimpleEvalTarget, prompt_set: PromptSet, accuracies: Sequence[float]) -> list[float]:
    """SimpleEval of generators of falling accuracy."""
    return [score(target, prompt_set, images_of(prompt_set, p)) for p in accuracies]


def shuffled(target: SimpleEvalTarget, prompt_set: PromptSet, shares: Sequence[float]) -> list[float]:
    """SimpleEval of rendered truth with a share of the images given to other prompts."""
    truth = images_of(prompt_set, 1.0)
    order = Stream("calibrate", "shuffle").shuffle(range(len(truth)))
    out = []
    for share in shares:
        moved = order[: round(share * len(order))]
        images = list(truth)
        for place, source in zip(moved, moved[1:] + moved[:1], strict=True):
            images[place] = truth[source]
        out.append(score(target, prompt_set, images))
    return out


def reader_shares(scenes: int, size: int = shapes.CANVAS) -> dict[str, tuple[int, int, int, int]]:
    """Right answers on rendered truth by kind of fact: (jointly, components alone, filters alone, asked)."""
    answerer = ShapesAnswerer()
    counts: dict[str, Counter[str]] = {name: Counter() for name in world.VOCABULARY}
    prompts = build("shapes", "public-3", "full").prompts
    for prompt in (prompts[i * len(prompts) // scenes] for i in range(scenes)):
        one = draw(prompt, 0, 1.0, "rendered truth", size)
        alone = agreed(answerer.votes([one.image], [prompt])[0], answerer.panel.need)
        wanted = truth_answers(prompt, one.truth)
        for q, question in enumerate(prompt.questions):
            count = counts[world.kind(question.slot)]
            count["asked"] += 1
            count["joint"] += int(joint(alone)[q] == wanted[q])
            count["first"] += int(alone[0, q] == wanted[q])
            count["second"] += int(alone[1, q] == wanted[q])
    return {name: (c["joint"], c["first"], c["second"], c["asked"]) for name, c in counts.items()}


def full_report(prompt_set: PromptSet, accuracy: float, seed: str = "spread") -> Report:
    """The report of a simulated generator, all images, through the readers."""
    target = SimpleEvalTarget()
    drawn = list(simulate(prompt_set, accuracy, seed))
    judged = target.judge([one.image for one in drawn], [one.prompt for one in drawn])
    target.pool.shutdown()
    votes: dict[str, list[np.ndarray | None]] = {}
    for one, vote in zip(drawn, judged, strict=True):
        votes.setdefault(one.prompt.id, []).append(vote)
    return report(credit.tally(prompt_set, votes, ShapesAnswerer.panel), worlds.SHAPES, SeedClaim(prompt_set.seed))


def icc(scores: np.ndarray) -> float:
    """ICC(2,1) of [generators, seeds]: agreement of single scores (Shrout and Fleiss 1979)."""
    n, k = scores.shape
    mean = scores.mean()
    rows = k * ((scores.mean(axis=1) - mean) ** 2).sum() / (n - 1)
    columns = n * ((scores.mean(axis=0) - mean) ** 2).sum() / (k - 1)
    rest = ((scores - mean) ** 2).sum() - rows * (n - 1) - columns * (k - 1)
    error = rest / ((n - 1) * (k - 1))
    return float((rows - error) / (rows + (k - 1) * error + k * (columns - error) / n))


def _print_readers() -> None:
    for size in (64, 32):
        for name, (right, first, second, asked) in reader_shares(1000, size).items():
            low, _ = wilson(right, asked)
            print(
                f"{size} px {name:<11} {right / asked:.4f} (lower bound {low:.4f})  components {first / asked:.4f}  "
                f"filters {second / asked:.4f}  n {asked}"
            )


def _print_ladders(target: SimpleEvalTarget) -> None:
    part = subset(replace(build("shapes", "public-0", "quick"), images_per_prompt=1), 36)
    for kind, amounts in LADDERS.items():
        found = ladder(target, part, kind, amounts)
        print(f"{kind} {'/'.join(map(str, amounts))}: {' '.join(f'{value:.2f}' for value in found)}")
    whole = replace(build("shapes", "public-0", "quick"), images_per_prompt=1)
    found = abilities(target, whole, ABILITIES)
    print(f"ability {'/'.join(map(str, ABILITIES))}: {' '.join(f'{value:.2f}' for value in found)}")
    shares = (0, 0.25, 0.5, 0.75, 1)
    found = shuffled(target, part, shares)
    print(f"shuffled {'/'.join(map(str, shares))}: {' '.join(f'{value:.2f}' for value in found)}")


def _print_looks(target: SimpleEvalTarget) -> None:
    part = subset(replace(build("shapes", "public-0", "quick"), images_per_prompt=1), 36)
    for accuracy in (1.0, 0.8):
        images = images_of(part, accuracy)
        before = score(target, part, images)
        for name in NUISANCES:
            change = score(target, part, [nuisance(image, name) for image in images]) - before
            print(f"accuracy {accuracy}: {name}: {change:+.4f}")


def _print_spread(layout: str) -> None:
    accuracies = (0.9, 0.8, 0.7, 0.6)
    reports = [[full_report(build("shapes", f"public-{i}", layout), p) for i in range(5)] for p in accuracies]
    scores = np.asarray([[found.score.value for found in row] for row in reports])
    for p, row, values in zip(accuracies, reports, scores, strict=True):
        stderr = np.mean([found.score.stderr or 0.0 for found in row])
        print(
            f"{layout} accuracy {p}: mean {values.mean():.3f} sd {values.std(ddof=1):.4f} mean stderr {stderr:.4f} "
            + " ".join(f"{value:.3f}" for value in values)
        )
        for found in row:
            print("   " + found.text().splitlines()[-1])
    print(f"{layout} ICC(2,1) {icc(scores):.4f}")


def _print_cost() -> None:
    answerer = ShapesAnswerer()
    prompts = build("shapes", "public-0", "quick").prompts[:200]
    images = [draw(prompt, 0, 1.0, "cost").image for prompt in prompts]
    answerer.votes(images[:2], prompts[:2])
    started = time.process_time()
    answerer.votes(images, prompts)
    spent = 1000 * (time.process_time() - started) / len(images)
    print(f"{spent:.1f} ms of processor time an image, four copies read by both readers")


def main() -> None:
    """Print the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=["readers", "ladders", "looks", "spread", "cost"])
    parser.add_argument("--layout", default="quick", help="of part spread")
    arguments = parser.parse_args()
    target = SimpleEvalTarget()
    for part in arguments.parts:
        if part == "readers":
            _print_readers()
        elif part == "ladders":
            _print_ladders(target)
        elif part == "looks":
            _print_looks(target)
        elif part == "spread":
            _print_spread(arguments.layout)
        else:
            _print_cost()
    target.pool.shutdown()


if __name__ == "__main__":
    main()
