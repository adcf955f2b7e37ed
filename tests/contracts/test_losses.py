"""What every extra loss promises: unweighted terms of each image, and a gradient into what they are read from."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from nanogen.data import Batch
from nanogen.losses import LOSSES

# Settings beside the weight; a loss that is not listed is made from its weight alone.
EXAMPLES: dict[str, dict] = {}
NUM, TOKENS, WIDTH = 4, 9, 16


@pytest.fixture(params=list(LOSSES))
def loss(request):
    """A function: the loss with a weight."""
    kind = LOSSES.load(request.param)

    def create(weight: float):
        try:
            return kind(kind.Options.model_validate({"weight": weight, **EXAMPLES.get(request.param, {})}))
        except ValidationError as error:
            pytest.fail(f"loss '{request.param}' needs an entry in EXAMPLES of this test with its settings: {error}")

    return create


def features(count: int = NUM) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return {"encoder": torch.randn(NUM, TOKENS, WIDTH, generator=stream)[:count].requires_grad_()}


def batch(count: int = NUM) -> Batch:
    images = torch.randint(0, 256, (NUM, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    captions = [f"picture {index}" for index in range(count)]
    return Batch(images[:count], torch.arange(count), captions, list(range(count)))


def test_terms_reach_what_they_are_read_from_and_keep_to_their_image(loss):
    given = features()
    terms = loss(1.0)(given, batch())
    assert terms
    for name, term in terms.items():
        assert (term.shape, term.dtype) == ((NUM,), torch.float32), name
        assert term.requires_grad, f"term '{name}' has no gradient: it would train nothing"
        gradients = torch.autograd.grad(term[1], list(given.values()), retain_graph=True, allow_unused=True)
        reached = [gradient for gradient in gradients if gradient is not None]
        assert sum(gradient[1].abs().sum() for gradient in reached) > 0, f"term '{name}' has a gradient of 0"
        assert sum(gradient[[0, 2, 3]].abs().sum() for gradient in reached) == 0


def test_the_weight_is_left_to_the_loop(loss):
    light, heavy = (loss(weight)(features(), batch()) for weight in (0.5, 2.0))
    for name, term in light.items():
        assert torch.equal(term, heavy[name])


def test_an_image_does_not_depend_on_the_rest_of_its_batch(loss):
    whole, part = loss(1.0)(features(), batch()), loss(1.0)(features(2), batch(2))
    for name, term in whole.items():
        torch.testing.assert_close(part[name], term[:2], rtol=1e-4, atol=1e-6)
