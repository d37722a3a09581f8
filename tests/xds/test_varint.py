"""Numbers of protobuf's wire format, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.varint import delimited, read_varint, varint


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_a_number_reads_as_it_was_written_wherever_it_stands(value: int, before: bytes, after: bytes) -> None:
    written = varint(value)
    assert read_varint(before + written + after, len(before)) == (value, len(before) + len(written))


def test_a_number_that_does_not_end_is_an_error() -> None:
    with pytest.raises(IndexError):
        read_varint(b"\xff\xff", 0)


def test_a_field_carries_its_number_and_length() -> None:
    assert delimited(2, b"iris") == b"\x12\x04iris"
    assert delimited(16, b"") == b"\x82\x01\x00"


def test_a_number_of_more_than_64_bits_has_no_end():
    assert read_varint(b"\xff" * 9 + b"\x01", 0) == (2**64 - 1, 10)
    with pytest.raises(IndexError):
        read_varint(b"\x80" * 10 + b"\x01", 0)
