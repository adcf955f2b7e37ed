"""Prompt sets that lie in files outside the package: found in the cache folder, verified, read once per process."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from diffusionbench.errors import DataError, RequestError
from diffusionbench.fetching import bring, fetch, matches
from diffusionbench.limits import parse_json, read_small
from diffusionbench.prompts import PromptList, PromptSource
from diffusionbench.sample import Item
from diffusionbench.schema import canonical_json, digest
from diffusionbench.shown import clipped, few, first_line
from diffusionbench.specs import PromptSpec
from diffusionbench.writing import prompt_folder

SEED: Final = "public-0"
_LAYOUT: Final = re.compile(r"([1-9][0-9]?)x", re.ASCII)

Reader = Callable[[Mapping[str, bytes]], Iterable[Item]]
"""Maps the content of a set's files, by name, to its items in their order."""


class PinnedPrompts(PromptSource):
    """A fixed list; layout "4x" asks for 4 images of each prompt.

    Args:
        spec: its row, which names files and hashes.
        read: turns their content into items.
    """

    def __init__(self, spec: PromptSpec, read: Reader) -> None:
        self.spec, self._read = spec, read

    def open(self, seed: str = SEED, layout: str | None = None) -> PromptList:
        """See `PromptSource.open`.

        Raises:
            RequestError: if the seed or layout does not exist, or a file is not here; says how to get it.
            DataError: if a file is not the pinned one, or is no such list.
        """
        form = _LAYOUT.fullmatch(layout or self.spec.layouts[0])
        if seed != SEED or form is None:
            raise RequestError(
                f"prompt set '{self.spec.name}' has no seed '{clipped(seed, 40)}' with layout "
                f"'{clipped(layout or self.spec.layouts[0], 40)}'. It is one list: seed {SEED}, and layout Nx for N "
                f"images of each prompt (1x to 99x; by default {self.spec.layouts[0]})."
            )
        files = {path.name: _content(self.spec, path) for path in find_files(self.spec)}
        try:
            items = _items(self, tuple(sorted(files.items())))
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"prompt set '{self.spec.name}': {few(list(files))} cannot be read ({first_line(error)}). Get the "
                f"files again: {remedy(self.spec)}"
            ) from None
        return prompt_list(self.spec.name, items, int(form[1]))

    def summary(self, opened: PromptList) -> str:
        tags = Counter(tag for item in opened.items for tag in item.tags)
        repeated = len(opened.items) - len(set(opened.texts))
        lines = [
            f"{self.spec.title}: {len(opened.items):,} prompts, {opened.images_per_prompt} images each",
            f"sha256 {opened.digest}",
            f"licence {self.spec.licence}; source {self.spec.source}",
        ]
        lines += [f"texts that stand more than once: {repeated}"] if repeated else []
        return "\n".join([*lines, *(f"  {tag}: {number:,}" for tag, number in tags.items())])


def read_jsonl(files: Mapping[str, bytes]) -> Iterable[Item]:
    """Give the items of one file of JSON Lines: `key`, `prompt`, and where there are some `tags` and `detail`.

    It is the form in which `diffusionbench prompts` writes sets. Of `detail.questions` parents are put first.

    Raises:
        ValueError: if there is no line, one is no such item, or its questions are in no order (`in_order`).
    """
    (lines,) = files.values()
    if not lines.strip():
        raise ValueError("it holds no prompt")
    for number, line in enumerate(lines.splitlines(), 1):
        row = parse_json(line)
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        key, text, tags, detail = row["key"], row["prompt"], row.get("tags", []), row.get("detail", {})
        for name, value in (("key", key), ("prompt", text)):
            # Half a character cannot be written.
            if not isinstance(value, str) or not value.strip() or re.search(r"[\ud800-\udfff]", value):
                raise ValueError(f"line {number}: {name} is no text")
        # The images of an item lie under its key.
        if key.startswith("/") or ".." in key.split("/"):
            raise ValueError(f"line {number}: key '{clipped(key, 40)}' leads out of the folder of images")
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise ValueError(f"line {number}: tags are no list of texts")
        if not isinstance(detail, dict):
            raise ValueError(f"line {number}: detail is no JSON object")
        if "questions" in detail:
            detail = {**detail, "questions": in_order(detail["questions"], key)}
        yield Item(key, text=text, tags=tuple(tags), detail=detail)


def in_order(questions: Sequence[Mapping[str, Any]], owner: str) -> list[Mapping[str, Any]]:
    """Return questions so that parents stand before their children, otherwise in their own order.

    Raises:
        ValueError: if an id stands twice, a parent is unknown, or questions are each other's parents in a circle.
    """
    known = [question["id"] for question in questions]
    twice = next((one for one in known if known.count(one) > 1), None)
    unknown = next(((q["id"], one) for q in questions for one in q["parents"] if one not in known), None)
    if twice is not None:
        raise ValueError(f"item '{owner}' has question {twice} twice")
    if unknown is not None:
        raise ValueError(f"item '{owner}': question {unknown[0]} has the parent {unknown[1]}, which is not among them")
    ordered: list[Mapping[str, Any]] = []
    waiting, done = list(questions), set[Any]()
    while waiting:
        ready = [one for one in waiting if done.issuperset(one["parents"])]
        if not ready:
            names = ", ".join(str(one["id"]) for one in waiting)
            raise ValueError(f"item '{owner}': questions {names} are each other's parents in a circle")
        ordered += ready
        done |= {one["id"] for one in ready}
        waiting = [one for one in waiting if one["id"] not in done]
    return ordered


def prompt_list(name: str, items: Iterable[Item], images_per_prompt: int) -> PromptList:
    """Return items as an opened set, whose digest is over all that is asked and the number of images."""
    items = tuple(items)
    rows = [
        {
            "key": item.key,
            "prompt": item.text,
            "tags": list(item.tags),
            **({"detail": item.detail} if item.detail else {}),
        }
        for item in items
    ]
    return PromptList(
        name=name,
        digest=digest([rows, images_per_prompt]),
        items=items,
        images_per_prompt=images_per_prompt,
        noise_seeds=None,
        jsonl="".join(f"{canonical_json(row)}\n" for row in rows),
    )


@lru_cache(maxsize=16)
def _items(source: PinnedPrompts, files: tuple[tuple[str, bytes], ...]) -> tuple[Item, ...]:
    items = tuple(source._read(dict(files)))
    if source.spec.count and len(items) != source.spec.count:
        raise ValueError(f"{len(items)} prompts, expected {source.spec.count}")
    return items


def find_files(spec: PromptSpec) -> list[Path]:
    """Return the files of a set that are here; their content is not looked at.

    Raises:
        RequestError: if one of those that must be there is absent, with the command that gets it.
    """
    paths = {name: prompt_folder(spec.name) / name for name in spec.files}
    absent = [name for name, path in paths.items() if spec.files[name] and not path.is_file()]
    if absent:
        raise RequestError(f"prompt set '{spec.name}' is not here: {few(absent)} is absent. {remedy(spec)}")
    return [path for path in paths.values() if path.is_file()]


def remedy(spec: PromptSpec) -> str:
    """Return how to get the files."""
    return f"Run: diffusionbench prepare prompts {spec.name} (offline, with --from FOLDER; {spec.source})."


def prepare_prompts(spec: PromptSpec, given: Path | None = None) -> list[Path]:
    """Put the files of a set into the cache folder, from a local place or their pinned one.

    Raises:
        RequestError: if the set has no files, or they cannot be fetched.
        DataError: if a file is absent or is not the pinned one.
    """
    owner = f"prompt set '{spec.name}'"
    if not spec.files:
        raise RequestError(f"{owner} comes with the package. Nothing is to be prepared.")
    build: Callable[[bytes], Mapping[str, bytes]] | None = None
    if spec.build is not None:
        module, _, name = spec.build.partition(":")
        build = getattr(importlib.import_module(module), name)

    def remote() -> Mapping[str, bytes]:
        assert spec.url is not None
        if build is not None:
            return build(fetch(spec.url, owner))
        return {name: fetch(spec.url + name, owner) for name, sha256 in spec.files.items() if sha256}

    return bring(owner, spec.files, prompt_folder(spec.name), remote, given)


def _content(spec: PromptSpec, path: Path) -> bytes:
    try:
        data = read_small(path)
    except OSError as error:
        raise DataError(f"prompt set '{spec.name}': {path} cannot be read ({first_line(error)}).") from None
    if not matches(data, spec.files[path.name]):
        raise DataError(
            f"prompt set '{spec.name}': {path} does not have the SHA-256 of the pinned file, so its prompts may be "
            f"others. {remedy(spec)}"
        )
    return data
