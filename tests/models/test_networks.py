"""The decoders: forward equals stepwise decoding, and each equals its literal definition."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captionlab.core.tokens import END, PAD, START
from captionlab.errors import CaptionlabError
from captionlab.inference.decoding import beam_search
from captionlab.models.attention.recurrence import AttentionRecurrence
from captionlab.models.attention.regions import Attention
from captionlab.models.attention.states import States
from captionlab.models.base import Decoder, Features, Standardise, count_parameters, embedded, megabytes, of_captions
from captionlab.models.baseline import Baseline
from captionlab.models.build import build_model
from captionlab.models.modified.bilstm import Modified
from captionlab.models.modified.merge import Merge
from captionlab.models.params import MergeParams, ModifiedParams, StatesParams, SystemParams

Tiny = Callable[..., SystemParams]
VOCAB, POOLED, CHANNELS, REGIONS = 11, 10, 7, 4
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("baseline", {}),
    ("baseline", {"layers": 2, "embedding": 6}),
    ("baseline", {"image": "init-inject", "layers": 2, "embedding": 6}),
    ("baseline", {"image": "par-inject", "layers": 2, "embedding": 6}),
    ("baseline", {"image": "merge", "layers": 2, "embedding": 6}),
    ("modified", {}),
    ("modified", {"layers": 2, "embedding": 6}),
    ("modified", {"repeats": 1}),
    ("modified", {"kind": "merge"}),
    ("modified", {"kind": "merge", "layers": 2}),
    ("attention", {"embedding": 6}),
    ("attention", {"memory": 0}),
    ("attention", {"tied": True}),
    ("attention", {"kind": "states"}),
    ("attention", {"kind": "states", "layers": 2}),
]
PHOTO_B = torch.tensor([0, 0, 1, 2, 2])
TOKENS_BT = torch.tensor([
    [START, 4, 5, 6, END],
    [START, 9, END, PAD, PAD],
    [START, 7, 7, END, PAD],
    [START, 4, 8, 10, 5],
    [START, END, PAD, PAD, PAD],
])  # fmt: skip


def features(photos: int = 3) -> Features:
    torch.manual_seed(5)
    return Features(torch.randn(photos, POOLED) * 3 + 1, torch.randn(photos, REGIONS, CHANNELS).half())


def system(config: SystemParams, train: bool = False) -> Any:
    """A system with random parameters, including biases, so that zeros hide no error."""
    torch.manual_seed(3)
    model = build_model(config, vocab=VOCAB, pooled=POOLED, channels=CHANNELS)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.6)
        model.standardise.mean.normal_()
        model.standardise.scale.uniform_(0.5, 2)
    return model.train(train)


def row(all_features: Features, photo: int) -> Features:
    assert all_features.grid_PRC is not None
    return Features(all_features.pooled_PD[photo : photo + 1], all_features.grid_PRC[photo : photo + 1])


def stepped(model: Decoder, own: Features, tokens_BT: Tensor) -> Tensor:
    """log_probs_BTV by stepwise decoding, with the captions divided evenly among the photos."""
    state = model.start(own)
    state = state.repeat(len(tokens_BT) // len(own.pooled_PD))
    steps = []
    for tokens_B in tokens_BT.T:
        log_probs_BV, state = model.step(tokens_B, state)
        steps.append(log_probs_BV)
    return torch.stack(steps, 1)


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_forward_equals_step_on_ragged_captions(tiny: Tiny, name: str, changes: dict[str, Any]) -> None:
    model = system(tiny(name, **changes))
    logits_BTV = model(features(), TOKENS_BT, PHOTO_B)
    assert logits_BTV.shape == (*TOKENS_BT.shape, VOCAB)
    for b, photo in enumerate(PHOTO_B.tolist()):
        real = int((TOKENS_BT[b] != PAD).sum())
        alone_TV = stepped(model, row(features(), photo), TOKENS_BT[b : b + 1, :real])[0]
        torch.testing.assert_close(logits_BTV[b, :real].log_softmax(-1), alone_TV, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_forward_equals_step_with_several_hypotheses(tiny: Tiny, name: str, changes: dict[str, Any]) -> None:
    model = system(tiny(name, **changes))
    first_BT = torch.randint(4, VOCAB, (6, 3), generator=torch.Generator().manual_seed(0))
    first_BT[:, 0] = START
    photo_B = torch.arange(3).repeat_interleave(2)
    state = model.start(features()).repeat(2)
    for tokens_B in first_BT.T:
        _, state = model.step(tokens_B, state)
    index_B = torch.tensor([1, 0, 2, 2, 5, 4])  # within each photo: swapped, one twice, swapped
    last_B = torch.tensor([4, 5, 6, 7, 8, 9])
    log_probs_BV, _ = model.step(last_B, state.reorder(index_B))
    whole_BT = torch.cat([first_BT[index_B], last_B.unsqueeze(1)], 1)
    expected_BV = model(features(), whole_BT, photo_B)[:, -1].log_softmax(-1)
    torch.testing.assert_close(log_probs_BV, expected_BV, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(expected_BV[2], expected_BV[4], atol=1e-3)  # another photo, other words


@pytest.mark.parametrize(("name", "changes"), [*VARIANTS, ("attention", {"teacher_forcing": False})])
def test_padding_does_not_change_outputs(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    """The code path of a GPU, on a CPU: outputs of real words and all gradients equal those without padding."""
    weight_NV = torch.randn(int((TOKENS_BT != PAD).sum()), VOCAB, generator=torch.Generator().manual_seed(2))
    found = []
    for rows, columns in ((0, 0), (2, 3)):  # of padding; two captions are only padding
        monkeypatch.setattr(Decoder, "uses_fixed_shapes", lambda self, tokens_BT, fixed=rows > 0: fixed)
        tokens_BT, photo_B = nn.functional.pad(TOKENS_BT, (0, columns, 0, rows)), nn.functional.pad(PHOTO_B, (0, rows))
        model, real_BT = system(tiny(name, **changes), train=True), tokens_BT != PAD
        outputs = model.outputs(features(), tokens_BT, photo_B)
        logits_NV = model.words(outputs.hidden_BTH[real_BT])
        loss = (logits_NV.log_softmax(-1) * weight_NV).sum()
        if outputs.attention_BTR is not None:
            assert not outputs.attention_BTR[~real_BT].any()
            loss = loss + outputs.attention_BTR.square().sum()
        loss.backward()
        grads = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
        found.append({"logits": logits_NV.detach()} | grads)
    assert found[0].keys() == found[1].keys()
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, atol=1e-5, rtol=1e-5, msg=key)


@pytest.mark.parametrize("count", [1, 4])
def test_captions_use_the_features_of_their_photo(count: int) -> None:
    """The operation for GPUs gives the same values and gradients."""
    rows_PX = torch.randn(3, *[2, 5][:count], requires_grad=True)
    rows = of_captions(rows_PX, PHOTO_B)
    assert torch.equal(rows, rows_PX[PHOTO_B])
    on_gpu = embedded(rows_PX, PHOTO_B)
    assert torch.equal(on_gpu, rows)
    weight = torch.randn_like(rows)
    ours, theirs = (torch.autograd.grad((each * weight).sum(), rows_PX)[0] for each in (rows, on_gpu))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_each_photo_has_one_caption_by_default(tiny: Tiny, name: str, changes: dict[str, Any]) -> None:
    model = system(tiny(name, **changes))
    tokens_BT = TOKENS_BT[:3]
    torch.testing.assert_close(model(features(), tokens_BT), model(features(), tokens_BT, torch.arange(3)))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # raised by mkldnn.flags
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "changes"), [*VARIANTS, ("attention", {"teacher_forcing": False})])
def test_every_trained_weight_gets_a_gradient(tiny: Tiny, name: str, changes: dict[str, Any], precision: str) -> None:
    model = system(tiny(name, **changes), train=True)
    bf16 = precision == "bf16"
    # Without oneDNN, whose LSTM needs a CPU with bf16 units.
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.backends.mkldnn.flags(enabled=not bf16):
        loss = model(features(), TOKENS_BT, PHOTO_B)[TOKENS_BT != PAD].float().log_softmax(-1).square().sum()
    loss.backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            if key == "energy.bias":  # adds a constant to all states, which the softmax ignores
                continue
            assert parameter.grad.abs().sum() > 0, key
        else:
            assert "bias_hh" in key
            assert not parameter.any()


@pytest.mark.parametrize(("name", "changes"), [*VARIANTS, ("attention", {"teacher_forcing": False})])
def test_gradients_with_two_threads_are_deterministic(tiny: Tiny, name: str, changes: dict[str, Any]) -> None:
    """At sizes at which torch divides a sum among threads, with the captions of a photo not adjacent."""
    sizes = ("embedding", "hidden", "dense", "attention", "memory")
    wide = {key: 128 for key in sizes if getattr(tiny(name, **changes), key, 0)}
    torch.manual_seed(3)
    model = build_model(tiny(name, **(changes | wide)), vocab=50, pooled=POOLED, channels=CHANNELS).train()
    tokens_BT = torch.randint(4, 50, (300, 6))
    photo_B = torch.arange(60).repeat(5)
    seen = Features(torch.randn(60, POOLED), torch.randn(60, 49, CHANNELS).half())
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients() -> Sequence[Tensor]:
        torch.manual_seed(3)  # same dropout in both
        loss = model(seen, tokens_BT, photo_B).square().mean()
        return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)

    torch.set_num_threads(2)
    try:
        first, *others = (gradients() for _ in range(5))
    finally:
        torch.set_num_threads(1)
    for other in others:
        assert all(map(torch.equal, first, other))


def test_the_lstm_has_one_bias_vector_and_a_forget_bias(tiny: Tiny) -> None:
    model = build_model(tiny("baseline", layers=2), vocab=VOCAB, pooled=POOLED, channels=0)
    assert isinstance(model, Baseline)
    for layer in ("l0", "l1"):
        bias = getattr(model.lstm, f"bias_ih_{layer}")
        assert bias[8:16].tolist() == [3.0] * 8
        assert not bias[:8].any()
        assert not bias[16:].any()
    other: Any = build_model(tiny("baseline", forget_bias=0.5), vocab=VOCAB, pooled=POOLED, channels=0)
    assert other.lstm.bias_ih_l0[8:16].tolist() == [0.5] * 8


def literal_modified(model: Modified, own: Features, tokens_T: Tensor) -> Tensor:
    """Report A's System 1 Modified as in its figure: a BiLSTM over [image x repeats, LSTM of words] of a prefix."""
    hidden = model.back.hidden_size
    both = nn.LSTM(model.project.out_features, hidden, batch_first=True, bidirectional=True)
    both.load_state_dict({
        **model.ahead.state_dict(),
        **{f"{key}_l0_reverse": value for key, value in model.back.state_dict().items()},
    })  # fmt: skip
    image_1E = model.image(model.standardise(own.pooled_PD)).relu()
    words_1TE = model.project(model.caption(model.embedding(tokens_T.unsqueeze(0)))[0])
    joined_1TE = torch.cat([image_1E.unsqueeze(1).repeat(1, model.repeats, 1), words_1TE], 1)
    _, (last_21H, _) = both(joined_1TE)
    return model.out(torch.cat([last_21H[0], last_21H[1]], -1))[0]


@pytest.mark.parametrize("changes", [{}, {"layers": 2, "repeats": 5, "embedding": 6}])
def test_modified_equals_a_bilstm_over_each_prefix(tiny: Tiny, changes: dict[str, Any]) -> None:
    model = system(tiny("modified", **changes))
    logits_BTV = model(features(), TOKENS_BT, PHOTO_B)
    for b, t in (TOKENS_BT != PAD).nonzero().tolist():
        expected_V = literal_modified(model, row(features(), int(PHOTO_B[b])), TOKENS_BT[b, : t + 1])
        torch.testing.assert_close(logits_BTV[b, t], expected_V, atol=2e-5, rtol=1e-4)


def test_modified_has_the_parameter_count_of_keras() -> None:
    config = ModifiedParams(encoder="resnet50", embedding=300, hidden=256, layers=1, dropout=0.0, repeats=40)
    model = Modified(config, vocab=8256, pooled=2048)
    parts: list[list[nn.Module]] = [
        [model.image], [model.embedding], [model.caption], [model.project], [model.ahead, model.back], [model.out]
    ]  # fmt: skip
    counts = [sum(map(count_parameters, part)) for part in parts]
    assert counts == [614_700, 2_476_800, 570_368, 77_100, 1_140_736, 4_235_328]
    assert count_parameters(model) == 9_115_032
    biases = 3 * 4 * 256  # PyTorch's second biases, stored as zeros
    assert megabytes(model) == pytest.approx((9_115_032 + biases + 2 * 2048) * 4 / 1e6)


@pytest.mark.parametrize("layers", [1, 2])
def test_init_inject_starts_with_the_image_and_a_zero_cell(tiny: Tiny, layers: int) -> None:
    model: Baseline = system(tiny("baseline", image="init-inject", layers=layers))
    image_PH = model.image(model.standardise(features().pooled_PD)).relu()
    start = (image_PH.expand(layers, -1, -1), torch.zeros(layers, 3, 8))
    hidden_BTH, _ = model.lstm(model.embedding(TOKENS_BT[[0, 3, 3]]), start)
    torch.testing.assert_close(model(features(), TOKENS_BT[[0, 3, 3]]), model.out(hidden_BTH), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("image", ["par-inject", "merge"])
def test_par_inject_and_merge_concatenate_the_image(tiny: Tiny, image: str) -> None:
    model: Baseline = system(tiny("baseline", image=image, embedding=6))
    tokens_BT = TOKENS_BT[[0, 3, 3]]
    image_BTE = model.image(model.standardise(features().pooled_PD)).relu().unsqueeze(1).expand(-1, 5, -1)
    words_BTE = model.embedding(tokens_BT)
    if image == "par-inject":
        expected_BTV = model.out(model.lstm(torch.cat([words_BTE, image_BTE], -1))[0])
    else:
        expected_BTV = model.out(torch.cat([model.lstm(words_BTE)[0], image_BTE], -1))
    torch.testing.assert_close(model(features(), tokens_BT), expected_BTV, atol=1e-5, rtol=1e-4)


def literal_report_b(model: Merge, own: Features, tokens_T: Tensor) -> Tensor:
    """Report B's two models as their code builds them, for one prefix: the next word's logits."""
    image_E = model.image(model.standardise(own.pooled_PD))[0].relu()
    merged_1SE = torch.cat([image_E.unsqueeze(0), model.embedding(tokens_T)]).unsqueeze(0)
    lstm_output_1SH, (state_h_L1H, _) = model.lstm(merged_1SE)
    context_H = state_h_L1H[-1, 0]
    if isinstance(model, States):
        score_SA = (model.key(lstm_output_1SH[0]) + model.query(context_H).unsqueeze(0)).tanh()
        attention_weights_S1 = model.energy(score_SA).softmax(0)
        context_H = (attention_weights_S1 * lstm_output_1SH[0]).sum(0)
    return model.out(model.dense(context_H + image_E).relu())


@pytest.mark.parametrize(("name", "kind"), [("modified", "merge"), ("attention", "states")])
@pytest.mark.parametrize("layers", [1, 2])
def test_report_b_equals_its_network_on_each_prefix(tiny: Tiny, name: str, kind: str, layers: int) -> None:
    model = system(tiny(name, kind=kind, layers=layers))
    logits_BTV = model(features(), TOKENS_BT, PHOTO_B)
    for b, t in (TOKENS_BT != PAD).nonzero().tolist():
        expected_V = literal_report_b(model, row(features(), int(PHOTO_B[b])), TOKENS_BT[b, : t + 1])
        torch.testing.assert_close(logits_BTV[b, t], expected_V, atol=2e-5, rtol=1e-4)


def test_report_b_has_the_gradients_of_its_prefixes(tiny: Tiny) -> None:
    """Also through the pairs of words and states."""
    fast, slow = (system(tiny("attention", kind="states"), train=True) for _ in range(2))
    real_BT = TOKENS_BT != PAD
    weight_BTV = torch.randn(*TOKENS_BT.shape, VOCAB, generator=torch.Generator().manual_seed(2))
    (fast(features(), TOKENS_BT, PHOTO_B).log_softmax(-1) * weight_BTV)[real_BT].sum().backward()
    for b, t in real_BT.nonzero().tolist():
        logits_V = literal_report_b(slow, row(features(), int(PHOTO_B[b])), TOKENS_BT[b, : t + 1])
        (logits_V.log_softmax(-1) * weight_BTV[b, t]).sum().backward()
    for (key, ours), theirs in zip(fast.named_parameters(), slow.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-4, rtol=1e-3, msg=key)


def test_report_b_has_the_parameter_count_of_keras() -> None:
    """The report's layers and sizes: image, embedding, LSTM, dense, words; W1, W2 and V of the attention."""
    v, d, e, h, n, a = 7_368, 2_048, 256, 256, 128, 256
    counts = [d * e + e, v * e, 4 * h * (e + h + 1), h * n + n, n * v + v]
    sizes: dict[str, Any] = {
        "encoder": "resnet50", "embedding": e, "hidden": h, "layers": 1, "dropout": 0.5, "dense": n
    }  # fmt: skip
    merge = Merge(MergeParams(**sizes), vocab=v, pooled=d)
    parts = (merge.image, merge.embedding, merge.lstm, merge.dense, merge.out)
    assert [count_parameters(part) for part in parts] == counts
    assert count_parameters(merge) == sum(counts) == 3_919_432
    attention = [h * a + a, h * a + a, a + 1]
    states = States(StatesParams(**sizes, attention=a), vocab=v, pooled=d)
    assert [count_parameters(part) for part in (states.key, states.query, states.energy)] == attention
    assert count_parameters(states) == sum(counts) + sum(attention) == 4_051_273


def test_attention_recurrence_has_the_right_gradient() -> None:
    torch.manual_seed(1)
    b, r, m, a, h = 3, 4, 3, 5, 2
    alive = [3, 2, 2, 1]
    shapes = [
        (sum(alive), 4 * h), (b, h), (b, h), (b, r, m), (b, r, a), (a, h), (a,), (a,), (m, h), (m,), (4 * h, m + h)
    ]  # fmt: skip
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *tensors: AttentionRecurrence.apply(*tensors, alive), inputs)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("changes", [{}, {"memory": 0}, {"tied": True}])
def test_attention_has_the_gradients_of_the_step_loop(tiny: Tiny, changes: dict[str, Any]) -> None:
    fast, slow = (system(tiny("attention", **changes), train=True) for _ in range(2))
    real_BT = TOKENS_BT != PAD
    weight_BTV = torch.randn(*TOKENS_BT.shape, VOCAB, generator=torch.Generator().manual_seed(2))
    (fast(features(), TOKENS_BT, PHOTO_B).log_softmax(-1) * weight_BTV)[real_BT].sum().backward()
    for b, photo in enumerate(PHOTO_B.tolist()):
        n = int(real_BT[b].sum())
        alone_1TV = stepped(slow, row(features(), photo), TOKENS_BT[b : b + 1, :n])
        (alone_1TV[0] * weight_BTV[b, :n]).sum().backward()
    for (key, ours), theirs in zip(fast.named_parameters(), slow.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-4, rtol=1e-3, msg=key)


@pytest.mark.parametrize(("teacher_forcing", "train"), [(True, True), (False, True), (False, False)])
def test_attention_weights_sum_to_one(tiny: Tiny, teacher_forcing: bool, train: bool) -> None:
    model = system(tiny("attention", teacher_forcing=teacher_forcing), train)
    attention_BTR = model.outputs(features(), TOKENS_BT, PHOTO_B).attention_BTR
    assert (attention_BTR >= 0).all()
    torch.testing.assert_close(attention_BTR.sum(-1), (TOKENS_BT != PAD).float())


def test_free_running_reads_its_own_words(tiny: Tiny) -> None:
    model: Attention = system(tiny("attention", teacher_forcing=False), train=True)
    other_BT = TOKENS_BT.where(TOKENS_BT < 4, 14 - TOKENS_BT.clamp(4))  # the same lengths, other words
    assert not torch.equal(other_BT, TOKENS_BT)
    logits_BTV = model(features(), TOKENS_BT, PHOTO_B)
    torch.testing.assert_close(model(features(), other_BT, PHOTO_B), logits_BTV)
    state, said_B = model.start(row(features(), 0)), torch.tensor([START])
    for t in range(5):
        log_probs_BV, state = model.step(said_B, state)
        torch.testing.assert_close(logits_BTV[0, t].log_softmax(-1), log_probs_BV[0], atol=2e-5, rtol=1e-4)
        said_B = log_probs_BV.argmax(-1)
    model.eval()  # scored under teacher forcing like every system
    assert not torch.allclose(model(features(), other_BT, PHOTO_B), model(features(), TOKENS_BT, PHOTO_B), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("attention", {"layers": 2}, "layers must be 1"),
        ("attention", {"tied": True, "embedding": 6}, r"with tied: true, embedding \(6\) must equal hidden \(8\)"),
        ("attention", {"kind": "states", "embedding": 6}, r"embedding \(6\) must equal hidden \(8\)"),
        ("modified", {"kind": "merge", "embedding": 6}, r"embedding \(6\) must equal hidden \(8\)"),
    ],
)
def test_incompatible_sizes_are_refused(tiny: Tiny, name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CaptionlabError, match=words):
        tiny(name, **changes)


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_beam_scores_equal_the_log_probabilities_of_forward(tiny: Tiny, name: str, changes: dict[str, Any]) -> None:
    """Every caption's log probability equals that of a forward pass."""
    model = system(tiny(name, **changes)).eval()
    found = beam_search(model, features(), beam=3, length_penalty=0.0, max_words=4)
    assert [len(photo) for photo in found] == [3, 3, 3]
    for p, photo in enumerate(found):
        for hypothesis in photo:
            ended = len(hypothesis.tokens) < 4
            said = [*hypothesis.tokens, END] if ended else list(hypothesis.tokens)
            read_1T = torch.tensor([[START, *said[:-1]]])
            log_probs_TV = model(row(features(), p), read_1T).log_softmax(-1)[0]
            expected = log_probs_TV.gather(1, torch.tensor(said).unsqueeze(1)).sum().item()
            assert hypothesis.log_prob == pytest.approx(expected, abs=1e-4)


def test_standardise_gives_mean_0_and_deviation_1() -> None:
    grid_NRC = torch.randn(50, 4, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 0.1, 0.0]) + 7
    standardise = Standardise(3)
    standardise.fit(iter(grid_NRC.half().split(7)))
    values_XC = standardise(grid_NRC.half()).flatten(0, 1)
    torch.testing.assert_close(values_XC.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(values_XC.std(0, correction=0)[:2], torch.ones(2), atol=1e-3, rtol=0)
    assert values_XC.isfinite().all()  # a constant channel causes no division by zero
