"""The next batch is copied, and its captions are encoded, while a step is made; a training stays the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch
from encoders import save_encoder
from tiny import losses, tiny

from nanogen import train as training
from nanogen.build import build_components
from nanogen.conditions.captions import TextConditioner
from nanogen.data import Batch
from nanogen.data.ahead import prepared_ahead
from nanogen.data.order import batches
from nanogen.model.condition import TextCondition
from nanogen.train import build, condition_ahead, flow_updates, open_data, train


@pytest.fixture(scope="module")
def composition(tmp_path_factory):
    pytest.importorskip("transformers", reason="text encoders need the extra t2i")
    encoder = save_encoder(tmp_path_factory.mktemp("encoder"), "bert")
    words = ("data.template='one {class} circle'", "condition.kind=text", f"condition.encoder={encoder}")
    return tiny(4, *words, "train.accumulation=2")


def small(count: int) -> list[Batch]:
    return [Batch(torch.zeros(1, 3, 2, 2), torch.tensor([place]), None, [place]) for place in range(count)]


def test_a_batch_is_prepared_before_the_one_before_it_is_used():
    seen = []

    def prepare(batch: Batch) -> Batch:
        seen.append(f"prepared {batch.positions[0]}")
        return replace(batch, condition=batch.positions[0])

    for batch in prepared_ahead(iter(small(3)), torch.device("cpu"), prepare):
        assert batch.condition == batch.positions[0]
        seen.append(f"used {batch.positions[0]}")
    assert seen == ["prepared 0", "prepared 1", "used 0", "prepared 2", "used 1", "used 2"]


def test_all_tensors_of_a_batch_move_with_it():
    (batch,) = small(1)
    condition = TextCondition(torch.zeros(1, 4, 8), torch.ones(1, 4, dtype=torch.bool))
    batch = replace(batch, condition=condition, noise={("time", ()): torch.zeros(1)}, latent=torch.zeros(1, 4, 1, 1))
    found = batch.tensors(lambda tensor: tensor.to("meta"))
    moved = [
        found.image,
        found.label,
        found.latent,
        *found.noise.values(),
        found.condition.states,
        found.condition.mask,
    ]
    assert all(tensor.is_meta for tensor in moved)
    assert (found.positions, found.caption) == (batch.positions, None)
    assert batch.tensors(lambda tensor: tensor).condition == condition


def updated(composition, device: str, ahead: bool) -> list[float]:
    data, config = open_data(composition.config)
    components = build_components(config, device, "float32")
    state = build(config, components, len(data))
    loader = batches(data, seed=config.seed, batch_size=8, accumulation=2)
    if ahead:
        loader = prepared_ahead(loader, state.device, condition_ahead(components, config))
    return [values["loss"].item() for values in flow_updates(state, components, config, loader, 4)]


def test_losses_are_those_of_captions_that_are_encoded_in_the_step(composition):
    assert updated(composition, "cpu", ahead=True) == updated(composition, "cpu", ahead=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_losses_on_another_stream_are_those_of_the_step(composition):
    found, wanted = (updated(composition, "cuda:0", ahead) for ahead in (True, False))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_training_encodes_ahead_and_no_batch_beyond_its_last_step(composition, tmp_path, monkeypatch):
    made, used = [], []
    encode, update = TextConditioner.__call__, training.flow_updates

    def encoding(self, labels, captions):
        made.append(captions)
        return encode(self, labels, captions)

    def updating(state, components, config, loader, *more):
        def watched():
            for batch in loader:
                assert isinstance(batch.condition, TextCondition)
                used.append((len(made), batch.caption))
                yield batch

        return update(state, components, config, watched(), *more)

    monkeypatch.setattr(TextConditioner, "__call__", encoding)
    monkeypatch.setattr(training, "flow_updates", updating)
    monkeypatch.setattr(training.RunOutputs, "catch_up", lambda self: made.clear())
    train(composition, tmp_path / "run", "cpu", [])
    assert len(losses(tmp_path / "run")) == 4
    # Eight micro-batches: each was encoded before the one before it was used.
    assert [count for count, _ in islice(used, 7)] == [2, 3, 4, 5, 6, 7, 8]
    assert [caption for _, caption in used] == made[:8]
