"""Hypothesis strategies that several tests share."""

from __future__ import annotations

from hypothesis import strategies as st

from enclave.agent.program import KINDS, MAX_PAYLOAD

kinds = st.sampled_from(sorted(KINDS))
call_numbers = st.integers(min_value=0, max_value=2**32 - 1)
payloads = st.binary(max_size=2000)
frames = st.tuples(kinds, call_numbers, payloads)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
messages = st.dictionaries(st.text(), json_values, max_size=5)
oversized = st.integers(min_value=MAX_PAYLOAD + 1, max_value=2**32 - 1)
