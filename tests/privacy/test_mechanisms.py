"""Golden releases, the noise that is really there, and what makes a filter sound."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.privacy import mechanisms
from fedsim.privacy.accounting import effective_noise_multiplier
from fedsim.privacy.audit import gaussian_epsilon, many_run
from fedsim.privacy.mechanisms import (
    DPSGD,
    AlternatingReference,
    Dimensions,
    PrivateReference,
    State,
)
from fedsim.privacy.noise import Noise
from fedsim.privacy.paper import PaperUnsound

# Four records, C = 1, L = 4, and one noise vector, already divided by L.
GRADIENTS = torch.tensor([[3.0, 4, 0], [0.6, 0.8, 0], [-1, 0, 2], [2, 2, 1]])
NOISE = torch.tensor([0.2, -0.1, 0.05])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(seed=0):
    return Noise.seeded(b"%d" % seed)


def settings_of(sigma=1.0, norm=1.0, expected=4.0):
    return {"noise_multiplier": sigma, "max_grad_norm": norm, "expected_batch": expected}


def sound(**kept):
    """All sound mechanisms with the same noise, by name."""
    numbers = settings_of(**kept)
    reference = {"reference_noise_multiplier": numbers["noise_multiplier"]}
    return {
        "plain": DPSGD(**numbers),
        "private": PrivateReference(**numbers, **reference),
        "alternating": AlternatingReference(**numbers),
    }


def drawn(count, width, seed, *, wild=False):
    """Gradients of very different lengths; wild ones are huge, infinite or no numbers."""
    source = rng(seed)
    gradients = torch.randn(count, width, generator=source)
    gradients *= 10 ** torch.empty(count, 1).uniform_(-2, 2, generator=source)
    if wild and count > 2:
        gradients[0, 0], gradients[1] = math.inf, math.nan
        gradients[2] = 1e25
    return gradients


class FixedNoise(Noise):
    """Every draw for a gradient gives NOISE (in units of its scale times L), cosines get none."""

    def gaussian(self, shape, scale, like):
        return NOISE.double() if scale and tuple(shape) == (3,) else torch.zeros(shape)


FIXED = FixedNoise(bytes(32), "seeded")


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=0, atol=2e-6)


def test_the_paper_filter_equals_the_worked_example():
    paper = PaperUnsound(**settings_of(), cosine_noise_multiplier=0.0, psi=0.5, half_width=0.3)
    released, info = paper.aggregate(GRADIENTS, State(), FIXED)
    assert info.kept.tolist() == [True, True, False, True]
    close(released.update, [0.822222, 0.655556, 0.161111])
    # Algorithm 1 as printed averages raw gradients, without clipping and noise.
    literal = torch.tensor([1.866667, 2.266667, 0.333333])
    assert (released.update - literal).abs().max() > 0.1


def test_the_paper_filter_that_keeps_all_is_dp_sgd_with_shared_noise():
    paper = PaperUnsound(**settings_of(), cosine_noise_multiplier=0.0, psi=-1.5)
    released, info = paper.aggregate(GRADIENTS, State(), FIXED)
    assert info.kept.all()
    close(released.update, [0.554863, 0.466667, 0.356940])


@pytest.mark.parametrize(
    ("measure", "coordinates", "kept"),
    [
        ("std", [0], [True, True, False, True]),
        ("cov", [2], [True, True, True, True]),
        ("magnitude", [0], [True, True, False, True]),
    ],
)
def test_the_paper_coordinates_equal_the_worked_example(measure, coordinates, kept):
    paper = PaperUnsound(
        **settings_of(),
        cosine_noise_multiplier=0.0,
        psi=0.0,
        dimensions=Dimensions(measure, 0.5),
    )
    noisy = mechanisms.clip(GRADIENTS, 1.0).factors[:, None] * GRADIENTS + NOISE
    assert paper._mask(noisy).nonzero().flatten().tolist() == coordinates
    _, info = paper.aggregate(GRADIENTS, State(), FIXED)
    assert info.kept.tolist() == kept


def test_a_sound_filter_divides_by_the_expected_batch():
    # The same three records kept as in the worked example, and its noise added: a fourth of it.
    rule = AlternatingReference(**settings_of(sigma=0.0), psi=0.5)
    released, info = rule.aggregate(GRADIENTS, State(1, reference=GRADIENTS.mean(0)), noise())
    assert info.kept.tolist() == [True, True, False, True]
    close(released.update + NOISE, [0.666667, 0.466667, 0.133333])


def test_plain_dp_sgd_equals_the_worked_example_and_opacus():
    from opacus.optimizers import DPOptimizer

    released, info = DPSGD(**settings_of(sigma=0.0)).aggregate(GRADIENTS, State(), noise())
    close(released.update + NOISE, [0.554863, 0.466667, 0.356940])
    assert info.clipped == 3
    weights = torch.nn.Parameter(torch.zeros(3))
    theirs = DPOptimizer(
        torch.optim.SGD([weights], lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        expected_batch_size=4,
    )
    weights.grad_sample = GRADIENTS.clone()
    theirs.step()
    torch.testing.assert_close(released.update, -weights.detach(), rtol=1e-6, atol=1e-7)


@settings(max_examples=50)
@given(st.integers(0, 12), st.integers(1, 30), st.integers(0, 999))
def test_without_clipping_and_noise_dp_sgd_is_sgd(count, width, seed):
    gradients = drawn(count, width, seed)
    rule = DPSGD(**settings_of(sigma=0.0, norm=math.inf, expected=5.0))
    released, info = rule.aggregate(gradients, State(), noise())
    torch.testing.assert_close(released.update, gradients.sum(0) / 5, rtol=1e-5, atol=1e-5)
    assert info.clipped == info.nonfinite == 0


@settings(max_examples=50)
@given(st.integers(0, 12), st.integers(1, 30), st.integers(0, 999), st.integers(0, 3))
def test_filters_that_keep_all_are_plain_dp_sgd_bit_for_bit(count, width, seed, step):
    gradients = drawn(count, width, seed, wild=True)
    plain, _ = DPSGD(**settings_of()).aggregate(gradients, State(), noise(seed))
    private = PrivateReference(
        **settings_of(), reference_noise_multiplier=2.0, psi=-1.0, combine=0.0
    )
    alternating = AlternatingReference(**settings_of(), psi=-1.0)
    state = State(step=step, reference=torch.randn(width, generator=rng(1)))
    for rule in (private, alternating):
        released, _ = rule.aggregate(gradients, state, noise(seed))
        assert torch.equal(released.update, plain.update)


def without(gradients, position):
    return torch.cat([gradients[:position], gradients[position + 1 :]])


@settings(max_examples=80)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 9999))
def test_one_record_moves_an_unfiltered_sum_by_at_most_c(count, width, seed):
    gradients = drawn(count, width, seed, wild=seed % 2 == 0)
    others = without(gradients, seed % count)
    # With the same seed the noise cancels: what is left is how far the sum moved.
    plain = [
        DPSGD(**settings_of(norm=0.7)).aggregate(g, State(), noise(seed))[0]
        for g in (gradients, others)
    ]
    assert (plain[0].update - plain[1].update).norm() * 4 <= 0.7 * (1 + 1e-4)
    private = [
        sound(norm=0.7)["private"].aggregate(g, State(), noise(seed))[0]
        for g in (gradients, others)
    ]
    assert (private[0].reference - private[1].reference).norm() <= 0.7 * (1 + 1e-4)


@pytest.mark.parametrize("cut", [5121, 8], ids=["whole", "in parts"])
def test_one_record_moves_a_sum_of_thousands_by_at_most_c(cut):
    """Casacuberta et al. (2022): with the record a sum of float32 stands where each small number
    that follows is rounded away, and without it just below, where each one counts."""
    rows = torch.zeros(5121, 2)
    rows[:1025, 0] = 1.0
    rows[1025::8, 0] = -0.99 * 2.0**-14
    without = rows.clone()
    without[0] = 0.0
    for rule in sound(sigma=0.0, expected=1.0).values():
        released = [
            rule.aggregate(list(data.split(cut)), State(), noise())[0].update.double()
            for data in (rows, without)
        ]
        assert float((released[0] - released[1]).norm()) <= 1.0 + 1e-3  # of float32


@settings(max_examples=80)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 9999), st.floats(-0.9, 0.9))
def test_given_its_reference_one_record_moves_a_filtered_sum_by_at_most_c(count, width, seed, psi):
    gradients = drawn(count, width, seed, wild=seed % 2 == 0)
    gone = seed % count
    rule = AlternatingReference(**settings_of(sigma=0.0, norm=0.7), psi=psi)
    state = State(1, reference=torch.randn(width, generator=rng(seed + 1)))
    released, info = rule.aggregate(gradients, state, noise())
    rest, info_of_rest = rule.aggregate(without(gradients, gone), state, noise())
    assert (released.update - rest.update).norm() * 4 <= 0.7 * (1 + 1e-4)
    # Each record decides for itself: nobody else's decision changed.
    assert torch.equal(without(info.kept, gone), info_of_rest.kept)


@settings(max_examples=50)
@given(st.integers(0, 12), st.integers(1, 20), st.integers(0, 999))
def test_the_private_filter_is_the_same_filter_given_its_reference(count, width, seed):
    gradients = drawn(count, width, seed)
    rule = PrivateReference(**settings_of(), reference_noise_multiplier=1.0, combine=0.0)
    released, info = rule.aggregate(gradients, State(), noise(seed))
    same = AlternatingReference(**settings_of())
    expected, expected_info = same.aggregate(
        gradients, State(1, reference=released.reference), noise(seed)
    )
    assert torch.equal(released.update, expected.update)
    assert torch.equal(info.kept, expected_info.kept)


def test_in_the_published_filter_one_record_decides_about_all_others():
    paper = PaperUnsound(**settings_of(sigma=0.0), cosine_noise_multiplier=0.0)
    gradients = torch.tensor([[1.0, 0], [1, 0.1], [1, -0.1], [100, 0]])
    kept = paper.aggregate(gradients, State(), noise())[1].kept
    gradients[3, 0] = -100
    turned = paper.aggregate(gradients, State(), noise())[1].kept
    assert kept.tolist() == [True] * 4
    assert turned.tolist() == [False, False, False, True]


@settings(max_examples=50)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 999))
def test_the_order_of_records_does_not_matter(count, width, seed):
    gradients = drawn(count, width, seed, wild=True)
    order = torch.randperm(count, generator=rng(seed))
    state = State(1, reference=torch.randn(width, generator=rng(seed)))
    for rule in sound().values():
        released, info = rule.aggregate(gradients, state, noise(seed))
        permuted, permuted_info = rule.aggregate(gradients[order], state, noise(seed))
        torch.testing.assert_close(permuted.update, released.update, rtol=1e-5, atol=1e-5)
        assert torch.equal(permuted_info.kept, info.kept[order])


@settings(max_examples=50)
@given(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=4), st.integers(0, 999))
def test_physical_batches_split_a_logical_one_without_changing_it(count, cuts, seed):
    gradients = drawn(count, 9, seed, wild=True)
    cuts = sorted(min(cut, count) for cut in cuts)
    pieces = list(torch.tensor_split(gradients, cuts))
    state = State(1, reference=torch.randn(9, generator=rng(seed)))
    for rule in sound().values():
        released, info = rule.aggregate(gradients, state, noise(seed))
        split, split_info = rule.aggregate(pieces, state, noise(seed))
        torch.testing.assert_close(split.update, released.update, rtol=1e-6, atol=1e-6)
        assert torch.equal(split_info.kept, info.kept)
        assert (split_info.clipped, split_info.nonfinite) == (info.clipped, info.nonfinite)


def test_parts_are_computed_as_often_as_a_mechanism_has_passes():
    class Parts:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([GRADIENTS[:1], GRADIENTS[1:]])

    for rule in sound().values():
        gradients = Parts()
        rule.aggregate(gradients, State(), noise())
        assert gradients.passes == rule.passes
        with pytest.raises(ValueError, match="iterable again"):
            rule.aggregate(iter([GRADIENTS]), State(), noise())
        with pytest.raises(ValueError, match="one part at least"):
            rule.aggregate([], State(), noise())
        with pytest.raises(ValueError, match=r"float matrix.*int64 \[2, 2\]"):
            rule.aggregate([torch.ones(2, 2, dtype=torch.int64)], State(), noise())


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e30])
def test_a_gradient_without_a_finite_norm_counts_as_zero(value):
    bad = torch.cat([GRADIENTS, torch.tensor([[0.0, value, 1.0]])])
    paper = PaperUnsound(**settings_of(), cosine_noise_multiplier=0.0, psi=-1.5)
    for name, rule in (sound() | {"paper": paper}).items():
        clean, _ = rule.aggregate(GRADIENTS, State(), noise())
        released, info = rule.aggregate(bad, State(), noise())
        assert info.nonfinite == 1
        assert info.kept.tolist()[-1] is False
        assert released.update.isfinite().all()
        if name != "paper":  # its denominator counts the record
            torch.testing.assert_close(released.update, clean.update)


def measured(rule, gradients, state=None):
    released, info = rule.aggregate(gradients, state or State(), noise(7))
    return released, float(released.update.std()), info


@pytest.mark.parametrize("count", [0, 1, 50])
def test_the_noise_is_there_when_all_gradients_are_zero(count):
    gradients, norm, expected = torch.zeros(count, 40000), 0.5, 20.0
    numbers = settings_of(sigma=3.0, norm=norm, expected=expected)
    rules = {
        "plain": (DPSGD(**numbers), 3.0),
        "filtered": (PrivateReference(**numbers, reference_noise_multiplier=6.0, combine=0.0), 3.0),
        "reference": (
            PrivateReference(**numbers, reference_noise_multiplier=6.0, combine=1.0),
            6.0,
        ),
        "mixed": (
            PrivateReference(**numbers, reference_noise_multiplier=6.0, combine=0.25),
            math.hypot(0.75 * 3.0, 0.25 * 6.0),
        ),
        "alternating": (AlternatingReference(**numbers), 3.0),
    }
    for rule, multiplier in rules.values():
        released, deviation, info = measured(rule, gradients)
        assert deviation == pytest.approx(multiplier * norm / expected, rel=0.02)
        assert float(released.update.mean()) == pytest.approx(0, abs=0.02 * deviation)
        if released.reference is not None and isinstance(rule, PrivateReference):
            assert float(released.reference.std()) == pytest.approx(6.0 * norm, rel=0.02)
        assert len(info.kept) == count
    odd = State(1, reference=torch.randn(40000, generator=rng()))
    _, deviation, _ = measured(rules["alternating"][0], gradients, odd)
    assert deviation == pytest.approx(3.0 * norm / expected, rel=0.02)


def test_the_two_noises_of_one_step_are_independent():
    rule = PrivateReference(**settings_of(), reference_noise_multiplier=1.0, combine=0.0)
    released, _ = rule.aggregate(torch.zeros(3, 40000), State(), noise())
    both = torch.stack([released.update, released.reference])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.02


def test_the_published_noise_is_too_small_where_it_is_drawn_for_each_record():
    numbers = settings_of(expected=64.0) | {"cosine_noise_multiplier": 0.0, "psi": -1.5}
    zeros = torch.zeros(64, 20000)
    _, shared, _ = measured(PaperUnsound(**numbers), zeros)
    _, independent, _ = measured(PaperUnsound(**numbers, noise="independent"), zeros)
    assert shared == pytest.approx(1 / 64, rel=0.02)
    assert shared / independent == pytest.approx(8, rel=0.03)


def test_noise_comes_from_the_argument_alone():
    before = torch.get_rng_state()
    for rule in sound().values():
        one, two, other = (rule.aggregate(GRADIENTS, State(), noise(s))[0] for s in (1, 1, 2))
        assert torch.equal(one.update, two.update)
        assert not torch.equal(one.update, other.update)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_second_step_is_filtered_against_the_last_unfiltered_release():
    rule = AlternatingReference(**settings_of(sigma=0.0, norm=10.0, expected=1.0))
    along, against = torch.tensor([[1.0, 0]]), torch.tensor([[-1.0, 0]])
    state, updates = State(), []
    for gradients in (along, against, against, along):
        released, _ = rule.aggregate(gradients, state, noise())
        state = rule.remember(state, released)
        updates.append(float(released.update[0]))
        assert (released.reference is None) == (state.step % 2 == 0)
    # The second is dropped; the third is not, and turns the reference: the fourth is dropped.
    assert updates == [1.0, 0.0, -1.0, 0.0]
    assert state.step == 4
    close(state.reference, [-1.0, 0.0])


@pytest.mark.parametrize(("measure", "chosen"), [("magnitude", 0), ("std", 1), ("cov", 2)])
def test_coordinates_are_measured_over_past_releases(measure, chosen):
    dimensions = Dimensions(measure, 0.5)
    rule = AlternatingReference(**settings_of(), dimensions=dimensions)
    assert dimensions.of_releases(State()) is None
    state = State()
    for step in range(60):
        sign = 1 if step % 4 else -1  # every second release is unfiltered: +, -, +, ...
        release = torch.tensor([9.0, 4.0 + 3 * sign, 0.1 + sign])
        reference = release if step % 2 == 0 else None
        state = rule.remember(state, mechanisms.Released(release, reference))
    assert state.seen == 30
    assert dimensions.of_releases(state).nonzero().flatten().tolist() == [chosen]
    assert State(**vars(state)) == state


def test_young_averages_are_corrected_for_their_start_at_zero():
    dimensions, state = Dimensions("std", 0.5), State()
    for sign in (1.0, -1.0, 1.0):
        state = dimensions.observe(state, torch.tensor([9.0, sign, 0.0]))
    # Uncorrected, the constant 9 would seem to vary most.
    assert dimensions.of_releases(state).tolist() == [False, True, False]


def test_states_hold_only_what_a_mechanism_needs():
    for name, rule in sound().items():
        state = State()
        for _ in range(3):
            state = rule.remember(state, rule.aggregate(GRADIENTS, state, noise())[0])
        assert state.step == 3
        assert (state.reference is not None) == (name == "alternating")
        assert state.mean is None
    private = PrivateReference(
        **settings_of(), reference_noise_multiplier=1.0, dimensions=Dimensions("std", 0.5)
    )
    state = private.remember(State(), private.aggregate(GRADIENTS, State(), noise())[0])
    assert state.seen == 1
    assert private.aggregate(GRADIENTS, state, noise())[1].kept.shape == (4,)


def test_a_threshold_above_zero_survives_high_dimensions():
    # Signal 60 along the first axis; noise of norm 100: the raw cosine of e1 would be 0.5.
    width = 10000
    reference = torch.randn(width, generator=rng())
    reference[0] = 60.0
    gradients = torch.zeros(3, width)
    gradients[0, 0], gradients[1, 0], gradients[2, 1] = 1.0, -1.0, 1.0
    assert float(reference[0] / reference.norm()) < 0.6
    rule = AlternatingReference(**settings_of(), psi=0.8)
    _, info = rule.aggregate(gradients, State(1, reference=reference), noise())
    assert info.kept.tolist() == [True, False, False]
    # The same with a reference of 59 released by the step itself.
    gradients = torch.cat([gradients[:1].expand(60, -1), gradients[1:]])
    rule = PrivateReference(**settings_of(sigma=5.0), reference_noise_multiplier=1.0, psi=0.8)
    _, info = rule.aggregate(gradients, State(), noise())
    assert info.kept.tolist() == [True] * 60 + [False, False]


def test_what_each_mechanism_tells_the_accountant():
    rules = sound(sigma=1.5) | {
        "paper": PaperUnsound(**settings_of(sigma=4.0), cosine_noise_multiplier=4.0)
    }
    told = {name: rule.accounted_noise_multiplier for name, rule in rules.items()}
    assert told["plain"] == told["alternating"] == 1.5
    assert told["private"] == pytest.approx(1.5 / math.sqrt(2))
    assert told["paper"] == pytest.approx(4 / math.sqrt(2))
    assert [rule.certified for rule in rules.values()] == [True, True, True, False]
    assert [rule.passes for rule in rules.values()] == [1, 2, 1, 1]
    silent = PaperUnsound(**settings_of(), cosine_noise_multiplier=0.0)
    assert silent.accounted_noise_multiplier == 0.0


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (DPSGD, {"noise_multiplier": -1.0}, "noise_multiplier must be"),
        (DPSGD, {"noise_multiplier": math.nan}, "noise_multiplier must be"),
        (DPSGD, {"max_grad_norm": 0.0}, "clipping norm"),
        (DPSGD, {"max_grad_norm": math.inf}, "finite clipping norm"),
        (DPSGD, {"expected_batch": 0.0}, "expected batch"),
        (AlternatingReference, {"psi": 1.0}, "psi must be"),
        (PrivateReference, {"reference_noise_multiplier": -1.0}, "reference_noise_multiplier"),
        (PrivateReference, {"reference_noise_multiplier": 1.0, "combine": 2.0}, "combine"),
        (PaperUnsound, {"cosine_noise_multiplier": 1.0, "noise": "none"}, "shared or independent"),
        (PaperUnsound, {"cosine_noise_multiplier": 1.0, "half_width": 0.0}, "half width"),
    ],
)
def test_numbers_out_of_range_are_refused(kind, wrong, message):
    with pytest.raises(ValueError, match=message):
        kind(**(settings_of() | wrong))


def test_dimensions_out_of_range_are_refused():
    with pytest.raises(ValueError, match="magnitude, std or cov"):
        Dimensions("mean", 0.5)
    with pytest.raises(ValueError, match="Gamma"):
        Dimensions("std", 1.0)


def attacked(rule, others, target, score, runs, delta=1e-5):
    """The lower bound of an attack that looks at single releases without and with the target."""
    source = noise(1)
    scores = [
        [score(rule.aggregate(gradients, State(), source)[0]) for _ in range(runs)]
        for gradients in (others, torch.cat([others, target]))
    ]
    return many_run(*scores, delta)


def balanced(expected):
    """Gradients of +-C whose sum is +C/2, and a target that turns the sign of the mean."""
    others = torch.cat([torch.ones(expected // 2, 1), -torch.ones(expected // 2, 1)])
    others[0] = 0.5
    return torch.cat([others, torch.ones(1, 1)]), -torch.ones(1, 1)


@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_an_attack_refutes_what_the_published_filter_claims(noise):
    paper = PaperUnsound(
        **settings_of(sigma=4.0, expected=64.0), cosine_noise_multiplier=4.0, noise=noise
    )
    claimed = gaussian_epsilon(1 / paper.accounted_noise_multiplier, 1e-5)
    assert claimed == pytest.approx(1.356, abs=5e-4)
    bound = attacked(paper, *balanced(64), lambda r: -float(r.update[0]), 1200)
    assert bound.contradicts(claimed)


def test_the_same_attack_finds_nothing_against_sound_mechanisms():
    others, target = balanced(64)
    rules = sound(sigma=4.0, expected=64.0)

    def near_optimal(released):
        """Log-likelihood ratio of R and of S given R, up to its scale."""
        reference, total = float(released.reference[0]), float(2 * released.update[0] * 64)
        total -= reference
        score = -(reference - float(others.sum())) - 0.5
        if reference < 0:  # then the target is kept, and only the negative others are
            score += -(total - float(others[others < 0].sum())) - 0.5
        return score

    private = attacked(rules["private"], others, target, near_optimal, 800)
    multiplier = effective_noise_multiplier(4.0, 4.0)
    assert not private.contradicts(gaussian_epsilon(1 / multiplier, 1e-5))
    plain = attacked(rules["plain"], others, target, lambda r: -float(r.update[0]), 800)
    assert not plain.contradicts(gaussian_epsilon(1 / 4.0, 1e-5))


def test_an_attack_finds_the_missing_noise_of_independent_draws():
    # The target alone in its coordinate; cosines carry nothing.
    others, target = torch.zeros(64, 2), torch.tensor([[0.0, 1.0]])
    others[:, 0] = 1
    numbers = settings_of(sigma=8.0, expected=64.0)
    paper = PaperUnsound(**numbers, cosine_noise_multiplier=1000.0, noise="independent")
    claimed = gaussian_epsilon(1 / 8.0, 1e-5)
    assert claimed == pytest.approx(0.434, abs=1e-3)
    assert attacked(paper, others, target, lambda r: float(r.update[1]), 800).epsilon > 1.0
    plain = attacked(DPSGD(**numbers), others, target, lambda r: float(r.update[1]), 800)
    assert not plain.contradicts(claimed)
