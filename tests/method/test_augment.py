from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fedsim.method.augment import OPERATIONS, SiameseAugment, Transform, perturb_statistics

IDENTITY = {
    "color": [0.0, 1.0, 1.0],
    "crop": [0.5, 0.5, 0.125],
    "cutout": [0.5, 0.5, 0.0],
    "flip": [0.0],
    "scale": [1.0, 1.0],
    "rotate": [0.0],
}
# Each value lies in the range that is drawn from, none changes nothing.
CHANGE = {
    "color": [0.3, 1.6, 0.7],
    "crop": [0.9, 0.1, 0.25],
    "cutout": [0.3, 0.8, 0.5],
    "flip": [1.0],
    "scale": [0.9, 1.15],
    "rotate": [10.0],
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_images(count=4, size=8, dtype=torch.float32):
    return torch.randn(count, 3, size, size, generator=seeded(1), dtype=dtype)


def fixed(operation, values, count=1):
    return Transform(operation, torch.tensor([values] * count))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("count", [None, 4])
def test_same_generator_same_transform(operation, count):
    augment = SiameseAugment(operation)
    first, second = (augment.draw(seeded(3), count)(some_images()) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_shared_draw_treats_real_and_synthetic_images_alike(operation):
    transform = SiameseAugment(operation).draw(seeded(5))
    real, synthetic = some_images(6), some_images(2)
    together = transform(torch.cat([real, synthetic]))
    torch.testing.assert_close(together[:6], transform(real))
    torch.testing.assert_close(together[6:], transform(synthetic))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_order_of_images_does_not_matter(operation):
    order = torch.tensor([2, 0, 3, 1])
    transform = fixed(operation, CHANGE[operation])
    torch.testing.assert_close(transform(some_images()[order]), transform(some_images())[order])
    each = SiameseAugment(operation).draw(seeded(), 4)
    reordered = Transform(operation, each.parameters[order])
    torch.testing.assert_close(reordered(some_images()[order]), each(some_images())[order])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_image_alone_gives_what_it_gives_among_others(operation):
    # One shared image takes the quick way (slices, no index), several take the general one.
    transform = SiameseAugment(operation).draw(seeded(2), 16)
    images = some_images(16, size=9)
    changed = transform(images)
    for number in range(16):
        alone = Transform(operation, transform.parameters[number : number + 1])
        torch.testing.assert_close(changed[number : number + 1], alone(images[number : number + 1]))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("count", [1, 4])
def test_identity_parameters_change_nothing_and_others_do(operation, count):
    images = some_images()
    torch.testing.assert_close(fixed(operation, IDENTITY[operation], count)(images), images)
    assert (fixed(operation, CHANGE[operation], count)(images) - images).abs().max() > 0.1


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("count", [1, 2])
def test_gradients_equal_finite_differences(operation, count):
    images = some_images(2, 5, torch.float64).requires_grad_()
    transform = fixed(operation, CHANGE[operation], count)
    assert torch.autograd.gradcheck(lambda x: transform(x).to(torch.float64), (images,))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_drawn_parameters_fill_their_ranges_independently(operation):
    parameters = SiameseAugment(operation).draw(seeded(), 5000).parameters
    low, high, tolerance = {
        "color": ([-0.5, 0.0, 0.5], [0.5, 2.0, 1.5], 0.01),
        "crop": ([0.0, 0.0, 0.125], [1.0, 1.0, 0.125], 0.01),
        "cutout": ([0.0, 0.0, 0.5], [1.0, 1.0, 0.5], 0.01),
        "flip": ([0.0], [1.0], 0.0),
        "scale": ([1 / 1.2] * 2, [1.2] * 2, 0.01),
        "rotate": ([-15.0], [15.0], 0.1),
    }[operation]
    low, high = torch.tensor(low), torch.tensor(high)
    assert (parameters >= low).all()
    assert (parameters <= high).all()
    torch.testing.assert_close(parameters.amin(0), low, atol=tolerance, rtol=0)
    torch.testing.assert_close(parameters.amax(0), high, atol=tolerance, rtol=0)
    spread = (high - low).max().item()
    torch.testing.assert_close(parameters.mean(0), (low + high) / 2, atol=0.03 * spread, rtol=0)
    if operation in ("color", "crop", "cutout", "scale"):
        assert torch.corrcoef(parameters.T[:2])[0, 1].abs() < 0.05


def test_one_of_the_operations_is_drawn_each_equally_often():
    generator, augment = seeded(), SiameseAugment()
    names = [augment.draw(generator).operation for _ in range(1200)]
    for operation in OPERATIONS:
        assert 150 < names.count(operation) < 250
    chosen = SiameseAugment(["flip", "crop"])
    assert {chosen.draw(generator).operation for _ in range(40)} == {"flip", "crop"}


def test_color_follows_the_formulas():
    images = some_images()
    brightness, saturation, contrast = CHANGE["color"]
    expected = images + brightness
    grey = expected.mean(1, keepdim=True)
    expected = (expected - grey) * saturation + grey
    mean = expected.mean((1, 2, 3), keepdim=True)
    expected = (expected - mean) * contrast + mean
    torch.testing.assert_close(fixed("color", CHANGE["color"])(images), expected)


@pytest.mark.parametrize("count", [1, 4])
def test_crop_moves_whole_pixels_and_fills_with_zero(count):
    # 8 px, at most a quarter: 5 places each way from -2 to 2; .9 is the last, .1 the first.
    images = some_images()
    moved = fixed("crop", CHANGE["crop"], count)(images)
    assert torch.equal(moved[:, :, 2:, :-2], images[:, :, :-2, 2:])
    assert (moved[:, :, :2] == 0).all()
    assert (moved[:, :, :, -2:] == 0).all()


def test_crop_reaches_all_places_equally_often():
    transform = SiameseAugment("crop").draw(seeded(), 4000)
    marked = torch.zeros(4000, 1, 32, 32)
    marked[:, :, 16, 16] = 1
    places = transform(marked).sum(dim=(0, 1))
    assert places.sum() == 4000
    assert (places[12:21, 12:21] > 20).all()
    assert places[12:21, 12:21].sum() == 4000


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [([0.5, 0.5], (2, 6), (2, 6)), ([0.0, 0.99], (0, 2), (6, 8)), ([0.12, 0.5], (0, 3), (2, 6))],
)
def test_cutout_blanks_half_the_height_and_width(centre, rows, columns, count):
    images = some_images().abs() + 1
    holes = fixed("cutout", [*centre, 0.5], count)(images) == 0
    expected = torch.zeros(4, 3, 8, 8, dtype=torch.bool)
    expected[:, :, slice(*rows), slice(*columns)] = True
    assert torch.equal(holes, expected)


def test_flip_mirrors_left_and_right():
    assert torch.equal(fixed("flip", [1.0])(some_images()), some_images().flip(3))


def test_scale_shows_a_part_and_its_two_axes_are_height_and_width():
    images = torch.ones(1, 3, 8, 8)
    shrunk = fixed("scale", [2.0, 1.0])(images)
    # Twice the height is shown: the image fills the middle half of the rows, all columns.
    assert (shrunk[:, :, :2] == 0).all()
    assert (shrunk[:, :, -2:] == 0).all()
    torch.testing.assert_close(shrunk[:, :, 2:-2], images[:, :, 2:-2])


def test_rotating_by_a_right_angle_turns_the_pixels():
    images = some_images()
    turned = fixed("rotate", [90.0])(images)
    expected = images.rot90(1, (2, 3))
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=1e-5)


def test_rotation_by_more_than_a_little_loses_only_corners():
    turned = fixed("rotate", [15.0])(torch.ones(1, 1, 32, 32))
    assert turned[0, 0, 0, 0] == 0
    torch.testing.assert_close(turned[0, 0, 8:24, 8:24], torch.ones(16, 16))


def test_no_global_random_state_is_used():
    before = torch.get_rng_state()
    SiameseAugment().draw(seeded(), 4)(some_images())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"operations": "flip_jitter"}, "'jitter'"),
        ({"operations": []}, "none"),
        ({"scale": 0.8}, "scale must lie between 1"),
        ({"flip": 1.5}, "flip must lie between 0 and 1"),
        ({"rotate": float("nan")}, "rotate"),
    ],
)
def test_impossible_augmentations_are_refused(parameters, words):
    with pytest.raises(ValueError, match=words):
        SiameseAugment(**parameters)


def test_a_transform_drawn_for_another_number_of_images_is_refused():
    with pytest.raises(ValueError, match="3 images, not 4"):
        SiameseAugment("flip").draw(seeded(), 3)(some_images())


# --- perturbed statistics: two images of one channel, worked by hand ---

GOLDEN_IMAGES = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]], [[[2.0, 2.0], [4.0, 4.0]]]])
GOLDEN_MEAN_NOISE = torch.tensor([[1.0], [-1.0]])
GOLDEN_DEVIATION_NOISE = torch.tensor([[0.5], [2.0]])
GOLDEN_RESULT = torch.tensor(
    [
        [[[1.08541, 3.361804], [5.638196, 7.91459]]],
        [[[0.263932, 0.263932], [4.736068, 4.736068]]],
    ]
)


def printed_formula(images, mean_noise, deviation_noise):
    """Eq. 9 as the paper prints it: new mean and new deviation change places."""
    variance, mean = torch.var_mean(images, (2, 3), correction=0)
    deviation = variance.sqrt()
    new_mean = mean + mean_noise * mean.var(0, correction=0).sqrt()
    new_deviation = deviation + deviation_noise * deviation.var(0, correction=0).sqrt()
    normalised = F.instance_norm(images, eps=0)
    return new_mean[:, :, None, None] * normalised + new_deviation[:, :, None, None]


def test_perturbed_statistics_give_the_worked_example():
    result = perturb_statistics(GOLDEN_IMAGES, GOLDEN_MEAN_NOISE, GOLDEN_DEVIATION_NOISE, epsilon=0)
    torch.testing.assert_close(result, GOLDEN_RESULT, atol=1e-5, rtol=0)
    default = perturb_statistics(GOLDEN_IMAGES, GOLDEN_MEAN_NOISE, GOLDEN_DEVIATION_NOISE)
    torch.testing.assert_close(default, GOLDEN_RESULT, atol=1e-4, rtol=0)


def test_perturbed_images_have_the_perturbed_statistics():
    result = perturb_statistics(GOLDEN_IMAGES, GOLDEN_MEAN_NOISE, GOLDEN_DEVIATION_NOISE, epsilon=0)
    variance, mean = torch.var_mean(result, (2, 3), correction=0)
    torch.testing.assert_close(mean, torch.tensor([[4.5], [2.5]]))
    torch.testing.assert_close(variance.sqrt(), torch.tensor([[2.5450850], [2.2360680]]))


def test_without_noise_the_images_come_back_exactly():
    images, none = some_images(), torch.zeros(4, 3)
    assert torch.equal(perturb_statistics(images, none, none), images)


def test_the_printed_formula_fails_both():
    printed = printed_formula(GOLDEN_IMAGES, GOLDEN_MEAN_NOISE, GOLDEN_DEVIATION_NOISE)
    expected = torch.tensor([[-3.492298, 0.532624], [4.557546, 8.582468]])
    torch.testing.assert_close(printed[0, 0], expected, atol=1e-5, rtol=0)
    assert (printed - GOLDEN_RESULT).abs().max() > 0.5
    none = torch.zeros(2, 1)
    assert (printed_formula(GOLDEN_IMAGES, none, none) - GOLDEN_IMAGES).abs().max() > 0.5


def test_a_constant_channel_and_a_single_image_stay_finite():
    images = some_images(1)
    images[:, 1] = 0.25
    noise = torch.randn(2, 1, 3, generator=seeded())
    assert perturb_statistics(images, noise[0], noise[1]).isfinite().all()


def test_noise_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        perturb_statistics(some_images(), torch.zeros(4, 1), torch.zeros(4, 3))
