"""The training loss, compared with PyTorch's."""

import pytest
import torch

from captionlab.training.losses import SmoothedCrossEntropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_equal_pytorch(smoothing: float) -> None:
    torch.manual_seed(0)
    ours_NV = (torch.randn(50, 30) * 20).requires_grad_()  # so wide that many probabilities underflow
    theirs_NV = ours_NV.detach().clone().requires_grad_()
    target_N = torch.randint(0, 30, (50,))
    loss, nats_N, words_N = SmoothedCrossEntropy.apply(ours_NV, target_N, smoothing)  # type: ignore[no-untyped-call]
    expected = torch.nn.functional.cross_entropy(theirs_NV, target_N, label_smoothing=smoothing)
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours_NV.grad, theirs_NV.grad)
    torch.testing.assert_close(nats_N, torch.nn.functional.cross_entropy(theirs_NV, target_N, reduction="none"))
    assert words_N.equal(ours_NV.argmax(1))
