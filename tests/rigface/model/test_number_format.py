"""Number format of the networks' arithmetic."""

import pytest
import torch

from rigface.model import number_format

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "avx512_bf16": False}, None),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
    ],
    ids=["none", "avx512", "amx", "arm"],
)
def test_auto_is_bfloat16_only_on_processors_that_multiply_in_it(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert number_format.autocast_dtype("auto", CPU) is dtype
    with number_format.autocast(number_format.autocast_dtype("auto", CPU), CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype is (dtype or torch.float32)


def test_auto_is_float32_on_unknown_devices():
    assert number_format.autocast_dtype("auto", torch.device("meta")) is None


def test_given_formats_hold_on_any_processor(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert number_format.autocast_dtype("bfloat16", CPU) is torch.bfloat16
    assert number_format.autocast_dtype("float32", CPU) is None
