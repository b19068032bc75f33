"""The direction of a copy follows from its name, on every kind of device."""

import pytest

from roseinfer.trace.copy_names import CopyDirection, copy_direction


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("Memcpy HtoD (Pinned -> Device)", "to_device"),
        ("Memcpy HtoD (Pageable -> Device)", "to_device"),
        ("CopyHostToDevice", "to_device"),
        ("Memcpy M2D", "to_device"),
        ("Memcpy DtoH (Device -> Pageable)", "to_host"),
        ("CopyDeviceToHost", "to_host"),
        ("Memcpy D2M", "to_host"),
        ("Memcpy PtoP (Device -> Device)", "between_devices"),
        ("Memcpy DtoD (Device -> Device)", None),
        ("CopyDeviceToDevice", None),
        ("Memset (Device)", None),
    ],
)
def test_direction_of_a_copy(name: str, direction: CopyDirection | None) -> None:
    assert copy_direction(name) == direction
