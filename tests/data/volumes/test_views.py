"""Views of volumes: what a client sees, and the patches it trains on."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from fedsim.data.volumes.dataset import EmbeddedVolumes, VolumeCase, VolumeDataset
from fedsim.data.volumes.store import VolumeStore, prepare_volumes
from fedsim.data.volumes.views import VolumeView
from fedsim.scenario.schema import Appearance
from fedsim.tasks.segmentation.appearance import apply
from fedsim.tasks.segmentation.label_views import label_scheme

EMPTY = 3
"""The case without any outline."""


def boxes(size: int) -> EmbeddedVolumes:
    """Four cases: image = label + case in tenths (see `true_image`), two structures."""

    def cases():
        for i in range(4):
            label = np.zeros((6 + i, size, size), np.uint8)
            if i != EMPTY:
                label[2, 4:6, 4:6] = 1
                label[3:5, 9:15, 9:15] = 2
            ramp = np.arange(label.size, dtype=np.float32).reshape(label.shape)
            yield VolumeCase(ramp + i, label, (3.0, 1.0, 1.0), "ab"[i % 2], f"case-{i}")

    return EmbeddedVolumes(("small", "large"), cases())


class Boxes(VolumeDataset):
    embedded = boxes

    def manifest(self, root):
        raise AssertionError


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> VolumeStore:
    return prepare_volumes(
        Boxes(normalise="zscore"),
        name="boxes",
        root=None,
        size=20,
        embedded={},
        skip_bad=False,
        cache=tmp_path_factory.mktemp("cache"),
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_view_shows_its_cases_in_its_order(store):
    view = VolumeView(store, np.array([2, 0]))
    assert len(view) == 2
    assert view.ids == ("case-2", "case-0")
    assert view.sites.tolist() == [0, 0]
    assert view.site_names == ("a", "b")
    assert view.spacing.tolist() == [[3, 1, 1], [3, 1, 1]]
    assert view.shapes.tolist() == [[8, 20, 20], [6, 20, 20]]
    image, label = view.volume(0)
    assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
    assert (image.shape, label.shape) == ((1, 8, 20, 20), (8, 20, 20))
    assert (image[0].numpy() == store.image(2)).all()
    assert (label.numpy() == store.label(2)).all()
    label[:] = 9  # memory of its own
    assert store.label(2).max() == 2


def test_labels_are_the_clients_own_in_volumes_and_patches(store):
    scheme = label_scheme(store.structures, {"a": ["large"], "b": ["small"]})
    view = VolumeView(store, np.arange(3), hide=scheme.views["a"].hide)
    assert set(view.volume(1)[1].unique().tolist()) == {0, 2}
    _, labels = view.patches(30, (20, 20), generator(), foreground=1.0)
    assert set(labels.unique().tolist()) == {0, 2}
    # In the union of both there is one class.
    union = label_scheme(
        store.structures, {"a": ["small", "large"]}, {"both": ["small", "large"]}, True
    )
    merged = VolumeView(store, np.arange(3), hide=lambda x: union.views["a"].hide(union.merge(x)))
    assert set(merged.volume(0)[1].unique().tolist()) == {0, 1}
    assert set(merged.patches(8, (5, 5), generator(), 1.0)[1].unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("size", [(20, 20), (7, 9), (4, 7, 9), (30, 24), (9, 26, 5)])
def test_patches_are_pieces_of_the_volumes_with_their_labels(store, size):
    view = VolumeView(store, np.array([1]))
    images, labels = view.patches(12, size, generator(1), foreground=0.5)
    assert images.shape == (12, 1, *size)
    assert labels.shape == (12, *size)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    image, label = store.image(1), store.label(1)
    order = np.sort(image.ravel())  # all voxels differ: each is found again in its place
    inside = tuple(min(a, b) for a, b in zip(((1, *size)[-3:]), image.shape, strict=True))
    for patch, outlines in zip(images.numpy()[:, 0], labels.numpy(), strict=True):
        patch, outlines = patch.reshape((1, *size)[-3:]), outlines.reshape((1, *size)[-3:])
        there = patch[patch != 0]
        assert len(there) >= np.prod(inside) - 1
        places = np.searchsorted(order, there)
        assert (order[places] == there).all()
        flat = dict(zip(image.ravel().tolist(), label.ravel().tolist(), strict=True))
        assert [flat[v] for v in there.tolist()] == outlines[patch != 0].tolist()
        assert not outlines[patch == 0].any()


def test_patches_depend_on_the_generator_alone(store):
    view, again = VolumeView(store, np.arange(4)), VolumeView(store, np.arange(4))
    first = view.patches(8, (6, 6), generator(5), 0.5)
    view.patches(3, (6, 6), generator(7), 0.5)
    for one, other in zip(first, again.patches(8, (6, 6), generator(5), 0.5), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first[0], view.patches(8, (6, 6), generator(6), 0.5)[0])


@pytest.mark.parametrize("size", [(3, 3), (2, 3, 3)])
def test_the_share_of_patches_with_labelled_voxels_is_the_one_wanted(store, size):
    view = VolumeView(store, np.arange(3))
    for share in (0.0, 0.25, 2 / 3, 1.0):
        _, labels = view.patches(600, size, generator(2), foreground=share)
        found = (labels.flatten(1) > 0).any(dim=1).float().mean()
        # Small patches that lie anywhere hold a labelled voxel now and then.
        assert share - 0.01 <= found <= share + 0.08 + 0.08 * (1 - share)


def test_the_share_holds_on_average_for_patches_drawn_one_by_one(store):
    view, rng = VolumeView(store, np.arange(3)), generator(3)
    found = [bool((view.patches(1, (1, 1), rng, 0.3)[1] > 0).any()) for _ in range(500)]
    assert np.mean(found) == pytest.approx(0.31, abs=0.06)


@pytest.mark.parametrize("size", [(1, 1), (1, 1, 1)])
def test_structures_are_equally_likely_however_small(store, size):
    _, labels = VolumeView(store, np.arange(3)).patches(600, size, generator(4), 1.0)
    shares = np.bincount(labels.flatten().numpy(), minlength=3) / 600
    assert shares[0] == 0
    assert shares[1] == pytest.approx(0.5, abs=0.07)


def test_cases_are_equally_likely_and_those_without_outlines_are_drawn_too(store):
    view = VolumeView(store, np.arange(4))
    images, labels = view.patches(800, (20, 20), generator(8), foreground=1.0)
    spread = images.flatten(1).std(dim=1)
    ranges = {round(float(s), 3) for s in spread}
    assert len(ranges) >= 4  # a slice's share of a volume's range tells its number of slices
    empty = (labels.flatten(1).sum(dim=1) == 0).float().mean()
    assert empty == pytest.approx(0.25, abs=0.05)


def test_a_patch_around_a_voxel_at_the_rim_stays_inside(store):
    view = VolumeView(store, np.array([0]), hide=lambda label: np.where(label == 1, label, 0))
    _, labels = view.patches(20, (2, 18, 18), generator(), foreground=1.0)
    assert (labels == 1).flatten(1).sum(dim=1).eq(4).all()


def test_wrong_requests_are_refused(store):
    with pytest.raises(ValueError, match=r"size \(H, W\) or \(D, H, W\)"):
        VolumeView(store, np.arange(2)).patches(1, (3,), generator())
    with pytest.raises(ValueError, match="no case"):
        VolumeView(store, np.arange(0)).patches(1, (3, 3), generator())


def test_another_appearance_is_that_of_every_voxel_and_of_no_label(store):
    look = partial(apply, Appearance(invert=True, ramp=0.5))
    plain, other = VolumeView(store, np.arange(3)), VolumeView(store, np.arange(3), look=look)
    for size in ((20, 20), (8, 8), (4, 8, 8)):
        (before, labels), (after, same) = (
            view.patches(6, size, generator(1), 0.5) for view in (plain, other)
        )
        assert torch.equal(labels, same)
        if size == (20, 20):
            expected = -before + torch.linspace(-0.5, 0.5, 20)
            assert torch.allclose(after, expected, atol=1e-6)
        else:
            assert not torch.equal(after, before)
    image = other.volume(1)[0]
    assert torch.allclose(image, -plain.volume(1)[0] + torch.linspace(-0.5, 0.5, 20), atol=1e-6)
    assert (plain.volume(1)[0][0].numpy() == store.image(1)).all()


def test_gamma_keeps_order_and_ends():
    part = np.linspace(-3, 3, 7, dtype=np.float32)[None]
    darker = apply(Appearance(gamma=2.0), part, slice(0, 7), 7)
    assert (np.diff(darker) > 0).all()
    assert darker[0, [0, -1]].tolist() == [-3, 3]
    assert (darker[0, 1:-1] < part[0, 1:-1]).all()
    assert (apply(Appearance(), part, slice(0, 7), 7) == part).all()
