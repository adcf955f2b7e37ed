"""The hub, in place of which a folder answers: runs are pushed and sampled, data sets are read, commits are said."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from tiny import tiny
from typer.testing import CliRunner

from diffusionbench.errors import RequestError
from diffusionbench.record import load
from nanogen import hub
from nanogen.cli import app
from nanogen.data.opening import open_dataset
from nanogen.train import train


class FolderHub:
    """Repositories as folders of commits: root/KIND/OWNER/NAME/COMMIT/files, the newest in `main`."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, []

    def fetch(self, repository, kind, revision, patterns, cached):
        self.asked.append((repository, kind, revision, cached))
        place = self.root / kind / repository
        if not place.is_dir():
            raise OSError("404 Client Error")
        return place / (revision or (place / "main").read_text())

    def push(self, repository, folder, message, private):
        commit = hashlib.sha1(f"{repository}{message}{len(list(self.root.rglob('main')))}".encode()).hexdigest()
        place = self.root / "model" / repository
        shutil.copytree(folder, place / commit)
        (place / "main").write_text(commit)
        self.message, self.private = message, private
        return commit


@pytest.fixture
def client(tmp_path, monkeypatch):
    made = FolderHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "CLIENT", made)
    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
def test_only_what_the_hubs_package_takes_for_yes_keeps_it_from_being_asked(value, client, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with hub.opened_hub("x needs y", "Get it.", "hub") as download:
        assert callable(download)
    for word in ("1", "true", "YES"):
        monkeypatch.setenv("HF_HUB_OFFLINE", word)
        with pytest.raises(RequestError, match="HF_HUB_OFFLINE is set"), hub.opened_hub("x needs y", "Get it.", "hub"):
            pass


def nanogen(*words) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def sample(source, out) -> np.ndarray:
    nanogen("sample", source, "--num", 4, "--out", out)
    return np.load(out)["arr_0"]


def test_a_pushed_run_is_sampled_and_scored_as_it_was(client, tmp_path):
    train(tiny(2, "eval.metrics=[accuracy_digits]", "eval.num_samples=10"), tmp_path / "run", "cpu", ["test"])
    words = ("--to", "me/digits", "--licence", "apache-2.0", "--private", "--dataset", "me/benchmark")
    name, _, commit = nanogen("push", "run", *words).strip().splitlines()[-1].partition("@")
    assert (name, client.message, client.private) == ("hf:me/digits", "Step 2", True)
    place = tmp_path / "hub" / "model" / "me" / "digits" / commit
    (record,) = [load(path) for path in (place / "records").glob("*.json")]
    header, _, text = (place / "README.md").read_text().removeprefix("---\n").partition("---\n")
    assert YAML(typ="safe").load(header)["license"] == "apache-2.0"
    assert "nanogen sample hf:me/digits --labels 0-9 --num 64" in text
    assert f"{record.values['accuracy_digits'].value:.4g}" in text
    assert f"(records/{record.id}.json)" in text
    (entry,) = YAML(typ="safe").load((place / ".eval_results" / f"{record.id}.yaml").read_text())
    assert entry["dataset"] == {"id": "me/benchmark", "task_id": "accuracy_digits"}
    own = sample("run", "own.npz")
    assert np.array_equal(own, sample("hf:me/digits", "newest.npz"))
    assert np.array_equal(own, sample(f"hf:me/digits@{commit}", "pinned.npz"))
    # A commit is looked for on this machine first.
    assert [(revision, cached) for _, _, revision, cached in client.asked] == [(None, False), (commit, True)]


def test_what_cannot_be_had_is_one_sentence(client, tmp_path, monkeypatch):
    with pytest.raises(RequestError, match=r"^hf:no/thing is not on this machine, which cannot be fetched: 404"):
        hub.weights_of("hf:no/thing")
    (tmp_path / "hub" / "model" / "me" / "empty" / "c").mkdir(parents=True)
    (tmp_path / "hub" / "model" / "me" / "empty" / "main").write_text("c")
    with pytest.raises(RequestError, match=r"^hf:me/empty@c holds no ema\.safetensors"):
        hub.weights_of("hf:me/empty")
    for odd in ("hf:alone", "hf:../x/y", "hf:a/b@c d", ""):
        with pytest.raises(RequestError, match="is no name on the hub"):
            hub.parse(odd)
    monkeypatch.setattr(hub, "reachable", lambda: False)
    with pytest.raises(RequestError, match=r"^hf:no/thing is not on this machine, and the hub does not answer"):
        hub.weights_of("hf:no/thing")


def test_a_data_set_of_the_hub_is_read_at_its_commit(client, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra 'data')")
    import io

    import pyarrow

    commit = "ab" * 20
    folder = tmp_path / "hub" / "dataset" / "me" / "pictures" / commit
    (folder / "data").mkdir(parents=True)
    (folder.parent / "main").write_text(commit)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    rows = []
    for number in range(12):
        stored = io.BytesIO()
        Image.fromarray(np.full((40, 40, 3), 20 * number, np.uint8)).save(stored, "PNG")
        rows.append({"image": {"bytes": stored.getvalue(), "path": None}, "label": number % 3})
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    shown = nanogen("train", "--task", "imagefolder", "--data", "hf:me/pictures", "--dry-run")
    assert f"path: hf:me/pictures@{commit}" in shown
    assert "name: parquet" in shown
    data = open_dataset("parquet", f"hf:me/pictures@{commit}", image_size=8)
    assert (len(data), data.num_classes) == (12, 3)
    assert data[3].image[0, 0, 0] == 60
    assert client.asked[-1] == ("me/pictures", "dataset", commit, True)
