"""The verbs that show images: what judges said of them, which flipped between two records, what they lie near."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusionbench import bounds
from diffusionbench.cli.options import Device, Json
from diffusionbench.cli.records import Seed
from diffusionbench.errors import RequestError, UserError
from diffusionbench.writing import check_gives_way, check_place, write_results

if TYPE_CHECKING:
    from diffusionbench.record import Record
    from diffusionbench.views.viewer import Pictures

RecordFile = Annotated[Path, typer.Argument(help="a record's JSON file")]
Page = Annotated[Path | None, typer.Option("--page", help="HTML file for the images, which needs no network")]
Stores = Annotated[
    list[Path] | None,
    typer.Option("--stores", help="folder of image stores; also looked for beside the records; repeat it"),
]


def register(app: typer.Typer) -> None:
    """Add the verbs to a program."""
    for verb in (inspect, compare, nearest):
        app.command()(verb)


def inspect(
    record: RecordFile,
    sample: Annotated[
        int | None, typer.Option("--sample", min=0, max=bounds.IMAGES, help="show what is known of this image instead")
    ] = None,
    page: Page = None,
    stores: Stores = None,
    as_json: Json = False,
) -> None:
    """Show a record, and put its images with what judges said of them on a page beside it, or show one image.

    Without --page the page is named as the record; a record of whole sets alone has none, and --json writes none.

    Examples:

      diffusionbench inspect record.json

      diffusionbench inspect record.json --page images.html --stores work/

      diffusionbench inspect record.json --sample 17 --json
    """
    from diffusionbench.record import load
    from diffusionbench.views.terminal import print_record
    from diffusionbench.views.viewer import record_page
    from diffusionbench.views.why import about_sample, as_text

    if sample is not None and (page is not None or stores):
        raise RequestError("--sample prints what is known of one image, and a page shows all. Leave one of them out.")
    loaded = load(record)
    if sample is not None:
        found = about_sample(record, loaded, sample)
        print(json.dumps(found, indent=2) if as_json else as_text(found))
        return
    if page is None:
        print_record(loaded, as_json)
        if as_json or not loaded.evidence:
            return
    try:
        place = page or record.with_suffix(".html")
        _check(place)
        _write(place, record_page(record, loaded, _pictures(loaded, record, stores or ()), _texts(loaded)))
    except UserError as error:
        if page is not None:
            raise
        # The record was shown; nobody asked for a page at this place.
        print(f"no page of its images: {error}", file=sys.stderr)


def compare(
    first: RecordFile,
    second: Annotated[Path, typer.Argument(help="another one")],
    draws: Annotated[int, typer.Option("--draws", min=100, max=bounds.REPEATS, help="of the paired bootstrap")] = (
        10_000
    ),
    seed: Seed = 0,
    page: Page = None,
    stores: Stores = None,
    as_json: Json = False,
) -> None:
    """Compare two records, image by image where both hold such values; unlike protocols are refused metric by metric.

    With --page the images that only one of both got right lie side by side. Exit code 3 if values differ beyond their
    uncertainty, or protocols differ.

    Examples:

      diffusionbench compare a.json b.json

      diffusionbench compare a.json b.json --page flipped.html --stores work/

      diffusionbench compare outputs/one/evals/a.json outputs/two/evals/b.json --draws 2000 --seed 1
    """
    from diffusionbench.record import load
    from diffusionbench.study import comparison

    records = load(first), load(second)
    result = comparison.compare(*records, paths=(first, second), draws=draws, seed=seed)
    if page is not None:
        from diffusionbench.views.viewer import flips_page

        _check(page)
        pairs = zip(records, (first, second), strict=True)
        one, other = (_pictures(record, path, stores or ()) for record, path in pairs)
        _write(page, flips_page(records, result, (one, other)), said=not as_json)
    print(json.dumps(result.as_dict(), indent=2) if as_json else result.as_text())
    if result.differs:
        raise typer.Exit(3)


def nearest(
    images: Annotated[Path, typer.Argument(help="folder or .tar of images, or .npz with arr_0")],
    train: Annotated[Path, typer.Option("--train", help="the images that the generator was trained on")],
    held_out: Annotated[
        Path | None, typer.Option("--held-out", help="real images that it has not seen; without, training images")
    ] = None,
    page: Page = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Find the training image nearest to each image in efflite0's features: copies have a ratio near 0, others near 1.

    The ratio is its distance over the median of the held-out images' distances to their nearest training images.

    Examples:

      diffusionbench nearest samples/ --train pictures/ --page nearest.html

      diffusionbench nearest samples.npz --train train/ --held-out val/ --json

      diffusionbench nearest samples/ --train train/ --held-out val/ --page nearest.html
    """
    from diffusionbench.nearest import find_nearest
    from diffusionbench.views.terminal import progress_line

    if page is not None:
        _check(page)
    found = find_nearest(images, train, held_out, device, progress_line())
    if page is not None:
        _write(page, found.page(), said=not as_json)
    print(json.dumps(found.as_dict(), indent=2) if as_json else found.as_text())


def _check(page: Path) -> None:
    """Refuse a place that cannot be written, before any work."""
    from diffusionbench.views.viewer import MARK

    if page.suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"--page names {page}, and a page is an .html file. Choose a name that ends in .html.")
    check_place(page)
    check_gives_way(page, MARK)


def _write(page: Path, text: str, said: bool = True) -> None:
    from diffusionbench.views.viewer import MARK

    write_results({page: (text, MARK)})
    if said:
        print(page)


def _pictures(record: Record, path: Path, folders: Sequence[Path]) -> Pictures | None:
    """Return what gives a record's images, or None where no store of them is found."""
    from diffusionbench.isolation import check_folders, find_store
    from diffusionbench.views.site.samples import Store

    check_folders(folders)
    store = find_store(record, path, folders)
    return None if store is None else Store(store.folder).picture


def _texts(record: Record) -> dict[str, tuple[str, str]]:
    """Return task and text of each item of a record's prompt set, as far as it can be opened here."""
    from diffusionbench.prompts import PromptChoice, open_prompts

    asked = record.extra.get("request")
    choice = asked.get("prompts") if isinstance(asked, dict) else None
    # What is not here any more, or was never, is left out of the page.
    with suppress(UserError, ValueError):
        items = open_prompts(PromptChoice.model_validate(choice)).items if choice else ()
        return {item.key: (", ".join(item.tags) or item.key.rpartition("/")[0], item.text or "") for item in items}
    return {}
