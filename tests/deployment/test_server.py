"""Who may take part in a federation, and what a server without data can do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedsim.cli import main
from fedsim.deployment.settings import NodeSettings, RunSettings
from fedsim.engine.result import Result
from fedsim.errors import InputError, RunError
from fedsim.grid.worker import Worker
from tests.deployment.conftest import TINY, Nodes

Exported = Callable[..., Path]
Deploy = Callable[..., Result]

NAME = "isic_iid_fedavg"


def own_images(folder: Path, seed: int, classes: tuple[str, ...] = ("bad", "good")) -> Path:
    """A hospital's own folder: a folder for each class, 16 images in each."""
    draws = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for image in range(16):
            level = draws.integers(0, 100, (20, 20, 3)) + 100 * number
            Image.fromarray(level.astype(np.uint8)).save(folder / name / f"{image}.png")
    return folder


OWN = (
    "rounds=2",
    "federation.clients=2",
    "model.width=8",
    "data.size=16",
    "data.split={val: 0.2, test: 0.2}",
    "client.learning_rate=0.05",
    "resources.backend=inline",
)


def problems(raised: pytest.ExceptionInfo[InputError]) -> str:
    return "\n".join(map(str, raised.value.problems))


def test_nodes_have_their_own_folders_and_the_server_has_none(
    exported: Exported, deploy: Deploy, tmp_path: Path
) -> None:
    here = own_images(tmp_path / "here", 0)
    folder = exported("my_images", *OWN, f"data.root={here}", "evaluation.on_clients=true")
    there = [own_images(tmp_path / f"hospital-{i}", 1 + i) for i in (0, 1)]
    nodes = Nodes(
        folder,
        [{"client": i, "data-root": str(root), "data": "whole"} for i, root in enumerate(there)],
    )
    done = deploy(folder, nodes, server_data=False)
    assert done.summary["data_source"] == "path"
    assert not any(value for key, value in done.metrics.items() if "@" not in key)
    # What the nodes say of their own held-out records is what is known of the model.
    last = done.rounds[-1]
    assert set(last["metrics_by_client"]) == {"0", "1"}
    assert last["metrics_by_client"]["0"]["val_accuracy"] is not None
    about = json.loads((done.folder / "run.json").read_text())
    assert about["deployment"]["nodes"]["client-1"]["records"] > 10
    assert about["data"]["sizes_by_client"]["client-1"]["train"] > 10
    assert about["data"]["classes_by_client"] is None
    assert str(tmp_path) not in json.dumps(about)
    page = (done.folder / "report" / "index.html").read_text()
    assert "a federation of 2 nodes" in page
    assert "fedsim run scenario.yaml" not in page
    card = (done.folder / "MODEL_CARD.md").read_text()
    assert "in a federation with fedsim" in card
    assert "simulation" not in card
    assert (done.folder / "model.safetensors").is_file()


def test_a_node_with_other_classes_is_refused_before_the_first_round(
    exported: Exported, deploy: Deploy, tmp_path: Path
) -> None:
    here = own_images(tmp_path / "here", 0)
    other = own_images(tmp_path / "other", 1, ("bad", "ugly"))
    folder = exported("my_images", *OWN, f"data.root={here}")
    whole = {"data": "whole"}
    nodes = Nodes(
        folder,
        [
            {"client": 0, "data-root": str(here), **whole},
            {"client": 1, "data-root": str(other), **whole},
        ],
    )
    with pytest.raises(InputError, match="the federation cannot begin") as raised:
        deploy(folder, nodes, server_data=False)
    assert "classes bad, ugly, and the app was exported with bad, good" in problems(raised)


def test_no_machine_takes_the_stand_in_for_data_of_a_folder(
    exported: Exported, deploy: Deploy, tmp_path: Path
) -> None:
    here = own_images(tmp_path / "here", 0)
    folder = exported("my_images", *OWN, f"data.root={here}")
    with pytest.raises(InputError, match="the server names none"):
        deploy(folder, Nodes(folder, [{"client": 0}, {"client": 1}]))
    with pytest.raises(InputError) as raised:
        deploy(folder, Nodes(folder, [{"client": 0}, {"client": 1}]), server_data=False)
    assert problems(raised).count("this node names none") == 2


@pytest.mark.parametrize(
    ("configurations", "why"),
    [
        ([{"client": 0}], "1 of 2 nodes did not say who they are within"),
        ([{"client": 0}, {"client": 0}], "is client 0 (client-0), and so is node"),
        ([{"client": 0}, {"client": 2}], "client=2, but the app has 2 clients"),
        ([{"client": 0}, {}], "client is missing"),
        ([{"client": 0}, {"client": "1"}], "client is '1', but must be a client's number"),
        ([{"client": 0}, {"client": 1, "data_root": "x"}], "(did you mean 'data-root'?)"),
    ],
)
def test_who_cannot_take_part_is_named(
    exported: Exported, deploy: Deploy, configurations: list[Mapping[str, Any]], why: str
) -> None:
    folder = exported(NAME, *TINY)
    with pytest.raises(InputError, match="the federation cannot begin") as raised:
        deploy(folder, Nodes(folder, configurations), wait=1)
    assert why in problems(raised)


def test_the_greetings_are_counted_in_round_0(exported: Exported, deploy: Deploy) -> None:
    folder = exported(NAME, *TINY, "rounds=1")
    done = deploy(folder, Nodes(folder, [{"client": 1}, {"client": 0}]))
    lines = (done.folder / "traffic.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["round"] for row in rows] == [0, 0, 0, 0, 1, 1, 1, 1]
    for direction in ("up", "down"):
        total = sum(row["bytes"] for row in rows if row["direction"] == direction)
        assert total == pytest.approx(done.summary[f"mb_{direction}_total"] * 1e6)


def test_a_federation_is_not_resumed_as_a_simulation(
    exported: Exported, deploy: Deploy, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = exported(NAME, *TINY)
    nodes = Nodes(folder, [{"client": 0}, {"client": 1}])
    answer = nodes.app

    def fails_later(message: Any, context: Any) -> Any:
        if message.metadata.group_id.startswith("2."):
            raise RuntimeError("the disk is full")
        return answer(message, context)

    nodes.app = fails_later  # type: ignore[assignment]
    with pytest.raises(Exception, match="the disk is full"):
        deploy(folder, nodes)
    (run,) = (tmp_path / "runs" / NAME).glob("*-seed0")
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert main(["run", "--resume", str(run)]) == 2
    assert "was a federation of nodes, which cannot go on here" in capsys.readouterr().err


def test_what_a_client_raises_stays_in_the_log_of_its_node(
    exported: Exported,
    deploy: Deploy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = exported(NAME, *TINY, "rounds=1", "faults.on_client_error=skip")
    run = Worker.run

    def quoting(worker: Worker, message: Any, context: Any, *moment: int) -> Any:
        if context.node_config["partition-id"] == 1:
            raise ValueError("no outline in smith_john.nii")
        return run(worker, message, context, *moment)

    monkeypatch.setattr(Worker, "run", quoting)
    done = deploy(folder, Nodes(folder, [{"client": 0}, {"client": 1}]))
    (failed,) = done.rounds[0]["failed"]
    assert failed["reason"] == "it raised ValueError; the node's log has the rest"
    assert "smith" not in "".join(
        path.read_text() for path in done.folder.glob("*.json*") if path.is_file()
    )
    assert "smith_john.nii" in caplog.text


def test_which_files_are_broken_stays_in_the_log_of_the_node(
    exported: Exported, deploy: Deploy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = own_images(tmp_path / "here", 0)
    folder = exported("my_images", *OWN, f"data.root={here}")
    (here / "bad" / "smith_john.png").write_bytes(b"no picture")
    whole = [{"client": i, "data-root": str(here), "data": "whole"} for i in (0, 1)]
    with pytest.raises(InputError) as raised:
        deploy(folder, Nodes(folder, whole), server_data=False)
    assert problems(raised).count("1 of 33 images of 'folder' cannot be read") == 2
    assert "smith" not in str(raised.value)
    assert "smith_john.png" in caplog.text


@pytest.mark.parametrize("way", ["silent", "refused"])
def test_a_node_that_is_not_heard_of_is_left_out_or_stops_the_run(
    way: str, exported: Exported, deploy: Deploy
) -> None:
    words = (*TINY, "rounds=1", "resources.backend=ray", "faults.client_timeout=0.3")
    configurations = [{"client": 0}, {"client": 1}]

    def lost(nodes: Nodes) -> Nodes:
        gone = max(nodes.contexts) - 7  # client 1
        setattr(
            nodes,
            way,
            lambda message: (
                message.metadata.message_type == "train" and message.metadata.dst_node_id == gone
            ),
        )
        return nodes

    folder = exported(NAME, *words, "faults.on_client_error=skip")
    done = deploy(folder, lost(Nodes(folder, configurations)))
    (failed,) = done.rounds[0]["failed"]
    assert failed["client"] == 1
    expected = {"silent": ("timeout", "within 0.3 s"), "refused": ("worker", "not accepted")}[way]
    assert failed["kind"] == expected[0]
    assert expected[1] in failed["reason"]
    folder = exported(NAME, *words)
    with pytest.raises(RunError, match=expected[1]):
        deploy(folder, lost(Nodes(folder, configurations)))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"client": -1}, "client is -1"),
        ({"client": True}, "client is True"),
        ({"client": 0, "data-root": "/nowhere"}, "a folder that is there"),
        ({"client": 0, "data": "all"}, '"share" or "whole"'),
        ({"client": 0, "data": "whole"}, "needs data-root"),
        ({"client": 0, "epsilon-limit": 1}, "needs epsilon-file"),
        ({"client": 0, "epsilon-limit": 0, "epsilon-file": "x"}, "epsilon-limit is 0"),
        ({"client": 0, "epsilon-delta": 1e-5}, "epsilon-delta needs epsilon-limit"),
        ({"client": 0, "epsilon-limit": 1, "epsilon-delta": 1.5, "epsilon-file": "x"}, "between"),
        ({"client": 0, "epsilon-limt": 1}, "did you mean 'epsilon-limit'?"),
    ],
)
def test_a_node_says_what_is_wrong_with_its_configuration(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError) as raised:
        NodeSettings.of(given)
    assert why in str(raised.value)
    assert len(raised.value.problems) == 1


def test_a_node_reads_its_configuration_and_leaves_others_keys_alone(tmp_path: Path) -> None:
    assert NodeSettings.of({"partition-id": 3, "num-partitions": 4}) == NodeSettings(3)
    found = NodeSettings.of(
        {
            "client": 2,
            "data-root": str(tmp_path),
            "data": "whole",
            "epsilon-limit": 3,
            "epsilon-delta": 1e-5,
            "epsilon-file": str(tmp_path / "paid.json"),
            "scanner": "3T",
        }
    )
    assert found == NodeSettings(2, str(tmp_path), True, 3.0, 1e-5, tmp_path / "paid.json")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"wait": 0}, "wait is 0"),
        ({"server-data": 1}, "true or false"),
        ({"data-root": "/nowhere"}, "a folder that is there"),
    ],
)
def test_a_server_says_what_is_wrong_with_its_configuration(
    given: dict[str, Any], why: str
) -> None:
    with pytest.raises(InputError) as raised:
        RunSettings.of(given)
    assert why in str(raised.value)
