"""The command line of NanoGen: parse, call one library function, print.

A verb imports what it needs in its first lines: `--help` answers at once, and torch is loaded by verbs that compute.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusionbench import bounds
from diffusionbench.errors import CheckpointError, ConfigError, run_program
from nanogen.threads import limit_waiting

if TYPE_CHECKING:
    from nanogen.config import ComposedConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Train and sample diffusion transformers.

Examples:

  nanogen train --task digits

  nanogen sample outputs/digits-pixel-v-laptop --labels 0-9 --num 64 --out grid.png

  nanogen show --task imagenet256 --method sd-vae-ema --scale paper --why
""",
)

Task = Annotated[str | None, typer.Option("--task", help="what: data and condition; see `nanogen ls tasks`")]
Method = Annotated[str | None, typer.Option("--method", help="how: latent space, objective, losses")]
Scale = Annotated[str | None, typer.Option("--scale", help="how big: laptop, single-gpu or paper")]
DataPath = Annotated[str | None, typer.Option("--data", help="file or folder of your images")]
Words = Annotated[list[str] | None, typer.Argument(help="config file and overrides, such as my.yaml optim.lr=1e-3")]
RunFolder = Annotated[Path, typer.Argument(help="a run folder")]
Overrides = Annotated[list[str] | None, typer.Argument(help="overrides of sampler.*, guidance.* and eval.*")]
Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
# A scale below 1 is refused by the config, which says why.
GuidanceScale = Annotated[
    float | None,
    typer.Option("--guidance", max=bounds.GUIDANCE, callback=bounds.number, help="classifier-free scale; 1 is off"),
]
Step = Annotated[
    int | None, typer.Option(min=0, max=bounds.DURATION, help="of a checkpoint that is kept; default: the newest")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, max=bounds.SEED, help="of the noise")]


def main() -> None:
    """Run a command; wrong use ends with exit code 2 and one sentence, a failed run with 1."""
    limit_waiting()
    run_program(app, "interrupted; the same command continues")


def _compose(
    words: list[str] | None, task: str | None, method: str | None, scale: str | None, data: str | None
) -> ComposedConfig:
    from nanogen.config import compose
    from nanogen.data.detect import detect

    names = [word for word in words or [] if "=" not in word]
    overrides = [word for word in words or [] if "=" in word]
    if len(names) > 1:
        raise ConfigError(f"expected at most one config file, found {', '.join(names)}. Overrides are key=value.")
    if data is not None:
        place = Path(data)
        if data.startswith("hf:"):
            from nanogen.hub import data_of

            name, place = data_of(data)
            data = str(name)
        overrides = [f"data.name={detect(place)}", f"data.path={json.dumps(data)}", *overrides]
    return compose(task, method, scale, Path(names[0]) if names else None, overrides)


def _part(text: str) -> tuple[int, int]:
    """Return i and n of "i/n"."""
    index, slash, total = text.partition("/")
    if not (slash and index.isdecimal() and total.isdecimal() and len(text) < 20):
        raise ConfigError(f"--part {text}: give i/n with 1 <= i <= n, such as 3/64.")
    return int(index), int(total)


def _resumed(path: Path, words: list[str] | None, others: tuple[str | None, ...]) -> ComposedConfig:
    if any(others):
        raise ConfigError("--resume takes task, method, scale, data and place from the run. Leave the others out.")
    _check_use_of_run(path, words or [])
    from nanogen.run import resumed

    return resumed(path, words or [])


def _check_use_of_run(run: Path, overrides: list[str]) -> None:
    """Refuse at once what can be refused without the seconds that torch takes to load."""
    from nanogen.config import check_overrides

    check_overrides(overrides)
    if not run.exists() and not str(run).startswith("hf:"):
        raise CheckpointError(
            f"{run} is not a run folder: it does not exist. Give the folder that `nanogen train` wrote, such as "
            "outputs/demo."
        )


@app.command()
def init(
    pictures: Annotated[Path, typer.Argument(help="folder, file or pattern of your images")],
    scale: Annotated[str, typer.Option("--scale", help="how big: laptop, single-gpu or paper")] = "laptop",
    out: Annotated[Path | None, typer.Option(help="config file to write; default: called after the images")] = None,
) -> None:
    """Look at your own images and write a commented config for them, with what a training will cost.

    \b
    Examples:
      nanogen init pictures/
      nanogen init captioned/ --out mine.yaml
      nanogen init 'shards/train-*.parquet' --scale single-gpu
    """
    from nanogen.init import write_config

    print("\n".join(write_config(pictures, scale, out)))


@app.command()
def train(
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    data: DataPath = None,
    run: Annotated[str | None, typer.Option("--run", "--run-dir", help="name in outputs/, or a path")] = None,
    resume: Annotated[Path | None, typer.Option(help="continue this run; nothing else is started")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check what needs no training, then stop")] = False,
) -> None:
    """Train a model; the same command started again continues.

    \b
    Examples:
      nanogen train --task digits
      nanogen train --task imagefolder --data pictures/ --run mine data.image_size=32
      torchrun --nproc-per-node 2 -m nanogen train --task digits --run-dir outputs/two optim.lr=1e-3
      nanogen train --resume outputs/mine

    torchrun keeps --run for itself (its own options start so); --run-dir is the same option.
    """
    from nanogen.config import check_reference

    if resume is None:
        composed = _compose(words, task, method, scale, data)
    else:
        composed = _resumed(resume, words, (task, method, scale, data, run))
    check_reference(composed)
    from nanogen import evaluate, parallel, show
    from nanogen import run as runs
    from nanogen import train as training

    if dry_run:
        if composed.config.eval.metrics:
            evaluate.check_axis(composed.config)
        print(show.as_text(replace(composed, config=training.open_data(composed.config)[1])))
        return
    folder = resume or runs.folder(run or "-".join(composed.choice[kind] for kind in ("task", "method", "scale")))
    with parallel.processes() as device:
        finished = training.train(composed, folder, device, ["nanogen", *sys.argv[1:]])
        if parallel.is_main():
            print(finished.path)


@app.command()
def launch(
    run: Annotated[Path, typer.Argument(help="the run folder, which need not be there yet")],
    words: Words = None,
    kind: Annotated[str, typer.Option("--print", help="slurm or sky: the file to print")] = "slurm",
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    nodes: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="machines")] = 1,
    gpus: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="of each machine, a process each")] = 8,
    hours: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="that the scheduler grants at once")] = 24,
) -> None:
    """Print a file that trains, or continues, a run on a cluster (SLURM) or in a cloud (SkyPilot).

    \b
    Examples:
      nanogen launch --print slurm outputs/digits --task digits --nodes 2 --gpus 4
      nanogen launch --print sky outputs/digits --task digits train.shard=hybrid
    """
    from nanogen.launch import Machines, arguments_of, script

    named = [
        word
        for key, value in (("task", task), ("method", method), ("scale", scale))
        if value
        for word in (f"--{key}", value)
    ]
    if named or words:
        _compose(words, task, method, scale, None)
    print(script(kind, run, [*named, *(words or [])] or arguments_of(run), Machines(nodes, gpus, hours)), end="")


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="a run folder, an ema.safetensors file, or hf:OWNER/NAME")],
    overrides: Overrides = None,
    labels: Annotated[str, typer.Option(help="classes to show, such as 0-9 or 3,5,7")] = "",
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="what to draw; repeat it")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="UTF-8 file with one prompt a line")] = None,
    num: Annotated[
        int | None,
        typer.Option(min=1, max=bounds.IMAGES, help="images; default 64, or one for each prompt of a longer file"),
    ] = None,
    guidance: GuidanceScale = None,
    seed: Seed = 0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=bounds.BATCH, help="images at once; changes speed only")
    ] = None,
    out: Annotated[Path, typer.Option(help="grid.png, a folder, or images.npz")] = Path("grid.png"),
) -> None:
    """Make images from a trained run.

    Image i depends on (weights, label or prompt, seed, i) only. Labels and prompts are taken in turn: --labels 0-9
    --num 64 shows 0, 1, ...

    \b
    Examples:
      nanogen sample outputs/demo --labels 0-9 --num 64 --guidance 2.0 --out grid.png
      nanogen sample outputs/demo --labels 7 --num 500 --out sevens/
      nanogen sample outputs/shapes-toy-ae-laptop --prompt "two red circles above a blue square" --num 16
      nanogen sample outputs/demo --num 1000 --out images.npz sampler.num_steps=25
      nanogen sample hf:OWNER/NAME --labels 0-9 --num 64
    """
    from nanogen.conditions import parse_labels

    changes = [*(overrides or []), *([] if guidance is None else [f"guidance.scale={guidance}"])]
    parse_labels(labels)
    _check_use_of_run(run, changes)
    from nanogen.sample import SampleRequest, read_prompts, sample_run

    wanted = [*(prompt or []), *([] if prompts is None else read_prompts(prompts))]
    if sample_run(run, changes, SampleRequest(labels, wanted, num, seed or 0, batch_size), out):
        print(out)


@app.command("eval")
def evaluate(
    run: RunFolder,
    overrides: Overrides = None,
    guidance: GuidanceScale = None,
    tuned: Annotated[bool, typer.Option("--tuned", help="the method's tuned scale, on times [0, 0.9]")] = False,
    metrics: Annotated[str, typer.Option(help="comma-separated; default: the run's")] = "",
    num: Annotated[int | None, typer.Option(min=1, max=bounds.IMAGES, help="images; default: the run's")] = None,
    seed: Seed = None,
    step: Step = None,
    out: Annotated[
        Path | None, typer.Option(help="record file; default: in the run folder, by the record's id")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a trained run and write a record.

    \b
    Examples:
      nanogen eval outputs/demo
      nanogen eval outputs/demo --guidance 2.0 --num 359 --seed 1
      nanogen eval outputs/demo --metrics accuracy_digits --json
    """
    given = {
        "guidance.scale": guidance,
        "eval.metrics": f"[{metrics}]" if metrics else None,
        "eval.num_samples": num,
        "eval.seed": seed,
    }
    changes = [*(overrides or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    _check_use_of_run(run, changes)
    from nanogen.evaluate import evaluate_run

    record = evaluate_run(run, changes, tuned, out, step)
    if record is None:
        return
    from diffusionbench.views.terminal import print_record

    try:
        if out is not None:
            record.save(out)
    finally:
        # A result that cannot be written is not lost.
        print_record(record, as_json)


@app.command()
def sweep(
    run: RunFolder,
    metric: Annotated[
        str | None, typer.Option(help="to choose by; default: the run's first that needs real images")
    ] = None,
    grid: Annotated[str, typer.Option(help="scales to try, such as 1,1.5,2; default: golden-section search")] = "",
    high: Annotated[
        float, typer.Option(min=1.001, max=bounds.GUIDANCE, callback=bounds.number, help="largest scale of the search")
    ] = 10.0,
    evaluations: Annotated[int, typer.Option(min=2, max=bounds.REPEATS, help="scales that the search tries")] = 8,
    num: Annotated[int | None, typer.Option(min=1, max=bounds.IMAGES, help="images; default: the run's")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=bounds.SEED - 1, help="of the noise that scores; the next one tunes")
    ] = None,
    step: Step = None,
    as_json: Json = False,
) -> None:
    """Choose the guidance scale on some images and score it on others; the same command continues.

    Guidance acts on times [0, 0.9]. Real images of even index and one seed tune, those of odd index and another seed
    score. The record says what was tried; the unguided score and a plot stand beside it.

    \b
    Examples:
      nanogen sweep outputs/demo
      nanogen sweep outputs/demo --grid 1,1.25,1.5,2,3 --metric fd_digits
      nanogen sweep outputs/demo --num 1000 --evaluations 6 --json
    """
    _check_use_of_run(run, [])
    from nanogen.sweep import SweepRequest, parse_scales, sweep_run

    record = sweep_run(run, SweepRequest(metric, parse_scales(grid), high, evaluations, num, seed, step))
    if record is not None:
        from diffusionbench.views.terminal import print_record

        print_record(record, as_json)


@app.command()
def study(
    words: Annotated[list[str] | None, typer.Argument(help="name or file, and changes: TASK.key=value")] = None,
    scale: Scale = None,
    run: Annotated[str | None, typer.Option("--run", help="name in outputs/, or a path")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="pattern of cells; repeat it")] = None,
    part: Annotated[str, typer.Option(help="i/n: every n-th cell from the i-th on; all share the folder")] = "1/1",
    fresh: Annotated[list[str] | None, typer.Option("--fresh", help="cell to remove and measure anew")] = None,
    possible: Annotated[bool, typer.Option("--possible", help="leave out cells that make no sense")] = False,
    launch: Annotated[str, typer.Option(help="words before our verbs; default: this Python")] = "",
    cells: Annotated[bool, typer.Option("--cells", help="list the cells and their states, then stop")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="plan hours and disk, then stop")] = False,
) -> None:
    """Train and score many methods on several tasks under one recipe; the same command continues.

    \b
    Examples:
      nanogen study --dry-run
      nanogen study laptop --only "digits-*"
      nanogen study laptop-seeds --part 1/4
      nanogen study paper-2026-06 --launch "torchrun --nproc-per-node 8 -m nanogen" imagenet256.data.path=train/
    """
    from nanogen.study.command import StudyRequest, run_study

    request = StudyRequest(words or [], scale, run, only or [], _part(part), fresh or [], possible, launch)
    run_study(request, dry_run, cells)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="a run folder, or two to show side by side")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the first run folder")] = None,
) -> None:
    """Write one self-contained HTML page about a run: samples, losses, scores, config, how to reproduce.

    Of two runs it also says which config lines differ.

    \b
    Examples:
      nanogen report outputs/demo
      nanogen report outputs/demo outputs/demo-shapes --out demo.html
      nanogen report outputs/digits-pixel-v-laptop
    """
    from nanogen.report import write_report

    print(write_report(runs, out).resolve())


@app.command()
def demo(
    run: Annotated[str, typer.Option("--run", help="name in outputs/ of the first run")] = "demo",
) -> None:
    """Train, score and report two small networks, by class and by caption; `make demo` installs and calls this.

    \b
    Examples:
      nanogen demo
      nanogen demo --run again
      nanogen demo --run /tmp/demo
    """
    from nanogen.demo import demo as show

    print(show(run).resolve())


@app.command()
def push(
    run: RunFolder,
    to: Annotated[str, typer.Option("--to", help="OWNER/NAME on the Hugging Face hub")],
    licence: Annotated[str | None, typer.Option(help="of the weights, such as apache-2.0")] = None,
    private: Annotated[bool, typer.Option("--private", help="make a new repository private")] = False,
    dataset: Annotated[
        str | None, typer.Option(help="a benchmark's data set there: write the newest record to .eval_results")
    ] = None,
) -> None:
    """Put a run's weights, config and records on the hub, with a card made from them; print the name and commit.

    \b
    Examples:
      nanogen push outputs/mine --to OWNER/NAME
      nanogen push outputs/mine --to OWNER/NAME --licence apache-2.0 --private
      nanogen push outputs/mine --to OWNER/NAME --dataset OWNER/BENCHMARK
    """
    from nanogen.push import push_run

    print(push_run(run, to, licence=licence, private=private, dataset=dataset))


@app.command()
def bench(
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    data: DataPath = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="random latents: no data set, no weights")] = False,
    steps: Annotated[int, typer.Option(min=1, max=bounds.REPEATS, help="timed steps")] = 20,
    warmup: Annotated[int, typer.Option(min=0, max=bounds.REPEATS, help="steps before them")] = 5,
    text_tokens: Annotated[
        int, typer.Option(min=1, max=bounds.TOKENS, help="length of the captions with --synthetic")
    ] = 64,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="measure this machine for `nanogen plan`, in a minute or two")
    ] = False,
) -> None:
    """Time the real training loop and print JSON: images per second, time by part, model FLOPs, memory.

    \b
    Examples:
      nanogen bench --task digits
      nanogen bench --task imagenet256 --method sd-vae-ema --scale paper --synthetic train.batch_size=64
      nanogen bench --task t2i256 --synthetic --text-tokens 120 train.batch_size=64
      nanogen bench --calibrate train.precision=float32
    """
    if calibrate:
        task = task or "digits"
    config = _compose(words, task, method, scale, data).config
    from nanogen import calibration
    from nanogen.bench import bench as run_bench
    from nanogen.bench import calibrate as measure

    if calibrate:
        rates = measure(config)
        print(rates.model_dump_json(indent=2))
        calibration.keep(rates)
        return
    print(json.dumps(run_bench(config, synthetic, steps, warmup, text_tokens), indent=2))


@app.command()
def plan(
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    data: DataPath = None,
    devices: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="processes, one on each device")] = 1,
    per_node: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="of them in one machine")] = 8,
    device: Annotated[
        str | None, typer.Option(help="h200, h100, a100, a100-40; default: this machine, as it was measured")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=1e-3, max=bounds.FACTOR, callback=bounds.number, help="GB of a device, where it has another"),
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(min=1e-3, max=1, callback=bounds.number, help="share of the device's peak; default 0.4"),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(min=0, max=bounds.FACTOR, callback=bounds.number, help="of one device for an hour"),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, max=bounds.DURATION, help="in the data, for durations in epochs")
    ] = None,
    text_tokens: Annotated[int, typer.Option(min=1, max=bounds.TOKENS, help="mean length of a caption")] = 64,
    as_json: Json = False,
) -> None:
    """Say what a training will cost: parameters, memory, time, disk and money, and what does not fit.

    Takes what `nanogen train` takes, or a run folder. Nothing is read but the config.

    \b
    Examples:
      nanogen plan --task digits
      nanogen plan --task imagenet256 --images 1281167 --device h200 --devices 8 --price 2.5
      nanogen plan --task t2i256 --device a100 --devices 64 --utilisation 0.3 --text-tokens 120 --json
    """
    from nanogen.plan import Machine, read_config
    from nanogen.plan import plan as make_plan

    is_run = words is not None and len(words) == 1 and Path(words[0]).is_dir()
    config = read_config(Path(words[0])) if words and is_run else _compose(words, task, method, scale, data).config
    machine = Machine(devices, per_node, device, memory and memory * 1e9, utilisation, price)
    made = make_plan(config, machine, num_images=images, text_tokens=text_tokens)
    print(json.dumps(made.as_dict(), indent=2) if as_json else "\n".join(made.lines()))


@app.command()
def check(
    runs: Annotated[list[Path], typer.Argument(help="a run folder; with --make several, of different seeds")],
    like: Annotated[
        Path | None, typer.Option(help="a reference curve: its file, or the name of one that ships")
    ] = None,
    make: Annotated[bool, typer.Option("--make", help="write the curve of finished runs")] = False,
    out: Annotated[Path | None, typer.Option(help="with --make: JSON file to write")] = None,
) -> None:
    """Say whether a run follows a reference curve in loss and gradient norm; exit code 3 where it does not.

    \b
    Examples:
      nanogen check --make outputs/seed-1 outputs/seed-2 outputs/seed-3 --out curve.json
      nanogen check outputs/mine --like curve.json
      nanogen check outputs/mine --like curve.json && echo healthy
    """
    from nanogen import curves

    if make != (like is None) or make != (out is not None) or (like is not None and len(runs) != 1):
        raise ConfigError("give either RUN --like CURVE, or --make RUN RUN ... --out FILE.")
    if out is not None:
        curves.write_curve(curves.make_curve(runs), out)
        print(out)
        return
    found = curves.compare_curve(runs[0], curves.read_curve(like or Path()))
    print("\n".join(found.lines()))
    if not found.follows:
        raise typer.Exit(3)


prepare = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Compute once what a training needs.")
app.add_typer(prepare, name="prepare")
PartText = Annotated[
    str, typer.Option("--part", help="i/n: every n-th shard from the i-th on; all may share the folder")
]
Workers = Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="processes that prepare; same files")]
Engine = Annotated[str, typer.Option(help="local, or ray: actors of a cluster")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="say bytes, hours and when it pays, by a few items; write nothing")
]


@prepare.command("text")
def prepare_text(
    out: Annotated[Path, typer.Option("--out", help="folder for the cache; an older cache there is replaced")],
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    data: DataPath = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32")] = "float16",
    part: PartText = "1/1",
    workers: Workers = 1,
    engine: Engine = "local",
    dry_run: DryRunOption = False,
) -> None:
    """Encode every distinct caption once: the data's, and those of the evaluation's prompt set.

    Train with condition.cache=FOLDER; the encoder is then never loaded. The same command continues. Parts leave their
    shards in FOLDER.parts; once all are there, the command without --part makes the cache of them.

    \b
    Examples:
      nanogen prepare text --task shapes --out outputs/shapes-text --workers 2
      nanogen prepare text --task shapes --out outputs/shapes-text --dry-run
      nanogen prepare text --task t2i256 --data shards/ --out text/ --dtype bfloat16
      nanogen prepare text --task t2i256 --data pictures/ --out text/ condition.encoder=minilm-l6
    """
    config = _compose(words, task, method, scale, data).config
    from nanogen.prepare import DryRun
    from nanogen.prepare import prepare_text as run
    from nanogen.shards import Spread

    manifest = run(config, out, dtype, Spread(_part(part), workers, engine), dry_run)
    if isinstance(manifest, DryRun):
        print("\n".join(manifest.lines()))
    if manifest is None or isinstance(manifest, DryRun):
        return
    print(f"{out}: {manifest.captions:,} distinct captions, {manifest.tokens:,} states of {manifest.width}", end="")
    print(f" in {manifest.dtype}, {manifest.truncated:,} captions cut to {manifest.max_tokens} tokens")


@prepare.command("latents")
def prepare_latents(
    out: Annotated[Path, typer.Option("--out", help="folder for the cache; one of the same recipe is continued")],
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    data: DataPath = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32")] = "float16",
    part: PartText = "1/1",
    workers: Workers = 1,
    engine: Engine = "local",
    dry_run: DryRunOption = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="mean and variance per channel and position instead of a cache")
    ] = False,
) -> None:
    """Encode every image once; train with latent.cache=FOLDER. The same command continues, and repairs damaged shards.

    With --statistics it writes statistics/stats.safetensors, in float64 on the way; latent.weights=FOLDER uses them.

    \b
    Examples:
      nanogen prepare latents --task shapes --out outputs/shapes-latents --workers 2
      nanogen prepare latents --task imagenet256 --data pictures/ --out latents/ --part 3/64
      nanogen prepare latents --task imagenet256 --method dinov2-b --data pictures/ --out dinov2/ --statistics
    """
    config = _compose(words, task, method, scale, data).config
    if statistics and ((part, workers, engine) != ("1/1", 1, "local") or dry_run):
        raise ConfigError(
            "--statistics are of all images in one process. Leave out --part, --workers, --engine and --dry-run."
        )
    from nanogen import prepare as preparing
    from nanogen.shards import Spread

    spread = Spread(_part(part), workers, engine)
    if statistics:
        written = preparing.prepare_statistics(config, out)
        if written is not None:
            print(written)
        return
    made = preparing.prepare_latents(config, out, dtype, spread, dry_run)
    if isinstance(made, preparing.DryRun):
        print("\n".join(made.lines()))
    elif made is not None:
        print(f"{out}: {made.count:,} latents of {made.latent} in {made.dtype}")


@prepare.command("images")
def prepare_images(
    out: Annotated[Path, typer.Option("--out", help="folder for the cache; one of the same recipe is continued")],
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    data: DataPath = None,
    part: PartText = "1/1",
    workers: Workers = 1,
    engine: Engine = "local",
    dry_run: DryRunOption = False,
) -> None:
    """Decode, crop and store every image at the training's size once; train with data.cache=FOLDER.

    \b
    Examples:
      nanogen prepare images --task digits --out outputs/digits-images
      nanogen prepare images --task imagenet256 --data pictures/ --out images/ --part 3/64
      nanogen prepare images --task imagenet256 --data pictures/ --out images/ --dry-run
    """
    config = _compose(words, task, method, scale, data).config
    from nanogen import prepare as preparing
    from nanogen.shards import Spread

    made = preparing.prepare_images(config, out, Spread(_part(part), workers, engine), dry_run)
    if isinstance(made, preparing.DryRun):
        print("\n".join(made.lines()))
    elif made is not None:
        print(f"{out}: {made.count:,} images of {made.image_size} px, {made.total_bytes / 1e9:.3g} GB")


@prepare.command("weights")
def prepare_weights(
    name: Annotated[str, typer.Argument(help="a latent space, see `nanogen ls latents`")],
    weights: Annotated[Path | None, typer.Option("--weights", help="folder of its files; default: the usual")] = None,
) -> None:
    """Find or fetch the weight files of a latent space; pickled ones are written once more as safetensors.

    Origin and licence are said before a download; `nanogen ls latents` says them too.

    \b
    Examples:
      nanogen prepare weights sd-vae-ema
      nanogen prepare weights rae-dinov2-b --weights released/
      nanogen prepare weights flux2-vae
    """
    from nanogen.importing import prepare_weights as run

    for part, paths in run(name, weights).items():
        print(f"{part}: {', '.join(map(str, paths))}")


tokenizer = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train autoencoders: the first stage.")
app.add_typer(tokenizer, name="tokenizer")


@tokenizer.command("train")
def train_tokenizer(
    recipe: Annotated[str, typer.Argument(help="a recipe, see `nanogen ls tokenizers`, or a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="overrides such as net.depth=12")] = None,
    run: Annotated[str | None, typer.Option("--run", "--run-dir", help="name in outputs/, or a path")] = None,
) -> None:
    """Train an autoencoder, or the decoder over a frozen encoder; the same command started again continues.

    Weights and statistics of its latents are written into the folder's `export`.

    Examples:

      nanogen tokenizer train toy-vae

      nanogen tokenizer train toy-rae --run mine train.duration='4k steps' optim.lr=1e-3

      nanogen tokenizer train rae-dinov2-b data.sources.imagefolder.path=train/ data.sources.imagefolder.held_out=val/
    """
    from nanogen.tokenizer.settings import compose_tokenizer

    config = compose_tokenizer(recipe, overrides or [])
    from nanogen import parallel
    from nanogen import run as runs
    from nanogen.tokenizer.recipe import train_recipe

    folder = runs.folder(run or f"tokenizer-{Path(recipe).stem}")
    with parallel.processes() as device:
        train_recipe(config, folder, device)
        if parallel.is_main():
            print(folder)


latents = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at latent spaces.")
app.add_typer(latents, name="latents")


@latents.command("inspect")
def inspect_latents(
    name: Annotated[str, typer.Argument(help="a latent space, see `nanogen ls latents`")],
    words: Words = None,
    task: Task = "digits",
    scale: Scale = "laptop",
    data: DataPath = None,
    num: Annotated[int, typer.Option(min=2, max=bounds.IMAGES, help="images")] = 512,
    judges: Annotated[str, typer.Option(help="comma-separated feature networks of distances")] = "inception,efflite0",
    probe: Annotated[str | None, typer.Option(help="run folder: also train a small network on the latents")] = None,
    as_json: Json = False,
) -> None:
    """Measure reconstructions and the spectrum of latents; with --probe also how well a small network learns from them.

    The probe is a run of the task at the laptop's scale, 2,000 steps or ten minutes on two cores, with its scores and
    their intervals.

    Examples:

      nanogen latents inspect toy-vae

      nanogen latents inspect toy-rae --task shapes --probe outputs/probe-toy-rae train.duration='4k steps'

      nanogen latents inspect taef2 --task imagefolder --data pictures/ data.image_size=256 latent.weights=FOLDER
    """
    from nanogen.latents import LATENTS

    defaults = [f"data.image_size={LATENTS[name].image_size or 32}"] if task in ("digits", "shapes") else []
    defaults += [] if probe is None else ["train.duration=2k steps"]
    composed = _compose([*defaults, *(words or []), f"latent.name={name}"], task, None, scale, data)
    from nanogen import run as runs
    from nanogen.tokenizer.inspecting import as_text, inspect

    asked = [judge for judge in judges.split(",") if judge]
    folder = None if probe is None else runs.folder(probe)
    found = inspect(composed, num, asked, folder, ["nanogen", *sys.argv[1:]])
    print(json.dumps(found, indent=2) if as_json else as_text(found))


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="a released checkpoint, such as CONFIG-v0.pt")],
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = "paper",
    out: Annotated[Path, typer.Option("--out", help="weights file to write")] = Path("ema.safetensors"),
) -> None:
    """Write the averaged weights of a released checkpoint as a file that `nanogen sample` takes.

    Nothing in the file is executed; names and shapes must be those of the task and method.

    \b
    Examples:
      nanogen import released.pt --task imagenet256 --method sd-vae-mse --out sd-vae-mse.safetensors
      nanogen import released.pt --task t2i256 --method flux2-vae --out flux2.safetensors
      nanogen import released.pt --task imagenet256 --method dinov2-b --out dinov2-b.safetensors
    """
    config = _compose(words, task, method, scale, None).config
    from nanogen.importing import import_network

    step = import_network(file, config, out)
    print(f"{out}: step {step}" if step else f"{out}: the file does not say its step")


@app.command()
def show(
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    data: DataPath = None,
    why: Annotated[bool, typer.Option("--why", help="with the file and line every value came from")] = False,
    diff: Annotated[
        tuple[str, str] | None, typer.Option("--diff", help="two tasks: only the keys in which they differ")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a config with everything that follows from it; imports no torch and reads no data.

    --diff compares two tasks at one scale and with one method: those asked for, or the first task's own.

    \b
    Examples:
      nanogen show --task digits
      nanogen show --task imagenet256 --method sd-vae-ema --scale paper --why
      nanogen show mine.yaml optim.lr=1e-4 --json
      nanogen show --diff digits shapes
    """
    from nanogen.show import as_dict, as_difference, as_text

    if diff is not None:
        if task is not None or why:
            raise ConfigError("--diff names both tasks itself. Leave --task and --why out.")
        first = _compose(words, diff[0], method, scale, data)
        second = _compose(words, diff[1], first.choice["method"], first.choice["scale"], data)
        print(as_difference(diff, (first, second), as_json))
        return
    composed = _compose(words, task, method, scale, data)
    print(json.dumps(as_dict(composed), indent=2) if as_json else as_text(composed, why))


@app.command("ls")
def list_names(
    what: Annotated[str, typer.Argument(help="tasks, methods, scales, latents, encoders, data, ...")] = "",
    as_json: Json = False,
) -> None:
    """List what can be chosen.

    \b
    Examples:
      nanogen ls
      nanogen ls methods
      nanogen ls latents --json
    """
    from diffusionbench.views.terminal import print_tables
    from nanogen.show import tables

    print_tables(tables(), what, as_json)
