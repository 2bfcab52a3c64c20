"""A captioner as two ONNX graphs: from a photo to the decoder's first state, and one decoding step.

The shapes are fixed: one photo, and as many hypotheses as the captioner's beam. Knows encoders and decoders; nothing of
files or words. Shape letters as in ``models.base``; H and W pixels.
"""

from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from captionlab.core.tokens import NEVER_GENERATED, START
from captionlab.encoders.engines import to_onnx
from captionlab.encoders.load import Encoder
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner
from captionlab.models.base import Decoder, Features, State

NEXT = "next_"  # begins the names of the states that a step returns
_CHECKED_STEPS = 4
_TOLERANCE = 1e-3  # of a log probability, relative and absolute; rounding is a hundredth of it


class Graphs(NamedTuple):
    """Serialised ONNX models.

    ``encoder`` takes ``pixels`` (1, H, W, 3), bytes. It returns the first state: ``memory_0`` and so on, one row for
    the photo, and ``hidden_0`` and so on, one row a hypothesis.

    ``step`` takes ``tokens`` (B), the last word of each hypothesis; ``parents`` (B), the row of the state that each
    hypothesis continues; and the state. It returns ``log_probs`` (B, V) of the next word, minus infinity for words
    that no caption has, and ``next_hidden_0`` and so on.
    """

    encoder: bytes
    step: bytes


class _Start(nn.Module):
    """Pixels (1, H, W, 3) to the tensors of the decoder's first state."""

    def __init__(self, encoder: Encoder, decoder: Decoder, beam: int) -> None:
        super().__init__()
        self.network, self.decoder, self.beam = encoder.network, decoder, beam

    def state(self, pixels_1HW3: Tensor) -> State:
        """The state before the first word, with the same hypothesis in all rows."""
        pooled_1D, grid_1RC = self.network(pixels_1HW3)
        # 16 bits, as the decoder was trained on
        features = Features(pooled_1D, grid_1RC.half() if int(grid_1RC.shape[1]) else None)
        return self.decoder.start(features).repeat(self.beam)

    def forward(self, pixels_1HW3: Tensor) -> tuple[Tensor, ...]:
        state = self.state(pixels_1HW3)
        return (*state.memory, *state.hidden)


class _Step(nn.Module):
    """The last words, the rows they continue, and a state, to the next word's log_probs_BV and the state after it."""

    never_V: Tensor

    def __init__(self, decoder: Decoder, memories: int, words: int) -> None:
        super().__init__()
        self.decoder, self.memories = decoder, memories
        self.register_buffer("never_V", torch.zeros(words).index_fill(0, torch.tensor(NEVER_GENERATED), -torch.inf))

    def forward(self, tokens_B: Tensor, parents_B: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        before = State(state[: self.memories], state[self.memories :]).reorder(parents_B)
        log_probs_BV, after = self.decoder.step(tokens_B, before)
        return (log_probs_BV + self.never_V, *after.hidden)


@torch.no_grad()
def build_graphs(captioner: Captioner) -> Graphs:
    """Trace both graphs of a captioner on the CPU, and check that they compute what PyTorch does.

    Raises CaptionlabError for a decoder whose step cannot be traced: one that loops over the words so far in Python.
    """
    encoder, decoder, beam = captioner.encoder, captioner.model, captioner.decoding.beam
    noise_1HW3 = np.random.default_rng(0).integers(0, 256, (1, encoder.pixels, encoder.pixels, 3), np.uint8)
    pixels_1HW3, tokens_B, parents_B = torch.from_numpy(noise_1HW3), torch.full((beam,), START), torch.arange(beam)
    start = _Start(encoder, decoder, beam).eval()
    first = start.state(pixels_1HW3)
    step = _Step(decoder, len(first.memory), len(captioner.vocab)).eval()
    _, *second = step(tokens_B, parents_B, *first.memory, *first.hidden)
    memory = [f"memory_{i}" for i in range(len(first.memory))]
    hidden = [f"hidden_{i}" for i in range(len(first.hidden))]
    grows = {
        name: [axis for axis in range(before.ndim) if before.shape[axis] != after.shape[axis]]
        for name, before, after in zip(hidden, first.hidden, second, strict=True)
    }
    graphs = Graphs(
        encoder=to_onnx(start, (pixels_1HW3,), inputs=["pixels"], outputs=[*memory, *hidden]),
        step=to_onnx(
            step,
            (tokens_B, parents_B, *first.memory, *first.hidden),
            inputs=["tokens", "parents", *memory, *hidden],
            outputs=["log_probs", *(NEXT + name for name in hidden)],
            growing=grows | {NEXT + name: axes for name, axes in grows.items()},
        ),
    )
    if not _agree(graphs, start, step, pixels_1HW3):
        raise CaptionlabError(
            f"{captioner.identity.system}.{captioner.identity.name} cannot be exported: a step of its decoder reads "
            "all words so far in a loop, which an ONNX graph of one step cannot hold; export another system"
        )
    return graphs


def _agree(graphs: Graphs, start: _Start, step: _Step, pixels_1HW3: Tensor) -> bool:
    """Whether the graphs compute the log probabilities of the first words of a caption as PyTorch does."""
    encoder_session, step_session = (
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        for graph in (graphs.encoder, graphs.step)
    )
    names = [output.name for output in encoder_session.get_outputs()]
    theirs = dict(zip(names, encoder_session.run(None, {"pixels": pixels_1HW3.numpy()}), strict=True))
    ours = start.state(pixels_1HW3)
    tokens_B, parents_B = torch.full((start.beam,), START), torch.arange(start.beam)
    for _ in range(_CHECKED_STEPS):
        log_probs_BV, *hidden = step(tokens_B, parents_B, *ours.memory, *ours.hidden)
        ours = State(ours.memory, tuple(hidden))
        feeds = {"tokens": tokens_B.numpy(), "parents": parents_B.numpy(), **theirs}
        try:
            found_BV, *after = step_session.run(None, feeds)
        except Exception:  # onnxruntime's errors share no class; here a shape that was traced as a constant
            return False
        theirs |= zip([name for name in names if name.startswith("hidden_")], after, strict=True)
        if not np.allclose(found_BV, log_probs_BV.numpy(), rtol=_TOLERANCE, atol=_TOLERANCE):
            return False
        tokens_B = log_probs_BV.argmax(-1)
    return True
