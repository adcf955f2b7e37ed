"""Forward-mode rules against torch's own."""

from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from reference import reference_network, wave
from torch.utils._python_dispatch import TorchDispatchMode

from nanogen.model.condition import TextCondition
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
    "linear, bias by name": (lambda x, w, b: F.linear(x, w, bias=b), F.linear, [(2, 5, 4), (3, 4), (3,)], [0]),
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["attention", "masked attention"])
def test_the_softmax_of_attention_and_its_derivative_are_of_one_stated_type(name, dtype):
    """Autocast on CUDA makes a softmax float32 and leaves its tangent, and the kernel of its derivative refuses two."""
    kernel, seen = torch.ops.aten._softmax_backward_data.default, []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is kernel and not torch.is_grad_enabled():
                seen.append({args[0].dtype, args[1].dtype, args[3]})
            return func(*args, **(kwargs or {}))

    func, _, shapes, moving = CASES[name]
    with Watch():
        derivative(func, [torch.randn(shape).to(dtype) for shape in shapes], moving, rules=True)
    assert seen[0] == {torch.promote_types(dtype, torch.float32)}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mask", [None, torch.tensor([[True, True, False], [True, True, True], [False, False, False]])])
def test_the_derivative_of_a_network_of_text_is_that_of_finite_differences(monkeypatch, mask, compiled):
    # The network would fall to float32, in which differences tell little.
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    net = reference_network(num_times=2, num_classes=None, text_width=7).double()
    net.compiled = compiled
    z, dz = (wave(*numbers, (3, 3, 8, 8)).double() for numbers in ((0.13, 0.2), (0.29, 1.1)))
    t, r = (torch.tensor(times, dtype=torch.float64) for times in ([0.9, 0.5, 0.7], [0.1, 0.4, 0.2]))
    condition = TextCondition(wave(0.17, 0.6, (3, 3, 7)).double(), mask)
    with forward_ad.dual_level(), ForwardRules():
        dual = forward_ad.make_dual(z, dz), forward_ad.make_dual(t, torch.ones_like(t))
        value, tangent = forward_ad.unpack_dual(net(*dual, condition, r=r).pred)
    h = 1e-5
    with torch.no_grad():
        after, before = (net(z + step * dz, t + step, condition, r=r).pred for step in (h, -h))
        torch.testing.assert_close(value, net(z, t, condition, r=r).pred)
    torch.testing.assert_close(tangent, (after - before) / (2 * h), rtol=1e-5, atol=1e-7)
