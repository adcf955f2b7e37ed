"""A trained run as a repository of the hub: averaged weights, config, records, and a card made from them."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from diffusionbench.catalog import direction, is_auxiliary, metric_info
from diffusionbench.errors import CheckpointError
from diffusionbench.record import Record
from diffusionbench.study.exports import hub_results
from nanogen import checkpoint, hub
from nanogen.evaluate import records_of
from nanogen.run import CONFIG, Run, read

ARROWS = {True: " ↑", False: " ↓", None: ""}


def push_run(
    path: Path, to: str, *, licence: str | None = None, private: bool = False, dataset: str | None = None
) -> hub.HubName:
    """Put the newest intact weights of a run on the hub, and return their name with the commit.

    Args:
        to: "OWNER/NAME".
        licence: its identifier on the hub, such as "apache-2.0"; None states none.
        dataset: a benchmark's data set on the hub, under which the newest record is written to `.eval_results`.

    Raises:
        CheckpointError: if the folder is no run or has no intact checkpoint.
        RequestError: if the name is none, or the hub refuses.
    """
    name = hub.parse(to)
    run = read(path)
    newest, _ = checkpoint.newest(run.checkpoints)
    if newest is None:
        raise CheckpointError(f"{path} has no intact checkpoint yet. Start its `nanogen train` command again.")
    records = [record for record in records_of(path) if record.provenance.step == newest.step]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copyfile(newest.weights, folder / "ema.safetensors")
        shutil.copyfile(run.path / CONFIG, folder / CONFIG)
        (folder / "README.md").write_text(card(run, newest.step, records, name, licence), encoding="utf-8")
        (folder / "records").mkdir()
        for record in records:
            record.save(folder / "records" / f"{record.id}.json")
        if dataset is not None and records:
            (folder / ".eval_results").mkdir()
            with (folder / ".eval_results" / f"{records[0].id}.yaml").open("w", encoding="utf-8") as file:
                YAML().dump(hub_results(records[0], dataset), file)
        with hub.opened_hub(f"{name} cannot be pushed from here", "Log in (hf auth login), or push later.", "hub"):
            commit = hub.CLIENT.push(name.repository, folder, f"Step {newest.step}", private)
    return hub.HubName(name.repository, commit)


def card(run: Run, step: int, records: list[Record], name: hub.HubName, licence: str | None) -> str:
    """Return the card of a model: how to sample it, what it scored, and from what it was made."""
    facts, config = run.facts, run.config
    is_text = config.condition.kind == "text"
    header: dict[str, Any] = {
        "library_name": "nanogen",
        "pipeline_tag": "text-to-image" if is_text else "unconditional-image-generation",
        **({} if licence is None else {"license": licence}),
        "tags": ["diffusion", "flow-matching", f"method:{facts['method']}"],
    }
    ask = '--prompt "..."' if is_text else "--labels 0-9"
    scores = "\n\n".join(map(_scores, records)) or "Not scored at this step."
    return f"""---
{chr(10).join(f"{key}: {json.dumps(value)}" for key, value in header.items())}
---

# {name.repository.partition("/")[2]}

Averaged weights of a diffusion transformer after {step:,} steps of batch {config.train.batch_size}: task
`{facts["task"]}`, method `{facts["method"]}`, scale `{facts["scale"]}`, images of {config.data.image_size} px.

```sh
nanogen sample {name} {ask} --num 64
```

`@COMMIT` after the name takes the weights of one commit.

## Scores

{scores}

## Origin

- config: `config.yaml`, hash `{facts["config_hash"][:12]}`
- data: {facts["num_images"]:,} images, digest `{facts["data_digest"][:12]}`
- code: commit `{facts["commit"]}`{", with changes" if facts["dirty"] else ""}; {facts["processes"]} process(es) on
  {facts["hardware"]}, {facts["precision"]}
"""


def _scores(record: Record) -> str:
    """Return a table of a record's values, with its protocol in a line."""
    rows = []
    for key, value in record.values.items():
        if is_auxiliary(key, record.values):
            continue
        spread = "" if value.interval is None else f"[{value.interval[0]:.4g}, {value.interval[1]:.4g}]"
        doubt = "" if value.status == "ok" else f" ({value.status})"
        rows.append(
            f"| {metric_info(key).title}{ARROWS[direction(key, value)]} | {value.value:.4g}{doubt} | {spread} | "
            f"{value.scored or ''} |"
        )
    protocol = record.protocol
    scale = None if protocol.guidance is None else protocol.guidance.scale
    how = {"guidance": scale, "steps": protocol.num_steps, "seed": protocol.seed}
    said = ", ".join(f"{name} {value}" for name, value in how.items() if value is not None)
    head = ["| metric | value | 95 % interval | scored |", "| --- | --- | --- | --- |"]
    return "\n".join([f"Record [`{record.id}`](records/{record.id}.json): {said}.", "", *head, *rows])
