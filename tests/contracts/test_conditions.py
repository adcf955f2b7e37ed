"""What every kind of condition promises."""

import sys
from pathlib import Path

import pytest
import torch
from tiny import paper_shape

from diffusionbench.errors import UserError
from nanogen.conditions import CONDITIONS
from nanogen.model.dit import DDT

sys.path.insert(0, str(Path(__file__).parents[1] / "nanogen"))

NUM = 3


@pytest.fixture(params=list(CONDITIONS), scope="module")
def opened(request, tmp_path_factory):
    """A kind, its conditioner, and what NUM images carry: labels and captions."""
    settings = {"kind": request.param, "num_classes": 5, "encoder": None, "max_tokens": 16, "cache": None}
    if request.param == "text":
        pytest.importorskip("transformers", reason="text encoders need the extra t2i")
        from encoders import save_encoder

        settings["encoder"] = str(save_encoder(tmp_path_factory.mktemp("encoder"), "bert"))
    kind = CONDITIONS.load(request.param)
    asked = (
        {"labels": "0-2", "prompts": []} if request.param == "class" else {"labels": "", "prompts": ["a", "b c", "d"]}
    )
    return kind, kind.create(settings, "cpu"), settings, asked


@pytest.fixture(scope="module")
def net(opened):
    kind, _, settings, _ = opened
    torch.manual_seed(0)
    sizes = {"encoder_depth": 1, "encoder_hidden_size": 16, "encoder_num_heads": 2}
    sizes |= {"decoder_depth": 1, "decoder_hidden_size": 16, "decoder_num_heads": 2}
    shape = paper_shape((3, 4, 4), 2, **sizes, **{"num_classes": None, **kind.shape(settings)})
    net = DDT(shape)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def predicted(net, condition):
    z = torch.linspace(-1, 1, NUM * 48).view(NUM, 3, 4, 4)
    return net(z, torch.full((NUM,), 0.4), condition).pred


def condition_of(conditioner, asked):
    asks = conditioner.asks(**asked)
    return conditioner([ask.label for ask in asks], [ask.caption for ask in asks if ask.caption is not None])


def test_dropping_all_is_the_null_condition_and_dropping_none_changes_nothing(opened, net):
    _, conditioner, _, asked = opened
    condition = condition_of(conditioner, asked)
    with torch.no_grad():
        told, null = predicted(net, condition), predicted(net, condition.null())
        all_gone = predicted(net, condition.dropped(torch.ones(NUM, dtype=torch.bool)))
        none_gone = predicted(net, condition.dropped(torch.zeros(NUM, dtype=torch.bool)))
        one_gone = predicted(net, condition.dropped(torch.tensor([False, True, False])))
    torch.testing.assert_close(all_gone, null, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(none_gone, told, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one_gone[1], null[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one_gone[::2], told[::2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(told, null, atol=1e-3)


def test_an_image_does_not_depend_on_the_rest_of_its_batch(opened, net):
    _, conditioner, _, asked = opened
    asks = conditioner.asks(**asked)
    with torch.no_grad():
        together = predicted(net, condition_of(conditioner, asked))
        for place, ask in enumerate(asks):
            same = conditioner([ask.label] * NUM, [ask.caption] * NUM if ask.caption is not None else None)
            torch.testing.assert_close(predicted(net, same)[place], together[place], atol=1e-5, rtol=1e-5)


def test_each_ask_has_a_folder_of_its_own_and_missing_conditions_are_refused(opened):
    _, conditioner, _, asked = opened
    folders = [ask.folder for ask in conditioner.asks(**asked)]
    assert len(set(folders)) == len(folders) == NUM
    with pytest.raises(UserError):
        conditioner(None, None)
    assert conditioner.notes() == []
