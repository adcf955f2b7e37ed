"""What every extra loss promises: unweighted terms of each image, and a gradient into what they are read from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from standins import install_frozen

from nanogen.data import Batch
from nanogen.losses import LOSSES
from nanogen.losses.loss import ExtraLoss
from nanogen.model.condition import ClassCondition
from nanogen.model.shape import Shape
from nanogen.objectives.objective import Pass

# Settings beside the weight; a loss that is not listed is made from its weight alone.
EXAMPLES: dict[str, dict] = {}
NUM, TOKENS, WIDTH = 4, 9, 16
SHAPE = Shape(
    latent_shape=(3, 24, 24),
    patch_size=8,
    encoder_depth=2,
    encoder_hidden_size=WIDTH,
    encoder_num_heads=2,
    decoder_depth=1,
    decoder_hidden_size=24,
    decoder_num_heads=2,
    num_times=1,
    num_time_tokens=2,
    num_classes=10,
    num_class_tokens=2,
    text_width=None,
)


@pytest.fixture(params=list(LOSSES))
def loss(request, tmp_path, monkeypatch):
    """A function: the loss with a weight; stand-ins lie in the place of frozen networks."""
    install_frozen(tmp_path, monkeypatch)

    def create(weight: float) -> ExtraLoss:
        torch.manual_seed(0)
        try:
            options = LOSSES[request.param].options.model_validate(
                {"weight": weight, **EXAMPLES.get(request.param, {})}
            )
        except ValidationError as error:
            pytest.fail(f"loss '{request.param}' needs an entry in EXAMPLES of this test with its settings: {error}")
        return LOSSES.load(request.param)(options, SimpleNamespace(device="cpu", derived=SimpleNamespace(shape=SHAPE)))

    return create


def made(taps: tuple[str, ...], count: int = NUM) -> Pass:
    """A forward pass of images of 24 px whose pixels are the latent."""
    stream = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(NUM, *shape, generator=stream)[:count]

    x, eps, pred = normal(3, 24, 24), normal(3, 24, 24), normal(3, 24, 24).requires_grad_()
    features = {tap: normal(TOKENS, WIDTH).requires_grad_() for tap in taps}
    images = torch.randint(0, 256, (NUM, 3, 24, 24), dtype=torch.uint8, generator=stream)
    captions = [f"picture {index}" for index in range(count)]
    batch = Batch(images[:count], torch.arange(count), captions, list(range(count)))
    t = torch.full((count,), 0.5)
    condition = ClassCondition(torch.arange(count), 10)
    return Pass(x, eps, t, None, (x + eps) / 2, pred, (x + eps) / 2 - pred / 2, features, condition, batch)


def test_terms_reach_what_they_are_read_from_and_keep_to_their_image(loss):
    kind = loss(1.0)
    given = made(kind.taps)
    terms = kind(given)
    assert terms
    for name, term in terms.items():
        assert (term.shape, term.dtype) == ((NUM,), torch.float32), name
        assert term.requires_grad, f"term '{name}' has no gradient: it would train nothing"
        sources = [given.pred, *given.features.values()]
        gradients = torch.autograd.grad(term[1], sources, retain_graph=True, allow_unused=True)
        reached = [gradient for gradient in gradients if gradient is not None]
        assert sum(gradient[1].abs().sum() for gradient in reached) > 0, f"term '{name}' has a gradient of 0"
        assert sum(gradient[[0, 2, 3]].abs().sum() for gradient in reached) == 0


def test_what_it_trains_is_registered_and_gets_a_gradient(loss):
    """Every leaf that the terms depend on comes from the forward pass or is a parameter of the loss."""
    kind = loss(1.0)
    given = made(kind.taps)
    total = torch.stack([term.sum() for term in kind(given).values()]).sum()
    known = [given.pred, *given.features.values(), *kind.parameters()]
    waiting, seen = [total.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [above for above, _ in node.next_functions]
    for leaf in (node.variable for node in seen if hasattr(node, "variable")):
        assert any(leaf is one for one in known), f"a leaf of shape {list(leaf.shape)} is no parameter of the loss"
    for name, parameter in kind.named_parameters():
        if parameter.requires_grad:
            (gradient,) = torch.autograd.grad(total, parameter, retain_graph=True, allow_unused=True)
            assert gradient is not None, f"parameter '{name}' gets no gradient"
            assert gradient.abs().sum() > 0, f"parameter '{name}' has a gradient of 0"


def test_the_weight_is_left_to_the_caller(loss):
    light, heavy = loss(0.5), loss(2.0)
    assert (light.weight, heavy.weight) == (0.5, 2.0)
    terms = heavy(made(heavy.taps))
    for name, term in light(made(light.taps)).items():
        assert torch.equal(term, terms[name])


def test_an_image_does_not_depend_on_the_rest_of_its_batch(loss):
    kind = loss(1.0)
    whole, part = kind(made(kind.taps)), kind(made(kind.taps, 2))
    for name, term in whole.items():
        torch.testing.assert_close(part[name], term[:2], rtol=1e-4, atol=1e-6)
