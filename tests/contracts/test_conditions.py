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
# Of each kind: its settings, and what NUM images are asked for by; a new kind needs a line.
EXAMPLES = {
    "class": ({"num_classes": 5}, {"labels": "0-2", "prompts": []}),
    "text": ({"encoder": "bert", "max_tokens": 16, "cache": None}, {"labels": "", "prompts": ["a", "b c", "d"]}),
}


class Data:
    """Two images that carry everything a kind may ask for."""

    num_classes, classes, captioned, digest = 5, None, True, "0" * 64

    def __len__(self):
        return 2

    def caption(self, index):
        return f"caption {index}"


@pytest.fixture(params=CONDITIONS, scope="module")
def opened(request, tmp_path_factory):
    """The name of a kind, its conditioner, its settings, and a request for NUM images."""
    what = f"its settings, and what {NUM} images are asked for by"
    assert request.param in EXAMPLES, f"give condition kind '{request.param}' an entry in EXAMPLES of this test: {what}"
    settings, asked = EXAMPLES[request.param]
    if settings.get("encoder"):
        pytest.importorskip("transformers", reason="text encoders need the extra t2i")
        from encoders import save_encoder

        settings = {**settings, "encoder": str(save_encoder(tmp_path_factory.mktemp("encoder"), settings["encoder"]))}
    return request.param, CONDITIONS.load(request.param)(settings, "cpu"), settings, asked


@pytest.fixture(scope="module")
def net(opened):
    name, _, settings, _ = opened
    torch.manual_seed(0)
    sizes = {"encoder_depth": 1, "encoder_hidden_size": 16, "encoder_num_heads": 2}
    sizes |= {"decoder_depth": 1, "decoder_hidden_size": 16, "decoder_num_heads": 2}
    net = DDT(paper_shape((3, 4, 4), 2, **sizes, **{"num_classes": None, **CONDITIONS[name].shape(settings)}))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def predicted(net, condition):
    z = torch.linspace(-1, 1, NUM * 48).view(NUM, 3, 4, 4)
    return net(z, torch.full((NUM,), 0.4), condition).pred


def condition_of(conditioner, asked):
    specs = conditioner.parse_specs(**asked)
    return conditioner([spec.label for spec in specs], [spec.caption for spec in specs if spec.caption is not None])


def test_dropping_all_is_the_null_condition_and_dropping_none_changes_nothing(opened, net):
    _, conditioner, _, asked = opened
    condition = condition_of(conditioner, asked)
    with torch.no_grad():
        told, null = predicted(net, condition), predicted(net, condition.null())
        all_gone = predicted(net, condition.dropped(torch.ones(NUM, dtype=torch.bool)))
        none_gone = predicted(net, condition.dropped(torch.zeros(NUM, dtype=torch.bool)))
        one = condition.dropped(torch.tensor([False, True, False]))
        one_gone = predicted(net, one)
    assert (one.is_null().tolist(), condition.null().is_null().all()) == ([False, True, False], True)
    torch.testing.assert_close(all_gone, null, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(none_gone, told, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one_gone[1], null[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one_gone[::2], told[::2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(told, null, atol=1e-3)


def test_an_image_does_not_depend_on_the_rest_of_its_batch(opened, net):
    _, conditioner, _, asked = opened
    with torch.no_grad():
        together = predicted(net, condition_of(conditioner, asked))
        for index, spec in enumerate(conditioner.parse_specs(**asked)):
            same = conditioner([spec.label] * NUM, [spec.caption] * NUM if spec.caption is not None else None)
            torch.testing.assert_close(predicted(net, same)[index], together[index], atol=1e-5, rtol=1e-5)


def test_each_spec_has_a_folder_of_its_own_and_missing_conditions_are_refused(opened):
    _, conditioner, _, asked = opened
    folders = [spec.folder for spec in conditioner.parse_specs(**asked)]
    assert len(set(folders)) == len(folders) == NUM
    with pytest.raises(UserError):
        conditioner(None, None)
    assert conditioner.notes() == []


def test_settings_fit_the_data_and_examples_can_be_drawn(opened):
    name, conditioner, settings, _ = opened
    assert conditioner.infer_from_data(settings, Data()) == settings
    specs = conditioner.examples(Data(), 2)
    assert len(specs) == 2
    assert conditioner([spec.label for spec in specs], [spec.caption for spec in specs]) is not None
    assert (len(conditioner.digest) == 64) == (name == "text")
    assert CONDITIONS[name].title
    assert CONDITIONS[name].answers in (None, "classes", "prompts")
