"""Errors: what they say of names."""

from __future__ import annotations

from fedsim.errors import nearest


def test_of_many_valid_names_the_first_are_listed() -> None:
    names = [f"record-{number:04}" for number in range(2000)]
    assert nearest("record-1999a", names) == " (did you mean 'record-1999'?)"
    assert nearest("x", names).endswith("record-0006, record-0007 and 1992 more)")
    assert nearest("x", names[:60]).count("record") == 60
    assert nearest("x", []) == ""


def test_of_several_names_that_end_in_a_word_none_is_chosen() -> None:
    valid = ("max_epsilon", "target_epsilon", "noise_multiplier")
    assert nearest("epsilon", valid) == " (did you mean 'max_epsilon' or 'target_epsilon'?)"
    assert nearest("epsilon", valid[1:]) == " (did you mean 'target_epsilon'?)"
