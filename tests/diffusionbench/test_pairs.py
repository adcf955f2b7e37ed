"""Reconstructions and their originals, from files to the record: partners by name, one sentence where one lacks."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from diffusionbench import cli, runner
from diffusionbench.api import infer_axis
from diffusionbench.errors import RequestError
from diffusionbench.judges import JUDGES
from diffusionbench.judges.efflite0 import open_network, prepare
from diffusionbench.judges.lpips import open_lpips
from diffusionbench.metrics.reconstruction import psnr, ssim
from diffusionbench.sample import Item
from diffusionbench.source import open_source

NAMES = ("b/00002", "a/00010", "a/x")


def write(folder, images, suffix="png"):
    for name, image in zip(NAMES, images, strict=True):
        place = folder / f"{name}.{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    return folder


@pytest.fixture
def originals(noise):
    return noise(3, 32, seed=1)


@pytest.fixture
def copies(originals):
    """Each original, darker by another amount, which is its error in every pixel."""
    return np.clip(originals, 20, 255) - np.array([4, 8, 16], np.uint8)[:, None, None, None]


def tensor(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@pytest.fixture
def folders(tmp_path, originals, copies):
    return write(tmp_path / "made", copies), write(tmp_path / "real", originals, "bmp")


def evaluated(ask, made, real, metrics, count=3):
    source = open_source(made)
    return runner.run(
        ask(axis="reconstruction", metrics=metrics, reference=str(real), count=count), source, made.parent / "store"
    )


def test_each_image_meets_the_original_of_its_name(ask, folders, originals, copies):
    record = evaluated(ask, *folders, ("psnr", "ssim"))
    for key, formula in (("psnr", psnr), ("ssim", ssim)):
        wanted = formula(tensor(copies), tensor(originals)).numpy()
        assert record.values[key].value == pytest.approx(wanted.mean(), rel=1e-9)
        assert record.values[key].stderr == pytest.approx(wanted.std(ddof=1) / np.sqrt(3), rel=1e-9)
        table = json.loads(record.evidence["per_sample.json"].text)
        found = {one[1]: value for one, value in zip(table["samples"], table["values"][key], strict=True)}
        assert found == pytest.approx(dict(zip(NAMES, wanted.tolist(), strict=True)))
    assert record.anchors == {}


def test_identical_images_are_ideal(ask, tmp_path, originals, lpips_installed):
    folder = write(tmp_path / "same", originals)
    record = evaluated(ask, folder, folder, ("psnr", "ssim", "lpips", "pd_efflite0", "rfd_efflite0"))
    ideal = {"psnr": 100, "ssim": 1, "lpips": 0, "pd_efflite0": 0, "rfd_efflite0": 0}
    assert {key: value.value for key, value in record.values.items()} == pytest.approx(ideal, abs=1e-4)


def test_rows_of_an_archive_meet_files_that_are_numbers(ask, tmp_path, noise):
    real, made = noise(12, 16), noise(12, 16, seed=3)
    np.savez(tmp_path / "real.npz", arr_0=real)
    folder = tmp_path / "made"
    folder.mkdir()
    for place, image in enumerate(made):
        Image.fromarray(image).save(folder / f"{place:04d}.png")
    record = evaluated(ask, folder, tmp_path / "real.npz", ("psnr",), 12)
    assert record.values["psnr"].value == pytest.approx(psnr(tensor(made), tensor(real)).mean().item())


def test_other_originals_are_judged_anew(ask, tmp_path, folders, originals):
    made, real = folders
    first = evaluated(ask, made, real, ("psnr",)).values["psnr"].value
    again = evaluated(ask, made, write(tmp_path / "others", originals[::-1].copy()), ("psnr",)).values["psnr"].value
    assert again < first - 10


def test_an_image_without_its_original_is_named_before_one_is_judged(ask, folders):
    made, real = folders
    (real / "a" / "x.bmp").rename(real / "a" / "y.bmp")
    with pytest.raises(RequestError, match=r"1 of 3 images have no original of their name in reference real: a/x\."):
        evaluated(ask, made, real, ("psnr",))


def test_two_images_of_one_name_are_no_pair(ask, folders):
    made, real = folders
    shutil.copy(real / "a" / "x.bmp", real / "a" / "x.png")
    with pytest.raises(RequestError, match=r"1 of 3 images have several originals of their name .*: a/x\."):
        evaluated(ask, made, real, ("psnr",))
    (real / "a" / "x.png").unlink()
    one = next(made.rglob("*.png"))
    shutil.copy(one, one.with_suffix(".bmp"))
    with pytest.raises(RequestError, match="1 names stand for several reconstructions: "):
        evaluated(ask, made, real, ("psnr",), 4)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"axis": "class_conditional"}, "metric 'psnr' judges images by the originals"),
        ({"reference": None}, "metric 'psnr' on axis 'reconstruction' needs a reference"),
        ({"reference": "digits"}, "needs the pairs of real images, and reference 'digits' offers only"),
    ],
)
def test_requests_without_pairs_are_refused(ask, folders, changes, words):
    given = {"axis": "reconstruction", "metrics": ("psnr",), "reference": str(folders[1]), "count": 3} | changes
    with pytest.raises(RequestError, match=words):
        ask(**given).check(open_source(folders[0]))


def test_another_size_is_refused(noise):
    item = Item("x", target="x", detail={"partner": lambda: noise(1, 16)[0]})
    with pytest.raises(RequestError, match="image 'x' is 8x8 and its original 16x16"):
        JUDGES.load("psnr")("cpu")(noise(1, 8), [item])


def test_lpips_sees_values_from_minus_1_to_1(lpips_installed, noise):
    images, partners = noise(2, 32), noise(2, 32, seed=1) // 128
    items = [Item(str(k), target=str(k), detail={"partner": partners[k].copy}) for k in range(2)]
    wanted = open_lpips("cpu")(*(tensor(one).float() / 255 * 2 - 1 for one in (images, partners)))
    found = JUDGES.load("lpips")("cpu")(images, items)["value"][:, 0]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4)


def test_the_perceptual_distance_written_out(noise):
    images, partners = noise(2, 64), noise(2, 64, seed=1)
    items = [Item(str(k), target=str(k), detail={"partner": partners[k].copy}) for k in range(2)]
    net, wanted = open_network("cpu"), np.zeros(2)
    with torch.inference_mode():
        stages = [net.stages(prepare(one)) for one in (images, partners)]
    assert [stage.shape[1] for stage in stages[0]] == [16, 24, 40, 80, 112, 192, 320]
    for x, y in zip(*stages, strict=True):
        x, y = (one.double().numpy() for one in (x, y))
        unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (x, y)]
        wanted += ((unit[0] - unit[1]) ** 2).sum(1).mean((1, 2))
    np.testing.assert_allclose(JUDGES.load("pd_efflite0")("cpu")(images, items)["value"][:, 0], wanted, rtol=1e-4)


def test_the_command_line(folders, monkeypatch, capsys):
    made, real = folders
    words = ["diffusionbench", "run", str(made), "--axis", "reconstruction", "--reference", str(real)]
    monkeypatch.setattr(sys, "argv", [*words, "--metrics", "psnr,ssim", "--json"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["values"]["psnr"]["status"] == "ok"


def test_originals_without_a_reconstruction_are_counted_and_named(bench, folders):
    made, real = folders
    (made / "a" / "x.png").unlink()
    code, out, err = bench("run", made, "--reference", real, "--metrics", "psnr", "--json")
    record, note = json.loads(out), "1 of 3 originals have no reconstruction: a/x"
    assert (code, record["protocol"]["count"], record["extra"]["left_out"]) == (0, 2, [note])
    assert note in err


def test_an_axis_is_inferred_where_all_metrics_belong_to_it(bench, folders):
    made, real = folders
    for metrics in ("rfd_efflite0", "psnr,rfd_efflite0"):
        code, out, _ = bench("run", made, "--reference", real, "--metrics", metrics, "--json")
        assert code == 0
        assert json.loads(out)["protocol"]["axis"] == "reconstruction"
    assert infer_axis(("rfid",), False) == "reconstruction"
    # Where they do not, images are of classes, as before.
    assert infer_axis(("rfid", "fid"), False) == infer_axis(("fid",), False) == infer_axis((), False)
    assert infer_axis(("fid",), False) == "class_conditional"
    assert infer_axis(("rfid",), True) == "t2i"
