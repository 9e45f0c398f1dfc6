from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enclave.sandboxes.output import decode, head_bytes, make_decoder, shorten, signal_name, tail_bytes, text_of


@given(st.text(alphabet=st.characters(exclude_categories=['Cs'])), st.integers(min_value=1, max_value=60))
def test_cut_output_is_made_of_whole_characters(text: str, cap: int) -> None:
    data = text.encode()
    head, tail = data[: head_bytes(cap)], data[len(data) - min(tail_bytes(cap), max(0, len(data) - head_bytes(cap))) :]
    if len(head) + len(tail) >= len(data):
        assert text_of(data, len(data), cap) == text
        return

    shown = shorten(head, tail, len(data) - len(head) - len(tail))

    before, _, rest = shown.partition('\n[... ')
    assert text.startswith(before) or '\n[... ' in text
    assert text.endswith(rest.rpartition(' bytes left out ...]\n')[2])
    assert '\ufffd' not in shown or '\ufffd' in text


@given(st.binary(max_size=200), st.integers(min_value=0, max_value=200))
def test_decoding_in_pieces_is_decoding_at_once(data: bytes, cut: int) -> None:
    decoder = make_decoder()

    assert decoder.decode(data[:cut]) + decoder.decode(data[cut:], final=True) == decode(data)


def test_bytes_that_are_no_text_show() -> None:
    assert decode(b'a\xffb') == 'a\\xffb'


def test_the_cap_is_shared_by_head_and_tail() -> None:
    assert head_bytes(1001) + tail_bytes(1001) == 1001
    assert tail_bytes(1 << 30) == 1 << 20


def test_signals_are_named_even_when_unknown() -> None:
    assert signal_name(11) == 'SIGSEGV'
    assert signal_name(99) == 'SIG99'
