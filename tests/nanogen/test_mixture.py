"""Several folders mixed by weight: shares, epochs of each, and a sequence that depends on seed and position alone."""

import numpy as np
import pytest
from shards import write_shards

from diffusionbench.errors import ConfigError, DataError
from nanogen.config import compose
from nanogen.data import Component
from nanogen.data.epochs import MAX_POSITION, epoch_order, epoch_slice, mixed
from nanogen.data.opening import open_dataset
from nanogen.data.order import Order, batches

COMPONENTS = (Component(50, 3.0), Component(200, 1.0, blocks=(40,) * 5), Component(7, 0.5))
OFFSETS = [0, 50, 250, 257]


def components_of(indices: np.ndarray) -> np.ndarray:
    return np.searchsorted(OFFSETS, indices, side="right") - 1


@pytest.mark.parametrize("seed", range(3))
def test_shares_follow_the_weights_at_every_length(seed):
    drawn = components_of(mixed(COMPONENTS, seed, 0, 5000))
    for number, weight in enumerate([3, 1, 0.5]):
        counts = np.cumsum(drawn == number)
        wanted = np.arange(1, 5001) * weight / 4.5
        assert np.abs(counts - wanted).max() < len(COMPONENTS)


def test_each_part_walks_its_own_epochs_without_replacement():
    indices = mixed(COMPONENTS, 0, 0, 3000)
    for number, part in enumerate(COMPONENTS):
        mine = indices[components_of(indices) == number] - OFFSETS[number]
        epochs = [mine[start : start + part.size] for start in range(0, len(mine), part.size)]
        assert all(len(set(epoch.tolist())) == len(epoch) for epoch in epochs)
        assert sorted(epochs[0]) == list(range(part.size))
        assert len(epochs) < 3 or (epochs[0] != epochs[1]).any()


def test_a_position_has_one_index_however_it_is_asked_for():
    whole = mixed(COMPONENTS, 5, 0, 2000)
    assert (whole != mixed(COMPONENTS, 6, 0, 2000)).any()
    for first, count in [(0, 1), (1, 7), (999, 250), (1999, 1)]:
        np.testing.assert_array_equal(mixed(COMPONENTS, 5, first, count), whole[first : first + count])


def test_counting_is_exact_far_into_a_run():
    first = MAX_POSITION - 5000
    near = mixed(COMPONENTS, 0, first, 5000)
    np.testing.assert_array_equal(
        near, np.concatenate([mixed(COMPONENTS, 0, first + k * 1000, 1000) for k in range(5)])
    )
    shares = np.bincount(components_of(near)) / 5000
    np.testing.assert_allclose(shares, np.array([3, 1, 0.5]) / 4.5, atol=2e-3)
    with pytest.raises(ConfigError, match="counts up to"):
        mixed(COMPONENTS, 0, MAX_POSITION - 1, 2)


def test_a_share_of_almost_nothing_and_of_almost_all():
    parts = (Component(10, 1e-12), Component(10, 1.0))
    assert (mixed(parts, 0, 0, 1000) >= 10).sum() >= 999
    assert (mixed(parts[::-1], 0, 0, 1000) < 10).sum() >= 999


def test_a_part_without_blocks_is_one_permutation():
    places = np.arange(20, 30)
    np.testing.assert_array_equal(epoch_slice(Component(100), 1, 2, places), epoch_order(100, 1, 2)[20:30])
    assert (epoch_order(100, 1, 2, 0) != epoch_order(100, 1, 2, 1)).any()


@pytest.mark.parametrize("sizes", [(5,), (1,) * 30, (3, 50, 2, 9, 40, 1), (20, 20, 20)])
def test_blocks_cover_every_index_once(sizes, monkeypatch):
    monkeypatch.setattr("nanogen.data.epochs.GROUP", 16)
    part = Component(sum(sizes), blocks=sizes)
    for epoch in range(3):
        whole = epoch_slice(part, 9, epoch, np.arange(part.size))
        assert sorted(whole) == list(range(part.size))
        for first in range(0, part.size, 7):
            places = np.arange(first, min(first + 7, part.size))
            np.testing.assert_array_equal(epoch_slice(part, 9, epoch, places), whole[places])


# Folders.


@pytest.fixture
def folders(tmp_path):
    write_shards(tmp_path / "a", [4, 5])
    write_shards(tmp_path / "b", [3], first=100)
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def mixture(folders, **options):
    return open_dataset("tars", folders, image_size=4, **options)


def sequence(data, steps: int, **options) -> list[str]:
    world = options.pop("world", 1)
    streams = [batches(data, seed=1, batch_size=8, rank=rank, world=world, **options) for rank in range(world)]
    return [caption for _ in range(steps) for stream in streams for caption in next(stream).caption]


def test_indices_run_through_the_folders(folders, tmp_path):
    data = mixture(folders)
    assert len(data) == 12
    assert [data.caption(index) for index in (0, 8, 9, 11)] == [f"picture {n}" for n in (0, 8, 100, 102)]
    assert data[9].caption == "picture 100"
    assert data.captioned
    assert data.digest != mixture(folders[::-1]).digest
    third = str(write_shards(tmp_path / "c", [3], first=200))
    assert data.digest != mixture([folders[0], third]).digest
    with pytest.raises(IndexError):
        data[12]


def test_weights_are_shares_and_null_means_sizes(folders):
    for weights, share in {None: 3 / 12, (1, 3): 0.75, (3, 1): 0.25, (0.002, 0.002): 0.5}.items():
        seen = sequence(mixture(folders, weights=weights), 50)
        assert np.mean([len(caption) > len("picture 9") for caption in seen]) == pytest.approx(share, abs=2 / 400)


@pytest.mark.parametrize("options", [{"world": 2}, {"world": 4}, {"workers": 2}, {"world": 2, "workers": 2}])
def test_processes_and_workers_see_the_same_global_batches(folders, options):
    data = mixture(folders, weights=[1, 2])
    assert sequence(data, 6, **options) == sequence(data, 6)


def test_a_mixture_continues_exactly_from_any_step(folders):
    whole = sequence(mixture(folders, weights=[1, 2]), 10)
    for step in range(10):
        again = mixture(folders, weights=[1, 2])
        assert sequence(again, 10 - step, first_step=step, world=2) == whole[8 * step :]


def test_one_folder_in_a_list_is_that_folder(folders):
    one, same = mixture(folders[:1]), mixture(folders[0])
    assert one.digest == same.digest
    assert sequence(one, 3) == sequence(same, 3)


@pytest.mark.parametrize(
    "path, weights, message",
    [
        (2, [1], r"1 values \(1\) for 2 paths"),
        (2, [1, 2, 3], r"3 values .* for 2 paths"),
        (2, [1, 0], "one above 0 for each path"),
        (2, [1, -1], "one above 0 for each path"),
        (0, None, "empty list"),
        ("one", [1], "Write data.path as a list"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folders, path, weights, message):
    paths = folders[0] if path == "one" else folders[:path]
    with pytest.raises(ConfigError, match=message):
        mixture(paths, weights=weights)


def test_a_folder_that_is_named_twice_is_refused(folders, tmp_path):
    (tmp_path / "link").symlink_to(folders[0])
    for paths in ([folders[0], folders[1], f"{folders[0]}/."], [str(tmp_path / "link"), folders[0]]):
        with pytest.raises(ConfigError, match=rf"data.path names {paths[0]} twice.*data\.weights"):
            mixture(paths)


def test_folders_with_nothing_in_common_are_refused(tmp_path):
    from shards import png

    for root, name in [("x", "ant"), ("y", "bee"), ("z", "bee")]:
        (tmp_path / root / name).mkdir(parents=True)
        (tmp_path / root / name / "a.png").write_bytes(png(0))
    paths = [str(tmp_path / root) for root in "xyz"]
    with pytest.raises(DataError, match="neither captions nor the same classes"):
        open_dataset("imagefolder", paths[:2], image_size=4)
    assert open_dataset("imagefolder", paths[1:], image_size=4)[1].label == 0
    words = open_dataset("imagefolder", paths, image_size=4, template="a {class}")
    assert [words.caption(index) for index in range(3)] == ["a ant", "a bee", "a bee"]
    assert (words.num_classes, words[1].label, words[1].caption) == (None, None, "a bee")


def test_paths_and_weights_come_from_the_config():
    overrides = ["data.path=[a, b]", "data.weights=[1, 0.5]", "data.corrupt=skip", "data.template='a {class}'"]
    data = compose("imagefolder", overrides=overrides).config.data
    assert (data.path, data.weights, data.corrupt, data.template) == (("a", "b"), (1, 0.5), "skip", "a {class}")
    for wrong in ("data.weights=[1, 0]", "data.weights=[1, x]", "data.corrupt=ignore", "data.path=[1]"):
        with pytest.raises(ConfigError, match=wrong.split("=")[0]):
            compose("imagefolder", overrides=[wrong])


def test_a_batch_larger_than_all_folders_is_refused(folders):
    with pytest.raises(DataError, match="12 images, fewer than one batch of 16"):
        Order(size=12, seed=0, batch_size=16, components=mixture(folders).components)


def test_the_digest_of_captions_from_a_template_follows_its_words():
    plain, one, other = (
        open_dataset("digits", None, image_size=8, template=template) for template in (None, "a {class}", "the {class}")
    )
    assert len({plain.digest, one.digest, other.digest}) == 3


def test_every_part_and_every_seed_of_a_mixture_has_its_own_order():
    parts = (Component(50, weight=0.4), Component(50, weight=0.6))
    drawn = {seed: mixed(parts, seed, 0, 80) for seed in range(5)}
    for indices in drawn.values():
        first, second = indices[indices < 50], indices[indices >= 50] - 50
        assert first.tolist() != second[: len(first)].tolist()
    # Which part comes when hangs on the seed, too.
    assert len({tuple((indices < 50).tolist()) for indices in drawn.values()}) > 1


def test_every_epoch_shuffles_its_blocks_and_every_group_its_images(monkeypatch):
    monkeypatch.setattr("nanogen.data.epochs.GROUP", 10)
    part, places = Component(40, blocks=(10, 10, 10, 10)), np.arange(40)
    # A seed of this test alone: what was drawn is kept.
    epochs = [epoch_slice(part, 24_680, epoch, places) for epoch in range(4)]
    blocks = {tuple((indices // 10)[::10].tolist()) for indices in epochs}
    assert len(blocks) > 1
    inside = {tuple((indices[start : start + 10] % 10).tolist()) for indices in epochs for start in (0, 10, 20)}
    assert len(inside) == 12
