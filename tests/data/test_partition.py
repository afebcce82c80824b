"""Partitions: who holds what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.building import group_codes
from fedsim.data.partition import IID, Dirichlet, Natural, Preferred, Shards, class_table
from fedsim.data.skin import HAM10000
from fedsim.errors import InputError


def world(seed: int, count: int = 200, classes: int = 3, sites: int = 4, largest: int = 3) -> dict:
    """The records of a partition, in groups of up to `largest`, some with several labels."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), rng.integers(1, largest + 1, count))[:count]
    return {
        "labels": rng.integers(0, classes, count),
        "groups": rng.permutation(count)[groups],
        "sites": rng.permutation(np.arange(count) % sites)[groups],
        "site_names": tuple(f"hospital {site}" for site in range(sites)),
    }


def flat(labels: np.ndarray) -> dict:
    """Records that are groups of their own, of one site."""
    sites = np.zeros_like(labels)
    return {
        "labels": labels,
        "groups": np.arange(len(labels)),
        "sites": sites,
        "site_names": ("a",),
    }


def check(parts: dict[str, np.ndarray], data: dict) -> None:
    """Every record once, groups whole, positions ascending."""
    count = len(data["labels"])
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(count))
    held = [set(data["groups"][part].tolist()) for part in parts.values()]
    assert sum(map(len, held)) == len(np.unique(data["groups"]))
    for part in parts.values():
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


PARTITIONS = st.sampled_from(
    [IID(), Dirichlet(alpha=0.1, min_samples=1), Dirichlet(alpha=10.0), Shards(), Natural()]
)


@given(PARTITIONS, st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 5))
def test_a_partition_is_complete_disjoint_grouped_and_repeatable(partition, seed, clients, largest):
    data = world(seed, largest=largest)
    wanted = None if isinstance(partition, Natural) else clients
    try:
        parts = partition.assign(**data, clients=wanted, rng=np.random.default_rng(seed))
    except InputError:
        return
    check(parts, data)
    again = partition.assign(**data, clients=wanted, rng=np.random.default_rng(seed))
    assert list(parts) == list(again)
    assert all((parts[name] == again[name]).all() for name in parts)
    if wanted:
        assert list(parts) == [f"client-{i}" for i in range(clients)]
        assert all(len(part) for part in parts.values())


@given(st.integers(2, 20), st.integers(20, 300), st.integers(20, 60), st.integers(0, 2**32))
def test_iid_clients_hold_equal_numbers_of_each_class(clients, negatives, positives, seed):
    data = flat(np.repeat([0, 1], [negatives, positives]))
    parts = IID().assign(**data, clients=clients, rng=np.random.default_rng(seed))
    check(parts, data)
    table = np.array([row.counts for row in class_table(parts, data["labels"], ("no", "yes"))])
    assert (np.ptp(table, axis=0) <= 1).all()
    assert np.ptp(table.sum(axis=1)) <= 1


def test_iid_differs_with_the_random_stream_only_in_who_holds_what():
    data = flat(np.arange(100) % 2)
    one, two = (IID().assign(**data, clients=5, rng=np.random.default_rng(s)) for s in (0, 1))
    assert any((one[name] != two[name]).any() for name in one)


def skew(parts: dict[str, np.ndarray], labels: np.ndarray) -> float:
    """Mean distance (total variation) of the clients' label shares from the whole's."""
    whole = np.bincount(labels) / len(labels)
    shares = [np.bincount(labels[p], minlength=len(whole)) / len(p) for p in parts.values()]
    return float(np.mean([np.abs(share - whole).sum() / 2 for share in shares]))


def test_a_smaller_alpha_is_more_skew():
    data = flat(np.random.default_rng(0).integers(0, 5, 4000))
    found = []
    for alpha in (0.1, 1.0, 10.0, 1000.0):
        draws = [
            Dirichlet(alpha).assign(**data, clients=10, rng=np.random.default_rng(seed))
            for seed in range(5)
        ]
        found.append(np.mean([skew(parts, data["labels"]) for parts in draws]))
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.5
    assert found[-1] < 0.05


def test_dirichlet_proportions_have_the_right_mean_and_spread():
    # For Dir(alpha) over m clients the share of one has mean 1/m and
    # variance (m - 1) / (m^2 (m alpha + 1)).
    data = flat(np.zeros(2000, dtype=np.int64))
    clients, alpha = 4, 1.5
    partition = Dirichlet(alpha, min_samples=1)
    shares = np.array(
        [
            [len(p) / 2000 for p in partition.assign(**data, clients=clients, rng=rng).values()]
            for rng in map(np.random.default_rng, range(1500))
        ]
    )
    variance = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert np.abs(shares.mean(axis=0) - 1 / clients).max() < 0.02
    assert np.abs(shares.var(axis=0) / variance - 1).max() < 0.15


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 12))
def test_dirichlet_keeps_its_promises_to_every_client(seed, min_classes, min_samples):
    data = world(seed)
    partition = Dirichlet(0.5, min_samples=min_samples, min_classes=min_classes)
    parts = partition.assign(**data, clients=5, rng=np.random.default_rng(seed))
    for part in parts.values():
        assert len(part) >= min_samples
        assert len(np.unique(data["labels"][part])) >= min_classes


def test_dirichlet_gives_up_and_names_the_starved_client():
    data = flat(np.repeat([0, 1], [995, 5]))
    partition = Dirichlet(0.5, min_samples=1, min_classes=2, max_draws=20)
    with pytest.raises(InputError) as caught:
        partition.assign(**data, clients=10, rng=np.random.default_rng(0))
    (problem,) = caught.value.problems
    assert problem.where.startswith("client-")
    assert ", 0])" in problem.message
    assert "of 10 clients lack" in problem.message
    assert "20 draws with alpha=0.5" in caught.value.headline
    for change in ("larger alpha", "fewer clients", "smaller min_samples"):
        assert change in caught.value.hint


def test_dirichlet_reports_the_best_of_its_bounded_draws(monkeypatch):
    data = flat(np.arange(8) % 2)
    draws = [[0] * 8, [0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0, 0, 2], [1] * 8, [0, 1] * 4]
    given_up = iter(draws[:4])
    partition = Dirichlet(1.0, min_samples=2, max_draws=4)
    monkeypatch.setattr(partition, "_draw", lambda *arguments: np.array(next(given_up)))
    with pytest.raises(InputError) as caught:
        partition.assign(**data, clients=3, rng=np.random.default_rng(0))
    assert str(caught.value.problems[0]) == (
        "client-2: holds 1 records (by class: [0, 1]) in the best draw, where 1 of 3 clients lack "
        "something"
    )
    assert next(given_up, None) is None


def test_dirichlet_cuts_between_groups_where_they_are_nearest():
    data = flat(np.zeros(400, dtype=np.int64))
    data["groups"] = np.arange(400) // 50
    parts = Dirichlet(1e9, max_draws=1).assign(**data, clients=8, rng=np.random.default_rng(0))
    assert [len(part) for part in parts.values()] == [50] * 8


@pytest.mark.parametrize("alpha", [1e-3, 1e-12, 1e-300])
def test_a_tiny_alpha_ends_in_an_error(alpha):
    data = flat(np.arange(60) % 2)
    with pytest.raises(InputError, match="larger alpha"):
        Dirichlet(alpha, max_draws=50).assign(**data, clients=20, rng=np.random.default_rng(0))


def test_what_no_draw_can_give_is_refused_at_once():
    data = flat(np.arange(60) % 2)
    partition = Dirichlet(1.0, min_samples=7, min_classes=3, max_draws=10**12)
    with pytest.raises(InputError) as caught:
        partition.assign(**data, clients=10, rng=np.random.default_rng(0))
    text = str(caught.value)
    assert "10 clients with 7 records each need 70; there are 60" in text
    assert "min_classes: is 3, but the records have 2 classes" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"alpha": 0}, "alpha"),
        ({"alpha": -1}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": 1, "min_samples": 0}, "min_samples"),
        ({"alpha": 1, "max_draws": 0}, "max_draws"),
    ],
)
def test_dirichlet_refuses_wrong_parameters(arguments, named):
    with pytest.raises(ValueError, match=named):
        Dirichlet(**arguments)


@pytest.mark.parametrize("partition", [IID(), Dirichlet(1.0, min_samples=1), Shards(1)])
def test_clients_must_be_given_and_not_outnumber_the_groups(partition):
    data = flat(np.arange(10) % 2)
    data["groups"] = np.arange(10) // 2
    rng = np.random.default_rng(0)
    for clients, message in ((None, "not given"), (0, "is 0"), (6, "only 5 groups")):
        with pytest.raises(InputError, match=message) as caught:
            partition.assign(**data, clients=clients, rng=rng)
        assert caught.value.problems[0].where == "federation.clients"


@pytest.mark.parametrize("clients", [None, 4])
def test_natural_clients_are_the_sites(clients):
    data = world(0, largest=1)
    parts = Natural().assign(**data, clients=clients, rng=np.random.default_rng(0))
    assert tuple(parts) == data["site_names"]
    for site, part in enumerate(parts.values()):
        assert set(data["sites"][part].tolist()) == {site}


def test_natural_refuses_another_number_of_clients_and_names_the_sites():
    data = world(0)
    with pytest.raises(InputError, match="is 3, but the data have 4 sites: hospital 0, hospital 1"):
        Natural().assign(**data, clients=3, rng=np.random.default_rng(0))


def test_natural_names_a_starved_site():
    data = flat(np.arange(30) % 2)
    data["sites"][4] = 2
    data["site_names"] = ("big", "closed", "tiny")
    with pytest.raises(InputError) as caught:
        Natural().assign(**data, clients=None, rng=np.random.default_rng(0))
    assert [str(problem) for problem in caught.value.problems] == [
        "site 'closed': holds 0 records, below 2",
        "site 'tiny': holds 1 records, below 2",
    ]


def test_a_group_at_two_sites_stays_at_the_one_with_most_of_it():
    data = flat(np.zeros(8, dtype=np.int64))
    data |= {"sites": np.array([0, 0, 0, 1, 1, 1, 1, 0]), "site_names": ("a", "b")}
    data["groups"] = np.array([0, 1, 2, 2, 2, 3, 4, 5])
    parts = Natural().assign(**data, clients=None, rng=np.random.default_rng(0))
    assert parts["a"].tolist() == [0, 1, 7]


def test_preferred_clients_hold_most_of_a_class():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 12000)
    partition = Preferred([[0, 1], [3]], weight=10.0)
    parts = partition.assign(**flat(labels), clients=4, rng=rng)
    check(parts, flat(labels))
    table = np.array([np.bincount(labels[part], minlength=2) for part in parts.values()])
    shares = table / table.sum(axis=0)
    assert shares[:, 0] == pytest.approx([10 / 22, 10 / 22, 1 / 22, 1 / 22], abs=0.02)
    assert shares[:, 1] == pytest.approx([1 / 13, 1 / 13, 1 / 13, 10 / 13], abs=0.02)


@pytest.mark.parametrize(
    ("holders", "says"),
    [
        ([[0]], "clients of 1 classes, and there are 2"),
        ([[0], [4]], "no client 4: they are 0 to 3"),
    ],
)
def test_preferred_refuses_what_does_not_go_with_the_data(holders, says):
    with pytest.raises(InputError, match=says):
        Preferred(holders).assign(
            **flat(np.arange(100) % 2), clients=4, rng=np.random.default_rng(0)
        )


def test_shards_give_each_client_few_classes():
    data = flat(np.random.default_rng(0).permutation(np.arange(1000) % 10))
    parts = Shards(2).assign(**data, clients=50, rng=np.random.default_rng(0))
    check(parts, data)
    for part in parts.values():
        assert len(part) == 20
        assert len(np.unique(data["labels"][part])) <= 2


def test_shards_are_refused_when_there_are_too_few_groups():
    data = flat(np.arange(20) % 2)
    with pytest.raises(InputError, match="11 clients times 2 shards, but 20 groups"):
        Shards(2).assign(**data, clients=11, rng=np.random.default_rng(0))
    data["groups"] = np.array([0] * 17 + [1, 2, 3])
    with pytest.raises(InputError, match="no records"):
        Shards(1).assign(**data, clients=4, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="shards_per_client"):
        Shards(0)


def test_the_table_counts_clients_by_class():
    parts = {"x": np.array([0, 1, 3]), "y": np.array([2])}
    rows = class_table(parts, np.array([0, 2, 2, 0]), ("a", "b", "c"))
    assert rows == [("x", (2, 0, 1), 3), ("y", (0, 0, 1), 1)]
    assert rows[0].client == "x"
    assert rows[0].total == 3


def test_real_sites_keep_their_lesions(real_data):
    manifest = HAM10000().manifest(real_data / "ham10000")
    names, sites = np.unique(manifest.sites, return_inverse=True)
    data = {
        "labels": manifest.labels,
        "groups": group_codes(manifest.groups),
        "sites": sites.astype(np.int64),
        "site_names": tuple(names.tolist()),
    }
    parts = Natural().assign(**data, clients=None, rng=np.random.default_rng(0))
    check(parts, data)
    # Nine lesions were photographed at vidir_molemax and at vidir_modern, once each.
    moved = np.array([len(part) for part in parts.values()]) - np.bincount(sites)
    assert dict(zip(parts, moved.tolist(), strict=True)) == {
        "rosendahl": 0,
        "vidir_modern": 9,
        "vidir_molemax": -9,
        "vienna_dias": 0,
    }


@pytest.mark.parametrize("partition", [Dirichlet(alpha=0.3), Shards(shards_per_client=1)])
def test_labels_are_skewed_where_patients_with_a_melanoma_have_mostly_benign_images(partition):
    # ISIC 2020's shape: 400 patients of 16 images; a fifth of them have one melanoma each.
    labels = np.zeros(400 * 16, dtype=np.int64)
    labels[: 80 * 16 : 16] = 1
    groups = np.repeat(np.arange(400), 16)
    parts = partition.assign(
        labels=labels,
        groups=groups,
        sites=np.zeros_like(labels),
        site_names=("one",),
        clients=5,
        rng=np.random.default_rng(0),
    )
    rates = [labels[part].mean() for part in parts.values()]
    assert max(rates) > 4 * min(rates)
