"""Label views: the table of the paper, what is hidden, the union, and every wrong view."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import InputError
from fedsim.tasks.segmentation.label_views import label_scheme

ABDOMEN = (
    *("liver", "liver_tumour", "spleen", "pancreas", "pancreas_tumour"),
    *("kidney", "kidney_tumour"),
)
ORGANS = {organ: (organ, f"{organ}_tumour") for organ in ("liver", "pancreas", "kidney")}
CLIENTS = {
    "kits": ["kidney", "kidney_tumour"],
    "msd_liver": ["liver", "liver_tumour"],
    "msd_pancreas": ["pancreas", "pancreas_tumour"],
    "msd_spleen": ["spleen"],
}


def test_views_of_the_abdomen_are_those_of_the_paper():
    scheme = label_scheme(ABDOMEN, CLIENTS, ORGANS)
    views = {name: (view.foreground, view.background_groups) for name, view in scheme.views.items()}
    assert views == {
        "kits": ((6, 7), ((0,), (1, 2), (3,), (4, 5))),
        "msd_liver": ((1, 2), ((0,), (3,), (4, 5), (6, 7))),
        "msd_pancreas": ((4, 5), ((0,), (1, 2), (3,), (6, 7))),
        "msd_spleen": ((3,), ((0,), (1, 2), (4, 5), (6, 7))),
    }
    assert scheme.structures == ABDOMEN
    assert scheme.table == tuple(range(8))


def test_without_organs_every_structure_is_a_group():
    scheme = label_scheme(
        ["peripheral", "transition", "lesion"], {"a": ["lesion", "peripheral"], "b": ["transition"]}
    )
    assert scheme.views["a"].foreground == (1, 3)
    assert scheme.views["a"].background_groups == ((0,), (2,))
    assert scheme.views["b"].background_groups == ((0,), (1,), (3,))


def test_of_a_partly_labelled_organ_the_rest_is_a_group():
    scheme = label_scheme(ABDOMEN, {"a": ["kidney", "liver"], "b": ABDOMEN}, ORGANS)
    assert scheme.views["a"].background_groups == ((0,), (2,), (3,), (4, 5), (7,))


def test_a_client_that_labels_everything_has_only_the_true_background():
    scheme = label_scheme(ABDOMEN, {"all": ABDOMEN}, ORGANS)
    assert scheme.views["all"].background_groups == ((0,),)


def test_what_a_client_does_not_label_falls_to_its_background():
    view = label_scheme(ABDOMEN, CLIENTS, ORGANS).views["msd_pancreas"]
    labels = np.arange(8, dtype=np.uint8).reshape(2, 4)
    hidden = view.hide(labels)
    assert hidden.tolist() == [[0, 0, 0, 0], [4, 5, 0, 0]]
    assert hidden.dtype == np.uint8
    assert labels.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_union_makes_each_organ_one_class():
    scheme = label_scheme(ABDOMEN, CLIENTS, ORGANS, union=True)
    assert scheme.structures == ("liver", "spleen", "pancreas", "kidney")
    assert scheme.views["kits"].foreground == (4,)
    assert scheme.views["kits"].background_groups == ((0,), (1,), (2,), (3,))
    merged = scheme.merge(np.arange(8, dtype=np.uint8))
    assert merged.tolist() == [0, 1, 1, 2, 3, 3, 4, 4]
    assert merged.dtype == np.uint8


def test_union_orders_organs_by_their_first_structure_wherever_the_others_are():
    scheme = label_scheme(
        ["peripheral", "transition", "lesion"],
        {"a": ["peripheral", "lesion"], "b": ["transition"]},
        {"outer": ["lesion", "peripheral"]},
        union=True,
    )
    assert scheme.structures == ("outer", "transition")
    assert scheme.table == (0, 1, 2, 1)


def test_a_label_value_that_the_data_set_does_not_have_is_refused():
    scheme = label_scheme(["a", "b"], {"x": ["a", "b"]})
    with pytest.raises(ValueError, match=r"between 0 and 2, but there is \[3, 255\]"):
        scheme.merge(np.array([0, 1, 255, 3], np.uint8))


@given(st.data())
def test_foreground_and_background_groups_hold_every_class_once(data):
    names = [f"s{number}" for number in range(data.draw(st.integers(1, 8)))]
    organs: dict[str, list[str]] = {}
    for name in names:
        organ = data.draw(st.sampled_from(["", "x", "y", "z"]))
        if organ:
            organs.setdefault(organ, []).append(name)
    clients = {
        client: data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        for client in ("first", "second")
    }
    clients["rest"] = names
    scheme = label_scheme(names, clients, organs)
    labels = np.arange(len(names) + 1)
    for client, view in scheme.views.items():
        groups = [view.foreground, *view.background_groups]
        assert sorted(number for group in groups for number in group) == labels.tolist()
        assert view.background_groups[0] == (0,)
        assert {names[number - 1] for number in view.foreground} == set(clients[client])
        np.testing.assert_array_equal(view.hide(view.hide(labels)), view.hide(labels))
    merged = label_scheme(names, {"all": names}, organs, union=True)
    assert sorted(set(merged.table)) == list(range(len(merged.structures) + 1))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"clients": {**CLIENTS, "kits": ["kidny", "kidney_tumour"]}},
            "label_views.clients.kits[0]: there is no structure 'kidny' (did you mean 'kidney'?)",
        ),
        (
            {"clients": {**CLIENTS, "kits": ["kidney", "kidney"]}},
            "label_views.clients.kits[1]: 'kidney' is there twice",
        ),
        ({"clients": {**CLIENTS, "kits": []}}, "label_views.clients.kits: is an empty list"),
        (
            {"clients": {**CLIENTS, "kits": "kidney"}},
            "label_views.clients.kits: must be a list of structures, not 'kidney'",
        ),
        (
            {"clients": {**CLIENTS, "kits": None}},
            "label_views.clients.kits: must be a list of structures, not None",
        ),
        ({"clients": {}}, "label_views.clients: no client labels anything"),
        (
            {"clients": {"kits": CLIENTS["kits"], "all": ABDOMEN[:4]}},
            "label_views.clients: no client labels 'pancreas_tumour'",
        ),
        (
            {"organs": {"liver": ["liver", "spleen"], "spleens": ["spleen"]}},
            "label_views.organs.spleens[0]: 'spleen' already belongs to the organ 'liver'",
        ),
        ({"organs": {"liver": []}}, "label_views.organs.liver: is an empty list"),
        (
            {"organs": {"liver": ["liver", 7]}},
            "label_views.organs.liver[1]: there is no structure 7 (valid: kidney,",
        ),
        (
            {"organs": {"spleen": ["liver", "liver_tumour"]}},
            "label_views.organs.spleen: 'spleen' cannot be the name of an organ of liver,",
        ),
        ({"organs": {"background": ["liver"]}}, "'background' cannot be the name of an organ"),
        (
            {"clients": {"kits": ["kidney"], "all": ABDOMEN}, "union": True},
            "label_views.clients.kits: labels only a part of 'kidney'; for the union of its "
            "structures also name kidney_tumour",
        ),
        ({"structures": ()}, "label_views.structures: the data set has no structure"),
        ({"structures": (*ABDOMEN, "liver")}, "label_views.structures: 'liver' is there 2 times"),
        (
            {"structures": (*ABDOMEN, "background")},
            "'background' cannot be the name of a structure",
        ),
    ],
)
def test_a_wrong_view_is_named_with_its_place(change, expected):
    arguments = {"structures": ABDOMEN, "clients": CLIENTS, "organs": ORGANS, **change}
    with pytest.raises(InputError) as caught:
        label_scheme(**arguments)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("The label views do not fit the data set.")


def test_all_problems_come_at_once_and_the_structures_with_them():
    with pytest.raises(InputError) as caught:
        label_scheme(
            ["inner", "outer"],
            {"north": ["iner", "outer"], "south": [], "east": ["outer", "outer"]},
            {"gland": ["inner", "out"]},
            where="federation.labels",
        )
    assert [problem.where for problem in caught.value.problems] == [
        "federation.labels.clients.north[0]",
        "federation.labels.clients.south",
        "federation.labels.clients.east[1]",
        "federation.labels.organs.gland[1]",
    ]
    assert str(caught.value).endswith("the data set's structures are: inner, outer")
