"""The base class of axes, their argument, and the axes of classes and of prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffusionbench.errors import RequestError
from diffusionbench.prompts import PromptList
from diffusionbench.references.reference import Reference
from diffusionbench.sample import SAMPLE, Item, Sample, noise_seed, plain_item
from diffusionbench.shown import few


@dataclass(frozen=True)
class Asked:
    """Facts of a request that an axis turns into samples.

    Attributes:
        count: images to score.
        num_classes: classes to ask for in turn where the reference has no labels, or None.
        reference: the real images, or None where no metric needs them.
        prompts: the opened prompt set, or None.
        given: labels of images that exist already, in order; None for a generator and where files have the names of
            prompts.
        names: of images that exist already, see `source.image_keys`.
        seed: of a generator's noise; None where the images exist already.
    """

    count: int
    num_classes: int | None = None
    reference: Reference | None = None
    prompts: PromptList | None = None
    given: Sequence[int | None] | None = None
    names: Sequence[str] | None = None
    seed: int | None = None


class Axis(ABC):
    """The items that a generator is asked for."""

    @abstractmethod
    def samples(self, asked: Asked) -> list[Sample]:
        """Return the samples: a pure function of its argument, and a shorter request is the start of a longer one.

        Each has the seed of its noise (`seeded`), or none where `asked.seed` is None.

        Raises:
            RequestError: if there are fewer images than asked for, or a label is out of range.
        """

    @abstractmethod
    def full_count(self, prompts: PromptList | None) -> int:
        """Return the images of a complete evaluation of a generator."""


class ClassConditional(Axis):
    """Classes in the order of the reference's evaluation set, or those of the images that exist already."""

    def full_count(self, prompts: PromptList | None) -> int:
        """Return 50,000, as published ImageNet figures have it (docs/protocol.md)."""
        return 50_000

    def samples(self, asked: Asked) -> list[Sample]:
        """See `Axis.samples`.

        A reference without labels leaves the order 0, 1, ..., C - 1, 0, ... over the request's `num_classes`.
        """
        count, reference, classes = asked.count, asked.reference, asked.num_classes
        if classes is None and reference is not None:
            classes = reference.num_classes
        if asked.given is not None:
            if count > len(asked.given):
                raise RequestError(
                    f"{count} images were asked for and there are {len(asked.given)}. "
                    f"Add images or ask for at most {len(asked.given)}."
                )
            labels = list(asked.given[:count])
        elif reference is not None and reference.num_classes is not None:
            labels = reference.labels(count)
        elif classes is not None:
            labels = [sample % classes for sample in range(count)]
        else:
            labels = [None] * count
        ranks: Counter[int | None] = Counter()
        samples = []
        for place, label in enumerate(labels):
            if label is not None and not 0 <= label < (classes or label + 1):
                raise RequestError(
                    f"image {place} has the label {label}; the {classes} classes of this request are "
                    f"0..{classes - 1 if classes else 0}. Correct the labels or choose another reference."
                )
            samples.append(seeded(Sample(place, plain_item(label), ranks[label]), asked.seed))
            ranks[label] += 1
        return samples


class TextToImage(Axis):
    """The prompts of a set in its order, K images each: sample id = prompt * K + k."""

    def full_count(self, prompts: PromptList | None) -> int:
        """Return every image of the prompt set."""
        assert prompts is not None
        return prompts.count

    def samples(self, asked: Asked) -> list[Sample]:
        """See `Axis.samples`. Images that exist already are found by the set's file names.

        Raises:
            RequestError: if more images are asked for than the set has, or the images have no names of prompts.
        """
        prompts = asked.prompts
        assert prompts is not None
        if asked.count > prompts.count:
            raise RequestError(
                f"{asked.count} images were asked for, and prompt set '{prompts.name}' has {len(prompts.items)} "
                f"prompts with {prompts.images_per_prompt} images each. Ask for at most {prompts.count}, or choose a "
                "larger layout."
            )
        if asked.given is not None:
            raise RequestError(
                "an axis of prompts must know the prompt of each image, and a folder of unnamed images does not tell. "
                f"Name them as the prompt set does: {prompts.sample(0).file}.png and so on."
            )
        return [seeded(prompts.sample(place), asked.seed) for place in range(asked.count)]


class Reconstruction(Axis):
    """Images that exist already, each a reconstruction of the original that has its name."""

    def full_count(self, prompts: PromptList | None) -> int:
        """Return 50,000, the validation images of ImageNet."""
        return 50_000

    def samples(self, asked: Asked) -> list[Sample]:
        """See `Axis.samples`.

        Raises:
            RequestError: if the images do not exist yet, or there are too few.
        """
        names = asked.names or ()
        if asked.count > len(names):
            raise RequestError(
                f"{asked.count} reconstructions were asked for and there are {len(names)}. Give a folder or archive of "
                "reconstructions, and ask for at most as many."
            )
        if twice := [name for name, times in Counter(names[: asked.count]).items() if times > 1]:
            raise RequestError(
                f"{len(twice):,} names stand for several reconstructions: {few(twice)}. Keep one image of each name, "
                "whatever its suffix."
            )
        labels = asked.given or [None] * len(names)
        return [Sample(place, Item(names[place], labels[place])) for place in range(asked.count)]


def seeded(sample: Sample, seed: int | None) -> Sample:
    """Return a sample with the seed of its noise: by its prompt set or its id, None where the image exists already."""
    if seed is None:
        return replace(sample, seed=None)
    return sample if sample.seed is not None else replace(sample, seed=noise_seed(seed, SAMPLE, sample.id))
