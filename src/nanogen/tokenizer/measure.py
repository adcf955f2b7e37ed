"""How well a latent space keeps images: reconstruction metrics, pictures, and what its latents look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusionbench.available import judge_facts
from diffusionbench.errors import RequestError
from diffusionbench.images import to_uint8
from diffusionbench.judges import JUDGES
from diffusionbench.judges.float32 import features_of
from diffusionbench.judges.lpips import missing_weights, open_lpips
from diffusionbench.metrics.frechet import frechet_from_features
from diffusionbench.metrics.reconstruction import psnr, ssim
from nanogen.data import Batch
from nanogen.log import say

# Images of a row of the picture, and rows of each kind.
COLUMNS, _ROWS = 16, 2


class Measured:
    """Metrics of reconstructions, from a stream of batches.

    PSNR and SSIM always; LPIPS where the files of VGG-16 are; a Frechet distance between the features of images and
    reconstructions for each judge that is installed: `rfid` of Inception, else `fd_JUDGE`, which is no FID.

    Args:
        judges: names of judges with features.

    Raises:
        RequestError: if a judge has none.
    """

    def __init__(self, judges: Sequence[str], device: str) -> None:
        for name in (name for name in judges if not JUDGES[name].dim):
            raise RequestError(f"judge '{name}' gives no features to compare. Name one that does, such as efflite0.")
        missing = {name: judge_facts(JUDGES[name]) for name in judges}
        absent = [
            f"judge '{name}': {'; '.join(facts['get'])}" for name, facts in missing.items() if not facts["present"]
        ]
        absent += [found] if (found := missing_weights()) else []
        if absent:
            say(f"not measured for want of files: {' | '.join(absent)}")
        with torch.random.fork_rng():
            self.judges = {name: JUDGES.load(name)(device) for name in judges if missing[name]["present"]}
        self.lpips = None if found else open_lpips(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, rebuild: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> tuple[dict[str, float], Any]:
        """Return values by name, and the first images with their reconstructions, uint8 [n, H, W, 3], row by row.

        Args:
            rebuild: maps images float32 [B, 3, H, W] in [0, 1] to reconstructions, which are cut to 8 bits.
        """
        values: dict[str, list[float]] = {}
        features: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in self.judges}
        shown: list[tuple[np.ndarray, np.ndarray]] = []
        for batch in batches:
            assert batch.image is not None
            images = batch.image.to(self.device)
            kept = to_uint8(rebuild(images.float() / 255))
            made = torch.from_numpy(kept).permute(0, 3, 1, 2).to(self.device)
            found = {"psnr": psnr(images, made), "ssim": ssim(images, made)}
            if self.lpips is not None:
                found["lpips"] = self.lpips(images / 127.5 - 1, made / 127.5 - 1)
            for name, numbers in found.items():
                values.setdefault(name, []).extend(numbers.tolist())
            real = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
            for name, judge in self.judges.items():
                features[name].append((features_of(judge, real), features_of(judge, kept)))
            if sum(len(one) for one, _ in shown) < COLUMNS * _ROWS:
                shown.append((real, kept))
        means = {name: float(np.mean(numbers)) for name, numbers in values.items()}
        for name, pairs in features.items():
            real, kept = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
            means["rfid" if name == "inception" else f"fd_{name}"] = frechet_from_features(real, kept)
        return means, _rows(*(np.concatenate([pair[side] for pair in shown]) for side in (0, 1)))


def _rows(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Return images in rows, each above the row of its reconstructions."""
    starts = range(0, min(len(real), COLUMNS * _ROWS), COLUMNS)
    return np.concatenate([part[start : start + COLUMNS] for start in starts for part in (real, made)])
