"""Which device computes."""

import pytest
import torch

from diffeo.utils.machine import find_device


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert find_device().type == expected
    assert find_device("cpu").type == "cpu"


def test_a_device_that_is_missing_or_unknown_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no cuda device: choose"):
        find_device("cuda")
    with pytest.raises(ValueError, match="choose one of auto, cpu, cuda, mps"):
        find_device("gpu")
