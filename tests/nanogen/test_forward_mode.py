"""Forward-mode rules against torch's own."""

from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F

from nanogen.objectives.forward_mode import RULES, ForwardRules

MASK = torch.tensor([[True, True, False, True, True], [True, False, False, True, True]])[:, None, None]


def attention(q, k, v):
    """Return attention in plain products, of which torch has a forward-mode derivative."""
    return ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1) @ v


def masked_attention(q, k, v):
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return scores.masked_fill(~MASK, float("-inf")).softmax(-1) @ v


convolve = partial(torch.conv2d, stride=2)
HEADS = [(2, 3, 4, 6), (2, 3, 5, 6), (2, 3, 5, 6)]
# Function, the same for torch's own rules, shapes of arguments, and which of them move.
CASES = {
    "linear": (F.linear, F.linear, [(2, 5, 4), (3, 4), (3,)], [0]),
    "linear without bias": (F.linear, F.linear, [(2, 4), (3, 4)], [0]),
    "conv2d": (convolve, convolve, [(2, 3, 4, 4), (5, 3, 2, 2), (5,)], [0]),
    "product": (torch.Tensor.mul, torch.mul, [(2, 5, 4), (2, 5, 4)], [0, 1]),
    "product, left": (torch.Tensor.mul, torch.mul, [(2, 5, 4), (4,)], [0]),
    "product, right": (torch.Tensor.mul, torch.mul, [(4,), (2, 5, 4)], [1]),
    "product by a number": (lambda x: x * 3, lambda x: x + x + x, [(2, 5)], [0]),
    "number by a product": (lambda x: 3 * x, lambda x: x + x + x, [(2, 5)], [0]),
    "matrices": (lambda a, b: a @ b, torch.bmm, [(2, 5, 4), (2, 4, 3)], [0, 1]),
    "silu": (F.silu, lambda x: x * x.sigmoid(), [(2, 5)], [0]),
    "norm": (
        lambda x, w: F.rms_norm(x, (4,), w, 1e-6),
        lambda x, w: x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w,
        [(2, 5, 4), (4,)],
        [0],
    ),
    "attention": (F.scaled_dot_product_attention, attention, HEADS, [0, 1, 2]),
    "masked attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=MASK), masked_attention, HEADS, [0, 1, 2]
    ),
}  # fmt: skip


def derivative(func, args, moving, rules):
    """Return value, tangent, and the gradients of the value's weighted sum."""
    with forward_ad.dual_level():
        given = [arg.clone().requires_grad_() for arg in args]
        duals = [
            forward_ad.make_dual(arg, torch.cos(17 * arg.detach())) if index in moving else arg
            for index, arg in enumerate(given)
        ]
        if rules:
            with ForwardRules():
                made = func(*duals)
        else:
            made = func(*duals)
        value, tangent = forward_ad.unpack_dual(made)
        weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)
        grads = torch.autograd.grad((value * weights).sum(), given)
    return value, tangent, grads


@pytest.mark.parametrize("name", CASES)
def test_the_rules_give_value_tangent_and_gradient_of_torch(name):
    func, plain, shapes, moving = CASES[name]
    generator = torch.Generator().manual_seed(0)
    args = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    value, tangent, grads = derivative(func, args, moving, rules=True)
    wanted = derivative(plain, args, moving, rules=False)
    torch.testing.assert_close(value, wanted[0])
    torch.testing.assert_close(tangent, wanted[1])
    torch.testing.assert_close(grads, wanted[2])
    # Nothing is recorded for it.
    assert not tangent.requires_grad
    assert value.requires_grad


def test_every_rule_is_tried():
    tried = set()

    class Watch(dict):
        def get(self, func):
            tried.add(func)
            return RULES.get(func)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogen.objectives.forward_mode.RULES", Watch())
        for name in CASES:
            test_the_rules_give_value_tangent_and_gradient_of_torch(name)
    assert tried >= set(RULES)


def test_tensors_without_a_tangent_are_left_alone():
    x, weight = torch.ones(2, 3), torch.ones(4, 3, requires_grad=True)
    with forward_ad.dual_level(), ForwardRules():
        made = F.linear(x, weight)
        assert forward_ad.unpack_dual(made).tangent is None
    made.sum().backward()
    assert weight.grad.eq(2).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_the_tangent_has_the_type_of_the_value(name, dtype):
    func, _, shapes, moving = CASES[name]
    value, tangent, _ = derivative(func, [torch.randn(shape).to(dtype) for shape in shapes], moving, rules=True)
    assert value.dtype == tangent.dtype == dtype


def test_autocast_holds_for_both():
    with torch.autocast("cpu", torch.bfloat16):
        value, tangent, _ = derivative(F.linear, [torch.randn(2, 4), torch.randn(3, 4)], [0], rules=True)
    assert value.dtype == tangent.dtype == torch.bfloat16
