"""Functions as image sources: `labels` or `prompts`, and `seeds`, go in, images come out; also opened by name."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from diffusionbench.errors import DataError, RequestError, RunError, UserError, lacking
from diffusionbench.images import Rule, as_rgb, to_uint8
from diffusionbench.registry import nearest
from diffusionbench.request import Evaluation
from diffusionbench.sample import Sample
from diffusionbench.schema import digest
from diffusionbench.shown import clipped, first_line, printable
from diffusionbench.source import ImageSource
from diffusionbench.specs import SOURCES

Function = Callable[..., Any]

# Images that a function is asked for at once.
BATCH: Final = 64
# What a function is given, by name.
ARGUMENTS: Final = ("labels", "prompts", "seeds")
# Floats may leave [0, 1] by half a grey level, as resizing and reduced precision do.
_SLACK: Final = 0.5 / 255
_NAMED: Final = re.compile(r"[A-Za-z_][\w.-]*:.*", re.DOTALL)


class CallableSource:
    """A function as an image source.

    Attributes:
        takes: which of `ARGUMENTS` the function is given.
        floats: whether it returns floats, which are truncated to 8 bits; None before the first images.
        difference: mean absolute difference in grey levels between two images of one sample; None before `repeat`.
    """

    labels = None

    def __init__(
        self,
        function: Function,
        name: str = "",
        batch: int = BATCH,
        version: str | None = None,
        rule: Rule | None = None,
    ) -> None:
        """Look at the function's arguments; it is not called.

        Args:
            function: takes `labels` (list of B numbers from 0 on) or `prompts` (list of B texts), and `seeds` (list of
                B numbers from 0 on), by name, as far as it has such arguments; returns B images as `to_images` says.
            name: of the generator.
            batch: largest B.
            version: of all that the images depend on. Stored images of the same function, name and version are used
                again; without a version those of this object alone.
            rule: by which floats become 8 bits; None: truncated.

        Raises:
            RequestError: if the function's arguments are others.
        """
        self.function = function
        self.description = f"function {_name(function)}"
        self.takes, self._required = _arguments(function, self.description)
        self.preferred_batch, self.version, self.rule = batch, version, rule or "truncate"
        self.digest = digest(["function", _name(function), name, uuid.uuid4().hex if version is None else version])
        self.image_size: tuple[int, int] | None = None
        self.image_format: str | None = None
        self.floats: bool | None = None
        self.difference: float | None = None

    def check(self, samples: Sequence[Sample], judged_by: Sequence[str] = ()) -> None:
        """Check that the function takes what the samples ask for, and by what ("classes", "prompts") they are judged.

        Raises:
            RequestError: if it takes classes and prompts are asked for, or the other way round, or neither is known.
        """
        asked = _asked(samples)
        for wanted, words in (("labels", "classes"), ("prompts", "prompts")):
            if words in judged_by and wanted not in self.takes:
                raise RequestError(
                    f"a metric judges images by the {words} that were asked for, and {self.description} takes no "
                    f"'{wanted}'. Give it that argument, or leave the metric out."
                )
        if asked in self.takes or not {"labels", "prompts"} & self.takes:
            return
        if asked is not None:
            raise RequestError(
                f"{asked} are asked for, and {self.description} takes no '{asked}'. Give it that argument, or choose "
                "metrics and prompts that fit it."
            )
        raise RequestError(
            f"{self.description} takes {' or '.join(sorted(self.takes - {'seeds'}))}, and none are known to ask for. "
            "Say how many classes there are, give a reference with labels, or name a prompt set."
        )

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return the samples' images, uint8 [B, H, W, 3], as a copy.

        Raises:
            DataError: if the function returns something else than B images of one size.
            RunError: if it raises an exception.
        """
        images, floats = to_images(self._call(samples), len(samples), self.description, self.rule)
        before, self.floats = self.floats, floats
        if before not in (None, floats):
            raise DataError(
                f"{self.description} returned {'floats' if floats else '8-bit values'}, and "
                f"{'8-bit values' if floats else 'floats'} before. Return one type always."
            )
        size, known = images.shape[1:3], self.image_size
        if known is not None and known != size:
            raise DataError(
                f"{self.description} returned images of {size[0]}x{size[1]}, and of {known[0]}x{known[1]} before "
                "(height x width). All must have one size."
            )
        self.image_size = size
        return images

    def _call(self, samples: Sequence[Sample]) -> Any:
        """Return what the function returns, or raises with its place."""
        asked = _asked(samples)
        values: dict[str, list[Any] | None] = {
            "labels": [sample.label for sample in samples] if asked == "labels" else None,
            "prompts": [sample.prompt for sample in samples] if asked == "prompts" else None,
            "seeds": [sample.seed for sample in samples],
        }
        given = {key: values[key] for key in self.takes if values[key] is not None or key in self._required}
        try:
            returned = self.function(**given)
        except (UserError, RunError):
            raise
        except (Exception, SystemExit) as error:
            if lacking(error):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise RunError(
                f"{self.description}, asked for {len(samples)} image(s), raised {type(error).__name__}: "
                f"{first_line(error)} ({last.filename}:{last.lineno}). Correct it and start again."
            ) from error
        if inspect.iscoroutine(returned):
            # Otherwise Python warns that it was never awaited.
            returned.close()
            raise RequestError(
                f"{self.description} returned a coroutine, as every `async def` does, and images are needed. Give a "
                "plain function that returns asyncio.run(...) of it."
            )
        return returned

    def repeat(self, samples: Sequence[Sample]) -> None:
        """Make the first two samples twice, in a batch and each alone, and note how far the images are apart."""
        pair = samples[:2]
        together = self.images(pair)
        alone = np.concatenate([self.images([sample]) for sample in pair])
        apart = np.abs(together.astype(np.int16) - alone)
        self.difference = float(apart.mean(axis=(1, 2, 3)).max())


def to_images(returned: Any, count: int, who: str, rule: Rule = "truncate") -> tuple[np.ndarray, bool]:
    """Return what a function returned as images, in memory of their own.

    Args:
        returned: NumPy array or torch tensor of uint8, or of floats in [0, 1], [B, H, W, 3] or [B, 3, H, W] (told
            apart by the 3), or a list of Pillow images without transparency.
        count: B.
        who: what messages call the function.
        rule: by which floats become 8 bits.

    Returns:
        uint8 [B, H, W, 3]; floats are multiplied by 255, and truncated or rounded.
        Whether they were floats.

    Raises:
        DataError: for any other type, number, shape or range; what was returned is named.
    """
    wanted = "Return uint8 or floats in [0, 1], [B, H, W, 3] or [B, 3, H, W], or a list of Pillow images."
    array: Any = _pictures(returned, who, wanted) if isinstance(returned, list | tuple) else returned
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = array.float().numpy() if array.is_floating_point() else array.numpy()
    elif not isinstance(array, np.ndarray):
        raise DataError(f"{who} returned {_kind(returned)}. {wanted}")
    library, kind = "NumPy", array.dtype
    if isinstance(returned, Tensor):
        library, kind = "torch", str(returned.dtype).removeprefix("torch.")
    found = f"{library} {kind} {list(array.shape)}"
    floats = array.dtype.kind == "f"
    if array.dtype != np.uint8 and not floats:
        raise DataError(f"{who} returned {found}. {wanted}")
    if array.ndim != 4 or not array.size or 3 not in (array.shape[1], array.shape[3]):
        raise DataError(f"{who} returned {found}, which is no batch of RGB images. {wanted}")
    if len(array) != count:
        raise DataError(f"{who} returned {len(array)} images for {count} samples. Return one image for each.")
    if array.shape[1] == array.shape[3]:
        raise DataError(f"{who} returned {found}: which side holds the channels is not clear. Return larger images.")
    first = array.shape[1] == 3
    if not floats:
        return np.array(array.transpose(0, 2, 3, 1) if first else array, order="C"), False
    low, high = float(array.min()), float(array.max())
    # NaN fits no range.
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise DataError(
            f"{who} returned {found} with values from {low:.4g} to {high:.4g}. Floats must lie in [0, 1]; images in "
            "[-1, 1] do after (x + 1) / 2, and levels from 0 to 255 are returned as uint8."
        )
    return to_uint8(array if first else array.transpose(0, 3, 1, 2), rule), True


def _pictures(returned: Sequence[Any], who: str, wanted: str) -> np.ndarray:
    """Return Pillow images as uint8 [B, H, W, 3]."""
    arrays = []
    for place, image in enumerate(returned):
        if not isinstance(image, Image.Image):
            raise DataError(f"{who} returned a list whose item {place} is {_kind(image)}. {wanted}")
        arrays.append(np.asarray(as_rgb(image, f"image {place} that {who} returned", "refuse")))
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) > 1:
        raise DataError(
            f"{who} returned images of {sizes[0][0]}x{sizes[0][1]} and {sizes[1][0]}x{sizes[1][1]} (height x width). "
            "All must have one size."
        )
    if not arrays:
        raise DataError(f"{who} returned an empty list. Return one image for each sample.")
    return np.stack(arrays)


def _kind(value: Any) -> str:
    """Return an object's type in words."""
    if value is None:
        return "None"
    return f"an object of type {type(value).__name__}"


def _asked(samples: Sequence[Sample]) -> Literal["labels", "prompts"] | None:
    if any(sample.prompt is not None for sample in samples):
        return "prompts"
    return "labels" if any(sample.label is not None for sample in samples) else None


def _name(function: Function) -> str:
    """Return "module:name" of a function, a method, or an object's class."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return printable(f"{named.__module__}:{named.__qualname__}")


def importable(function: Function) -> str | None:
    """Return the "module:name" by which `open_named` finds a function, or None where it does not."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    name = getattr(function, "__qualname__", "")
    if module is None or module.__name__ == "__main__" or getattr(module, name, None) is not function:
        return None
    return _name(function)


def _arguments(function: Function, who: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return which of `ARGUMENTS` a function takes by name, and which of these have no default."""
    remedy = "It is called with labels or prompts, and seeds, by these names; give a default to all others."
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise RequestError(f"{who} does not tell its arguments. Wrap it: lambda labels, seeds: ...") from None
    taken, required = set(), set()
    for one in parameters:
        if one.kind is one.VAR_KEYWORD:
            taken |= {*ARGUMENTS}
        elif one.name in ARGUMENTS and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            taken.add(one.name)
            required |= {one.name} if one.default is one.empty else set()
        elif one.default is one.empty and one.kind is not one.VAR_POSITIONAL:
            raise RequestError(f"{who} needs the argument '{printable(one.name)}', which nobody gives it. {remedy}")
    if not taken:
        raise RequestError(f"{who} takes none of {', '.join(ARGUMENTS)}. {remedy}")
    return frozenset(taken), frozenset(required)


def is_named(text: str) -> bool:
    """Return whether a text names a function or a source, not a file: "module:function" or "source:argument"."""
    return _NAMED.fullmatch(text) is not None and not os.path.lexists(text)


def open_named(text: str) -> Function | ImageSource:
    """Return the function or source that a text names.

    Args:
        text: "NAME:ARGUMENT" with a name of `SOURCES`, which opens the argument, or "MODULE:FUNCTION"; modules are
            also looked for in the current folder, and a function may be an attribute of an object ("model:net.sample").

    Raises:
        UserError: if it cannot be imported, is not there or is no function.
    """
    name, _, rest = text.partition(":")
    if name in SOURCES:
        return SOURCES.load(name)(rest)
    shown = printable(clipped(text, 200))
    remedy = "No file is called so either. Name one, or MODULE:FUNCTION of a module that Python finds from this folder."
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name) or not rest:
        raise RequestError(f"source '{shown}' names no function. {remedy}")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(name)
    # The module of another person raises whatever Python does, and a script may end the program.
    except (Exception, SystemExit) as error:
        raise RequestError(
            f"source '{shown}': module '{name}' cannot be imported: {type(error).__name__}: {first_line(error)}. "
            f"{remedy}"
        ) from error
    for part in rest.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if name[0] != "_" and callable(getattr(found, name, None))]
            raise RequestError(f"source '{shown}': there is no '{printable(part)}' in it. {nearest(part, public)}")
        found = getattr(found, part)
    if not callable(found):
        raise RequestError(f"source '{shown}' is {_kind(found)}, and no function. {remedy}")
    return found


def as_source(
    found: Function | ImageSource, name: str, batch: int, version: str | None, rule: Rule | None = None
) -> ImageSource:
    """Return a function as a source, see `CallableSource`; a source stays as it is."""
    if hasattr(found, "images") and hasattr(found, "digest"):
        return found  # type: ignore[return-value]
    return CallableSource(found, name, batch, version, rule)


def examine(evaluation: Evaluation, source: ImageSource) -> Evaluation:
    """Return the evaluation with what a function shows by making its first two samples; others pass unchanged.

    Raises:
        UserError, RunError: if it takes or returns something else than it should.
    """
    if not isinstance(source, CallableSource):
        return evaluation
    samples = evaluation.samples(source, min(2, evaluation.request.count))
    source.check(samples, [spec.items for spec in evaluation.metrics.values() if spec.items is not None])
    source.repeat(samples)
    evaluation.check_size(source.image_size)
    sampling = evaluation.request.sampling
    if source.floats and sampling.quantisation is None:
        sampling = sampling.model_copy(update={"quantisation": source.rule})
    return evaluation.updated(sampling=sampling, repeat_error=source.difference)
