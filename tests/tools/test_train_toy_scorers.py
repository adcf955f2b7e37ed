"""The tool that trains the two learned metrics under attack, at a tiny size."""

import json

import pytest
import torch

import train_toy_scorers as tool
from diffusionbench.benchmarks.simpleeval import shapes_world
from diffusionbench.benchmarks.simpleeval.renderer import training_scene
from diffusionbench.benchmarks.simpleeval.stream import HashStream
from diffusionbench.benchmarks.simpleeval.stress import toy_scorers


@pytest.mark.parametrize("name", toy_scorers.NAMES)
def test_the_shipped_scorers_were_trained_by_this_recipe(name):
    card = json.loads((toy_scorers.FOLDER / "toy_scorers.json").read_text())
    assert card[name]["recipe"] == {**tool.RECIPE, "epochs": tool.EPOCHS[name]}


def test_a_negative_caption_differs_in_one_fact():
    for index in range(40):
        *_, scene = training_scene("negatives", index)
        other = tool.changed(scene, HashStream("negatives", str(index)))
        (slot,) = (slot for slot in scene if scene[slot] != other[slot])
        assert other[slot] in shapes_world.allowed(slot, shapes_world.num_groups(scene) == 2)


def test_pairs_are_pictures_with_right_and_wrong_captions():
    pairs, again = tool.data(0, 3), tool.data(2, 1)
    assert (pairs.images.shape, pairs.images.dtype) == ((3, 3, 64, 64), torch.uint8)
    assert pairs.right.shape == pairs.wrong.shape == (3, tool.CHANGED, toy_scorers.SLOTS)
    for name in ("images", "right", "wrong"):
        assert torch.equal(getattr(pairs, name)[2:], getattr(again, name))


def test_the_rate_is_that_of_a_one_cycle_schedule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], tool.RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, tool.RATE, total_steps=50)
    for step in range(50):
        assert tool.one_cycle(step, 50) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < 49:
            schedule.step()


def test_scorers_are_trained_written_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "PAIRS", 16)
    monkeypatch.setattr(tool, "HELD", 8)
    monkeypatch.setattr(tool, "BATCH", 8)
    monkeypatch.setattr(tool, "EPOCHS", dict.fromkeys(toy_scorers.NAMES, 1))
    tool.main(toy_scorers.NAMES, tmp_path)
    monkeypatch.setattr(toy_scorers, "FOLDER", tmp_path)
    toy_scorers.load.cache_clear()
    clip, vqa = (toy_scorers.load(name) for name in toy_scorers.NAMES)
    toy_scorers.load.cache_clear()
    assert not torch.equal(clip.words.weight, toy_scorers.ToyClip().words.weight)
    assert clip.words.weight.shape == vqa.words.weight.shape
    card = json.loads((tmp_path / "toy_scorers.json").read_text())
    assert 0 <= card["toy_vqascore"]["yes_no"] <= 1


def test_a_right_caption_lowers_the_loss():
    torch.manual_seed(0)
    pairs = tool.data(0, 4)
    pixels = pairs.images.float() / 255
    for model in (toy_scorers.ToyClip(), toy_scorers.ToyVqa()):
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        losses = []
        for _ in range(4):
            loss = tool.loss_of(model, pixels, pairs.right[:, 0], pairs.wrong).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
