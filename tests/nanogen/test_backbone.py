"""The backbone against its reference outputs, its closed-form size, and what must not change its result."""

from __future__ import annotations

import itertools

import pytest
import torch
from reference import filled, reference_network, released_layout, summary, tiny_shape, wave
from tiny import paper_shape

from diffusionbench.errors import CheckpointError
from nanogen.config import compose, method_names, task_names
from nanogen.latents import LATENTS
from nanogen.model import layers
from nanogen.model.condition import ClassCondition, TextCondition
from nanogen.model.dit import DDT
from nanogen.model.released import from_released
from nanogen.model.shape import Shape
from nanogen.pair import Pair
from nanogen.resolve import resolve

X, T = wave(0.13, 0.2, (2, 3, 8, 8)), torch.tensor([0.02, 0.6])
LABELS = ClassCondition(torch.tensor([1, 4]), 5)
TEXT = TextCondition(wave(0.07, 0.1, (2, 4, 10)), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool))
HIDDEN = TextCondition(TEXT.states, torch.zeros(2, 4, dtype=torch.bool))
CASES = {
    "labels": (LABELS, [0.560630, 1.637815, 3.57568, -3.65813, 3.85839, -1.53009, 1.69765]),
    "null class": (LABELS.null(), [0.522256, 1.642157, 3.28663, -3.88869, 3.65080, -1.85134, 1.96622]),
    "text": (TEXT, [0.500736, 2.112601, 4.87244, -2.23325, 4.53157, -1.89381, 2.49205]),
    "text, all masked": (HIDDEN, [0.465304, 2.138871, 4.96097, -2.27101, 4.58891, -2.00813, 2.13391]),
    "text, no token": (TEXT.null(), [0.465304, 2.138871, 4.96097, -2.27101, 4.58891, -2.00813, 2.13391]),
}


@pytest.mark.parametrize("case", CASES)
def test_reference_outputs(case):
    condition, expected = CASES[case]
    net = reference_network(text=isinstance(condition, TextCondition))
    with torch.no_grad():
        assert summary(net(X, T, condition).pred) == pytest.approx(expected, rel=1e-4)


def test_a_network_of_two_times_has_its_reference_output():
    net = reference_network(num_times=2)
    with torch.no_grad():
        found = summary(net(X, T, LABELS, r=T - torch.tensor([0.01, 0.3])).pred)
    expected = [-0.418151, 3.689407, -1.17264, 3.11833, -0.51428, 3.19130, -8.83226]
    assert found == pytest.approx(expected, rel=1e-4)
    assert len(released_layout(net.shape)) == 81
    assert net.shape.num_parameters() == 64_198 == sum(parameter.numel() for parameter in net.parameters())
    for network, r in ((net, None), (reference_network(), T)):
        with pytest.raises(ValueError, match=r"a network of \d time"):
            network(X, T, LABELS, r=r)


VARIANTS = [  # what the shape has more; released tensors, parameters; what is read; its reference output
    ({"vector_width": 6}, (83, 51_628), "image", [0.560401, 1.654273, 3.63714, -3.49932, 3.88763, -1.39146, 2.21353]),
    (
        *({"vector_width": 6}, (83, 51_628), "vector"),
        [0.191257, 2.154791, 1.60887, 2.87214, -1.38127, 2.91379, -2.13609],
    ),
    (
        *({"early_depth": 1}, (80, 52_506), "early"),
        [-0.390605, 2.268363, -0.68473, 1.19247, -0.48399, 1.35758, 2.59506],
    ),
    ({"early_depth": 1}, (80, 52_506), "pred", CASES["labels"][1]),
    (
        *({"decoder_depth": 0}, (49, 28_532), "pred"),
        [-0.018973, 0.934359, -0.48554, 0.41988, -0.49390, 0.38574, 0.42365],
    ),
]


@pytest.mark.parametrize("numbers, sizes, part, expected", VARIANTS)
def test_variants_have_their_reference_outputs(numbers, sizes, part, expected):
    net = reference_network(**numbers)
    z = Pair(X, wave(0.3, 0.4, (2, 6))) if "vector_width" in numbers else X
    with torch.no_grad():
        out = net(z, T, LABELS, taps=("early",) if part == "early" else ())
    found = out.features["early"] if part == "early" else out.pred if part == "pred" else getattr(out.pred, part)
    assert summary(found) == pytest.approx(expected, rel=1e-4)
    assert (len(released_layout(net.shape)), net.shape.num_parameters()) == sizes
    assert sum(parameter.numel() for parameter in net.parameters()) == sizes[1]


def test_a_projection_of_an_early_layer_has_its_reference_output():
    """Alignment with a frozen encoder (REPA): after the first block, against targets of 6 values."""
    shape = tiny_shape()
    layout = [*released_layout(shape), ("repa_projector.weight", (6, 24)), ("repa_projector.bias", (6,))]
    weights = filled(layout)
    net = DDT(shape)
    # What served training alone is no part of the network.
    net.load_state_dict(from_released(weights, shape))
    with torch.no_grad():
        tokens = net(X, T, LABELS, taps=("encoder.1",)).features["encoder.1"]
    projected = torch.nn.functional.linear(tokens, weights["repa_projector.weight"], weights["repa_projector.bias"])
    expected = [-0.607586, 0.907380, -0.08535, -1.48885, -2.31969, -0.68242, -1.81639]
    assert summary(projected) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("decoder_depth, name", [(1, "DDT"), (0, "LightningDiT")])
def test_every_variant_is_0_at_the_start(decoder_depth, name):
    shape = tiny_shape(decoder_depth=decoder_depth, vector_width=6, early_depth=2)
    out = DDT(shape)(Pair(X, wave(0.3, 0.4, (2, 6))), T, LABELS, taps=("early", "vector.2"))
    assert out.pred.image.abs().max() == out.pred.vector.abs().max() == out.features["early"].abs().max() == 0
    assert out.features["vector.2"].shape == (2, 1, 24)


def test_a_network_takes_the_state_that_it_was_made_for():
    for numbers, z in (({}, Pair(X, wave(0.3, 0.4, (2, 6)))), ({"vector_width": 6}, X)):
        with pytest.raises(ValueError, match="was given a"):
            reference_network(**numbers)(z, T, LABELS)


def test_published_sizes_of_variants():
    """Methods 1.12 to 1.14."""
    sizes = {
        (4, 2, ("vector_width", 768)): 615_342_628,
        (128, 1, ("vector_width", 768)): 615_930_516,
        (768, 1, ("vector_width", 768)): 619_289_876,
        (4, 2, ("num_times", 2)): 613_229_092,
        (4, 2, ("decoder_depth", 0)): 449_434_448,
        (128, 1, ("decoder_depth", 0)): 449_692_608,
        (768, 1, ("decoder_depth", 0)): 451_167_808,
        (1024, 1, ("decoder_depth", 0)): 451_757_888,
        (4, 2, ("early_depth", 8)): 611_304_996 + 2_676_112,
        (128, 1, ("early_depth", 8)): 611_892_884 + 2_805_248,
        (768, 1, ("early_depth", 8)): 615_252_244 + 3_543_168,
        (1024, 1, ("early_depth", 8)): 616_595_988 + 3_838_336,
    }
    for (channels, patch_size, number), expected in sizes.items():
        shape = paper_shape((channels, 16 * patch_size, 16 * patch_size), patch_size, **dict([number]))
        assert shape.num_parameters() == expected == meta_size(shape)
    shape = paper_shape((4, 32, 32), 2, num_times=2)
    assert len(released_layout(shape)) == 569


def test_reference_sizes():
    for text, tensors, parameters in ((False, 75, 50_982), (True, 76, 51_040)):
        assert len(released_layout(tiny_shape(text=text))) == tensors
        assert tiny_shape(text=text).num_parameters() == parameters


def test_captions_cut_to_their_longest_give_the_same_output():
    net = reference_network(text=True)
    cut = TextCondition(TEXT.states[:1, :2], None)
    with torch.no_grad():
        torch.testing.assert_close(net(X[:1], T[:1], cut).pred, net(X, T, TEXT).pred[:1], rtol=1e-5, atol=1e-5)


def test_dropping_a_condition_is_the_null_condition():
    for condition in (LABELS, TEXT):
        net = reference_network(text=condition is TEXT)
        with torch.no_grad():
            mixed = net(X, T, condition.dropped(torch.tensor([True, False]))).pred
            torch.testing.assert_close(mixed[:1], net(X, T, condition.null()).pred[:1], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(mixed[1:], net(X, T, condition).pred[1:], rtol=1e-5, atol=1e-5)


PUBLISHED = [  # latent shape, patch, ImageNet, text (methods 1.12)
    ((4, 32, 32), 2, 611_304_996, 611_324_452),
    ((32, 16, 16), 1, 611_388_980, 611_408_436),
    ((16, 32, 32), 2, 611_556_948, 611_576_404),
    ((128, 16, 16), 1, 611_892_884, 611_912_340),
    ((768, 16, 16), 1, 615_252_244, 615_271_700),
    ((3, 256, 256), 16, 615_252_244, 615_271_700),
    ((1024, 16, 16), 1, 616_595_988, 616_615_444),
]


def meta_size(shape: Shape) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in DDT(shape).parameters())


@pytest.mark.parametrize("latent_shape, patch_size, classes, text", PUBLISHED)
def test_published_sizes_at_256(latent_shape, patch_size, classes, text):
    for expected, condition in ((classes, {}), (text, {"num_classes": None, "text_width": 1024})):
        shape = paper_shape(latent_shape, patch_size, **condition)
        assert shape.num_parameters() == expected == meta_size(shape)


@pytest.mark.parametrize(
    "latent_shape, patch, expected", [((16, 64, 64), 2, 1_011_622_804), ((128, 32, 32), 1, 1_011_986_388)]
)
def test_published_sizes_at_512(latent_shape, patch, expected):
    wide = {"encoder_hidden_size": 1584, "encoder_num_heads": 22}
    shape = paper_shape(latent_shape, patch, num_classes=None, text_width=1024, **wide)
    assert shape.num_parameters() == expected == meta_size(shape)


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize("method", method_names())
def test_closed_form_size_equals_the_module_for_every_row_and_task(task, method):
    size = LATENTS[compose(task, method).config.latent.name].image_size or 256
    overrides = [f"data.image_size={size}", "condition.num_classes=1000"]
    shape = resolve(compose(task, method, overrides=overrides).config).shape
    assert shape.num_parameters() == meta_size(shape)


def test_flops_are_those_of_the_matrix_products():
    """Published cost of one image at paper scale, class-conditional in the SD-VAE's latent: 332.2 GFLOP forward."""
    assert paper_shape((4, 32, 32), 2).forward_flops() == pytest.approx(332.2e9, rel=1e-3)
    text = paper_shape((128, 16, 16), 1, num_classes=None, text_width=1024)
    assert text.forward_flops(256) == pytest.approx(579.4e9, rel=2e-3)
    assert text.forward_flops(64) == pytest.approx(386.9e9, rel=2e-3)


def test_output_is_zero_at_the_start():
    net = DDT(tiny_shape())
    assert torch.count_nonzero(net(X, T, LABELS).pred) == 0


def test_initial_values():
    torch.manual_seed(0)
    net = DDT(paper_shape((16, 8, 8), 2, encoder_depth=1, decoder_depth=1)).requires_grad_(False)
    assert net.time.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert net.time.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert net.condition.table.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert net.condition.offsets.std().item() == pytest.approx(1152**-0.5, rel=0.05)
    assert net.encoder_embed.weight.abs().max().item() == pytest.approx((6 / (1152 + 64)) ** 0.5, rel=0.01)
    assert net.encoder[0].attn.qkv.weight.abs().max().item() == pytest.approx(1152**-0.5, rel=0.01)
    assert net.time.frequencies.std().item() == pytest.approx(1, rel=0.2)
    for part in (net.decoder[0].adaln, net.final.adaln, net.final.linear):
        assert all(torch.count_nonzero(parameter) == 0 for parameter in part.parameters())


def test_attention_paths_agree():
    """The plain product that serves bfloat16 on a CPU computes what the fused kernel does."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 12).unbind(0)
    mask = torch.rand(2, 9) < 0.7
    mask[:, 0] = True
    for hidden in (None, mask):
        plain = layers.attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), hidden).float()
        torch.testing.assert_close(plain, layers.attend(q, k, v, hidden), rtol=0.05, atol=0.03)


def test_a_block_that_keeps_some_tokens_gives_those_of_the_whole_block():
    torch.manual_seed(0)
    block = layers.EncoderBlock(24, 2)
    x, upstream = torch.randn(2, 9, 24), torch.randn(2, 4, 24)
    mask = torch.tensor([[True] * 9, [True] * 6 + [False] * 3])
    rotary = layers.pad_table(layers.rotary_table(2, 2, 12), 5)
    found = []
    for kept in (None, 4):
        y = block(x, rotary, mask, kept)[:, :4]
        found.append([y.detach(), *torch.autograd.grad((y * upstream).sum(), [*block.parameters()])])
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)


def test_the_encoder_computes_nothing_that_is_not_read():
    net = reference_network(text=True)
    lengths = []
    for block in net.encoder:
        block.mlp.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    net(X, T, TEXT)
    *before, last = lengths
    assert last == net.shape.num_image_tokens
    assert set(before) == {last + net.shape.num_time_tokens + TEXT.states.shape[1]}


def test_rotation_turns_adjacent_pairs_rows_first():
    table = layers.rotary_table(2, 3, 8)
    angles = layers.rotary_angles(2, 3, 8)
    # Token (1, 2): two row angles, then two column angles; frequencies 1 and 10000^(-1/2).
    assert angles[5].tolist() == pytest.approx([1.0, 0.01, 2.0, 0.02])
    x = torch.arange(1.0, 9.0).expand(1, 1, 6, 8)
    turned = layers.rotate(x, table)[0, 0, 5]
    assert turned[0] == pytest.approx(torch.cos(torch.tensor(1.0)).item() - 2 * torch.sin(torch.tensor(1.0)).item())
    padded = layers.pad_table(table, 2)
    still = layers.rotate(torch.ones(1, 1, 8, 8), padded)[0, 0, 6:]
    assert torch.equal(still, torch.ones(2, 8))


def test_importer_names_what_does_not_fit():
    shape = tiny_shape()
    tensors = filled(released_layout(shape))
    tensors["enc_rope.freqs_cos"] = torch.zeros(1)
    assert set(from_released(tensors, shape)) == {name for name, _ in DDT(shape).named_parameters()}
    broken = {"extra" if name == "blocks.0.attn.q.weight" else name: value for name, value in tensors.items()}
    with pytest.raises(CheckpointError, match=r"missing blocks\.0\.attn\.q\.weight; unknown extra"):
        from_released(broken, shape)
    with pytest.raises(CheckpointError, match=r"final_layer\.linear\.bias: \[3\] instead of \[12\]"):
        from_released(tensors | {"final_layer.linear.bias": torch.zeros(3)}, shape)


@pytest.mark.parametrize(
    "numbers, message",
    [
        ({"patch_size": 3}, "cannot be cut"),
        ({"encoder_num_heads": 5}, "multiple of 4"),
        ({"text_width": 8}, "classes or on text"),
        ({"early_depth": 29}, "early_depth is 29, and the encoder has 28"),
    ],
)
def test_impossible_shapes_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        paper_shape((3, 8, 8), **{"patch_size": 2, **numbers})


@pytest.mark.slow
def test_compiled_blocks_give_the_eager_result():
    net = reference_network()
    with torch.no_grad():
        eager = net(X, T, LABELS).pred
        net.compile_blocks()
        torch.testing.assert_close(net(X, T, LABELS).pred, eager, rtol=1e-4, atol=1e-4)


def test_texts_of_all_lengths_are_few_cases_to_a_compiled_network():
    """In training with a mask, in sampling without one, and with no text at all, there in batches of several sizes."""
    net, eager = reference_network(text=True), reference_network(text=True)
    sampling_and_training = ((2, False), (3, False), (2, True))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=8):
        net.compile_blocks(backend="eager")
        for length, masked, (batch, grad) in itertools.product((3, 17, 0), (True, False), sampling_and_training):
            x, t = wave(0.13, 0.2, (batch, 3, 8, 8)), torch.linspace(0.1, 0.9, batch)
            mask = torch.arange(length).repeat(batch, 1) < 2 if masked and length else None
            condition = TextCondition(wave(0.07, 0.1, (batch, length, 10)), mask)
            with torch.set_grad_enabled(grad):
                torch.testing.assert_close(net(x, t, condition).pred, eager(x, t, condition).pred, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu():
    net = reference_network()
    with torch.no_grad():
        cpu = net(X, T, LABELS).pred
        on_gpu = net.cuda()(X.cuda(), T.cuda(), ClassCondition(LABELS.labels.cuda(), 5)).pred
    torch.testing.assert_close(on_gpu.cpu(), cpu, rtol=1e-3, atol=1e-3)
