from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsim.losses.matching import (
    class_gradients,
    gradient_distance,
    layer_matching,
    mean_matching,
)
from fedsim.models import ConvNet


def test_linear_embedding_gives_the_worked_example():
    embed = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    real = torch.tensor([[1.0, 1.0], [3.0, 1.0]])
    synthetic = torch.zeros(1, 2, requires_grad=True)
    loss = mean_matching(real @ embed, synthetic @ embed)
    (gradient,) = torch.autograd.grad(loss, synthetic)
    assert loss.item() == 8
    assert gradient.tolist() == [[-4, -8]]
    torch.testing.assert_close(synthetic - 0.1 * gradient, torch.tensor([[0.4, 0.8]]))


def test_equal_means_have_no_distance():
    real = torch.tensor([[0.0, 4.0], [2.0, 0.0]])
    assert mean_matching(real, torch.tensor([[1.0, 2.0]])) == 0


def test_matching_twice_doubles_loss_and_gradient_exactly():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(5, 7, generator=generator)
    synthetic = torch.randn(3, 7, generator=generator, requires_grad=True)
    once = mean_matching(real, synthetic)
    twice = mean_matching(real, synthetic) + mean_matching(real, synthetic)
    assert twice == 2 * once
    (gradient,) = torch.autograd.grad(once, synthetic)
    (doubled,) = torch.autograd.grad(twice, synthetic)
    assert torch.equal(doubled, 2 * gradient)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_order_within_a_class_does_not_matter(real_count, synthetic_count, seed):
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(real_count, 4, generator=generator, dtype=torch.float64)
    synthetic = torch.randn(synthetic_count, 4, generator=generator, dtype=torch.float64)
    shuffled = mean_matching(
        real[torch.randperm(real_count, generator=generator)],
        synthetic[torch.randperm(synthetic_count, generator=generator)],
    )
    torch.testing.assert_close(shuffled, mean_matching(real, synthetic))


def test_gradient_of_one_image_falls_with_their_number():
    real = torch.ones(2, 3)
    few = torch.zeros(2, 3, requires_grad=True)
    many = torch.zeros(20, 3, requires_grad=True)
    (of_few,) = torch.autograd.grad(mean_matching(real, few), few)
    (of_many,) = torch.autograd.grad(mean_matching(real, many), many)
    torch.testing.assert_close(of_few[0], 10 * of_many[0])


@pytest.mark.parametrize(
    ("real", "synthetic"), [((0, 3), (2, 3)), ((2, 3), (0, 3)), ((2, 3), (2, 4))]
)
def test_empty_or_unlike_sides_are_refused(real, synthetic):
    with pytest.raises(ValueError, match="shapes"):
        mean_matching(torch.zeros(real), torch.zeros(synthetic))


def test_gradient_distance_of_known_angles():
    # Two output channels: the same direction (0) and a right angle (1); opposite counts 2.
    real = [torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([5.0, 5.0])]
    synthetic = [torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([-5.0, 1.0])]
    torch.testing.assert_close(
        gradient_distance(real, synthetic), torch.tensor(1.0), atol=1e-5, rtol=0
    )
    opposite = gradient_distance([torch.eye(2)], [-torch.eye(2)])
    torch.testing.assert_close(opposite, torch.tensor(4.0), atol=1e-5, rtol=0)


def test_gradient_distance_sees_a_kernel_as_one_vector_a_channel():
    real = torch.randn(4, 3, 3, 3)
    synthetic = torch.randn(4, 3, 3, 3)
    cosines = torch.cosine_similarity(real.flatten(1), synthetic.flatten(1))
    torch.testing.assert_close(
        gradient_distance([real], [synthetic]), (1 - cosines).sum(), atol=1e-4, rtol=1e-4
    )


def test_one_dimensional_parameters_do_not_count():
    assert gradient_distance([torch.tensor([1.0, 2.0])], [torch.tensor([-7.0, 0.0])]) == 0


def test_gradient_distance_ignores_scale():
    real, synthetic = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(
        gradient_distance([real], [100 * synthetic]),
        gradient_distance([real], [synthetic]),
        atol=1e-4,
        rtol=1e-4,
    )


def test_a_zero_gradient_counts_one_a_channel_and_stays_finite():
    synthetic = torch.zeros(3, 2, requires_grad=True)
    distance = gradient_distance([torch.ones(3, 2)], [synthetic])
    assert distance == 3
    assert torch.autograd.grad(distance, synthetic)[0].isfinite().all()


def test_gradient_distance_reaches_the_images():
    torch.manual_seed(0)
    model = ConvNet(2, 3, 8, width=4)
    criterion = nn.CrossEntropyLoss()
    labels = torch.tensor([0, 1])
    images = torch.randn(2, 3, 8, 8, requires_grad=True)

    def gradients(inputs, create_graph):
        loss = criterion(model(inputs), labels)
        return torch.autograd.grad(loss, list(model.parameters()), create_graph=create_graph)

    real = [gradient.detach() for gradient in gradients(torch.randn(2, 3, 8, 8), False)]
    optimizer = torch.optim.SGD([images], lr=0.1)
    distances = []
    for _ in range(5):
        distance = gradient_distance(real, gradients(images, True))
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
        distances.append(distance.item())
    assert distances[-1] < distances[0]


def test_gradients_of_unlike_shapes_are_refused():
    with pytest.raises(ValueError, match="different shapes"):
        gradient_distance([torch.zeros(2, 3)], [torch.zeros(3, 2)])


def test_layers_are_matched_at_the_scale_of_the_last():
    # Distances 2 over four values and 9 over two: 2 x 2/4 + 9.
    real = [torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]]), torch.tensor([[3.0, 0.0]])]
    synthetic = [torch.zeros(3, 4), torch.zeros(3, 2)]
    assert layer_matching(real, synthetic) == 10


def test_matching_one_layer_is_matching_means_to_the_bit():
    generator = torch.Generator().manual_seed(1)
    real = torch.randn(5, 7, generator=generator)
    synthetic = torch.randn(3, 7, generator=generator, requires_grad=True)
    results = [mean_matching(real, synthetic), layer_matching([real], [synthetic])]
    assert torch.equal(*results)
    assert torch.equal(*(torch.autograd.grad(loss, synthetic)[0] for loss in results))


@pytest.mark.parametrize(("real", "synthetic"), [(0, 0), (2, 1)])
def test_layers_that_do_not_pair_are_refused(real, synthetic):
    embedding = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=f"there are {real} and {synthetic}"):
        layer_matching([embedding] * real, [embedding] * synthetic)


def test_gradients_of_classes_are_those_of_cross_entropy():
    """The mean of (softmax - onehot) outer feature, as autograd has it of each class alone."""
    draws = torch.Generator().manual_seed(2)
    features = torch.randn(2, 6, 4, generator=draws)
    weight = torch.randn(3, 4, generator=draws, requires_grad=True)
    bias, classes = torch.randn(3, generator=draws), torch.tensor([2, 0])
    found = class_gradients(features, weight.detach(), bias, classes)
    for own, label, gradient in zip(features, classes, found, strict=True):
        loss = nn.functional.cross_entropy(own @ weight.T + bias, label.repeat(6))
        torch.testing.assert_close(gradient, torch.autograd.grad(loss, weight)[0])


def test_golden_gradient_of_a_class():
    # Two classes, logits 0: the errors are -1/2 and 1/2; the mean feature is (2, 1).
    features = torch.tensor([[[1.0, 0.0], [3.0, 2.0]]])
    found = class_gradients(features, torch.zeros(2, 2), torch.zeros(2), torch.tensor([0]))
    assert found.tolist() == [[[-1.0, -0.5], [1.0, 0.5]]]


def test_gradients_of_classes_need_records_that_fit():
    for shape in ((1, 0, 4), (2, 3, 4), (1, 3, 5), (3, 4)):
        with pytest.raises(ValueError, match="n >= 1"):
            class_gradients(torch.zeros(shape), torch.zeros(2, 4), torch.zeros(2), torch.zeros(1))
