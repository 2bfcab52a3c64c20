"""The selection of device and precision."""

import pytest
import torch

from captionlab.core.devices import choose_device, uses_bf16
from captionlab.errors import CaptionlabError


def test_device_and_precision_are_selected() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda", "mps")
    assert not uses_bf16("fp32", "cpu")
    for device in ("cuda", "mps"):
        assert not uses_bf16("auto", device)
        with pytest.raises(CaptionlabError, match=f"bf16, which is for CPUs; on {device} use auto or fp32"):
            uses_bf16("bf16", device)

    if not torch.cuda.is_available():
        with pytest.raises(CaptionlabError, match=r"device is cuda.*use auto"):
            choose_device("cuda")
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert uses_bf16("bf16", "cpu")
    else:
        assert not uses_bf16("auto", "cpu")
        with pytest.raises(CaptionlabError, match="bf16, which this CPU does not support; use auto or fp32"):
            uses_bf16("bf16", "cpu")
