"""Speed of feature extraction, training and captioning on a GPU; writes reports/gpu.md.

    python bench/gpu.py [--source FOLDER] [--reports reports]

Photos and captions are generated. With ``--source``, a folder with Flickr8k's two zips, Flickr8k is measured too: its
photos are encoded, and every system is trained for two epochs. Needs the packages of EfficientNet-Lite0 and -Lite2,
nltk and ruamel.yaml, but neither DVC, MLflow, pydantic nor a network. Where these cannot be installed, put them into a
folder beside the checkout (``pip install --target``) and run with PYTHONPATH=src:FOLDER.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import unchecked

if missing := [name for name in ("nltk", "ruamel") if find_spec(name) is None]:
    sys.exit(
        f"missing: {', '.join(missing)}; pip install --target FOLDER nltk ruamel.yaml, and add FOLDER to PYTHONPATH"
    )
if not unchecked.pydantic_works():
    unchecked.stand_in()

from captionlab.core.devices import choose_device, gpu_arithmetic
from captionlab.core.files import write_text
from captionlab.core.records import Caption, Split
from captionlab.core.tokens import SPECIALS
from captionlab.data.photos import PREPROCESSINGS
from captionlab.data.store import FeatureStore, open_store
from captionlab.data.text import clean
from captionlab.data.vocab import Vocabulary
from captionlab.datasets.flickr8k import flickr8k
from captionlab.encoders.engines import TorchEngine
from captionlab.encoders.extraction import BLOCK, Photos, decode_in_processes, encode_photos, extract, finish, reader
from captionlab.encoders.load import Encoder, load_encoder
from captionlab.errors import first_line
from captionlab.inference.captioner import Captioner
from captionlab.inference.decoding import beam_search
from captionlab.models.base import Decoder, count_parameters
from captionlab.models.build import build_model
from captionlab.training import loop
from captionlab.training.batches import CaptionedFeatures, SplitCaptions
from captionlab.training.checkpoint import Checkpoint, save_checkpoint
from captionlab.training.header import Identity
from captionlab.training.loop import ResumeFile, Splits, train
from common import ROOT, Workload, aim, figure, interleave, machine, released_is_usable, table
from extraction import draw_photos
from training import ATTENTION, Subject, subjects

ENCODER, GRID = "efficientnet_lite2", 7
BEAM, LENGTH_PENALTY, MAX_WORDS = 5, 0.7, 20
DECODING, FORWARD = "photos decoded by worker processes", "forward pass, photos on the device"
ENCODED, STORED = "decoded and encoded", "decoded, encoded and stored"
NO_GRAPH = "no graph"
Rows = list[list[str]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured; ``SMOKE`` only checks that everything runs."""

    photos: int = 256  # distinct photos
    repeats: int = 16
    rounds: int = 3
    steps: int = 40
    batches: tuple[int, ...] = (16, 64)  # photos per step
    captions: int = 100
    on_cpu: int = 20


SMOKE = Sizes(photos=4, repeats=2, rounds=1, steps=1, batches=(4,), captions=2, on_cpu=1)


@dataclass(frozen=True)
class Bench:
    """The device, the sizes and a folder, which every part needs."""

    device: str
    sizes: Sizes
    folder: Path  # for files that are deleted afterwards


def synchronize(device: str) -> None:
    """Wait until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(device: str, work: Callable[[], Any]) -> float:
    """Run ``work`` on the device and return the seconds it takes."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


# Extraction


def extraction_part(bench: Bench) -> list[str]:
    """Photos per second: decoding alone, the network alone, and both together, limited by the slower one."""
    encoder, sizes, device = load_encoder(ENCODER, GRID), bench.sizes, bench.device
    photos = bench.folder / "photos"
    photos.mkdir()
    paths = draw_photos(photos, sizes.photos) * sizes.repeats
    images = [path.name for path in paths]

    def decode() -> float:
        return float(sum(len(chunk) for chunk in decode_in_processes(paths, reader(encoder), pinned=device == "cuda")))

    def encode() -> float:
        return float(sum(len(pooled) for pooled, _ in encode_photos(encoder, device, paths)))

    def store() -> float:
        extract(encoder, device, Photos(folder=photos, images=images, dataset="drawn"), bench.folder / "work")
        finish(bench.folder / "work", bench.folder / "features")
        return float(len(paths))

    # Created first: it moves the network to the device and runs it once, so that no timing includes that.
    forward = forward_pass(encoder, device, 4 if sizes is SMOKE else BLOCK, len(paths))
    rates = interleave({DECODING: decode, FORWARD: forward, ENCODED: encode, STORED: store}, sizes.rounds)
    slower = min((DECODING, FORWARD), key=lambda name: rates[name].median)
    ratio = rates[STORED].over(rates[slower]).median
    kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
    rows = [[name, rates[name].text(), rates[name].over(rates[slower]).text()] for name in rates]
    return [
        *table(["", "photos a second", f"over {slower}"], rows),
        "",
        f"{len(paths):,} random photos of {kilobytes:.0f} kB; {ENCODER}, {encoder.pixels} pixels, grid {GRID}x{GRID}, "
        f"half precision inside the network, {BLOCK} photos at a time. Starting the worker processes is included.",
        "",
        aim("0.8 of the slower of decoding and the forward pass, stored", 0.8, ratio, at_least=True),
    ]


def forward_pass(encoder: Encoder, device: str, batch: int, photos: int) -> Workload:
    """The engine alone, on photos in the device's memory; already warmed up."""
    engine = TorchEngine(encoder, device)
    pixels = torch.randint(0, 256, (batch, encoder.pixels, encoder.pixels, 3), dtype=torch.uint8).to(device)
    times = max(1, photos // batch)

    def run() -> float:
        for _ in range(times):
            engine.encode([pixels])
        synchronize(device)
        return float(times * batch)

    run()
    return run


# Training


def step_times(subject: Subject, device: str) -> tuple[float | None, float | None, float]:
    """Seconds of an epoch: a later one, the first one, and one without CUDA graphs.

    The first two are None where no graph could be recorded; a warning says why.
    """
    with gpu_arithmetic(device):
        run = loop._Run(subject.fresh().to(device), subject.training)
        gradients = loop._Gradients(run.model, subject.training, False, None)

        def one_pass() -> None:
            loop._train_epoch(run, subject.data, gradients)

        first = seconds(device, one_pass)
        usual = statistics.median(seconds(device, one_pass) for _ in range(3))
        if gradients.graphed is not None:
            if gradients.graphed.fails:
                return None, None, usual
            gradients.graphed._fails = True  # runs without graphs from here on
        return usual, first, seconds(device, one_pass)


def training_part(bench: Bench) -> list[str]:
    """Milliseconds per step of every system, with and without CUDA graphs, and of preparing its batch."""
    rows: Rows = []
    device, step = bench.device, math.inf
    for photos in bench.sizes.batches:
        for subject in subjects(photos * bench.sizes.steps):
            own = replace(subject, training=replace(subject.training, batch_size=photos, precision="fp32"))
            began = time.perf_counter()
            steps = sum(1 for _ in own.data.batches(photos, 1))
            preparing = time.perf_counter() - began
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            passes = step_times(own, device)
            peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0
            each = [NO_GRAPH if taken is None else figure(1e3 * taken / steps) for taken in (*passes, preparing)]
            rows.append([own.name, str(photos), *each, f"{peak:,.0f}"])
            if own.name == ATTENTION and photos == bench.sizes.batches[0] and passes[0] is not None:
                step = 1e3 * passes[0] / steps
            print(" | ".join(rows[-1]), flush=True)
    columns = [
        "system", "photos a step", "ms a step", "in the first pass", "without graphs", "preparing a batch, ms",
        "most memory, MiB",
    ]  # fmt: skip
    return [
        *table(columns, rows),
        "",
        f"{bench.sizes.steps} steps per pass over random captions with Flickr8k's lengths, five per photo; fp32 with "
        "products in TF32; batches are prepared by a thread meanwhile. The first pass records a CUDA graph for each "
        "shape of batch.",
        "",
        aim(f"15 ms a step of {ATTENTION} with 16 photos on an H100-class card", 15, step),
    ]


# Decoding


def decoding_part(bench: Bench) -> list[str]:
    """Captions per second of every system, compared with the CPU."""
    rows: Rows = []
    sizes = bench.sizes
    for subject in subjects(max(sizes.captions, 16)):
        training = replace(subject.training, batch_size=16, epochs=1, precision="fp32")
        model = subject.fresh().to(bench.device)
        resume_file = ResumeFile(bench.folder / f"{subject.name}.pt", "bench")
        train(model, Splits(subject.data, subject.few), training, resume_file=resume_file, on_epoch=lambda _: None)
        model.eval()
        found, rates = [], []
        for device, photos in ((bench.device, sizes.captions), ("cpu", sizes.on_cpu)):
            model.to(device)
            features = subject.data.features(range(photos)).to(device)

            def search(model: Decoder = model, features: Any = features) -> list[tuple[int, ...]]:
                ranked = beam_search(model, features, beam=BEAM, length_penalty=LENGTH_PENALTY, max_words=MAX_WORDS)
                return [own[0].tokens for own in ranked]

            found.append(search())  # also the warm-up
            rates.append(photos / seconds(device, search))
        same = sum(ours == theirs for ours, theirs in zip(found[0], found[1], strict=False))
        rows.append([subject.name, figure(rates[0]), figure(rates[1]), f"{same} of {sizes.on_cpu}"])
        print(" | ".join(rows[-1]), flush=True)
    return [
        *table(["system", "captions a second", "on this machine's CPU", "the same captions"], rows),
        "",
        f"Beam {BEAM}, up to {MAX_WORDS} words, {sizes.captions} photos at once ({sizes.on_cpu} on the CPU), after one "
        "epoch on drawn captions.",
    ]


def fresh_captioner(folder: Path) -> Path:
    """The checkpoint of an attention system with random weights, where the released one or its encoders are missing."""
    (own,) = (each for each in subjects(8) if each.name == "attention.lite2")
    encoder = load_encoder(ENCODER, GRID)
    model = own.fresh()
    words = len(model.words(torch.zeros(1, own.config.hidden))[0]) - len(SPECIALS)
    identity = Identity(
        system="attention", name="lite2", dataset="drawn", config=asdict(own.config), encoder=encoder.name,
        preprocessing=PREPROCESSINGS[encoder.interpolation], encoder_weights=encoder.weights_digest, grid=GRID,
        pooled=1280, channels=1280, cleaning="standard", training_key="",
    )  # fmt: skip
    vocab = Vocabulary.build([tuple(f"word{n}" for n in range(words))], cleaning="standard", min_count=1)
    path = folder / "fresh.safetensors"
    save_checkpoint(path, Checkpoint(model=model, vocab=vocab, identity=identity))
    return path


def captioning_part(bench: Bench) -> list[str]:
    """Seconds from photo files to captions with the released captioner, or one of the same kind with random weights."""
    photos = draw_photos(bench.folder, 2 * bench.sizes.captions)
    name, checkpoint = (
        ("The released captioner", None)
        if released_is_usable()
        else ("An attention system with random weights", fresh_captioner(bench.folder))
    )
    captioner = Captioner.load(checkpoint, bench.device)  # type: ignore[arg-type]
    captioner.caption(photos[:2])
    rounds = range(bench.sizes.rounds)
    taken = statistics.median(seconds(bench.device, lambda: captioner.caption(photos)) for _ in rounds)
    return [
        f"{name} captions {len(photos)} photo files in {figure(taken)} s, its encoder {captioner.identity.encoder} "
        "already loaded.",
        "",
        aim("3 s for 200", 3, taken),
    ]


# Flickr8k


def flickr8k_part(source: Path, bench: Bench) -> list[str]:
    """Flickr8k: the time to encode its photos, and of an epoch of every system with validation and a saved state."""
    images = bench.folder / "flickr8k"
    images.mkdir()
    found = flickr8k(source, images)
    names = sorted(path.name for path in images.iterdir())[: 60 if bench.sizes is SMOKE else None]
    encoder = load_encoder(ENCODER, GRID)
    photos = Photos(folder=images, images=names, dataset="flickr8k")
    taken = seconds(bench.device, lambda: extract(encoder, bench.device, photos, bench.folder / "flickr8k.work"))
    finish(bench.folder / "flickr8k.work", bench.folder / "flickr8k.features")
    captions = [caption for caption in _captions(found.captions, found.splits) if caption.image in set(names)]
    vocab = Vocabulary.build(
        [caption.words for caption in captions if caption.split == "train"], cleaning="standard", min_count=5
    )
    store = open_store(bench.folder / "flickr8k.features")
    chosen = [subject for subject in subjects(2) if subject.preset == "flickr8k"]
    rows = [_epoch_row(subject, store, captions, vocab, bench) for subject in chosen]
    return [
        f"{len(names):,} photos encoded by {ENCODER} (grid {GRID}x{GRID}) and stored in {taken:.1f} s: "
        f"{len(names) / taken:,.0f} a second, the start of the worker processes included.",
        "",
        *table(["system", "parameters", "seconds an epoch", "photos a step", "validation loss"], rows),
        "",
        "Sizes and batches of presets/flickr8k.yaml; the second of two epochs, with the validation and the state on "
        "disk. All systems read the features of this one encoder.",
    ]


def _captions(captions: Sequence[tuple[str, str]], splits: dict[Split, list[str]]) -> list[Caption]:
    split_of = {image: split for split, members in splits.items() for image in members}
    return [
        Caption(image=image, split=split_of[image], raw=raw, words=clean(raw, "standard"))
        for image, raw in captions
        if image in split_of
    ]


def _epoch_row(
    subject: Subject, store: FeatureStore, captions: Sequence[Caption], vocab: Vocabulary, bench: Bench
) -> list[str]:
    config = subject.config
    data, few = (
        CaptionedFeatures.of(store, config.uses_regions, SplitCaptions.of(captions, s, vocab)) for s in ("train", "val")
    )
    torch.manual_seed(0)
    assert store.grid is not None
    sizes = {"vocab": len(vocab), "pooled": store.pooled.shape[1], "channels": store.grid.shape[2]}
    model = build_model(config, **sizes)
    model.standardise.fit(data.feature_blocks())
    training = replace(subject.training, epochs=2, patience=2, precision="fp32")
    ends: list[float] = []

    def on_epoch(_: Any) -> None:
        synchronize(bench.device)
        ends.append(time.perf_counter())

    resume_file = ResumeFile(bench.folder / f"{subject.name}.flickr8k.pt", "bench")
    trained = train(model.to(bench.device), Splits(data, few), training, resume_file=resume_file, on_epoch=on_epoch)
    loss = f"{trained.history[-1].val_loss:.3f}"
    row = [subject.name, f"{count_parameters(model):,}", figure(ends[1] - ends[0]), str(training.batch_size), loss]
    print(" | ".join(row), flush=True)
    return row


def report(bench: Bench, source: Path | None) -> Iterator[tuple[list[str], bool]]:
    """The page after each part, and whether every part and CUDA graph succeeded. A failure loses no other part."""
    card = "the CPU" if bench.device == "cpu" else torch.cuda.get_device_name()
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    began = time.perf_counter()
    parts: dict[str, Callable[[Bench], list[str]]] = {
        "Extraction": extraction_part, "Training": training_part, "Captions from features": decoding_part,
        "Captions from photos": captioning_part, **({"Flickr8k": partial(flickr8k_part, source)} if source else {}),
    }  # fmt: skip
    about, complete, left = machine(), True, list(parts)
    lines: list[str] = []
    for heading, part in parts.items():
        try:
            measured = part(bench)
        except Exception as error:
            traceback.print_exc()
            measured, complete = [f"Not measured: {first_line(error)}"], False
        complete = complete and not any(NO_GRAPH in line for line in measured)
        lines += ["", f"## {heading}", "", *measured]
        left.remove(heading)
        page = [
            f"# Speed on {card}",
            "",
            "`make gpu` repeats these measurements and writes this page; figures are medians over the rounds, with the "
            "lowest and highest in brackets.",
            "",
            f"**Machine**: {card}; {versions}; {about}. Measured in {time.perf_counter() - began:.0f} s.",
            *lines,
            *(["", f"Not measured yet: {', '.join(left)}"] if left else []),
        ]
        yield page, complete


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, help="a folder with Flickr8k's two zips")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports", help="folder for gpu.md")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)  # tiny sizes; nothing is written
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench/gpu.py measures an NVIDIA GPU, and this machine has none that PyTorch can use")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(choose_device(arguments.device), SMOKE if arguments.smoke else Sizes(), Path(folder))
        for page, complete in report(bench, arguments.source):  # noqa: B007 - it is used below
            if not arguments.smoke:
                write_text(arguments.reports / "gpu.md", "\n".join(page) + "\n")
    print("\n".join(page))
    if not complete:
        raise SystemExit("not everything was measured; the errors and warnings are above")


if __name__ == "__main__":
    main()
