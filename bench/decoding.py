"""Speed of beam search: batched, compared with one photo at a time as in both reports.

    python bench/decoding.py [--root .] [--photos 500] [--few 20] [--rounds 3] [--smoke]

Checks that both find the same captions. Reads the checkpoints, features and captions of a finished ``dvc repro``
under ``--root``.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from captionlab.config import load_params
from captionlab.core.records import FEATURES, MODELS
from captionlab.core.results.dataset import iter_cleaned
from captionlab.core.tokens import END, NEVER_GENERATED, START
from captionlab.data.store import open_store
from captionlab.inference.decoding import beam_search
from captionlab.models.base import Decoder, Features
from captionlab.training.batches import CaptionedFeatures, SplitCaptions
from captionlab.training.checkpoint import load_checkpoint
from common import ROOT, Workload, figure, interleave, load, options, publish, section

BEAM = 5
TARGET = 100  # speed-up
BATCH = 100  # photos, as in the stage evaluate
Captions = list[tuple[int, ...]]


@torch.inference_mode()
def one_photo(model: Decoder, features: Features, penalty: float, max_words: int) -> tuple[int, ...]:
    """Beam search as in both reports: hypotheses are extended one at a time, and every step reads all words again."""
    device = features.pooled_PD.device
    photo_B = torch.zeros(1, dtype=torch.long, device=device)
    going: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    done: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, max_words + 1):
        candidates = []
        for log_prob, tokens in going:
            read_1T = torch.tensor([[START, *tokens]], device=device)
            last_1H = model.outputs(features, read_1T, photo_B).hidden_BTH[:, -1]
            log_probs_V = model.words(last_1H)[0].log_softmax(-1)
            log_probs_V[[*NEVER_GENERATED, END] if length == 1 else list(NEVER_GENERATED)] = -torch.inf
            best, words = log_probs_V.topk(min(2 * BEAM, len(log_probs_V)))
            candidates += [(log_prob + p, (*tokens, w)) for p, w in zip(best.tolist(), words.tolist(), strict=True)]
        candidates = sorted(candidates, key=lambda each: -each[0])[: 2 * BEAM]
        ended = [(p / length**penalty, tokens[:-1]) for p, tokens in candidates[:BEAM] if tokens[-1] == END]
        done += ended[: BEAM - len(done)]
        if len(done) == BEAM:
            break
        going = [each for each in candidates if each[1][-1] != END][:BEAM]
    else:
        done += [(p / max_words**penalty, tokens) for p, tokens in going[: BEAM - len(done)]]
    return max(done, key=lambda each: each[0])[1]


def one_by_one(model: Decoder, data: CaptionedFeatures, photos: int, penalty: float, max_words: int) -> Captions:
    """The best captions of the first ``photos`` photos, decoded one at a time."""
    return [one_photo(model, data.features([photo]), penalty, max_words) for photo in range(photos)]


def batched(model: Decoder, data: CaptionedFeatures, photos: int, penalty: float, max_words: int) -> Captions:
    """The best captions of the first ``photos`` photos, decoded in batches as the stage evaluate does."""
    found: Captions = []
    for i in range(0, photos, BATCH):
        features = data.features(range(i, min(i + BATCH, photos)))
        ranked = beam_search(model, features, beam=BEAM, length_penalty=penalty, max_words=max_words)
        found += [own[0].tokens for own in ranked]
    return found


def trained(root: Path, system: str) -> tuple[str, Path]:
    """The first configuration of a system that has a checkpoint, and the checkpoint's path."""
    paths = {
        name: root / MODELS / system / name / "checkpoint.safetensors"
        for name in getattr(load_params(root / "params.yaml"), system)
    }
    found = [(name, path) for name, path in paths.items() if path.exists()]
    if not found:
        raise SystemExit(f"{root / MODELS / system} holds no checkpoint; run `make repro` first")
    return found[0]


def _counted(decode: Callable[[], Captions]) -> Workload:
    return lambda: len(decode())


def main() -> None:
    """Compare the captions of both implementations and measure their speed."""
    parser = options(__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="a project with a finished dvc repro")
    parser.add_argument("--photos", type=int, default=500, help="maximum number of test photos")
    parser.add_argument("--few", type=int, default=20, help="photos that are decoded one at a time")
    arguments = parser.parse_args()
    before, params = load(), load_params(arguments.root / "params.yaml")
    photos, few = (20, 2) if arguments.smoke else (arguments.photos, arguments.few)
    penalty, max_words = params.evaluate.length_penalty, params.evaluate.max_words
    workloads: dict[str, Workload] = {}
    chosen = {system: trained(arguments.root, system) for system in ("baseline", "attention")}
    for system, (config, path) in chosen.items():
        name = f"{system}.{config}"
        checkpoint = load_checkpoint(path)
        model, identity = checkpoint.model, checkpoint.identity
        store = open_store(arguments.root / FEATURES / identity.encoder)
        captions = SplitCaptions.of(iter_cleaned(arguments.root), "test", checkpoint.vocab)
        data = CaptionedFeatures.of(store, bool(identity.grid), captions)
        photos = min(photos, len(data.images))
        fast = partial(batched, model, data, penalty=penalty, max_words=max_words)
        slow = partial(one_by_one, model, data, few, penalty=penalty, max_words=max_words)
        assert fast(few) == slow(), f"{name}: the implementations find different captions"
        workloads[f"{name}, captionlab"] = _counted(partial(fast, photos))
        workloads[f"{name}, one photo at a time"] = _counted(slow)
    rates = interleave(workloads, arguments.rounds)
    rows = []
    for name in (f"{system}.{config}" for system, (config, _) in chosen.items()):
        fast_rates, slow_rates = rates[f"{name}, captionlab"], rates[f"{name}, one photo at a time"]
        rows.append([name, fast_rates.text(), slow_rates.text(), fast_rates.over(slow_rates).text("x"), f"{TARGET}x"])
    notes = [
        f"Beam {BEAM}, length penalty {figure(penalty)}, up to {max_words} words, test photos of the dataset "
        f"{params.dataset.name} from their features, on the CPU. Batched: {photos} photos, {min(BATCH, photos)} at "
        f"once. One at a time: {few} photos, each hypothesis alone, and all its words computed again for each new "
        "word, as in both reports. Both find the same captions, which is checked."
    ]
    columns = ["system", "batched, captions per second", "one at a time", "ratio", "target"]
    publish(section("decoding", "Decoding", columns, rows, notes, load=before), arguments)


if __name__ == "__main__":
    main()
