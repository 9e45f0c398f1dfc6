"""Whether what a program printed is what it should have printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.languages.comparing import matches
from enclave.languages.values import COMPARISONS, Comparison


@pytest.mark.parametrize(
    ('compare', 'output', 'expected', 'same'),
    [
        ('exact', '1\n', '1\n', True),
        ('exact', '1\n', '1', False),
        ('lines', '1 \n2\t\n\n\n', '1\n2', True),
        ('lines', '1\r\n2\r\n', '1\n2\n', True),
        ('lines', ' 1', '1', False),
        ('lines', '1\n\n2', '1\n2', False),
        ('lines', '', '\n\n', True),
        ('tokens', '1 2\n3', '1\n2   3\n', True),
        ('tokens', '12 3', '1 23', False),
        ('tokens', '1.0', '1', False),
        ('floats', '0.3000000004', '0.3', True),
        ('floats', '0.31', '0.3', False),
        ('floats', '1000000.5', '1000000', True),
        ('floats', '1e3 yes', '1000.0 yes', True),
        ('floats', '1 2', '1', False),
        ('floats', 'yes', 'no', False),
        ('floats', 'nan', 'NaN', True),
        ('floats', 'inf', '-inf', False),
        ('floats', 'inf', '1e308', False),
        ('floats', '1_0', '10', False),
    ],
)
def test_each_way_to_compare(compare: Comparison, output: str, expected: str, same: bool) -> None:
    assert matches(output, expected, compare) is same


@given(st.text(), st.sampled_from(COMPARISONS))
def test_an_output_is_what_it_is(text: str, compare: Comparison) -> None:
    assert matches(text, text, compare)


@given(st.floats(min_value=-1e15, max_value=1e15), st.floats(min_value=1e-3, max_value=1))
def test_a_tolerance_is_absolute_for_small_numbers_and_relative_for_large_ones(value: float, tolerance: float) -> None:
    near = value + 0.5 * tolerance * max(1.0, abs(value))

    assert matches(repr(near), repr(value), 'floats', tolerance)
