"""Measure recipes anew and write their records: `python tools/measure_recipes.py digits shapes`.

A recipe is a training as a user types it and the guidance scales at which it is scored; runs lie in `outputs/` of the
current folder. `pictures` stands for three image sets that no network has drawn, with which scores of scenes compare.
Each record holds its training's command in `extra.train`. The same command continues a measurement that was stopped.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffusionbench.benchmarks.simpleeval.stress.simulate import simulate
from diffusionbench.images import save_png, to_uint8
from diffusionbench.prompts import PROMPTS
from diffusionbench.record import Record, load, with_attachments
from nanogen.latents import open_latent
from nanogen.study.records import named

RECORDS = Path(__file__).parents[1] / "records"
PROMPT_SET, SEED = "simpleeval_shapes_v1", "public-0"
SIZE = 32


@dataclass(frozen=True)
class Recipe:
    """A training, and what its records are called.

    Attributes:
        title: for tables and pages.
        words: of `nanogen train`.
        guidance: scales to score at, the task's own first.
        variant: of the records, where the method has a more usual recipe for the same metric.
        family: of the records.
    """

    title: str
    words: str
    guidance: tuple[float, ...] = (6.0,)
    variant: str | None = None
    family: str = "vae"


RECIPES = {
    "digits": Recipe("digits in latents, 600 steps", "--task digits --method toy-ae", (1.5, 1.0, 2.0)),
    "digits-pixels": Recipe("digits on pixels, 600 steps", "--task digits --method pixel-v", (1.5,), family="pixel"),
    "shapes-demo": Recipe("scenes, 2,000 steps", "--task shapes 'train.duration=2k steps'", variant="2k"),
    "shapes": Recipe("scenes, 4,000 steps", "--task shapes"),
    "shapes-long": Recipe("scenes, 28,000 steps", "--task shapes 'train.duration=28k steps'", variant="28k"),
}
PICTURES = {
    "rendered": "rendered from the prompts at 32 px",
    "through-toy-ae": "the rendered pictures through toy-ae",
    "shuffled": "the rendered pictures under shuffled prompts",
}


def run(*words: str) -> None:
    """Call one of our programs, which says itself why it fails.

    Raises:
        CalledProcessError: if it fails.
    """
    print("$", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", *words], check=True)


def measure(name: str, seed: int) -> Iterator[Record]:
    """Train a recipe, and score it at each of its guidance scales."""
    recipe, folder = RECIPES[name], f"outputs/{name}-{seed}"
    command = ["nanogen", "train", *shlex.split(recipe.words), f"seed={seed}", "--run", folder]
    run(*command)
    for scale in recipe.guidance:
        place = Path(f"{folder}-guidance-{scale:g}.json")
        if not place.exists():
            run("nanogen", "eval", folder, "--guidance", f"{scale:g}", "--out", str(place))
        parts = [
            recipe.variant or "",
            "" if scale in (1.0, recipe.guidance[0]) else f"guidance-{scale:g}",
            "" if seed == 42 else f"seed-{seed}",
        ]
        facts = {"recipe": name, "seed": seed, "train": shlex.join(command)}
        yield named(
            with_attachments(load(place), place),
            recipe.title,
            recipe.family,
            "-".join(filter(None, parts)) or None,
            facts,
        )


def pictures() -> Iterator[Record]:
    """Draw the scenes of the prompts in three ways, and score them."""
    prompt_set = PROMPTS.load(PROMPT_SET).open(SEED).detail
    drawn = list(simulate(prompt_set, 1.0, "pictures", SIZE))
    ids = [f"{one.prompt.id}/{one.k}" for one in drawn]
    images = np.stack([one.image for one in drawn])
    # Half of the set away, so that no picture meets another prompt of its own block.
    shifted = np.roll(images, len(images) // 2, axis=0)
    for name, shown in (("rendered", images), ("through-toy-ae", through_toy_ae(images)), ("shuffled", shifted)):
        folder, place = f"outputs/pictures-{name}", Path(f"outputs/pictures-{name}.json")
        for id, image in zip(ids, shown, strict=True):
            path = Path(folder, f"{id}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(image, path)
        if not place.exists():
            words = ["--axis", "t2i", "--prompts", PROMPT_SET, "--metrics", PROMPT_SET, "--method", f"pictures-{name}"]
            run("diffusionbench", "run", folder, *words, "--out", str(place))
        yield named(
            with_attachments(load(place), place), PICTURES[name], "reference", None, {"recipe": f"pictures-{name}"}
        )


def through_toy_ae(images: np.ndarray) -> np.ndarray:
    """Encode and decode uint8 [N, H, W, 3]."""
    latent = open_latent("toy-ae", "cpu")
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        return to_uint8(torch.cat([latent.decode(latent.encode(part)) for part in x.split(64)]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure recipes anew and write their records.")
    parser.add_argument("names", nargs="+", choices=[*RECIPES, "pictures"], metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--seed", type=int, default=42, help="of the training")
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder for the records")
    asked = parser.parse_args()
    for name in asked.names:
        for record in pictures() if name == "pictures" else measure(name, asked.seed):
            path = asked.records / f"{record.id}.json"
            record.save(path)
            print(path)


if __name__ == "__main__":
    main()
