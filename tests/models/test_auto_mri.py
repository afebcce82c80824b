"""MoDL's data consistency and FedAutoMRI's search space: golden numbers of the papers' formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedsim.models.auto_mri import (
    EDGES,
    OPERATIONS,
    AutoMRI,
    Cell,
    corrected,
    derived,
    edges_of,
    in_use,
    moved,
    told,
)
from fedsim.models.modl import LEAST, MoDL, conjugate_gradients, consistent
from fedsim.tasks.reconstruction import Sampling, model_input, zero_filled


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def means(server: list[float], decay: float) -> list[float]:
    mean: dict[str, np.ndarray] = {}
    found = []
    for heard, value in enumerate(server, start=1):
        mean = moved(mean, {"w": np.array([value])}, decay)
        found.append(float(corrected(mean, decay, heard)["w"][0]))
    return found


def literal(server: list[float], decay: float, start: float) -> list[float]:
    """E7 as it is printed: it corrects what was corrected before."""
    found, own = [], start
    for heard, value in enumerate(server, start=1):
        own = (decay * own + (1 - decay) * value) / (1 - decay**heard)
        found.append(own)
    return found


def test_the_mean_of_heard_models_has_the_golden_numbers() -> None:
    assert means([1, 2, 4], 0.9) == pytest.approx([1, 1.526316, 2.439114], abs=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.99])
def test_a_constant_server_is_a_fixed_point(decay: float) -> None:
    assert means([1.0] * 8, decay) == pytest.approx([1.0] * 8, abs=1e-5)


@pytest.mark.xfail(strict=True, reason="the printed E7 grows without bound: 1, 5.26, 17.8, 47, ...")
def test_the_printed_formula_has_a_fixed_point() -> None:
    assert literal([1.0] * 4, 0.9, 0.0) == pytest.approx([1.0] * 4)


def test_the_printed_formula_is_the_one_that_grows() -> None:
    assert literal([1.0] * 4, 0.9, 0.0) == pytest.approx([1.0, 5.2632, 17.8481, 47.0], abs=1e-3)


def test_edges() -> None:
    assert [len(edges_of(n)) for n in (1, 2, 3, 4)] == [n * (n + 3) // 2 for n in (1, 2, 3, 4)]
    assert len(EDGES) * len(OPERATIONS) * 4 == 288  # bytes of the logits


def test_the_weights_of_a_mixture() -> None:
    weights = torch.softmax(torch.tensor([0.0, 1, 2, 0, 0, 0, 0, -1]), 0)
    want = [0.064619, 0.175654, 0.477477, 0.064619, 0.064619, 0.064619, 0.064619, 0.023772]
    assert weights.tolist() == pytest.approx(want, abs=1e-6)


def test_an_architecture_has_two_edges_a_node_and_any_operation() -> None:
    alphas = np.zeros((9, 8))
    alphas[0, 7], alphas[1, 0], alphas[2, 3], alphas[4, 5], alphas[6, 1], alphas[8, 2] = range(1, 7)
    assert told(derived(alphas)) == [
        (0, 0, "sep_conv_7x7"),
        (0, 1, "std_conv_3x3"),
        (1, 0, "dil_conv_3x3_d2"),
        (1, 2, "sep_conv_3x3"),
        (2, 1, "std_conv_5x5"),
        (2, 3, "std_conv_7x7"),
    ]


def test_of_equal_edges_the_first_are_kept() -> None:
    assert np.flatnonzero(derived(np.zeros((9, 8))).sum(axis=1)).tolist() == [0, 1, 2, 3, 5, 6]


def test_a_mixture_with_one_weight_is_that_operation() -> None:
    torch.manual_seed(0)
    cell, images = Cell(4), torch.randn(2, 4, 8, 8, generator=chance())
    alphas = torch.full((9, 8), -torch.inf)
    alphas[:, 5] = 0.0
    weights = torch.softmax(alphas, dim=1)
    alone = [[k == 5 for k in range(8)]] * 9
    whole = cell(images, images, cell.mixtures(weights))
    assert torch.allclose(whole, cell(images, images, cell.chosen(alone)), atol=1e-6)


def plain(cell: Cell, first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor):
    """E5 as it is written: sum_o w_o o(x) on each edge."""
    states = [cell.before[0](first), cell.before[1](second)]
    for node in range(3):
        states.append(
            sum(
                weights[edge, k] * operation(states[source])
                for edge, (to, source) in enumerate(EDGES)
                if to == node
                for k, operation in enumerate(cell.edges[edge])
            )
        )
    return sum(states[2:])


@pytest.mark.parametrize("width", [3, 8])
def test_merged_operations_are_the_plain_mixture_and_its_gradient(width: int) -> None:
    torch.manual_seed(0)
    cell, logits = Cell(width), torch.randn(9, 8, generator=chance(2), requires_grad=True)
    images = torch.randn(2, 2, width, 14, 10, generator=chance()).requires_grad_()
    towards = torch.randn(2, width, 14, 10, generator=chance(1))
    wanted = [logits, images, *cell.parameters()]

    def found(compute: Callable) -> list[torch.Tensor]:
        value = compute(*images, torch.softmax(logits, dim=1))
        return [value.detach(), *torch.autograd.grad((value * towards).sum(), wanted)]

    merged = found(lambda first, second, w: cell(first, second, cell.mixtures(w)))
    for one, other in zip(merged, found(lambda *given: plain(cell, *given)), strict=True):
        assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


def test_a_derived_network_computes_with_what_is_in_use_alone() -> None:
    torch.manual_seed(0)
    model = AutoMRI(3, 16, width=4, cells=2, unrolls=2)
    mask = Sampling(centre=64).masks(2, (16, 16), chance())
    given = model_input(torch.randn(2, 2, 16, 16, generator=chance()), mask)
    gates = derived(np.arange(72.0).reshape(9, 8))
    model.gates.data = torch.from_numpy(gates)
    before = model(given)
    used = set(in_use(dict(model.named_parameters()), gates))
    assert 0 < len(used) < len(dict(model.named_parameters()))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name not in used and name != "gates":
                value.fill_(torch.nan)
    assert torch.equal(model(given), before)


def test_conjugate_gradients_leave_a_residual_of_a_millionth() -> None:
    draws = torch.randn(3, 6, 6, generator=chance(), dtype=torch.float64)
    matrices = draws @ draws.transpose(1, 2) + torch.eye(6)
    right = torch.randn(3, 6, 1, generator=chance(1), dtype=torch.float64)
    found = conjugate_gradients(lambda x: matrices @ x, right)
    residual = (matrices @ found - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
    assert float(residual.max()) <= 1e-6


def test_a_record_is_solved_by_itself() -> None:
    images = torch.randn(4, 2, 16, 16, generator=chance())
    images[1] *= 1e-3
    mask = Sampling(centre=64).masks(4, (16, 16), chance())
    weight = torch.tensor([0.05])
    whole = consistent(images, zero_filled(images, mask), mask, weight)
    for k in range(4):
        alone = images[k : k + 1], zero_filled(images[k : k + 1], mask[k : k + 1])
        one = consistent(*alone, mask[k : k + 1], weight)
        assert torch.allclose(one[0], whole[k], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-35, 1e-25, 1e25, 1e35])
def test_no_size_of_numbers_is_taken_for_solved(size: float) -> None:
    # Their squares are 0, or infinite, in float32.
    images = torch.randn(2, 2, 16, 16, generator=chance())
    mask, weight = Sampling(centre=64).masks(2, (16, 16), chance()), torch.tensor([0.05])
    wanted = consistent(images, zero_filled(images, mask), mask, weight)
    found = consistent(size * images, zero_filled(size * images, mask), mask, weight)
    assert torch.allclose(found / size, wanted, atol=1e-4)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_no_number_is_not_taken_for_zero(wrong: float) -> None:
    images = torch.randn(2, 2, 16, 16, generator=chance())
    mask, weight = Sampling(centre=64).masks(2, (16, 16), chance()), torch.tensor([0.05])
    measured = zero_filled(images, mask)
    images[:, 0, 3, 3] = wrong
    assert consistent(images, measured, mask, weight).isnan().all()


@pytest.mark.parametrize("weight", [0.05, LEAST])
def test_data_consistency_leaves_a_residual_of_a_millionth(weight: float) -> None:
    truth, network = torch.randn(2, 3, 2, 24, 20, generator=chance())
    mask = Sampling(centre=64).masks(3, (24, 20), chance())
    right = zero_filled(truth, mask) + weight * network
    found = consistent(network, zero_filled(truth, mask), mask, torch.tensor([weight]))
    left = (zero_filled(found, mask) + weight * found - right).flatten(1).norm(dim=1)
    assert float((left / right.flatten(1).norm(dim=1)).max()) <= 1e-6


@pytest.mark.parametrize("model", [MoDL, AutoMRI])
def test_lambda_is_learned_and_stays_above_its_least(model: type) -> None:
    torch.manual_seed(0)
    mask = Sampling(centre=64).masks(2, (16, 16), chance())
    given = model_input(torch.randn(2, 2, 16, 16, generator=chance()), mask)
    net = model(3, 16, width=2, unrolls=1, weight=0.05)
    assert float(net.weight.detach()) == pytest.approx(0.05)
    net.log_weight.data -= 4.0  # As many bad steps would.
    assert LEAST < float(net.weight.detach()) < 0.011
    net(given).square().sum().backward()
    assert abs(float(net.log_weight.grad)) > 0
    with pytest.raises(ValueError, match=r"weight must be above 0\.01"):
        model(3, 16, weight=0.01)


def test_a_full_mask_and_no_weight_give_back_what_was_measured() -> None:
    truth, network = torch.randn(2, 2, 2, 16, 16, generator=chance())
    mask = torch.ones(2, 1, 16, 16)
    measured = zero_filled(truth, mask)
    found = consistent(network, measured, mask, torch.tensor([1e-8]))
    assert torch.allclose(found, measured, atol=1e-5)


def test_the_gradient_of_a_solution_is_that_of_finite_differences() -> None:
    image = torch.randn(1, 2, 8, 8, generator=chance(), dtype=torch.float64, requires_grad=True)
    other = torch.randn(1, 2, 8, 8, generator=chance(1), dtype=torch.float64)
    mask = Sampling(centre=64).masks(1, (8, 8), chance()).double()
    weight = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    solved = lambda r, w: consistent(r, zero_filled(other, mask), mask, w)  # noqa: E731
    assert torch.autograd.gradcheck(solved, (image, weight), atol=1e-4)


@pytest.mark.parametrize("model", [MoDL, AutoMRI])
@pytest.mark.parametrize("seed", range(3))
def test_an_image_is_kept_where_a_denoiser_begins(model: type, seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.randn(4, 2, 24, 24, generator=chance())
    net = model(3, 24, width=8, unrolls=1)
    last = net.network[-1] if model is MoDL else net.out
    seen: list[torch.Tensor] = []
    last.register_forward_hook(lambda _, given, found: seen.extend([given[0], found]))
    net.denoiser()(images)
    features, change = (float(one.detach().std()) for one in seen)
    assert 0.3 < features < 3
    assert change < 1.5


@pytest.mark.parametrize("model", [MoDL, AutoMRI])
def test_other_channels_are_refused(model: type) -> None:
    with pytest.raises(ValueError, match="takes 3 channels"):
        model(1, 16)
