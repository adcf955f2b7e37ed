"""The table of data sets: rows of data, readable without torch or pyarrow.

To add a data set: one file here with an opener, and one row in `DATASETS`. An opener takes `path`, `image_size` in
pixels and `split` ("train" or another) and returns a `nanogen.data.Dataset`; `nanogen.data.opening` calls it.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffusionbench.registry import Table


@dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """One kind of data set.

    Attributes:
        title: one line for users.
        load: "module:name" of the opener.
        takes_path: whether it reads files; if so a path is needed, else none is allowed.
        labels: whether its examples have labels; None where the files decide.
        captions: whether they have captions; None where the files decide.
        images: in its training split, where that does not depend on files.
        ending: of its files in small letters, by which `detect` knows them, or None where it reads folders.
    """

    title: str
    load: str
    takes_path: bool = True
    labels: bool | None = None
    captions: bool | None = None
    images: int | None = None
    ending: str | None = None


DATASETS = Table(
    "data set",
    {
        "digits": DatasetRow(
            title="1,438 handwritten digits of 8x8 pixels (UCI), embedded",
            load="nanogen.datasets.digits:open_digits",
            takes_path=False,
            labels=True,
            captions=False,
            images=1438,
        ),
        "shapes": DatasetRow(
            title="SimpleEval's rendered shapes with captions, drawn as they are asked for",
            load="nanogen.datasets.shapes:open_shapes",
            takes_path=False,
            labels=False,
            captions=True,
            images=16384,
        ),
        "objects": DatasetRow(
            title="those of them that show one object, by its colour and shape",
            load="nanogen.datasets.shapes:open_objects",
            takes_path=False,
            labels=True,
            captions=False,
        ),
        "imagefolder": DatasetRow(
            title="a folder of class folders of images",
            load="nanogen.datasets.imagefolder:open_folder",
            labels=True,
            captions=False,
        ),
        "captionfolder": DatasetRow(
            title="a folder of images with NAME.txt beside NAME.png, or one metadata.jsonl or metadata.csv",
            load="nanogen.datasets.captionfolder:open_captioned",
            labels=False,
            captions=True,
        ),
        "tars": DatasetRow(
            title="tar shards of the WebDataset form: KEY.jpg with KEY.txt or KEY.json",
            load="nanogen.datasets.tars:open_tars",
            labels=False,
            captions=True,
            ending=".tar",
        ),
        "parquet": DatasetRow(
            title="Parquet files with a column of images and one of labels or captions",
            load="nanogen.datasets.tables:open_parquet",
            ending=".parquet",
        ),
        "arrow": DatasetRow(
            title="Arrow files with the same columns, memory-mapped",
            load="nanogen.datasets.tables:open_arrow",
            ending=".arrow",
        ),
    },
    group="nanogen.datasets",
)
