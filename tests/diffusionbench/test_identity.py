"""What images are told apart by: digests of sources, keys of stores, and what a store gives back."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from making import ConstantSource
from PIL import Image

from diffusionbench.errors import DataError, RequestError
from diffusionbench.imagesets import StoredImage, hashed, images_digest
from diffusionbench.prompts import PromptChoice
from diffusionbench.record import Guidance, Tuning
from diffusionbench.request import EvalRequest, Sampling
from diffusionbench.runner import fill, open_store
from diffusionbench.sample import Item, Sample, items_digest, noise_seed, plain_item
from diffusionbench.source import ArchiveSource, ArraySource, FolderSource, PromptFolderSource
from diffusionbench.store import ImageStore

# For each field of a request another content than the one of `ask`, and whether the images are others then.
REQUEST = {
    "axis": ("t2i", True),
    "metrics": (("fd_digits",), False),
    "reference": (None, True),
    "prompts": (PromptChoice(name="simpleeval_shapes_v1", seed="public-1"), True),
    "count": (11, False),
    "seed": (1, True),
    "method": ("other", False),
    "title": ("Other", False),
    "family": ("vae", False),
    "protocol": ("other", False),
    # Only where there is no reference to say the classes.
    "num_classes": (3, True),
    "sampling": (Sampling(num_steps=7), True),
    "config_hash": ("c", False),
    "checkpoint_digest": ("c", True),
    "step": (7, False),
    "command": ("c", False),
    "classes": (("a", "b"), False),
    "references": ({"digits": "digits"}, False),
    "reference_extractors": (("digits",), False),
    "reference_role": ("train", False),
    "repeat_error": (9.0, False),
    "allow_partial": (True, False),
    "trained_with": (("digits",), False),
    "tuning": (Tuning(split="train"), False),
}
SAMPLING = {
    "sampler": "heun",
    "num_steps": 7,
    "shift": 2.0,
    "guidance": Guidance(scale=2.0),
    "ema": True,
    "precision": "bfloat16",
    "quantisation": "round",
    "noise": "blake2b-1",
}
SOURCE = ConstantSource((8, 8))
PROMPTS = PromptChoice(name="simpleeval_shapes_v1")


def test_every_field_of_a_request_has_an_entry():
    assert REQUEST.keys() == EvalRequest.model_fields.keys()
    assert SAMPLING.keys() == Sampling.model_fields.keys()


@pytest.mark.parametrize("field", REQUEST)
def test_the_key_of_images_follows_what_they_depend_on(ask, field):
    given = {"prompts": PROMPTS, "axis": "t2i"} if field == "prompts" else {}
    given |= {"reference": None, "num_classes": 2} if field == "num_classes" else {}
    given |= {"metrics": ("fd_digits",), "count": 80} if field == "references" else {}
    content, others = REQUEST[field]
    before = ask(**given)
    # Whose statistics a reference holds is refused of one that holds none, and an axis of prompts without any.
    told = field in ("reference_extractors", "axis")
    after = before.updated(**{field: content}) if told else ask(**given | {field: content})
    assert (before.image_key(SOURCE) != after.image_key(SOURCE)) == others


@pytest.mark.parametrize("field", SAMPLING)
def test_the_key_follows_every_setting_of_the_sampler(ask, field):
    assert ask(sampling=Sampling(**{field: SAMPLING[field]})).image_key(SOURCE) != ask().image_key(SOURCE)


def test_the_key_follows_the_source_and_the_prompts(ask, noise):
    assert ask().image_key(ConstantSource((8, 8), 3)) != ask().image_key(SOURCE)
    keys = [
        ask(axis="t2i", prompts=PromptChoice(name=name, seed=seed)).image_key(SOURCE)
        for name in ("simpleeval_shapes_v1", "simpleeval_v1")
        for seed in ("public-0", "public-1")
    ]
    assert len(set(keys)) == 4
    # Images that exist already are their source's, whatever the reference would ask for.
    labelled = [ask().image_key(ArraySource(noise(20), labels, "noise")) for labels in ([0] * 20, [1] * 20)]
    assert labelled[0] != labelled[1]


def test_a_prompt_folder_is_its_names_and_its_contents(tmp_path, noise):
    def folder(name: str, files: dict[str, np.ndarray]) -> str:
        for file, image in files.items():
            path = tmp_path / name / f"{file}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        return PromptFolderSource(tmp_path / name).digest

    one, two, three = noise(3)
    first = folder("first", {"a/0": one, "b/0": two})
    assert folder("same", {"a/0": one, "b/0": two}) == first
    assert folder("content", {"a/0": one, "b/0": three}) != first
    assert folder("swapped", {"a/0": two, "b/0": one}) != first
    assert folder("name", {"a/0": one, "c/0": two}) != first
    assert folder("more", {"a/0": one, "b/0": two, "c/0": three}) != first


@pytest.mark.parametrize("kind", ["folder", "archive", "array"])
def test_a_source_is_its_images_and_its_labels(tmp_path, noise, write, kind):
    def digest(images: np.ndarray, labels: list[int]) -> str:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        if kind == "folder":
            return FolderSource(write(place, images), labels).digest
        if kind == "array":
            return ArraySource(images, labels, "noise").digest
        place = place.with_suffix(".npz")
        np.savez(place, arr_0=images)
        return ArchiveSource(place, labels).digest

    first = digest(noise(3), [0, 1, 2])
    assert digest(noise(3), [0, 1, 2]) == first
    assert digest(noise(3), [0, 2, 1]) != first
    assert digest(noise(3, seed=1), [0, 1, 2]) != first
    assert digest(noise(3)[::-1], [0, 1, 2]) != first


@pytest.mark.parametrize("place", range(4))
def test_the_digest_of_images_follows_every_part_of_an_entry(place):
    entries = [StoredImage(0, 1, "a", "0" * 64), StoredImage(1, 2, "b", "1" * 64)]
    changed = [entries[0], entries[1]._replace(**{StoredImage._fields[place]: (7, 7, "c", "2" * 64)[place]})]
    assert images_digest(changed) != images_digest(entries) == images_digest(entries[::-1])


def test_a_stored_image_is_of_its_prompt_and_its_label(tmp_path, ask):
    store = open_store(ask(), SOURCE, tmp_path)
    store.add([Sample(0, plain_item(text="a red circle")), Sample(1, plain_item(3))], np.zeros((2, 8, 8, 3), np.uint8))
    assert store.missing([Sample(0, plain_item(text="a red circle")), Sample(1, plain_item(3)), Sample(2)]) == [
        Sample(2)
    ]
    with pytest.raises(RequestError, match="has image 0 for prompt 'a red circle', and prompt 'a blue circle'"):
        store.missing([Sample(0, plain_item(text="a blue circle"))])
    with pytest.raises(RequestError, match="has image 1 for label 3, and label 4"):
        store.missing([Sample(1, plain_item(4))])


def test_a_chunk_that_changes_while_it_is_used_is_not_scored(tmp_path, ask):
    """Not only damage: a sound file of other images too."""
    request = ask(count=20)
    store = open_store(request, SOURCE, tmp_path)
    fill(request, SOURCE, store)
    assert store.count() == 20
    (chunk,) = store.folder.glob("*.images")
    other = open_store(request, ConstantSource((8, 8), 9), tmp_path)
    fill(request, ConstantSource((8, 8), 9), other)
    chunk.write_bytes((other.folder / chunk.name).read_bytes())
    with pytest.raises(DataError, match=r"0000000\.images is damaged\. Run the command"):
        list(store.batches(20))
    with pytest.raises(DataError):
        list(ImageStore(store.folder).batches(20))


@pytest.mark.parametrize("place", [(0, 0, 0), (0, 0, 2), (7, 7, 1)])
def test_an_image_is_told_by_all_its_values(noise, place):
    images, samples = noise(2), [Sample(0), Sample(1)]
    other = images.copy()
    other[(1, *place)] ^= 1
    before, after = hashed(samples, images), hashed(samples, other)
    assert before[0] == after[0]
    assert before[1] != after[1]


class Asking:
    """A generator that remembers the seeds it was given."""

    description = "asking generator"
    digest = "0" * 64
    labels = None
    image_size = (8, 8)
    image_format = None
    preferred_batch = 4

    def __init__(self):
        self.seeds = []

    def images(self, samples):
        self.seeds += [sample.seed for sample in samples]
        return np.zeros((len(samples), 8, 8, 3), np.uint8)


def test_the_seed_of_a_request_arrives_at_any_source(ask, tmp_path):
    """By the rule that is written down, from its own text."""
    base = int.from_bytes(hashlib.blake2b(b"7/sample").digest()[:4], "little")
    source, request = Asking(), ask(seed=7, count=20)
    store = open_store(request, source, tmp_path)
    fill(request, source, store)
    assert source.seeds == [(base + place) % 2**32 for place in range(20)]
    assert source.seeds == [noise_seed(7, "sample", place) for place in range(20)]


def test_a_prompt_sets_own_seeds_rule_and_images_that_exist_have_none(ask, tmp_path, write, noise):
    choice = PromptChoice(name="simpleeval_shapes_v1", layout="quick")
    request = ask(axis="t2i", metrics=("simpleeval_shapes_v1",), reference=None, prompts=choice, seed=7)
    ruled = request.prompts.noise_seeds
    assert [sample.seed for sample in request.samples(Asking(), 3)] == [*ruled[0], ruled[1][0]][:3]
    write(tmp_path / request.prompts.items[0].key, noise(2))
    assert {sample.seed for sample in request.samples(PromptFolderSource(tmp_path), 3)} == {None}
    assert {sample.seed for sample in ask(seed=7).samples(ArraySource(noise(20), None, "noise"))} == {None}


def test_a_new_field_of_a_request_leaves_stored_images_where_they_are(ask):
    class Later(EvalRequest):
        colour: str | None = None

    class LaterSampling(Sampling):
        churn: float | None = None

    before = ask(sampling=Sampling(num_steps=4))
    after, source = ask(), Asking()
    after.request = Later(**before.request.model_dump() | {"sampling": LaterSampling(num_steps=4)})
    assert after.image_key(source) == before.image_key(source)
    set_ = after.updated(sampling=LaterSampling(num_steps=4, churn=1.0))
    assert set_.image_key(source) != before.image_key(source)


def test_images_that_exist_have_one_key_whatever_seed_is_named(ask, noise):
    source = ArraySource(noise(20), None, "noise")
    assert ask(seed=1).image_key(source) == ask(seed=2).image_key(source)
    assert ask(seed=1).image_key(Asking()) != ask(seed=2).image_key(Asking())


@pytest.mark.parametrize(
    "other",
    [
        Sample(0, Item("b", 1, "text")),
        Sample(0, Item("a", 2, "text")),
        Sample(0, Item("a", 1, "other")),
        Sample(0, Item("a", 1, "text"), 1),
        Sample(0, Item("a", 1, "text", "x.png")),
    ],
)
def test_the_digest_of_items_follows_order_labels_and_texts(other):
    one, last = Sample(0, Item("a", 1, "text")), Sample(1, Item("z", 1, "text"))
    assert items_digest([one, last]) != items_digest([other, last])
    assert items_digest([one, last]) != items_digest([last, one])
    assert items_digest([one]) == items_digest([Sample(5, Item("a", 1, "text", tags=("c",)), seed=3)])
