"""What is said of the data before a run begins, and what is refused."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim.api import run
from fedsim.cli import main
from fedsim.errors import InputError
from fedsim.federation.building import build_federation
from fedsim.federation.holdings import Federation
from fedsim.scenario import load

SCENARIO = """
name: mine
rounds: 1
data: {name: folder, size: 8, split: {val: 0.2, test: 0.2}}
federation: {clients: 2, partition: {name: iid}}
model: {name: convnet, width: 4}
strategy: {name: fedavg}
client: {name: supervised, batch_size: 8, learning_rate: 0.03}
resources: {backend: inline}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDSIM_DATA", raising=False)


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(SCENARIO)
    return file


def folder(root: Path, rows: list[tuple[int, str, str, str]]) -> Path:
    """Pictures by the seeds of their pixels, with label, group and site."""
    root.mkdir()
    lines = ["path,label,group,site"]
    for i, (seed, label, group, site) in enumerate(rows):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{i:02d}.png")
        lines.append(f"{i:02d}.png,{label},{group},{site}")
    (root / "t.csv").write_text("\n".join(lines))
    return root


def usual(first: int = 0, prefix: str = "p") -> list[tuple[int, str, str, str]]:
    """Twelve patients of one picture each, of two classes and two sites."""
    return [
        (first + i, ("naevus", "melanoma")[i % 2], f"{prefix}{i}", "ab"[i // 6]) for i in range(12)
    ]


def built(scenario: Path, root: Path, *words: str) -> Federation:
    return build_federation(load(str(scenario), [f"data.root={root}", *words]), seed=0)


# --- external data -------------------------------------------------------------------------------


def test_external_data_of_others_are_accepted(scenario, tmp_path):
    here, there = folder(tmp_path / "h", usual()), folder(tmp_path / "t", usual(100, "q"))
    federation = built(scenario, here, f"evaluation.external.root={there}")
    assert len(federation.external_view()) == 12


def as_isic(root: Path, seeds: range) -> Path:
    """Pictures in the layout of ISIC 2020."""
    (root / "train").mkdir(parents=True)
    lines = ["image_name,patient_id,target"]
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "train" / f"ISIC_{seed}.jpg")
        lines.append(f"ISIC_{seed},q{seed},{seed % 2}")
    (root / "train.csv").write_text("\n".join(lines))
    return root


def test_external_data_may_lie_in_another_layout(scenario, tmp_path):
    rows = [(i, ("benign", "malignant")[i % 2], f"p{i}", "ab"[i // 6]) for i in range(12)]
    here, there = folder(tmp_path / "h", rows), as_isic(tmp_path / "t", range(100, 108))
    words = f"evaluation.external={{root: {there}, dataset: isic2020}}"
    federation = built(scenario, here, words)
    assert len(federation.external_view()) == 8
    assert federation.external_view().labels.tolist() == [0, 1] * 4
    on_features = ("data.features={network: convnet, public: 0, whiten: 0}", "model=linear")
    vectors = built(scenario, here, words, *on_features).external_view()
    assert vectors.images().shape == (8, *built(scenario, here, *on_features).task.input_shape)


def test_external_data_of_other_classes_are_refused(scenario, tmp_path):
    here, there = folder(tmp_path / "h", usual()), as_isic(tmp_path / "t", range(100, 108))
    with pytest.raises(InputError, match=r"evaluation\.external\.root has the classes benign"):
        built(scenario, here, f"evaluation.external={{root: {there}, dataset: isic2020}}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{sites: [a], dataset: folder}", "dataset says how root is read"),
        ("{root: x, dataset: foldr}", "did you mean 'folder'"),
        ("{root: x, dataset: {name: ham10000, tasks: binary}}", "did you mean 'task'"),
        ("{root: x, dataset: {name: ham10000, task: other}}", "evaluation.external.dataset.task"),
    ],
)
def test_a_wrong_data_set_of_external_data_is_told(scenario, words, message):
    with pytest.raises(InputError) as caught:
        load(str(scenario), [f"evaluation.external={words}"])
    assert message in str(caught.value)


def test_external_data_with_records_in_common_are_refused(scenario, tmp_path):
    here = folder(tmp_path / "h", usual())
    there = folder(tmp_path / "t", [*usual(0, "q")[:3], *usual(100, "q")[3:]])
    with pytest.raises(InputError) as caught:
        built(scenario, here, f"evaluation.external.root={there}")
    (problem,) = caught.value.problems
    assert problem.message == "3 of 12 records are also in the scenario's data"


def test_external_data_with_patients_in_common_are_refused(scenario, tmp_path):
    here = folder(tmp_path / "h", usual())
    there = folder(tmp_path / "t", [*usual(100, "q")[:8], *usual(200, "p")[8:]])
    with pytest.raises(InputError) as caught:
        built(scenario, here, f"evaluation.external.root={there}")
    (problem,) = caught.value.problems
    assert problem.message == "4 of 12 patients are also there: p10, p11, p8, p9"


def test_external_patients_are_known_by_other_spellings(scenario, tmp_path):
    here = folder(tmp_path / "h", usual())
    there = folder(tmp_path / "t", [*usual(100, "q")[:8], *usual(200, "P-0")[8:]])
    with pytest.raises(InputError, match="4 of 12 patients are also there: P-010, P-011, P-08"):
        built(scenario, here, f"evaluation.external.root={there}")


def test_the_training_data_less_one_picture_are_no_external_data(scenario, tmp_path):
    here, there = folder(tmp_path / "h", usual()), folder(tmp_path / "t", usual()[1:])
    with pytest.raises(InputError, match="11 of 11 records"):
        built(scenario, here, f"evaluation.external.root={there}")


def test_a_copy_at_an_outside_site_does_not_train(scenario, tmp_path):
    rows = [(i, label, "", site) for i, label, _, site in usual()]
    rows.append((11, rows[11][1], "", "a"))  # the last picture, of site b, once more at a
    root = folder(tmp_path / "h", rows)
    federation = built(scenario, root, "evaluation.external.sites=[b]", "data.split.val=0")
    used = np.concatenate(list(federation.split.values()))
    assert sorted(used.tolist()) == list(range(6))


def test_volumes_in_common_are_refused_and_case_names_are_nobodys(tmp_path):
    import nibabel

    def volumes(root: Path, seeds: list[int], group: str) -> Path:
        root.mkdir()
        lines = ["image,mask,group"]
        for i, seed in enumerate(seeds):
            image = np.random.default_rng(seed).integers(0, 99, (8, 8, 4)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), root / f"{i}.nii")
            mask = np.zeros((8, 8, 4), np.uint8)
            mask[2:5, 2:5] = 1
            nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), root / f"m{i}.nii")
            lines.append(f"{i}.nii,m{i}.nii,{group.format(i)}")
        (root / "t.csv").write_text("\n".join(lines))
        return root

    file = tmp_path / "v.yaml"
    file.write_text(
        "{name: v, data: {name: volumes, structures: [organ], size: 8, split: {val: 0, test: 0.3}},"
        " federation: {partition: {name: natural}}, model: {name: unet, channels: [2, 4]},"
        " strategy: {name: fedavg}, client: {name: segmentation}}"
    )
    here = volumes(tmp_path / "h", [0, 1, 2, 3], "{}.nii")
    there = volumes(tmp_path / "t", [10, 1, 12], "{}.nii")
    with pytest.raises(InputError) as caught:
        built(file, here, f"evaluation.external.root={there}")
    assert [problem.message for problem in caught.value.problems] == [
        "1 of 3 records are also in the scenario's data"
    ]
    others = volumes(tmp_path / "o", [20, 21], "{}.nii")
    assert built(file, here, f"evaluation.external.root={others}").external is not None
    for key in ("positive=organ", "window=[0, 1]"):
        with pytest.raises(InputError, match="is for images, but 'volumes' has volumes"):
            built(file, here, f"data.{key}")


# --- the positive class --------------------------------------------------------------------------


def test_the_positive_class_is_chosen_and_said(scenario, tmp_path, capsys):
    root = folder(tmp_path / "h", usual())
    plain = built(scenario, root)
    assert plain.task.positive == plain.describe()["positive"] == "naevus"
    assert plain.store.positive_rule == "the last by name; data.positive=melanoma takes the other"
    chosen = built(scenario, root, "data.positive=melanoma")
    assert chosen.task.classes == ("naevus", "melanoma")
    assert chosen.describe()["positive"] == "melanoma"
    assert chosen.store.positive_rule == ""
    assert (chosen.store.labels == 1 - plain.store.labels).all()
    assert (chosen.store.images == plain.store.images).all()
    listed = built(scenario, root, "data.classes=[naevus, melanoma]")
    assert (listed.task.positive, listed.store.positive_rule) == ("melanoma", "")


def test_the_positive_class_is_on_the_console_in_run_json_and_on_the_page(
    scenario, tmp_path, capsys
):
    root = folder(tmp_path / "h", usual())
    words = [str(scenario), f"data.root={root}", "--runs", str(tmp_path / "runs")]
    assert main(["run", *words]) == 0
    printed = capsys.readouterr().out
    rule = "the last by name; data.positive=melanoma takes the other"
    assert f"positive class: naevus ({rule})" in printed
    assert "\npositive class: naevus\n" in printed
    (path,) = (file.parent for file in (tmp_path / "runs").rglob("run.json"))
    assert json.loads((path / "run.json").read_text())["data"]["positive"] == "naevus"
    page = (path / "report" / "index.html").read_text()
    assert "positive class" in page
    assert main(["compare", str(path)]) == 0
    assert "positive class: naevus" in capsys.readouterr().out


def test_the_stand_in_takes_a_positive_class_too(tmp_path, monkeypatch):
    words = ["data.embedded.images=60", "data.size=16"]
    usual_one = build_federation(load("isic_iid_fedavg", words), seed=0)
    other = build_federation(load("isic_iid_fedavg", [*words, "data.positive=benign"]), seed=0)
    assert (usual_one.task.positive, other.task.positive) == ("malignant", "benign")
    assert (usual_one.store.labels == 1 - other.store.labels).all()


@pytest.mark.parametrize("names", [("0", "1"), ("no", "yes"), ("1: low", "2"), ("it's", "x")])
def test_what_is_said_of_the_other_class_can_be_typed(scenario, tmp_path, names):
    root = folder(tmp_path / "h", [(i, names[i % 2], f"p{i}", "") for i in range(12)])
    words = shlex.split(built(scenario, root).store.positive_rule.split("; ")[1])
    assert words[1:] == ["takes", "the", "other"]
    assert built(scenario, root, words[0]).task.positive == names[0]


def test_a_number_for_a_class_says_how_to_write_it(scenario, tmp_path):
    root = folder(tmp_path / "h", [(i, "01"[i % 2], f"p{i}", "") for i in range(12)])
    for word in ("data.positive=1", "data.classes=[0, 1]"):
        with pytest.raises(InputError, match=r"""got [01]: put it in quotes, '"[01]"'"""):
            built(scenario, root, word)


@pytest.mark.parametrize("wrong", ["Melanoma", "nobody", "''"])
def test_a_positive_class_that_is_none_is_refused(scenario, tmp_path, wrong):
    root = folder(tmp_path / "h", usual())
    with pytest.raises(InputError, match="the classes are melanoma, naevus"):
        built(scenario, root, f"data.positive={wrong}")


def test_of_three_classes_none_is_positive(scenario, tmp_path):
    rows = [(i, "abc"[i % 3], "", "") for i in range(18)]
    root = folder(tmp_path / "h", rows)
    federation = built(scenario, root)
    assert federation.task.positive is None
    assert federation.describe()["positive"] is None
    with pytest.raises(InputError, match=r"of two classes"):
        built(scenario, root, "data.positive=a")


# --- grey values of more than 8 bits -------------------------------------------------------------


def test_the_window_of_deep_pictures_is_named_and_makes_another_store(scenario, tmp_path):
    root = tmp_path / "h"
    for i in range(12):
        file = root / ("cat", "dog")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(i).integers(0, 4096, (8, 8)).astype(np.uint16)
        Image.fromarray(values).save(file)
    plain = built(scenario, root)
    told = plain.describe()["window"]
    assert told.startswith("12 images have more than 8 bits: the percentiles 1 and 99 of each")
    assert told in plain.notes()
    fixed = built(scenario, root, "data.window=[0, 8000]")
    assert "0 and 8000 become black and white" in fixed.describe()["window"]
    assert fixed.store.fingerprint != plain.store.fingerprint
    assert fixed.store.images.max() <= 255 * 4096 / 8000 + 1
    assert built(scenario, root).describe() == plain.describe()  # from the cache, too


@pytest.mark.parametrize("window", ["[1]", "[2, 1]", "[1, 1]", "[0, x]", "[0, .inf]", "3"])
def test_a_wrong_window_is_refused(scenario, tmp_path, window):
    root = folder(tmp_path / "h", usual())
    with pytest.raises(InputError, match=r"data\.window"):
        load(str(scenario), [f"data.root={root}", f"data.window={window}"])


# --- the first lines of a run --------------------------------------------------------------------


def test_clients_of_one_class_and_patients_at_several_sites_are_said(scenario, tmp_path, capsys):
    rows = [(i, "ab"[i % 2 if i < 12 else 0], f"p{i // 2}", "xyz"[i // 6]) for i in range(18)]
    rows += [(100 + i, "ab"[i % 2], "q", "xy"[i % 2]) for i in range(4)]
    root = folder(tmp_path / "h", rows)
    words = [f"data.root={root}", "federation={partition: natural}", "data.split.val=0"]
    found = built(scenario, root, *words[1:]).notes()
    assert "clients with records of one class only: z (a)" in found
    assert "classes with fewer than 10 records, whose scores say little: b (8)" in found
    several = "patients (or lesions) with records at several sites: 1; each is with one client only"
    assert several in found
    assert main(["run", str(scenario), *words, "--runs", str(tmp_path / "runs")]) == 0
    first = capsys.readouterr().out.split("round 1/1")[0]
    assert all(f"data: {note}" in first for note in found)
    assert main(["check", str(scenario), *words]) == 0
    first = capsys.readouterr().out
    assert all(f"data: {note}" in first for note in found)


def test_private_runs_say_nothing_of_how_classes_and_patients_lie(scenario, tmp_path, capsys):
    rows = [(i, "ab"[i % 2 if i < 12 else 0], f"p{i}", "xyz"[i // 6]) for i in range(18)]
    root = folder(tmp_path / "h", rows)
    words = [f"data.root={root}", "federation={partition: natural}", "data.split.val=0"]
    words += ["privacy={mechanism: dp_sgd, noise_multiplier: 1.0}", "client.class_balanced=false"]
    assert main(["run", str(scenario), *words, "--runs", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    assert "privacy: " in printed
    assert "one class only" not in printed


def test_the_table_that_was_read_is_said(scenario, tmp_path, capsys):
    root = folder(tmp_path / "h", usual())
    (root / "notes.csv").write_text("who,when\na,b\n")
    run(load(str(scenario), [f"data.root={root}"]), runs=tmp_path / "runs", quiet=False)
    assert "data: read t.csv, not notes.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["data.embedded.images=1000000000000"],
        ["data.embedded.images=200000", "data.size=16384"],
    ],
    ids=["records", "pixels"],
)
def test_stand_ins_that_fit_into_no_memory_are_refused(scenario: Path, words: list[str]) -> None:
    asked = load(str(scenario), ["data={name: ham10000, embedded: {images: 1000}}", *words])
    with pytest.raises(InputError, match="does not fit into memory") as refused:
        build_federation(asked, 0)
    assert refused.value.hint == "make data.size, or the counts of data.embedded, smaller"


def test_data_that_fit_into_no_memory_are_refused(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("no 9 TiB")

    monkeypatch.setattr("fedsim.data.store.prepare", full)
    with pytest.raises(InputError, match=r"'folder' does not fit into memory: .*9 TiB") as refused:
        built(scenario, folder(tmp_path / "h", usual()))
    assert "smaller data.size" in refused.value.hint


# --- fractions of the training patients ----------------------------------------------------------

PARTITIONS = ("iid", "{name: dirichlet, alpha: 0.5}", "natural")


def held(words: tuple[str, ...], seed: int = 0) -> Federation:
    return build_federation(load("isic_noniid_fedavg", STAND_IN + words), seed)


STAND_IN = ("data={name: ham10000, size: 8, embedded: {images: 200, sites: 3}}",)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_fractions_are_nested_at_every_client(partition):
    clients = "null" if partition == "natural" else "4"
    words = (f"federation.partition={partition}", f"federation.clients={clients}")
    found = [held((*words, f"data.split.fraction={f}")) for f in ("0.1", "0.3", "1")]
    whole = found[-1]
    assert whole.split["train"].tolist() == held(words).split["train"].tolist()
    for smaller, larger in pairwise(found):
        assert list(smaller.train) == list(larger.train) == list(whole.train)
        for name, positions in smaller.train.items():
            assert len(positions) > 0
            assert set(positions.tolist()) <= set(larger.train[name].tolist())
        for side in ("val", "test"):
            assert (smaller.split[side] == whole.split[side]).all()
        pooled = np.sort(np.concatenate(list(smaller.train.values())))
        assert pooled.tolist() == smaller.split["train"].tolist()
        left = np.setdiff1d(whole.split["train"], pooled)
        groups = whole.store.groups
        assert set(groups[pooled].tolist()).isdisjoint(groups[left].tolist())
    groups = len(np.unique(whole.store.groups[whole.split["train"]]))
    kept = len(np.unique(whole.store.groups[found[1].split["train"]]))
    assert abs(kept - 0.3 * groups) <= 1 + len(whole.train)


def test_a_fraction_is_the_same_for_every_model_and_another_for_another_seed():
    words = ("data.split.fraction=0.2",)
    first = held(words)
    other = held((*words, "model={name: cnn, width: 4}", "client.learning_rate=0.5"))
    assert first.split["train"].tolist() == other.split["train"].tolist()
    assert all((first.train[name] == other.train[name]).all() for name in first.train)
    assert first.split["train"].tolist() != held(words, seed=1).split["train"].tolist()
    assert first.split["test"].tolist() == held(words, seed=1).split["test"].tolist()


def test_a_fraction_of_volumes():
    words = ("data.embedded={scale: 0.25}", "data.size=16", "data.patch=null")
    small, whole = (
        build_federation(load("prostate_centres_fedavg", [*words, *more]), 0)
        for more in (["data.split.fraction=0.5"], [])
    )
    assert small.split["test"].tolist() == whole.split["test"].tolist()
    for name, positions in small.train.items():
        assert 0 < len(positions) < len(whole.train[name])
        assert set(positions.tolist()) <= set(whole.train[name].tolist())


@pytest.mark.parametrize("fraction", ["0", "1.5", "-0.1"])
def test_what_is_no_fraction_is_refused(fraction):
    with pytest.raises(InputError, match=r"data\.split\.fraction"):
        load("isic_noniid_fedavg", [f"data.split.fraction={fraction}"])
