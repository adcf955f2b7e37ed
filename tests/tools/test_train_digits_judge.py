"""The tool that trains the judge of digits, at a tiny size; `pytest -m slow` trains it whole."""

import json

import pytest
import torch

import train_digits_judge
from diffusionbench.judges.digits import CARD, WEIGHTS, card
from diffusionbench.schema import file_digest


def test_the_shipped_judge_was_trained_by_this_recipe():
    assert card()["recipe"] == train_digits_judge.RECIPE


def test_shifts_move_whole_pixels_by_at_most_the_reach():
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 4, 4] = 1
    places = set()
    for row in (0.0, 0.4, 0.99):
        for column in (0.1, 0.5, 0.8):
            moved = train_digits_judge.shifted(image, 1, torch.tensor([[row, column]]))
            assert moved.sum() == 1
            places.add(tuple(torch.nonzero(moved[0, 0])[0].tolist()))
    assert places == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}


def test_the_tool_trains_a_judge_and_writes_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(train_digits_judge, "RECIPE", train_digits_judge.RECIPE | {"epochs": 2})
    threads = torch.get_num_threads()
    try:
        made = train_digits_judge.main(tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert made["accuracy"]["held_out"] > 0.5
    assert json.loads((tmp_path / CARD.name).read_text()) == made
    assert file_digest(tmp_path / WEIGHTS.name) == made["sha256"]


@pytest.mark.slow
def test_the_recipe_reaches_its_accuracy(tmp_path):
    assert train_digits_judge.main(tmp_path)["accuracy"]["held_out"] >= 0.98
