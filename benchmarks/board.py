"""The board for many records: processor time to read them, to form the board and to print it.

    python benchmarks/board.py [--records 10000]

A third of the records each fits the unguided columns of the laptop board, the guided ones, and none (another count).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from diffusionbench.record import Protocol, Provenance, Record, Value
from diffusionbench.study.board import build
from diffusionbench.study.columns import accepted
from diffusionbench.study.points import gather
from diffusionbench.views.terminal import print_board, shown

METRICS = ("fd_digits", "kd_digits", "accuracy_digits", "is_digits", "precision_digits", "recall_digits")


def synthetic(count: int, seed: int = 0) -> list[Record]:
    """Measured records, three for each method."""
    rng = np.random.default_rng(seed)
    digests = accepted()
    stated = {
        "name": "class_conditional",
        "axis": "class_conditional",
        "judges": {"digits": {"digest": digests.judges["digits"][0]}},
        "references": {"digits": {"name": "digits", "digest": digests.references["digits"][0]}},
        "items_digest": "0" * 64,
        "quantisation": "truncate",
    }
    kinds = [{"count": 359, "guidance": {"scale": scale}} for scale in (1.0, 1.5)]
    kinds.append({"count": 500, "guidance": {"scale": 1.0}})
    protocols = [Protocol.model_validate(stated | kind) for kind in kinds]
    made = []
    for index in range(count):
        method, part = divmod(index, 3)
        values = {key: Value(value=float(rng.random()), stderr=0.01, scored=359, judges=("digits",)) for key in METRICS}
        breakdown = {f"class {i}": {"accuracy_digits": Value(value=0.5, scored=35)} for i in range(10)}
        made.append(
            Record(
                kind="measured",
                id=f"method-{method:05d}-{part}",
                method=f"method-{method:05d}",
                title=f"Method {method}",
                family="vae",
                protocol=protocols[part],
                values=values,
                breakdown=breakdown,
                provenance=Provenance(source="made up", images_digest=f"{index:064x}"),
            )
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for record in synthetic(given.records):
            text = json.dumps(record.model_dump(mode="json"), indent=2)
            (Path(name) / f"{record.id}.json").write_text(text + "\n", encoding="utf-8")
        times = [time.process_time()]
        records = gather([Path(name)])
        times.append(time.process_time())
        board = build(records, "measured-laptop")
        times.append(time.process_time())
        with contextlib.redirect_stdout(io.StringIO()):
            print_board(board, shown(board))
        times.append(time.process_time())
    for what, start, end in zip(("read", "form the board", "print it"), times, times[1:], strict=False):
        print(f"{what}: {end - start:.2f} s")
    print(f"{given.records} records, {len(board.rows)} rows, {len(board.listed)} listed: {times[-1] - times[0]:.2f} s")


if __name__ == "__main__":
    main()
