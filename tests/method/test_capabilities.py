"""What plugins declare: read in one place, shown, written down, and held to by refusals."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAdam, FedMedian, QFedAvg

from fedsim import Client, InputError, Strategy
from fedsim.cli import main
from fedsim.method.capabilities import Capabilities, capabilities, ill_declared
from fedsim.method.flower_strategies import filled_in
from fedsim.privacy.client_level import require_client_level
from fedsim.registry import default_registry
from fedsim.scenario import load
from fedsim.scenario.schema import Faults
from fedsim.strategies.fedavg import FedAvg

PAGE = Path(__file__).parents[2] / "docs" / "which-method.md"
PRIVATE = "privacy={unit: record, epsilon: 8, delta: 1.0e-4, max_grad_norm: 1.0}"


def test_undeclared_and_ill_declared_are_alike() -> None:
    class Silent(Strategy):
        pass

    class Odd(Client):
        payload: Any = 3
        made_for: Any = None
        keeps_state: Any = "yes"
        private: Any = True

        def train(self, content: Any, site: Any) -> Any: ...

    assert capabilities(Silent) == capabilities(Odd) == capabilities(None) == Capabilities()


def test_a_class_a_partial_and_an_object_declare_the_same() -> None:
    expected = Capabilities(payload="arrays", linear=True, withdrawal="model")
    assert capabilities(FedAvg) == capabilities(partial(FedAvg, codec="uint8")) == expected
    assert capabilities(FedAvg()) == expected


def test_what_holds_of_flowers_strategies_holds_of_what_derives_from_them() -> None:
    class Mine(QFedAvg):
        pass

    class Ours(FedMedian):
        linear = True

    assert capabilities(FedAdam) == Capabilities(payload="arrays", linear=True)
    assert capabilities(FedMedian).linear is False
    assert capabilities(Mine) == Capabilities(payload="arrays", linear=False, needs_losses=True)
    assert capabilities(Ours).linear is True


def test_only_what_weights_by_losses_is_told_of_them() -> None:
    class Namesake(Strategy):
        def __init__(self, train_loss_key: str = "", client_learning_rate: float = 0.0) -> None: ...

    given = {"learning_rate": 0.5}
    assert filled_in(Namesake, Client, given) == {}
    assert filled_in(QFedAvg, Client, given) == {
        "train_loss_key": "loss",
        "client_learning_rate": 0.5,
    }


def test_client_level_privacy_is_refused_to_what_is_not_linear() -> None:
    class Median(FedAvg):
        linear = False

    require_client_level(FedAvg(weighting="uniform"), Faults())
    with pytest.raises(InputError, match="linear in the replies") as caught:
        require_client_level(Median(weighting="uniform"), Faults())
    assert "strategy.name=fedavg" in str(caught.value)


def test_privacy_of_records_is_refused_to_a_client_method_without_a_private_form() -> None:
    with pytest.raises(InputError) as caught:
        load("isic_noniid_gdd", ["client=random_selection", PRIVATE])
    assert "client: 'random_selection' has no private form; with privacy go: distill" in str(
        caught.value
    )
    assert caught.value.exit_code == 2


def test_a_strategy_without_a_global_model_needs_clients_that_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "forgetful.py").write_text(
        "from fedsim import Client\n"
        "class Forgets(Client):\n"
        "    keeps_state = False\n"
        "    def train(self, c, s): ...\n"
        "class Silent(Client):\n    def train(self, c, s): ...\n"
    )
    common = [f"plugins=[{tmp_path}]"]
    load("isic_noniid_local", [*common, "client=forgetful.Silent"])
    with pytest.raises(InputError, match=r"keeps nothing from round to round.*go: local\n"):
        load("isic_noniid_local", [*common, "client=forgetful.Forgets"])


def test_built_in_client_methods_have_the_private_form_that_they_declare() -> None:
    registry = default_registry()
    for name in registry.names("clients"):
        factory = registry.resolve("clients", name)
        declared = capabilities(factory)
        assert declared.keeps_state is not None, name
        overridden = factory.private_steps is not Client.private_steps
        if declared.private == "none":
            with pytest.raises(ValueError, match="no private form"):
                factory().private_steps(10, 5)
        else:
            assert declared.private, name
            assert overridden, name
    for name in registry.names("strategies"):
        assert capabilities(registry.resolve("strategies", name)).linear is not None, name


@pytest.mark.parametrize("group", ["strategies", "clients"])
def test_the_page_says_what_the_classes_declare(group: str) -> None:
    column = {"strategies": "strategy", "clients": "client"}[group]
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {column} | task |"))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines[start : start + lines[start:].index("")]
    ]
    keys, found = rows[0][1:], {row[0].strip("`"): row[1:] for row in rows[2:]}
    registry = default_registry()
    own = [one.name for one in registry.plugins() if one.distribution == "fedsim-medical"]
    assert set(registry.names(group)) & set(own) <= set(found)
    for name, row in found.items():
        known = name in registry.names(group)
        factory = registry.resolve(group, name if known else f"flwr.serverapp.strategy.{name}")
        words = capabilities(factory).words(group)
        assert dict(zip(keys, row, strict=True)) == words, name


def test_the_list_shows_what_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "gdd", "unet"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "strategies:"
    assert shown[1].split()[0] == "gdd"
    assert (
        "task: images, payload: images, one-shot: yes, linear: no, order matters: yes" in shown[2]
    )
    assert shown[-1].strip() == "task: volumes"
    assert main(["plugins", "--json"]) == 0
    assert "declares" not in json.loads(capsys.readouterr().out)[0]
    assert main(["plugins", "--long", "--json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert listed["condist"]["declares"]["private"] == "none"
    assert listed["dirichlet"]["declares"] == {}
    assert main(["plugins", "fedavgg"]) == 2
    assert "did you mean 'fedavg'" in capsys.readouterr().err


def test_what_a_run_keeps_for_unlearning_is_not_inherited() -> None:
    class Clipped(FedAvg):
        """Another mean, from which no procedure goes on."""

    class Declared(FedAvg):
        withdrawal = "model"

    assert capabilities(Clipped).withdrawal == capabilities(Clipped()).withdrawal == ""
    assert capabilities(Declared).withdrawal == capabilities(Declared()).withdrawal == "model"


def test_changes_are_several_names() -> None:
    class One(FedAvg):
        changes: Any = "control"

    class Several(FedAvg):
        changes = ("control", "other")

    assert ill_declared(One) == "One.changes is 'control', but must be a tuple of texts"
    assert capabilities(One).changes == ()
    assert not ill_declared(Several)
    assert capabilities(Several).changes == ("control", "other")
