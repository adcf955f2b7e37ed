"""What every source promises that is opened by name."""

import numpy as np
import pytest
from tiny import tiny

from diffusionbench.callables import SOURCES, CallableSource, as_source, open_named
from diffusionbench.errors import UserError
from diffusionbench.sample import Item, Sample, noise_seed
from nanogen.sources import NANOGEN
from nanogen.train import train


def a_run(folder):
    train(tiny(1), folder / "run", "cpu", ["test"])
    return str(folder / "run")


# Make the argument of a source that needs a file, in a folder.
EXAMPLES = {"nanogen": a_run}


@pytest.fixture(scope="module", params=sorted({*SOURCES, NANOGEN.name}))
def row(request):
    # Ours is an entry point like any other, and may not be installed where the tree is tested.
    SOURCES._rows.setdefault(NANOGEN.name, NANOGEN)
    return SOURCES[request.param]


@pytest.fixture(scope="module")
def source(row, tmp_path_factory):
    argument = EXAMPLES[row.name](tmp_path_factory.mktemp("source")) if row.name in EXAMPLES else row.example
    return as_source(open_named(f"{row.name}:{argument}"), row.name, 4, None)


def samples(source):
    words = isinstance(source, CallableSource) and "labels" not in source.takes
    items = [Item(f"p/{k}", text="a red circle") if words else Item(f"class/{k}", label=k) for k in range(3)]
    return [Sample(place, item, seed=noise_seed(0, "sample", place)) for place, item in enumerate(items)]


def test_the_row_says_what_it_opens(row):
    assert row.title
    assert row.name in EXAMPLES or row.example, (
        f"source '{row.name}' needs an `example` in its row, or an entry in EXAMPLES of this test"
    )


def test_images_follow_from_their_samples_alone(source):
    wanted = samples(source)
    together = source.images(wanted)
    assert (together.dtype, together.shape[0], together.shape[3]) == (np.uint8, 3, 3)
    assert source.image_size in (None, together.shape[1:3])
    alone = np.concatenate([source.images([sample]) for sample in reversed(wanted)])[::-1]
    assert np.abs(together.astype(int) - alone).max() <= 2
    assert source.description


def test_an_argument_that_leads_nowhere_is_one_sentence(row):
    for argument in ("", "no/such/argument"):
        with pytest.raises(UserError) as caught:
            open_named(f"{row.name}:{argument}")
        assert "\n" not in str(caught.value)
