"""Commits of the hub: one table, which every fetch and every look into the hub's cache asks."""

from __future__ import annotations

import re
import shutil

import pytest

from diffusionbench.available import is_fetched, judge_facts
from diffusionbench.commits import COMMITS, at_commit, pinned
from diffusionbench.errors import RequestError
from diffusionbench.judges import JUDGES, hub
from diffusionbench.writing import model_folder
from nanogen.latents import LATENTS
from nanogen.text import ENCODERS

# Of these no public source names a commit; a run or record keeps the hash of what it loaded.
UNPINNED = {
    *(f"REPA-E/e2e-{name}" for name in ("flux-vae", "sd3.5-vae", "qwenimage-vae", "vavae-hf", "sdvae-hf")),
    *(f"facebook/PE-{name}" for name in ("Lang-L14-448", "Lang-G14-448", "Spatial-L14-448", "Spatial-B16-512")),
    "zhiqiulin/clip-flant5-xxl",
}
OTHER = "f" * 40
# One of each class that opens something of the hub.
OF_EACH_CLASS = (
    "clip_vit_l14",
    "clip_colours",
    "clip-flant5-xl",
    "qwen3-vl-2b",
    "qwen3-vl-8b_checklist",
    "mask2former",
)


def test_the_table_holds_a_commit_for_every_repository_of_a_row_but_few():
    used = {one for row in JUDGES.values() for one in row.hub}
    used |= {files.hub for row in LATENTS.values() for files in row.weights if files.hub}
    places = (row.source.partition(":") for row in ENCODERS.values())
    used |= {place for kind, _, place in places if kind == "hub"}
    assert used - COMMITS.keys() == UNPINNED
    assert COMMITS.keys() - used == set()
    assert list(COMMITS) == sorted(COMMITS)
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in COMMITS.values())


def test_words_name_the_commit_or_say_that_there_is_none():
    name = "facebook/dinov2-large"
    assert at_commit(name, pinned(name)) == f"{name} at 47b73eefe95e8d44ec3623f8890bd894b6ea2d6c"
    assert at_commit("a/b", pinned("a/b")) == "a/b at its newest commit (none is pinned)"


class Recorder:
    """Stands for a class of transformers."""

    @staticmethod
    def from_pretrained(source, **options):
        return source, options


def test_from_pretrained_is_given_the_commit_of_a_hub_id_and_none_for_a_folder(hub_cache, tmp_path, monkeypatch):
    name = "facebook/dinov2-large"
    asked = {"local_files_only": True, "revision": COMMITS[name], "dtype": 1}
    assert hub.pretrained(Recorder, name, dtype=1) == (name, asked)
    assert hub.pretrained(Recorder, "a/b") == ("a/b", {"local_files_only": True})
    assert hub.pretrained(Recorder, str(tmp_path)) == (str(tmp_path), {"local_files_only": False})
    model_folder(name).mkdir(parents=True)
    assert hub.pretrained(Recorder, name) == (str(model_folder(name)), {"local_files_only": False})
    monkeypatch.setattr("diffusionbench.judges.hub.reachable", lambda: True)
    assert hub.pretrained(Recorder, "a/b") == ("a/b", {"local_files_only": False})


@pytest.mark.parametrize("name", OF_EACH_CLASS)
def test_a_judge_opens_the_pinned_commit_though_the_hub_s_main_is_another(name, hub_models, hub_cache):
    row = JUDGES[name]
    for repository in row.hub:
        shutil.copytree(hub_models / repository, hub_cache(repository, COMMITS[repository], main=OTHER))
    kind = JUDGES.load(name)
    kind.check()
    made = kind()
    assert judge_facts(row)["present"]
    # The digest is that of the same weights in a folder.
    for repository in row.hub:
        model_folder(repository).parent.mkdir(parents=True, exist_ok=True)
        model_folder(repository).symlink_to(hub_models / repository)
    assert kind().digest == made.digest


@pytest.mark.parametrize("name", OF_EACH_CLASS)
def test_another_commit_in_the_cache_is_not_taken(name, hub_models, hub_cache):
    row = JUDGES[name]
    for repository in row.hub:
        shutil.copytree(hub_models / repository, hub_cache(repository, OTHER))
    missed = rf"were not found at '{row.hub[0]} at {COMMITS[row.hub[0]]}' \(they are not cached"
    for attempt in (JUDGES.load(name).check, JUDGES.load(name)):
        with pytest.raises(RequestError, match=missed):
            attempt()
    facts = judge_facts(row)
    assert not facts["present"]
    for repository in row.hub:
        assert f"{repository} at {COMMITS[repository]}" in facts["lacks"][-1]


def test_without_a_pinned_commit_the_hub_s_main_is_looked_for(hub_cache):
    repository = "zhiqiulin/clip-flant5-xxl"
    assert not is_fetched(repository)
    hub_cache(repository, OTHER, main="0" * 40).mkdir(parents=True)
    assert not is_fetched(repository)
    hub_cache(repository, OTHER)
    assert is_fetched(repository)
    assert f"{repository} at its newest commit (none is pinned)" in judge_facts(JUDGES["clip-flant5-xxl"])["needs"][-1]


def test_a_copy_that_cannot_be_read_is_named_instead_of_the_hub(hub_cache):
    copy = model_folder("facebook/mask2former-swin-small-coco-instance")
    copy.mkdir(parents=True)
    with pytest.raises(RequestError, match=f"were not found at '{copy}'"):
        JUDGES.load("mask2former")()
