"""Measures the image store: bytes kept against raw bytes, and images written and read a second.

    python benchmarks/store.py PHOTOGRAPHS.tar

Prints one line of JSON for each set of images: photographs of a .tar or folder of one size, and noise.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from diffusionbench.request import EvalRequest
from diffusionbench.sample import Sample
from diffusionbench.source import open_source
from diffusionbench.store import CHUNK, ImageStore, StoreManifest

COUNT = 200


def measure(name: str, images: np.ndarray) -> dict[str, float | str]:
    """Return what keeping and reading images uint8 [n, H, W, 3] takes."""
    request = EvalRequest(metrics=("is_digits",), count=len(images), method="x", title="x")
    with tempfile.TemporaryDirectory() as folder:
        store = ImageStore.create(Path(folder), StoreManifest(key="0" * 64, description=name, request=request))
        started = time.perf_counter()
        for start in range(0, len(images), CHUNK):
            some = range(start, min(start + CHUNK, len(images)))
            store.add([Sample(place, seed=2**31 + place) for place in some], images[start : some.stop])
        written = time.perf_counter() - started
        started = time.perf_counter()
        opened = ImageStore(Path(folder))
        opened.count()
        ready = time.perf_counter() - started
        started = time.perf_counter()
        read = np.concatenate([batch for _, batch in opened.batches(len(images))])
        taken = time.perf_counter() - started
        assert np.array_equal(read, images)
        pixels = sum(path.stat().st_size for path in Path(folder).glob("*.images"))
        lists = sum(path.stat().st_size for path in Path(folder).glob("*.json"))
    return {
        "images": name,
        "count": len(images),
        "pixels_share": round(pixels / images.nbytes, 4),
        "share_with_lists": round((pixels + lists) / images.nbytes, 4),
        "list_bytes_per_image": round(lists / len(images)),
        "written_per_second": round(len(images) / written),
        "read_per_second": round(len(images) / taken),
        "open_ms": round(1000 * ready, 1),
    }


def main() -> None:
    """Measure the photographs that were named, and noise of several sizes."""
    source = open_source(Path(sys.argv[1]))
    photographs = source.images([Sample(place) for place in range(min(COUNT, len(source.labels)))])
    sets = {f"photographs, {photographs.shape[1]} px": photographs}
    rng = np.random.default_rng(0)
    for size in (8, 32, 64, 256):
        sets[f"noise, {size} px"] = rng.integers(0, 256, (COUNT, size, size, 3), dtype=np.uint8)
    for name, images in sets.items():
        print(json.dumps(measure(name, images)))


if __name__ == "__main__":
    main()
