"""Train the autoencoder `toy-ae` anew: `python tools/train_toy_ae.py --device cuda`.

Rendered scenes of a seed of its own (131,072, mirrored at random) and, one in eleven, digits of the training split,
both at 32 px. Loss: `nanogen.tokenizer.reconstruction`. Muon 0.02 for the inner kernels, AdamW 2e-3 for the rest, with
a cosine. 1.5 million images: minutes on an H200, in mixed precision; five hours on one core. The same command
continues. Writes `toy_ae.safetensors` (16-bit) and `toy_ae.json`.

Source of Muon: Jordan et al. 2024 (kellerjordan.github.io/posts/muon).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from diffusionbench.benchmarks.simpleeval import renderer
from diffusionbench.schema import digest
from diffusionbench.writing import write_atomic
from nanogen.data import Batch
from nanogen.datasets.digits import open_digits
from nanogen.latents import LATENTS
from nanogen.latents.toy import CARD, SIZE, WEIGHTS, Autoencoder
from nanogen.outputs import Periods
from nanogen.rng import PositionalNoise
from nanogen.tokenizer.first_stage import FirstStage, train_tokenizer
from nanogen.tokenizer.reconstruction import Reconstruction

RECIPE: Final[dict[str, Any]] = {
    "seed": 0,
    "scenes": 131_072,
    "steps": 6_000,
    "batch": 256,
    "digits": 24,
    "rate": 2e-3,
    "muon": 0.02,
    "noise": 1.4,
    "coloured": 3.0,
    "detail": 1.5,
}
CHANNELS: Final = LATENTS["toy-ae"].channels
#: Seed of the scenes, and how many after the training ones give the figures on the card.
SCENES: Final = "toy-ae"
HELD_OUT: Final = 512


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is brought near the closest orthogonal one by five Newton-Schulz steps.

    Args:
        parameters: kernels [out, in, height, width], taken as matrices [out, rest].
        momentum: of the gradient, in Nesterov's form.
        lr_scale: rate in units of the schedule.
    """

    # It leaves everything as it is where `found_inf` is 1.
    _step_supports_amp_scaling = True

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.95, lr_scale: float = 1.0) -> None:
        super().__init__(parameters, {"lr": 0.0, "momentum": momentum, "lr_scale": lr_scale})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step at the rate of each group."""
        for group in self.param_groups:
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                refused = getattr(self, "found_inf", torch.zeros((), device=mean.device)) > 0
                moved = group["momentum"] * mean + parameter.grad
                mean.copy_(torch.where(refused, mean, moved))
                update = orthogonal((parameter.grad + group["momentum"] * moved).flatten(1)).reshape(parameter.shape)
                parameter.sub_(torch.where(refused, torch.zeros_like(update), group["lr"] * update))


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix near the closest orthogonal one, scaled by sqrt(rows / columns) where it is tall."""
    tall = matrix.shape[0] > matrix.shape[1]
    update = matrix.T if tall else matrix
    update = update / (update.norm() + 1e-7)
    for _ in range(5):
        gram = update @ update.T
        update = 3.4445 * update + (-4.775 * gram + 2.0315 * gram @ gram) @ update
    scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
    return scale * (update.T if tall else update)


def optimizers(parameters: Mapping[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Return Muon for the kernels between hidden layers, AdamW for the rest."""
    inner = [weight for weight in parameters.values() if weight.dim() == 4 and min(weight.shape[:2]) > 3]
    rest = [weight for weight in parameters.values() if all(weight is not other for other in inner)]
    return [
        Muon(inner, lr_scale=RECIPE["muon"] / RECIPE["rate"]),
        torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    ]


def scene(index: int) -> np.ndarray:
    """Return one rendered picture uint8 [32, 32, 3]."""
    return renderer.training_pair(SCENES, index, SIZE)[0]


def scenes(start: int, count: int) -> Tensor:
    """Rendered pictures uint8 [count, 3, 32, 32], by all processors."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        images = np.stack(list(pool.map(scene, range(start, start + count), chunksize=256)))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def handwritten(split: str) -> Tensor:
    """Return the digits of a split as uint8 [n, 3, 32, 32]."""
    digits = open_digits(None, SIZE, split)
    return torch.from_numpy(np.stack([digits[index].image for index in range(len(digits))])).permute(0, 3, 1, 2)


def signed(images: Tensor) -> Tensor:
    """Map uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def batches(step: int, rendered: Tensor, digits: Tensor) -> Iterator[Batch]:
    """Give the batches from a step on: scenes, half of them mirrored, then digits."""
    positions = list(range(RECIPE["batch"]))
    num_scenes = RECIPE["batch"] - RECIPE["digits"]
    while True:
        noise = PositionalNoise(RECIPE["seed"], positions, step=step)
        chosen, mirrored = noise.uniform("image"), noise.uniform("mirror") < 0.5
        pictures = rendered[(chosen[:num_scenes] * len(rendered)).long()]
        pictures = torch.where(mirrored[:num_scenes, None, None, None], pictures.flip(3), pictures)
        numbers = digits[(chosen[num_scenes:] * len(digits)).long()]
        yield Batch(torch.cat([pictures, numbers]), None, None, positions)
        step += 1


def reconstruction_loss(device: str) -> Callable[..., dict[str, Tensor]]:
    """Return the step's loss; the network runs in bfloat16 on a GPU."""
    compare = Reconstruction(RECIPE["noise"], RECIPE["coloured"], RECIPE["detail"])

    def step_loss(net: Callable[..., Any], batch: Batch, noise: PositionalNoise) -> dict[str, Tensor]:
        assert batch.image is not None
        images = signed(batch.image.to(device)).contiguous(memory_format=torch.channels_last)

        def run(images: Tensor, disturb: Callable[[Tensor], Tensor]) -> Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                return net(images, disturb).float()

        return compare(run, images, noise)

    return step_loss


def train(folder: Path, steps: int, device: str) -> Autoencoder:
    """Return the trained network, on the CPU."""
    torch.manual_seed(RECIPE["seed"])
    net = Autoencoder(CHANNELS).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rendered, digits = scenes(0, RECIPE["scenes"]), handwritten("train")

    def schedule(step: int) -> float:
        """Warm up, then fall along a cosine."""
        return RECIPE["rate"] * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))

    stage = FirstStage(
        name=digest(RECIPE | {"steps": steps})[:12],
        net=net,
        loss=reconstruction_loss(device),
        loader=lambda step: batches(step, rendered, digits),
        optimizers=optimizers,
        schedule=schedule,
        last=steps,
        periods=Periods(RECIPE["batch"], log_every=100, checkpoint_every=500, keep=1),
        seed=RECIPE["seed"],
    )
    trained = train_tokenizer(folder, stage).module.net
    assert isinstance(trained, Autoencoder)
    return trained.cpu().eval().requires_grad_(False)


def psnr(model: Autoencoder, images: Tensor, noise: float = 0.0) -> float:
    """Peak signal to noise ratio of the reconstruction in dB, range 2, latents plus seeded noise."""
    latents = model.encode(signed(images))
    generator = torch.Generator().manual_seed(0)
    decoded = model.decode(latents + noise * torch.randn(latents.shape, generator=generator)).clamp(-1, 1)
    return 10 * math.log10(4 / (decoded - signed(images)).square().mean().item())


def main(out: Path, run: Path, steps: int = RECIPE["steps"], device: str = "cpu") -> dict[str, Any]:
    """Train in the folder `run`, measure on held-out images, write weights and card into `out`; returns the card."""
    tensors = {
        name: tensor.half() if tensor.dim() > 1 else tensor.float()
        for name, tensor in train(run, steps, device).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    payload = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    model = Autoencoder(CHANNELS)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    model.eval().requires_grad_(False)
    pictures, digits = scenes(RECIPE["scenes"], HELD_OUT), handwritten("held_out")
    card = {
        "what": "autoencoder of 32 px images: stride 8, 16 channels, decoder trained under noise",
        "data": f"rendered scenes of seed {SCENES}; scikit-learn load_digits, training split; at 32 px",
        "recipe": RECIPE | {"steps": steps},
        "torch": torch.__version__,
        "psnr": {
            "scenes": round(psnr(model, pictures), 2),
            "scenes, noise 0.4": round(psnr(model, pictures, 0.4), 2),
            "digits": round(psnr(model, digits), 2),
        },
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    write_atomic(out / WEIGHTS.name, payload)
    write_atomic(out / CARD.name, json.dumps(card, indent=2) + "\n")
    return card


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the autoencoder toy-ae anew.")
    parser.add_argument("--out", type=Path, default=WEIGHTS.parent, help="folder for weights and card")
    parser.add_argument("--run", type=Path, default=Path("outputs/toy-ae"), help="folder of the training")
    parser.add_argument("--steps", type=int, default=RECIPE["steps"], help="optimizer steps")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.out, arguments.run, arguments.steps, arguments.device), indent=2))
