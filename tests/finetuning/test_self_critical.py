"""Self-critical training: reward, loss and gradient, and resumption after a kill."""

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from captionlab.config import TrainingParams
from captionlab.core.records import Decoding, Split
from captionlab.core.results import Epoch
from captionlab.core.tokens import END, PAD, START
from captionlab.finetuning.self_critical import SelfCritical
from captionlab.finetuning.validation import by_beam_search, references_of
from captionlab.inference.decoding import beam_search, sample
from captionlab.metrics.scorer import Scorer
from captionlab.models.base import Decoder
from captionlab.models.build import build_model
from captionlab.models.params import SystemParams
from captionlab.training.batches import Batch
from captionlab.training.loop import Finetuning, ResumeFile, Splits, Trained, train
from captionlab.training.step import autocast, teacher_forced_logits
from captionlab.training.validation import ValidationCider

if TYPE_CHECKING:
    from conftest import World

SYSTEMS = ("baseline", "modified", "attention")
DECODING = Decoding(beam=3, length_penalty=0.7, max_words=25)


class Setup:
    """A partly trained system and the data for its fine-tuning."""

    def __init__(self, world: "World", tiny: Callable[..., SystemParams], resume: Path, system: str) -> None:
        self.resume, grid = resume, system == "attention"
        self.train_set, self.val_set = world.split("train", grid), world.split("val", grid)
        self.vocab = world.vocab
        self.captions = world.captions
        self._config, self._system = tiny(system, dropout=0.2), system

    def model(self) -> Decoder:
        torch.manual_seed(3)
        model = build_model(self._config, vocab=len(self.vocab), pooled=10, channels=7)
        model.standardise.fit(self.train_set.feature_blocks())
        return model

    def references(self, split: Split) -> dict[str, list[tuple[str, ...]]]:
        return references_of(self.captions, split)

    def validation(self) -> ValidationCider:
        return ValidationCider(self.vocab, self.val_set, self.references("val"), by_beam_search(DECODING))

    def selfcritical(self, samples: int = 3, cross_entropy: float = 0.0) -> SelfCritical:
        return SelfCritical(
            self.vocab, self.train_set, self.references("train"), samples=samples, max_words=DECODING.max_words,
            cross_entropy=cross_entropy,
        )  # fmt: skip

    def batch(self) -> Batch:
        (batch,) = self.train_set.batches(100)
        return batch

    def finetune(
        self, model: Decoder, settings: TrainingParams, on_epoch: Callable[[Epoch], None] | None = None,
        cross_entropy: float = 0.3,
    ) -> Trained:  # fmt: skip
        return train(
            model, Splits(self.train_set, self.val_set, self.validation()), settings,
            resume_file=ResumeFile(self.resume, "key"), on_epoch=on_epoch or (lambda _: None),
            finetuning=Finetuning(self.selfcritical(3, cross_entropy).loss),
        )  # fmt: skip


@pytest.fixture(params=SYSTEMS)
def setup(request: Any, world: "World", tiny: Callable[..., SystemParams], tmp_path: Path) -> Setup:
    return Setup(world, tiny, tmp_path / "resume.pt", request.param)


@pytest.fixture
def attention(world: "World", tiny: Callable[..., SystemParams], tmp_path: Path) -> Setup:
    return Setup(world, tiny, tmp_path / "resume.pt", "attention")


def test_the_reward_is_cider_with_end_as_a_word(attention: Setup) -> None:
    images = attention.train_set.images
    own = attention.references("train")
    said = [["the dog runs over the white grass"], ["a black cat runs"], ["white"], [""], ["dog"], ["a cat"]]
    tokens = [attention.vocab.encode(text.split()) for (text,) in said]
    unended = attention.vocab.encode(["a", "dog"])[:-1]
    tokens_BT = torch.full((len(said) * 2, 12), PAD)
    for row, sequence in enumerate(tokens):
        tokens_BT[2 * row, : len(sequence)] = torch.tensor(sequence)
        tokens_BT[2 * row + 1, : len(unended)] = torch.tensor(unended)
    rewards_PS = attention.selfcritical(samples=2).rewards(tokens_BT, range(len(images)))
    scorer = Scorer({image: [" ".join((*words, "finis")) for words in own[image]] for image in images})
    for column, texts in ((0, [f"{text} finis" for (text,) in said]), (1, ["a dog"] * len(said))):
        expected = scorer.score(dict(zip(images, texts, strict=True))).cider
        assert expected is not None
        assert rewards_PS[:, column].mean().item() == pytest.approx(expected, rel=1e-6)
    assert rewards_PS[0, 0] > rewards_PS[0, 1] >= 0


def test_validation_uses_the_score_of_the_evaluation(attention: Setup) -> None:
    model, validation = attention.model(), attention.validation()
    with torch.no_grad():
        model.out.bias[END] += 1.0  # type: ignore[operator, union-attr, index]  # an untrained system never ends
    said: dict[str, str] = {}

    model.eval()
    features = attention.val_set.features(range(len(attention.val_set.images)))
    ranked = beam_search(model, features, **dataclasses.asdict(DECODING))
    for image, photo in zip(attention.val_set.images, ranked, strict=True):
        said[image] = attention.vocab.decode(photo[0].tokens)
    references = {image: [" ".join(words) for words in own] for image, own in attention.references("val").items()}
    assert validation.cider(model, "cpu") == pytest.approx(Scorer(references).score(said).cider)


def test_words_are_sampled_from_the_systems_probabilities(setup: Setup) -> None:
    model = setup.model().eval()
    features = setup.train_set.features([2])
    torch.manual_seed(0)
    tokens_BT = sample(model, features, count=4000, max_words=1)
    assert tokens_BT.shape == (4000, 2)
    assert (tokens_BT[:, 0] == START).all()
    log_probs_1V, _ = model.step(torch.tensor([START]), model.start(features))
    log_probs_1V[:, (PAD, START, END, 3)] = -torch.inf
    shares = log_probs_1V.softmax(1)[0]
    sampled = torch.bincount(tokens_BT[:, 1], minlength=len(shares)) / 4000
    torch.testing.assert_close(sampled, shares, atol=0.03, rtol=0)  # about four standard errors


def test_sampled_captions_are_not_empty_and_end_once(setup: Setup) -> None:
    torch.manual_seed(0)
    tokens_BT = sample(setup.model().eval(), setup.train_set.features(range(6)), count=5, max_words=12)
    assert len(tokens_BT) == 30
    for row in tokens_BT[:, 1:].tolist():
        words = row[: row.index(END)] if END in row else row
        assert words
        assert not {PAD, START, END, 3} & set(words)
        assert set(row[len(words) + 1 :]) <= {PAD}
    assert any(END in row for row in tokens_BT.tolist())


def log_prob(model: Decoder, setup: Setup, position: int, tokens: list[int]) -> Tensor:
    """The log probability of one caption by single steps, over the words that may be generated."""
    state = model.start(setup.train_set.features([position]))
    total = torch.zeros(())
    for token, following in pairwise(tokens):
        log_probs_1V, state = model.step(torch.tensor([token]), state)
        impossible = [PAD, START, 3, END] if token == START else [PAD, START, 3]
        allowed = log_probs_1V.index_fill(1, torch.tensor(impossible), -torch.inf).log_softmax(1)
        total = total + allowed[0, following]
    return total


def test_the_loss_is_reinforce_with_the_other_samples_as_baseline(setup: Setup) -> None:
    model, critic, batch = setup.model(), setup.selfcritical(samples=3), setup.batch()
    model.dropout.p = 0.0  # type: ignore[union-attr]
    torch.manual_seed(5)
    loss, mean = critic.loss(model, batch, torch.empty(0), torch.zeros(()))
    torch.manual_seed(5)
    tokens_BT = sample(model.eval(), batch.features, count=3, max_words=25)
    rewards = critic.rewards(tokens_BT, batch.positions)
    assert mean == pytest.approx(rewards.mean().item())
    assert rewards.unique().numel() > 1
    total, words = torch.zeros(()), 0
    for row, tokens in enumerate(tokens_BT.tolist()):
        tokens = [token for token in tokens if token != PAD]
        own, others = rewards[row // 3, row % 3], rewards[row // 3].sum() - rewards[row // 3, row % 3]
        total = total - (own - others / 2) * log_prob(model, setup, row // 3, tokens)
        words += len(tokens) - 1
    torch.testing.assert_close(loss, total / words, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="this CPU does not support bf16, which training refuses then",
)
def test_it_learns_in_bf16_too(setup: Setup) -> None:
    model = setup.model().train()
    (batch,) = setup.train_set.batches(100)
    with autocast(True):
        _, logits_NV, target_N = teacher_forced_logits(model, batch)
        cross_entropy = torch.nn.functional.cross_entropy(logits_NV.float(), target_N)
        loss, _ = setup.selfcritical(cross_entropy=0.2).loss(model, batch, logits_NV, cross_entropy)
    loss.backward()
    assert loss.isfinite()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_the_rewarded_caption_becomes_more_probable(setup: Setup) -> None:
    model, critic = setup.model(), setup.selfcritical(samples=2)
    model.dropout.p = 0.0  # type: ignore[union-attr]
    batch = next(setup.train_set.batches(1))
    for seed in range(50):  # until two captions with different rewards are sampled
        torch.manual_seed(seed)
        tokens_BT = sample(model.eval(), batch.features, count=2, max_words=25)
        rewards = critic.rewards(tokens_BT, batch.positions)[0]
        if rewards[0] != rewards[1]:
            break
    good, bad = (
        [token for token in tokens_BT[int(row)].tolist() if token != PAD]
        for row in (rewards.argmax(), rewards.argmin())
    )
    before = log_prob(model, setup, 0, good) - log_prob(model, setup, 0, bad)
    torch.manual_seed(seed)
    critic.loss(model, batch, torch.empty(0), torch.zeros(()))[0].backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-3 * parameter.grad)
    model.eval()
    after = log_prob(model, setup, 0, good) - log_prob(model, setup, 0, bad)
    assert after > before


def test_the_reward_rises_without_cross_entropy(setup: Setup, settings: Callable[..., TrainingParams]) -> None:
    trained = setup.finetune(setup.model(), settings(epochs=60, patience=60, learning_rate=0.02), cross_entropy=0.0)
    rewards = [epoch.train_reward or 0.0 for epoch in trained.history]
    assert sum(rewards[-5:]) > 1.5 * sum(rewards[:5])


def test_the_epoch_with_the_best_cider_is_kept(setup: Setup, settings: Callable[..., TrainingParams]) -> None:
    model = setup.model()
    trained = setup.finetune(model, settings(epochs=12, patience=4, learning_rate=0.02, ema_decay=0.5))
    ciders = [epoch.val_cider or 0.0 for epoch in trained.history]
    assert ciders.index(max(ciders)) == trained.best_epoch - 1
    assert setup.validation().cider(model, "cpu") == pytest.approx(max(ciders))


def test_a_killed_finetuning_resumes_to_the_same_bits(setup: Setup, settings: Callable[..., TrainingParams]) -> None:
    how = settings(epochs=3, ema_decay=0.9)
    unbroken = setup.model()
    expected = setup.finetune(unbroken, how)
    setup.resume.unlink()

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setup.finetune(setup.model(), how, stop)
    torch.manual_seed(99)
    resumed = setup.model()
    assert setup.finetune(resumed, how) == expected
    ours, theirs = resumed.state_dict(), unbroken.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
