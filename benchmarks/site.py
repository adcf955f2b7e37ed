"""The website for many records: time to build it, its size and largest page, start-up, and the answer to a drag.

    python benchmarks/site.py [--records 1000] [--methods 200] [--chromium /usr/bin/chromium]

Records are made up from a seed: a third each guided, unguided and text-to-image, with uncertainty and a breakdown. A
drag is a pointer that moves in a panel with that many methods: from the event to the next painted frame with new
statistics in all four panels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from diffusionbench.record import Guidance, Protocol, Provenance, Record, ReferenceUsed, Value

FAMILIES = ("rae", "vae", "e2e-vae", "pixel", "few-step", None)
SCORES = ("geneval_overall", "dpgbench", "genaibench_overall", "simpleeval_v1")
DRAG = """(steps) => new Promise((resolve) => {
  const svg = document.querySelector(".panel svg");
  const n = document.querySelector('.panel [data-stat="n"]');
  const edge = svg.getBoundingClientRect();
  const send = (type, x, y) => svg.dispatchEvent(new PointerEvent(type,
    { clientX: edge.left + x, clientY: edge.top + y, pointerId: 1, button: 0, bubbles: true, pointerType: "mouse" }));
  svg.setPointerCapture = () => {};
  const times = [];
  send("pointerdown", 60, 20);
  const move = (i) => {
    if (i > steps) {
      send("pointerup", 60 + edge.width * 0.8, 20 + edge.height * 0.7);
      resolve([times, n.textContent]);
      return;
    }
    const start = performance.now();
    send("pointermove", 60 + edge.width * 0.8 * i / steps, 20 + edge.height * 0.7 * i / steps);
    // The frame's own callback runs first; a message after it comes once the frame has been laid out and painted.
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => { times.push(performance.now() - start); move(i + 1); };
      channel.port2.postMessage(0);
    });
  };
  move(1);
})"""


def synthetic(count: int, seed: int = 0) -> list[Record]:
    """Measured records, three for each method."""
    rng = np.random.default_rng(seed)
    made: list[Record] = []
    for index in range(count):
        method, part = divmod(index, 3)
        name = f"method-{method:04d}"
        quality = np.random.default_rng([seed, method]).normal()
        axis = "t2i" if part == 2 else "class_conditional"
        keys = SCORES if axis == "t2i" else ("fid", "inception_score", "precision", "recall")
        values = {}
        for key in keys:
            noise = rng.normal() * 0.7
            value = 6 * np.exp(-0.4 * (quality + noise)) if key == "fid" else 0.6 + 0.08 * np.tanh(quality + noise)
            value = 1 + 200 * value if key == "inception_score" else value
            values[key] = Value(value=float(value), stderr=0.004, interval=None, scored=5000)
        breakdown = {f"part {i}": {keys[0]: Value(value=float(rng.random()), stderr=0.01)} for i in range(10)}
        made.append(
            Record(
                kind="measured",
                id=f"{name}.{axis}.{part}",
                method=name,
                title=f"Method {method}",
                family=FAMILIES[method % len(FAMILIES)],
                protocol=Protocol(
                    name=axis,
                    axis=axis,
                    count=5000,
                    references={} if axis == "t2i" else {"inception": ReferenceUsed(name="imagenet256")},
                    guidance=Guidance(scale=(1.0, 2.0, 6.0)[part]),
                ),
                values=values,
                breakdown=breakdown,
                provenance=Provenance(
                    source=f"checkpoint-{method}",
                    command=f"diffusionbench run samples-{method}/ --metrics {','.join(keys)}",
                    images_digest=f"{index:064x}",
                    packages={"torch": "2.13.0", "numpy": "2.4"},
                    created="2026-11-26T00:00:00Z",
                ),
            )
        )
    return made


def costs(folder: Path, out: Path) -> dict[str, float]:
    """Processor seconds of reading the records of a folder and of building their site, and what `build` counts."""
    from diffusionbench.study.points import gather
    from diffusionbench.views.site.build import build

    start = time.process_time()
    records = gather([folder])
    read = time.process_time()
    return {**build(records, out), "read": read - start, "build": time.process_time() - read}


def save(records: list[Record], folder: Path) -> Path:
    """One file each, as a repository holds them."""
    folder.mkdir(parents=True)
    for record in records:
        (folder / f"{record.id}.json").write_text(record.model_dump_json(), encoding="utf-8")
    return folder


def run(*words: str) -> tuple[float, str]:
    """Seconds of a command and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "diffusionbench", *words], capture_output=True, text=True, check=True, env=os.environ
    )
    return time.perf_counter() - start, done.stdout


def drag(site: Path, chromium: str, steps: int = 40) -> tuple[list[float], str]:
    """Milliseconds from a pointer event to the painted frame, and the n shown at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1200})
        page.goto(f"{(site / 'index.html').as_uri()}#set=measured&hide=")
        times, shown = page.evaluate(DRAG, steps)
        browser.close()
    return times, shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--methods", type=int, default=200)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many = save(synthetic(given.records), folder / "many")
        helps = [run("site", "--help")[0] for _ in range(3)]
        print(f"`diffusionbench site --help`: {min(helps):.2f} s")
        walls = []
        for _ in range(3):
            seconds, printed = run("site", "--out", str(folder / "site"), "--records", str(many), "--json")
            walls.append(seconds)
        counts = json.loads(printed)
        print(f"`diffusionbench site`, {given.records} records and the published ones: {min(walls):.2f} s (of 3)")
        spent = costs(many, folder / "again")
        print(
            f"processor time: {spent['build']:.1f} s, {spent['build'] / spent['read']:.1f} times that of reading them"
        )
        largest, whole = counts["largest_page"] / 1e6, counts["bytes"] / 1e6
        print(f"pages: {counts['pages']}, largest: {largest:.2f} MB, all files: {whole:.1f} MB")
        few = save(synthetic(3 * given.methods), folder / "few")
        run("site", "--out", str(folder / "small"), "--records", str(few))
        times, shown = drag(folder / "small", given.chromium)
        print(
            f"drag with {given.methods} methods, 4 panels: median {statistics.median(times):.0f} ms, "
            f"worst {max(times):.0f} ms of {len(times)} moves; n = {shown}"
        )


if __name__ == "__main__":
    main()
