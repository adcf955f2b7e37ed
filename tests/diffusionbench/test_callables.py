"""Functions as sources: what they are given, what they may return, what is said where they return something else."""

import gc
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from diffusionbench import callables
from diffusionbench.callables import CallableSource, is_named, open_named, to_images
from diffusionbench.errors import DataError, RequestError, RunError, UserError
from diffusionbench.sample import Item, Sample, plain_item
from diffusionbench.specs import SourceSpec


def labelled(count, **changes):
    return [Sample(place, plain_item(place % 10), seed=100 + place, **changes) for place in range(count)]


def prompted(count):
    return [Sample(place, Item(f"p/{place}", text=f"text {place}"), seed=place) for place in range(count)]


@pytest.fixture
def images(noise):
    return noise(3, 8)


FORMS = {
    "NumPy": lambda images: images,
    "NumPy channels first": lambda images: images.transpose(0, 3, 1, 2),
    "NumPy floats": lambda images: (images / 255).astype(np.float32),
    "torch": torch.from_numpy,
    "torch channels first": lambda images: torch.from_numpy(images).permute(0, 3, 1, 2),
    "torch float64": lambda images: torch.from_numpy(images).double() / 255,
    "torch floats channels first": lambda images: torch.from_numpy(images).permute(0, 3, 1, 2) / 255,
    "torch with gradient": lambda images: (torch.from_numpy(images) / 255).requires_grad_(),
    "Pillow": lambda images: [Image.fromarray(image) for image in images],
    "a tuple of opaque RGBA": lambda images: tuple(Image.fromarray(image).convert("RGBA") for image in images),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(form, images):
    found, floats = to_images(FORMS[form](images.copy()), 3, "f")
    assert found.dtype == np.uint8
    assert floats == ("float" in form or "gradient" in form)
    # x / 255 * 255 may fall just below x.
    assert np.abs(found.astype(int) - images).max() <= (1 if floats else 0)


def test_floats_are_truncated_and_half_a_level_beyond_the_range_is_allowed():
    levels = torch.tensor([0.0, 0.5, 0.9999, 1.0, -0.001, 1.001]).view(6, 1, 1, 1).expand(6, 3, 4, 4)
    found, _ = to_images(levels, 6, "f")
    assert found[:, 0, 0, 0].tolist() == [0, 127, 254, 255, 0, 255]


def test_grey_and_palette_pictures_become_rgb():
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    found, _ = to_images([grey, grey.convert("P")], 2, "f")
    assert (found == np.asarray(grey)[None, ..., None]).all()


@pytest.mark.parametrize(
    "returned, words",
    [
        (None, "returned None"),
        ("images", "returned an object of type str"),
        ([np.zeros((8, 8, 3), np.uint8)] * 2, "item 0 is an object of type ndarray"),
        ([], "an empty list"),
        (np.zeros((2, 8, 8, 3), np.int64), r"NumPy int64 \[2, 8, 8, 3\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int32), r"torch int32 \[2, 3, 8, 8\]"),
        (np.zeros((2, 8, 8), np.uint8), r"NumPy uint8 \[2, 8, 8\], which is no batch of RGB"),
        (torch.zeros(2, 1, 8, 8), r"torch float32 \[2, 1, 8, 8\], which is no batch of RGB"),
        (np.zeros((2, 8, 8, 4), np.uint8), "no batch of RGB"),
        (np.zeros((2, 0, 8, 3), np.uint8), "no batch of RGB"),
        (torch.zeros(2, 3, 8, 3), "which side holds the channels is not clear"),
        (np.zeros((3, 8, 8, 3), np.uint8), "3 images for 2 samples"),
        (np.zeros((1, 8, 8, 3), np.uint8), "1 images for 2 samples"),
        (torch.full((2, 3, 8, 8), -1.0), "values from -1 to -1"),
        (torch.full((2, 3, 8, 8), 255.0), "values from 255 to 255"),
        (torch.full((2, 3, 8, 8), float("nan")), "values from nan to nan"),
        (np.full((2, 3, 8, 8), np.inf, np.float32), "values from inf to inf"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], "images of 8x8 and 9x8"),
        ([Image.new("RGBA", (8, 8))] * 2, "image 0 that f returned is partly transparent"),
        ([Image.new("F", (8, 8))] * 2, "pixel mode F"),
    ],
)
def test_anything_else_is_one_sentence_that_names_it(returned, words):
    with pytest.raises(DataError, match=words) as caught:
        to_images(returned, 2, "f")
    assert "\n" not in str(caught.value)
    assert "f returned" in str(caught.value)


def test_what_a_function_takes_is_given_by_name():
    seen = {}

    def draw(seeds, labels, scale=2.0):
        seen.update(labels=labels, seeds=seeds)
        return np.zeros((len(labels), 8, 8, 3), np.uint8)

    CallableSource(draw).images(labelled(3))
    assert seen == {"labels": [0, 1, 2], "seeds": [100, 101, 102]}

    CallableSource(lambda **given: seen.update(given=given) or np.zeros((2, 8, 8, 3), np.uint8)).images(prompted(2))
    assert seen["given"] == {"prompts": ["text 0", "text 1"], "seeds": [0, 1]}

    # What is not asked for keeps its default, or is None where it has none.
    def both(labels, prompts="none"):
        seen.update(both=(labels, prompts))
        return np.zeros((1, 8, 8, 3), np.uint8)

    CallableSource(both).images(labelled(1))
    assert seen["both"] == ([0], "none")
    CallableSource(both).images(prompted(1))
    assert seen["both"] == (None, ["text 0"])


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda x: x, "needs the argument 'x'"),
        (lambda labels, guidance: labels, "needs the argument 'guidance'"),
        (lambda: None, "takes none of labels, prompts, seeds"),
        (lambda size=3: None, "takes none of labels, prompts, seeds"),
        (lambda labels, /: None, "needs the argument 'labels'"),
        (dict.fromkeys, "needs the argument"),
    ],
)
def test_other_arguments_are_refused_before_any_call(function, words):
    with pytest.raises(RequestError, match=words):
        CallableSource(function)


@pytest.mark.parametrize(
    "function, samples, judged, words",
    [
        (lambda labels: None, prompted(2), (), "prompts are asked for, and .* takes no 'prompts'"),
        (lambda prompts: None, labelled(2), (), "labels are asked for, and .* takes no 'labels'"),
        (lambda labels: None, [Sample(0), Sample(1)], (), "takes labels, and none are known"),
        (lambda seeds: None, labelled(2), ["classes"], "judges images by the classes"),
        (lambda prompts: None, labelled(2), ["classes"], "takes no 'labels'"),
    ],
)
def test_what_does_not_fit_the_samples_is_refused(function, samples, judged, words):
    with pytest.raises(RequestError, match=words):
        CallableSource(function).check(samples, judged)


def test_a_function_of_seeds_alone_draws_without_a_condition():
    source = CallableSource(lambda seeds: np.full((len(seeds), 8, 8, 3), seeds[0] % 256, np.uint8))
    source.check([Sample(0), Sample(1)])
    assert (source.images([Sample(0, seed=7)]) == 7).all()


def test_a_buffer_that_is_used_again_does_not_change_what_was_returned():
    for buffer in (np.zeros((2, 8, 8, 3), np.uint8), torch.zeros(2, 8, 8, 3, dtype=torch.uint8)):

        def draw(seeds, buffer=buffer):
            buffer[:] = seeds[0]
            return buffer

        source = CallableSource(draw)
        first = source.images(labelled(2))
        source.images([Sample(9, seed=9)] * 2)
        assert (first == 100).all()


def test_sizes_and_types_must_stay():
    sizes = iter([8, 8, 9])
    source = CallableSource(lambda seeds: np.zeros((1, next(sizes), 8, 3), np.uint8))
    source.images(labelled(1))
    assert source.image_size == (8, 8)
    source.images(labelled(1))
    with pytest.raises(DataError, match="images of 9x8, and of 8x8 before"):
        source.images(labelled(1))
    types = iter([np.uint8, np.float32])
    source = CallableSource(lambda seeds: np.zeros((1, 8, 8, 3), next(types)))
    source.images(labelled(1))
    with pytest.raises(DataError, match="returned floats, and 8-bit values before"):
        source.images(labelled(1))


def test_an_exception_names_function_and_place():
    def draw(labels):
        raise ValueError("no such class\nsecond line")

    with pytest.raises(RunError, match=r"draw, asked for 2 image\(s\), raised ValueError: no such class \(.*py:\d+\)"):
        CallableSource(draw).images(labelled(2))

    def refuse(labels):
        raise RequestError("in its own words")

    with pytest.raises(RequestError, match="in its own words"):
        CallableSource(refuse).images(labelled(2))
    with pytest.raises(RunError, match="raised SystemExit: 1"):
        CallableSource(lambda labels: sys.exit(1)).images(labelled(2))


@pytest.mark.filterwarnings("error")
def test_an_asynchronous_function_is_one_sentence():
    async def draw(seeds):
        return np.zeros((len(seeds), 8, 8, 3), np.uint8)

    for function in (draw, lambda seeds: draw(seeds)):
        with pytest.raises(RequestError, match="returned a coroutine, as every `async def` does"):
            CallableSource(function).images(labelled(2))
        gc.collect()


def jitter(levels):
    """A function whose image differs between calls by so many grey levels."""
    calls = iter(range(1000))
    return lambda seeds: np.full((len(seeds), 8, 8, 3), 50 + levels * (next(calls) % 2), np.uint8)


@pytest.mark.parametrize("levels", [0, 2, 3])
def test_two_samples_are_made_twice(levels):
    source = CallableSource(jitter(levels))
    assert source.difference is None
    source.repeat(labelled(5))
    assert source.difference == levels


def test_an_image_that_depends_on_its_batch_is_found():
    sizes = []

    def draw(seeds):
        sizes.append(len(seeds))
        return np.full((len(seeds), 8, 8, 3), 10 * len(seeds), np.uint8)

    source = CallableSource(draw)
    source.repeat(labelled(5))
    assert sizes == [2, 1, 1]
    assert source.difference == 10


def test_a_difference_in_one_image_alone_is_not_averaged_away():
    calls = iter(range(1000))
    source = CallableSource(
        lambda seeds: np.stack([np.full((8, 8, 3), 3 * (s == 101 and next(calls)), np.uint8) for s in seeds])
    )
    source.repeat(labelled(2))
    assert source.difference == 3


def test_stored_images_are_found_again_by_version_and_name_alone():
    def draw(seeds):
        return None

    first = CallableSource(draw, "a", version="1")
    assert first.digest == CallableSource(draw, "a", batch=3, version="1").digest
    others = [CallableSource(draw, "a"), CallableSource(draw, "a"), CallableSource(draw, "a", version="2")]
    others += [CallableSource(draw, "b", version="1"), CallableSource(jitter(0), "a", version="1")]
    assert len({first.digest, *(one.digest for one in others)}) == 6


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a module of its own; what is imported from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules = {*sys.modules}
    (tmp_path / "my_generator.py").write_text(
        "class Net:\n    def sample(self, labels): ...\nnet = Net()\ndef generate(labels, seeds): ...\nSIZE = 8\n"
    )
    (tmp_path / "my_broken.py").write_text("raise KeyError('weights')\n")
    (tmp_path / "my_script.py").write_text("raise SystemExit(3)\n")
    yield tmp_path
    for name in {*sys.modules} - modules:
        if name.startswith("my_"):
            del sys.modules[name]


def test_functions_are_opened_by_name_from_the_current_folder(here):
    assert open_named("my_generator:generate").__name__ == "generate"
    assert open_named("my_generator:net.sample").__name__ == "sample"


@pytest.mark.parametrize(
    "text, words",
    [
        ("my_absent:generate", "module 'my_absent' cannot be imported: ModuleNotFoundError"),
        ("my_broken:generate", "module 'my_broken' cannot be imported: KeyError: 'weights'"),
        ("my_script:generate", "module 'my_script' cannot be imported: SystemExit: 3"),
        ("my_generator:generat", "no 'generat' in it. Did you mean 'generate'?"),
        ("my_generator:net.draw", "no 'draw' in it. Known: sample"),
        ("my_generator:SIZE", "an object of type int, and no function"),
        ("my_generator:", "names no function"),
        ("my-generator:generate", "names no function"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_sentence(here, text, words):
    with pytest.raises(UserError, match=words) as caught:
        open_named(text)
    assert "\n" not in str(caught.value)


def test_a_file_of_that_name_is_a_file(here):
    assert is_named("my_generator:generate")
    assert is_named("nanogen:outputs/demo guidance.scale=2")
    assert not is_named("samples/")
    assert not is_named("./odd:name")
    (here / "odd:name").mkdir()
    assert not is_named("odd:name")


def test_a_registered_source_opens_its_argument(monkeypatch):
    row = SourceSpec(name="toys", title="toys by their colour", load="my_toys:open")
    monkeypatch.setitem(callables.SOURCES._rows, "toys", row)
    monkeypatch.setitem(
        sys.modules, "my_toys", type("M", (), {"open": staticmethod(lambda argument: ("opened", argument))})
    )
    assert open_named("toys:red one") == ("opened", "red one")
    assert open_named("toys:") == ("opened", "")
