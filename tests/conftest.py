"""Fixtures that more than one folder of tests uses."""

import hashlib
import math
import os

import pytest


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A weight file of the Inception network with seeded random content, named after its hash as the real one is."""
    import torch

    from diffusionbench.judges.inception import InceptionNet

    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in InceptionNet().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros(shape, dtype=torch.int64)
        elif name.endswith(("conv.weight", "fc.weight")):
            # He: the signal neither dies nor grows over twenty layers.
            state[name] = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith(("bn.weight", "running_var")):
            state[name] = torch.rand(shape, generator=generator) * 0.4 + 0.8
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.1
    folder = tmp_path_factory.mktemp("weights")
    torch.save(state, folder / "new.pth")
    digits = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    path = folder / f"random-{digits}.pth"
    os.rename(folder / "new.pth", path)
    return path


@pytest.fixture
def inception_installed(inception_weights, monkeypatch):
    """Puts the random weights where the extractor looks for the published ones."""
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(inception_weights.parent))
    monkeypatch.setattr("diffusionbench.judges.inception.WEIGHTS_FILE", inception_weights.name)
