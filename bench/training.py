"""Speed of training, compared with report B's loop in Keras, with plain PyTorch and with the machine's limit.

    python bench/training.py [--photos 320] [--rounds 3] [--smoke]

Sizes are those of ``presets/flickr8k.yaml`` and ``presets/report_b.yaml``; captions are random (see ``drawn``). Keras
runs in a separate environment, which ``make bench-keras`` creates; without it, the row of Keras is left out.
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captionlab.config import Params, TrainingParams, build_system, load_params
from captionlab.core.devices import choose_device, uses_bf16
from captionlab.core.tokens import PAD
from captionlab.models.attention.regions import Attention
from captionlab.models.base import Decoder, Features, count_parameters
from captionlab.models.baseline import Baseline
from captionlab.models.build import build_model
from captionlab.models.params import SystemParams
from captionlab.training.batches import CaptionedFeatures, CaptionTokens
from captionlab.training.loop import ResumeFile, Splits, train
from captionlab.training.step import measure
from common import ROOT, Rates, Workload, figure, interleave, load, matrix_product, options, publish, section
from drawn import CAPTIONS, draw

KERAS = ROOT / ".venv-keras"
WORDS = {"flickr8k": 2541, "report_b": 7369}  # size of the vocabulary under each preset
CHANNELS = {"flickr8k": 1280, "report_b": 2048}  # of Lite2 and ResNet-50
REGIONS = 49
BATCH = 64  # captions, of the implementations compared with
LIMIT = "matrix product"
BASELINE, ATTENTION, MERGE = "baseline.lite0", "attention.lite2", "modified.resnet50"
TARGETS = {BASELINE: 2, ATTENTION: 2.5, MERGE: 12}
EPOCHS = 3  # of captionlab in a round; the others take as long for one


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A system to train, with its data and settings."""

    name: str
    preset: str
    config: SystemParams
    training: TrainingParams
    data: CaptionedFeatures
    few: CaptionedFeatures  # for validation

    def fresh(self) -> Decoder:
        """A newly initialised model."""
        torch.manual_seed(0)
        channels = CHANNELS[self.preset]
        model = build_model(self.config, vocab=WORDS[self.preset], pooled=channels, channels=channels)
        model.standardise.fit(self.data.feature_blocks())
        return model

    @property
    def reference(self) -> str:
        """The name of the implementation that it is compared with."""
        return "Keras" if self.preset == "report_b" else f"plain PyTorch, {self.name}"

    @property
    def captions(self) -> int:
        """Number of captions in an epoch."""
        return sum(map(len, self.data.captions))


def subjects(photos: int) -> Iterator[Subject]:
    """Every system that is measured, with the sizes of its preset."""
    shared = load_params(ROOT / "params.yaml")
    for preset, system, names in (
        ("flickr8k", "baseline", ("lite0",)),
        ("flickr8k", "modified", ("lite2",)),
        ("flickr8k", "attention", ("lite2", "lite2_states")),
        ("report_b", "modified", None),
    ):
        raw = YAML(typ="safe").load((ROOT / f"presets/{preset}.yaml").read_text(encoding="utf-8"))
        for name in names or tuple(raw[system]):
            config = build_system(system, raw[system][name])
            regions = REGIONS if system == "attention" and name == "lite2" else 0
            sizes: dict[str, Any] = {"words": WORDS[preset], "pooled": CHANNELS[preset], "regions": regions}
            yield Subject(
                name=f"{system}.{name}",
                preset=preset,
                config=config,
                training=_training(shared, config, raw["training"]),
                data=draw(photos, **sizes),
                few=draw(8, **sizes, seed=1),
            )


def _training(shared: Params, config: SystemParams, preset: dict[str, Any]) -> TrainingParams:
    return replace(shared.training_of(config, preset), epochs=EPOCHS, patience=EPOCHS)


def ours(subject: Subject, device: str) -> Workload:
    """captionlab's training loop, including validation and saving the state after every epoch."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            train(
                subject.fresh().to(device), Splits(subject.data, subject.few), subject.training,
                resume_file=ResumeFile(Path(folder) / "state.pt", "bench"), on_epoch=lambda _: None,
            )  # fmt: skip
        return EPOCHS * subject.captions

    return run


# --- plain PyTorch


class PlainBatch:
    """Captions in random order, padded to the longest, each with a copy of its photo's features."""

    def __init__(self, data: CaptionedFeatures, pairs: Sequence[tuple[int, int]], device: str) -> None:
        self.features: Features = data.features([photo for photo, _ in pairs]).to(device)
        rows = [torch.tensor(data.captions[photo][number]) for photo, number in pairs]
        self.tokens_BT = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD).to(device)


def plain_baseline(model: Decoder, batch: PlainBatch) -> Tensor:
    """Logits_BTV of the baseline on padded captions."""
    assert isinstance(model, Baseline)
    image_BI = model.dropout(model.image(model.standardise(batch.features.pooled_PD)).relu())
    words_BTE = model.dropout(model.embedding(batch.tokens_BT[:, :-1]))
    hidden_BTH = model.lstm(torch.cat([image_BI.unsqueeze(1), words_BTE], 1))[0][:, 1:]
    return model.words(hidden_BTH)


def plain_attention(model: Decoder, batch: PlainBatch) -> Tensor:
    """Logits_BTV of the attention system, one step per word; every caption projects its photo's regions again."""
    assert isinstance(model, Attention)
    state, logits = model.start(batch.features), []
    for t in range(batch.tokens_BT.shape[1] - 1):
        log_probs_BV, state = model.step(batch.tokens_BT[:, t], state)
        logits.append(log_probs_BV)
    return torch.stack(logits, 1)


Forward = Callable[[Decoder, PlainBatch], Tensor]
PLAIN: dict[str, Forward] = {BASELINE: plain_baseline, ATTENTION: plain_attention}


def plain_loss(model: Decoder, batch: PlainBatch, forward: Forward, smoothing: float) -> Tensor:
    """PyTorch's cross-entropy over all words."""
    target_N = batch.tokens_BT[:, 1:].flatten()
    return cross_entropy(forward(model, batch).flatten(0, 1), target_N, ignore_index=PAD, label_smoothing=smoothing)


def plain(subject: Subject, forward: Forward, device: str) -> Workload:
    """A training loop as in PyTorch's tutorials: fp32, captions in random order, autograd throughout."""
    pairs = [(photo, number) for photo, own in enumerate(subject.data.captions) for number in range(len(own))]
    training = subject.training
    model = subject.fresh().to(device)
    _check_same_loss(model, subject, pairs[:BATCH], forward, device)

    def run() -> float:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, weight_decay=training.weight_decay)
        order = np.random.default_rng(0).permutation(len(pairs))
        for i in range(0, len(order), BATCH):
            batch = PlainBatch(subject.data, [pairs[n] for n in order[i : i + BATCH]], device)
            loss = plain_loss(model, batch, forward, training.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
            optimizer.step()
            loss.item()
        return len(pairs)

    return run


@torch.no_grad()
def _check_same_loss(
    model: Decoder, subject: Subject, pairs: Sequence[tuple[int, int]], forward: Forward, device: str
) -> None:
    """Raise AssertionError unless plain PyTorch and captionlab compute the same loss."""
    data = subject.data
    photos = sorted({photo for photo, _ in pairs})
    pairs = [(photo, number) for photo in photos for number in range(len(data.captions[photo]))]
    model.eval()
    theirs = plain_loss(model, PlainBatch(data, pairs, device), forward, 0.0).item()
    own = replace(data, rows=data.rows[photos], captions=CaptionTokens(data.captions[photo] for photo in photos))
    measured = measure(model, own, len(photos), device).loss
    assert abs(theirs - measured) < 1e-4, f"{subject.name}: plain PyTorch's loss is {theirs}, captionlab's {measured}"


# --- Keras


@contextmanager
def keras(subject: Subject) -> Iterator[Workload]:
    """Report B's loop in a separate process, built and warmed up; each call trains one epoch."""
    lengths = [len(tokens) for own in subject.data.captions for tokens in own]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(
            f"{folder}/data.npz",
            features=subject.data.store.pooled, lengths=lengths, captions=CAPTIONS, words=WORDS[subject.preset],
            tokens=[token for own in subject.data.captions for tokens in own for token in tokens],
        )  # fmt: skip
        command = [str(KERAS / "bin/python"), str(ROOT / "bench/report_b.py"), f"{folder}/data.npz"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            pipe_in, pipe_out = process.stdin, process.stdout
            assert pipe_in is not None
            assert pipe_out is not None
            parameters = int(pipe_out.readline() or 0)
            expected = count_parameters(subject.fresh())
            assert parameters == expected, f"Keras counts {parameters:,} parameters, captionlab {expected:,}"

            def run() -> float:
                pipe_in.write("epoch\n")
                pipe_in.flush()
                assert float(pipe_out.readline()) > 0, "Keras reported no loss"
                return subject.captions

            yield run
            pipe_in.close()


# --- operations


def operations(subject: Subject) -> float:
    """Floating-point operations of one epoch by formula: matrix products without padding, forward and backward.

    A product of (m, k) and (k, n) takes 2mkn operations, and so does the gradient of each factor. The encoder's
    features need no gradient.
    """
    config: Any = subject.config
    lengths = [len(tokens) - 1 for own in subject.data.captions for tokens in own]  # target words, including END
    P, B, N = len(subject.data.captions), len(lengths), sum(lengths)
    D, V = CHANNELS[subject.preset], WORDS[subject.preset]
    E, H = config.embedding, config.hidden

    def lstm(steps: int, size: int) -> int:
        return steps * 4 * H * (size + H)

    deeper = sum(lstm(N + B, H) for _ in range(config.layers - 1))
    kind = getattr(config, "kind", "")
    if kind == "regions":
        R, A, M = REGIONS, config.attention, config.memory
        first = P * R * D * M
        rest = P * (R * M * A + M * 2 * H) + N * (H * A + R * A + R * M + H * M + 4 * H * (E + M + H) + H * V)
    elif kind == "bilstm":
        back = sum(length * (length + 1) // 2 for length in lengths)  # one backward pass for each prefix
        first = P * D * E
        rest = lstm(N, E) + N * (H * E + 4 * H * E) + P * config.repeats * lstm(1, E) + lstm(N, E)
        rest += (back + N * config.repeats) * 4 * H * H + N * 2 * H * V
    elif kind in ("merge", "states"):
        first = P * D * E
        rest = lstm(N + B, E) + deeper + N * (H * config.dense + config.dense * V)
        if kind == "states":
            scored = sum(length * (length + 3) // 2 for length in lengths)  # pairs of a word and an earlier state
            rest += (N + B + N) * H * config.attention + scored * (config.attention + H)
    else:
        first = P * D * E
        rest = lstm(N + B, E) + deeper + N * H * V
    return 2.0 * (2 * first + 3 * rest)


def main() -> None:
    """Measure the training speed of every system and of the implementations compared with."""
    parser = options(__doc__)
    parser.add_argument("--photos", type=int, default=320, help="number of photos, with five captions each")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    before, device = load(), choose_device(arguments.device)
    photos, size = (16, 256) if arguments.smoke else (arguments.photos, 2048)
    bf16 = uses_bf16("auto", device)
    dtype = torch.bfloat16 if bf16 else torch.float32
    systems = list(subjects(photos))
    with ExitStack() as stack:
        workloads: dict[str, Workload] = {LIMIT: matrix_product(device, dtype, size)}
        for subject in systems:
            workloads[subject.name] = ours(subject, device)
            if subject.name in PLAIN:
                workloads[subject.reference] = plain(subject, PLAIN[subject.name], device)
            elif subject.preset == "report_b" and (KERAS / ".installed").exists():
                workloads[subject.reference] = stack.enter_context(keras(subject))
        rates = interleave(workloads, arguments.rounds, warm_up=not arguments.smoke)
    rows = [row for subject in systems for row in _rows(subject, rates)]
    words = sum(len(tokens) - 1 for own in systems[0].data.captions for tokens in own)
    notes = [
        f"{systems[0].captions:,} captions of {photos} photos, {words / systems[0].captions:.1f} words "
        f"each, random with Flickr8k's lengths. A round of captionlab is {EPOCHS} epochs, each with validation and a "
        "saved state. Plain PyTorch: fp32, padded batches of 64 captions in any order, autograd; the same layers, "
        "and the same loss within 0.0001, which is checked.",
        f"The machine's matrix products reach {rates[LIMIT].times(1e-9).text(' GFLOP/s')} in "
        f"{'bf16' if bf16 else 'fp32'} (square matrices of size {size}); the last column is the share of that. "
        "Operations are counted by formula: matrix products only, forward and backward, without padding.",
        "Keras: report B's model and data generator, with partial captions, one-hot targets and batches of 64 "
        "captions; the same number of parameters, which is checked. Its captions are already tokenised; the report's "
        "generator tokenises them for every batch."
        if (KERAS / ".installed").exists()
        else "Keras was not measured: `make bench-keras` creates its environment.",
    ]
    columns = [
        "system",
        "implementation",
        "captions per second",
        "speed-up of captionlab",
        "target",
        "Mflop per caption",
        "share of the machine's speed",
    ]
    publish(section("training", "Training", columns, rows, notes, load=before, device=device), arguments)


def _rows(subject: Subject, rates: dict[str, Rates]) -> Iterator[list[str]]:
    each = operations(subject) / subject.captions
    for implementation, name in (("captionlab", subject.name), (subject.reference, subject.reference)):
        if name in rates:
            share = rates[name].times(100 * each).over(rates[LIMIT]).text(" %")
            ratio = "" if name == subject.name else rates[subject.name].over(rates[name]).text("x")
            target = "" if name == subject.name else f"{TARGETS[subject.name]:g}x"
            yield [subject.name, implementation, rates[name].text(), ratio, target, figure(each / 1e6), share]


if __name__ == "__main__":
    main()
