"""The command line of NanoGen: what a user types, reads and gets, and what wrong use ends in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import MODEL, words

from nanogen import cli
from nanogen.train import train


@pytest.fixture
def nanogen(monkeypatch, capsys):
    """Run a command in this process; gives exit code, stdout and stderr."""

    def execute(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nanogen", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return execute


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    from nanogen.config import compose

    run = tmp_path_factory.mktemp("runs") / "trained"
    overrides = words(4, "eval.metrics=[accuracy_digits]", "eval.reference=digits", "eval.num_samples=20")
    train(compose("digits", overrides=overrides), run, "cpu", ["nanogen", "train"])
    return run


def one_sentence(err: str) -> str:
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if "Error: " in line]
    assert len(lines) == 1, err
    return lines[0]


def pictures(folder: Path, classes: int = 2, each: int = 6) -> Path:
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for index in range(each):
            pixels = generator.integers(0, 256, (16, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{index}.png")
    return folder


def test_train_sample_eval_report(nanogen, tmp_path):
    run = tmp_path / "run"
    code, out, err = nanogen("train", "--task", "digits", "--run", run, *words(3))
    assert (code, out.strip()) == (0, str(run)), err
    code, out, _ = nanogen("eval", run, "--metrics", "accuracy_digits", "--num", 20, "--json", "eval.reference=digits")
    record = json.loads(out)
    assert code == 0
    assert record["values"]["accuracy_digits"]["scored"] == 20
    assert set(record["anchors"]) == {"held_out", "class_means"}
    assert all(anchor["accuracy_digits"]["scored"] == 20 for anchor in record["anchors"].values())
    code, out, _ = nanogen("report", run)
    assert code == 0
    page = Path(out.strip()).read_text()
    assert "accuracy_digits" in page
    assert "<svg" in page
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page
    assert nanogen("report", run)[0] == 0
    (run / "report.html").write_text("<p>mine</p>")
    code, _, err = nanogen("report", run)
    assert (code, (run / "report.html").read_text()) == (2, "<p>mine</p>")
    assert "it would be lost" in err


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["eval.metrics=[simpleeval_shapes_v1]"], "axis 'class_conditional' asks for classes"),
        (["eval.metrics=[simpleeval_shapes_v1]", "eval.axis=t2i"], "condition.kind 'class' draws classes"),
        (["eval.metrics=[accuracy_digits]", "eval.axis=t2i"], "'accuracy_digits' judges images by the classes"),
    ],
)
def test_a_run_is_scored_by_what_it_draws(nanogen, trained, tmp_path, overrides, message):
    before = sorted(trained.rglob("*"))
    train_tiny = ["train", "--task", "digits", *words(2)]
    for verb in (["eval", trained], [*train_tiny, "--run", tmp_path / "run"], [*train_tiny, "--dry-run"]):
        code, out, err = nanogen(*verb, *overrides)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert message in err
    assert not (tmp_path / "run").exists()
    assert sorted(trained.rglob("*")) == before


def test_an_image_folder_trains(nanogen, tmp_path):
    data = pictures(tmp_path / "pictures", classes=3)
    run = tmp_path / "run"
    overrides = words(2, "data.image_size=8", "model.pixel_grid=2", "data.workers=0")
    code, _, err = nanogen("train", "--task", "imagefolder", "--data", data, "--run", run, *overrides)
    assert code == 0, err
    assert "num_classes: 3" in (run / "config.yaml").read_text()


def test_samples_do_not_depend_on_the_batch(nanogen, trained, tmp_path):
    for size in (1, 7, 20):
        out = tmp_path / f"{size}.npz"
        code, _, err = nanogen("sample", trained, "--num", 20, "--labels", "0-4", "--batch-size", size, "--out", out)
        assert code == 0, err
    whole = np.load(tmp_path / "20.npz")
    assert whole["arr_1"].tolist() == [0, 1, 2, 3, 4] * 4
    for size in (1, 7):
        part = np.load(tmp_path / f"{size}.npz")["arr_0"]
        assert np.abs(part.astype(int) - whole["arr_0"].astype(int)).max() <= 1
    # More images continue the same sequence; another seed gives another one.
    nanogen("sample", trained, "--num", 25, "--labels", "0-4", "--batch-size", 20, "--out", tmp_path / "25.npz")
    assert np.array_equal(np.load(tmp_path / "25.npz")["arr_0"][:20], whole["arr_0"])
    nanogen("sample", trained, "--num", 20, "--labels", "0-4", "--seed", 1, "--out", tmp_path / "seed.npz")
    assert not np.array_equal(np.load(tmp_path / "seed.npz")["arr_0"], whole["arr_0"])


def test_evaluation_scores_the_images_that_sampling_makes(nanogen, trained, tmp_path):
    """Same weights, labels and seed: what is in the store is what `sample` writes."""
    from diffusionbench.store import ImageStore

    for seed in (0, 3):
        before = set((trained / "evals" / "images").iterdir())
        code, _, err = nanogen("eval", trained, "--num", 20, "--seed", seed, "--out", tmp_path / f"{seed}.json")
        assert code == 0, err
        stores = set((trained / "evals" / "images").iterdir())
        for folder in stores - before if stores - before else stores:
            (samples, stored), *rest = ImageStore(folder).batches(20)
            assert not rest
            for sample in samples[:3]:
                out = tmp_path / f"{seed}-{sample.id}.npz"
                arguments = ["--labels", sample.label, "--num", sample.id + 1, "--seed", seed, "--out", out]
                assert nanogen("sample", trained, *arguments)[0] == 0
                made = np.load(out)["arr_0"][sample.id].astype(int)
                assert np.abs(made - stored[sample.id]).max() <= 1


def test_samples_as_grid_and_folder_and_from_a_weights_file(nanogen, trained, tmp_path):
    grid = tmp_path / "grid.png"
    assert nanogen("sample", trained, "--num", 12, "--guidance", 2, "--out", grid)[0] == 0
    with Image.open(grid) as image:
        assert image.info["guidance"] == "2.0"
        assert image.width > image.height
    weights = next((trained / "checkpoints").glob("step-*")) / "ema.safetensors"
    folder = tmp_path / "folder"
    assert nanogen("sample", weights, "--num", 4, "--labels", "3,7", "--out", folder)[0] == 0
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png")) == [
        "3/000000.png",
        "3/000002.png",
        "7/000001.png",
        "7/000003.png",
    ]


def test_show_prints_values_origins_and_the_exact_size(nanogen, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code, out, _ = nanogen("show", "--task", "imagenet256", "--method", "sd-vae-ema", "--scale", "paper", "--why")
    assert code == 0
    assert "# parameters: 611,304,996" in out
    assert "# configs/base.yaml:" in out
    assert "cannot train yet" in out
    assert "#   configs/task/imagenet256.yaml" in out
    code, out, _ = nanogen("show", "--task", "digits", "--json")
    assert json.loads(out)["derived"]["parameters"] == 1_312_158


def test_ls_lists_everything(nanogen):
    code, out, _ = nanogen("ls", "--json")
    tables = json.loads(out)
    assert code == 0
    lists = "tasks methods scales tokenizers latents objectives losses optimizers samplers data conditions encoders"
    assert set(tables) == set(lists.split())
    # A row says what it is in words, never where its code is.
    assert all(text and "nanogen." not in text for table in tables.values() for text in table.values())
    assert "4 channels, stride 8, arXiv 2112.10752, vae " in tables["latents"]["sd-vae-ema"]


def test_ls_says_which_files_of_a_latent_space_are_here_and_where_the_others_are(nanogen, tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "DIFFUSIONBENCH_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))

    def listed(name):
        code, out, _ = nanogen("ls", "latents", "--json")
        assert code == 0
        return json.loads(out)["latents"][name]

    assert "encoder missing: https://huggingface.co/facebook/dinov3-vitb16-pretrain-lvd1689m" in listed("rae-dinov3-b")
    assert " (licence DINOv3 License, gated)" in listed("rae-dinov3-b")
    assert "statistics missing: https://huggingface.co/diffusion-bench" in listed("rae-dinov3-b")
    assert "missing" not in listed("toy-ae")
    assert "autoencoder missing: https://github.com/madebyollin/taesd" in listed("taef2")
    assert "(licence MIT)" in listed("taef2")
    folder = tmp_path / "latents" / "taef2"
    folder.mkdir(parents=True)
    (folder / "taef2_encoder.pth").touch()
    assert "autoencoder missing" in listed("taef2")
    (folder / "taef2_decoder.pth").touch()
    assert f"autoencoder in {folder}: https://github.com" in listed("taef2")
    assert "cannot train yet" not in nanogen("show", "--task", "imagenet256", "latent=taef2")[1]
    shown = nanogen("show", "--task", "imagenet256", "latent=rae-dinov3-b")[1]
    assert shown.count("cannot train yet: latent space 'rae-dinov3-b': its ") == 3
    assert "gated: accept it there first" in shown


def test_bench_accounts_for_the_whole_step(nanogen):
    overrides = [*MODEL, "train.precision=float32", "train.batch_size=8"]
    code, out, err = nanogen("bench", "--task", "digits", "--steps", 3, "--warmup", 1, *overrides)
    assert code == 0, err
    result = json.loads(out)
    assert set(result["parts_ms"]) == {"data", "encode", "forward", "backward", "optimizer", "ema"}
    assert sum(result["parts_share"].values()) == pytest.approx(1)
    assert min(result["parts_ms"].values()) > 0
    assert result["images_per_second"] == pytest.approx(8 / result["seconds_per_step"])
    assert result["precision"] == "float32"


def test_bench_needs_no_data_and_no_weights(nanogen):
    overrides = [
        *MODEL,
        "train.precision=float32",
        "train.batch_size=2",
        "train.compile=false",
        "data.image_size=64",
    ]
    arguments = ["--task", "imagenet256", "--method", "sd-vae-ema", "--scale", "paper", "--synthetic"]
    code, out, err = nanogen("bench", *arguments, "--steps", 1, "--warmup", 0, *overrides)
    assert code == 0, err
    assert json.loads(out)["model_gflops_per_image"] > 0


WRONG = {
    "train --task digits --method sd-vae-ema": "cannot be cut",
    "train --task imagenet256 --data {pictures}": "needs its vae, and HF_HUB_OFFLINE is set. Get config.json",
    "train --task imagefolder --data {tmp}/absent": "does not exist",
    "train --task imagefolder --data {empty}": "holds no data set",
    "train --task imagefolder --data {corrupt} data.image_size=8 data.workers=0": "3.png",
    "train --task digits optim.lr": "config file optim.lr",
    "train --task digits a.yaml b.yaml": "at most one config file",
    "train --task digits eval.metrics=[fid] eval.reference=digits": "needs its weights",
    "train --task digits eval.reference=digitz": "unknown reference 'digitz'",
    "train --task digits eval.num_samples=50": "needs at least 200 images",
    "sample {run} --labels x": "expected classes such as",
    "sample {run} model.encoder_depth=2": "model.encoder_depth is 1, asked: 2",
    "sample {tmp}/absent": "is not a run folder",
    "show --task digits guidance.scal=2": "Did you mean 'guidance.scale'?",
    "ls latent": "unknown list 'latent'",
    "bench --task imagefolder --synthetic": "Set condition.num_classes=N",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_ends_in_one_sentence_and_exit_code_2(line, nanogen, trained, tmp_path, monkeypatch):
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": tmp_path, "DIFFUSIONBENCH_CACHE": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("not a folder")
    corrupt = pictures(tmp_path / "corrupt", classes=1, each=8)
    (corrupt / "class0" / "3.png").write_bytes(b"no picture")
    places = {
        "run": trained,
        "tmp": tmp_path,
        "empty": tmp_path / "empty",
        "file": tmp_path / "file",
        "corrupt": corrupt,
        "pictures": pictures(tmp_path / "pictures"),
    }
    arguments = line.format(**places).split()
    if arguments[0] == "train":
        extra = ["--run", tmp_path / "new"] if "--run" not in arguments else []
        overrides = [] if "eval" in line or "--task digits " in line or "method" in line else words(2)
        arguments = [*arguments[:1], *extra, *overrides, *arguments[1:]]
    code, out, err = nanogen(*arguments)
    assert code == 2, err
    assert WRONG[line] in one_sentence(err)
    assert out == ""
    if "corrupt" not in line:
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("reference, hint", [("digitz", "Did you mean 'digits'?"), ("absent.npz", "Known: ")])
def test_a_missing_reference_is_refused_before_torch_is_loaded(reference, hint, tmp_path):
    # None in `sys.modules` makes every import of torch fail.
    code = "import sys\nsys.modules['torch'] = None\nfrom nanogen.cli import main\nmain()"
    command = ["train", "--task", "digits", f"eval.reference={reference}"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert f"command line: eval.reference: unknown reference '{reference}'" in done.stderr
    assert hint in one_sentence(done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["sample", "eval", "sweep"])
def test_a_name_on_a_hub_that_is_not_there_is_refused_before_torch_is_loaded(verb, tmp_path):
    code = "import sys\nsys.modules['torch'] = None\nfrom nanogen.cli import main\nmain()"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, verb, "hf:no/thing"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=offline)
    assert done.returncode == 2
    assert "hf:no/thing is not on this machine" in one_sentence(done.stderr)


def test_a_run_is_scored_against_references_by_judge(nanogen, trained, tmp_path):
    np.savez(tmp_path / "a=b.npz", mu=np.zeros(64), sigma=np.eye(64))
    named = f"eval.reference=[digits, 'digits={tmp_path / 'a=b.npz'}']"
    words = ("eval", trained, "--num", 20, "--json", named, "eval.reference_extractors=[digits]")
    code, out, err = nanogen(*words, "--metrics", "fd_digits")
    assert code == 0, err
    record = json.loads(out)
    assert record["protocol"]["references"]["digits"]["name"] == "a=b.npz"
    assert record["protocol"]["references"]["digits"]["made_by"] == "asserted: digits"
    assert record["values"]["fd_digits"]["status"] == "asserted"
    # What other metrics compare with plays no part, and the classes are those of the reference for all judges.
    code, out, err = nanogen(*words, "--metrics", "accuracy_digits")
    assert code == 0, err
    assert json.loads(out)["protocol"]["references"] == {}
    assert set(json.loads(out)["anchors"]) == {"held_out", "class_means"}
    code, _, err = nanogen(*words[:-1], "--metrics", "fd_digits")
    assert code == 2
    assert "nothing says which extractor made these" in one_sentence(err)
    code, _, err = nanogen("eval", trained, "eval.reference=[digits, digits]")
    assert code == 2
    assert "two references are given for all judges" in one_sentence(err)


def test_weights_of_another_architecture_are_listed(nanogen, trained, tmp_path):
    weights = next((trained / "checkpoints").glob("step-*")) / "ema.safetensors"
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        header = file.metadata()
    tensors = load_file(weights)
    bias = tensors.pop("bridge.bias")
    tensors["final.linear.bias"] = tensors["final.linear.bias"][:3].clone()
    tensors["stranger"] = bias
    save_file(tensors, tmp_path / "other.safetensors", header)
    code, _, err = nanogen("sample", tmp_path / "other.safetensors", "--out", tmp_path / "grid.png")
    assert code == 2
    sentence = one_sentence(err)
    assert "missing bridge.bias [24]" in sentence
    assert "unknown stranger [24]" in sentence
    assert "final.linear.bias is [3], needed [12]" in sentence
    assert not (tmp_path / "grid.png").exists()


def test_a_changed_run_config_is_refused_by_sample_and_eval(nanogen, trained, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("predict: v", "predict: x"))
    for verb in ("sample", "eval"):
        code, _, err = nanogen(verb, copy)
        assert code == 2
        assert "objective.predict: v there, x in the run folder" in one_sentence(err)


@pytest.mark.parametrize("part", ["two", "3/2", "0/2", "0/0", "1/2/3", "1/-2", "9" * 500 + "/1"])
@pytest.mark.parametrize("verb", [("study", "--cells"), ("prepare", "latents", "--task", "digits", "--out", "cache")])
def test_a_part_of_nothing_is_refused_by_every_verb(nanogen, tmp_path, monkeypatch, verb, part):
    monkeypatch.chdir(tmp_path)
    code, _, err = nanogen(*verb, f"--part={part}")
    assert code == 2
    assert one_sentence(err).endswith("give i/n with 1 <= i <= n, such as 3/64.")
    assert not list(tmp_path.iterdir())


def test_an_option_and_an_override_of_the_same_key_are_refused(nanogen, trained):
    for verb, option, override in (
        ("eval", ("--guidance", 1), "guidance.scale=2"),
        ("eval", ("--metrics", "fd_digits"), "eval.metrics=[accuracy_digits]"),
        ("sample", ("--guidance", 1), "guidance.scale=2"),
    ):
        code, _, err = nanogen(verb, trained, override, *option)
        assert code == 2
        assert f"'{override}' was given, and an option that sets" in one_sentence(err)
    code, _, err = nanogen("sweep", trained, "--grid", "1,2", "--high", 3)
    assert (code, "--high belongs to the search" in one_sentence(err)) == (2, True)
