"""A project with two tiny systems over a real encoder, overfitted to four drawn scenes of the demo."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from builders import tiny_system, untrained
from captionlab.core.records import Decoding
from captionlab.core.results import checkpoint_of
from captionlab.core.tokens import PAD
from captionlab.data.vocab import Vocabulary
from captionlab.demo import server
from captionlab.demo.examples import EXAMPLES, example_photo
from captionlab.encoders.load import load_encoder
from captionlab.inference.captioner import Captioner
from captionlab.training.checkpoint import save_checkpoint

KNOWN = EXAMPLES[:4]


def write_demo_project(folder: Path) -> None:
    """Write the project. The chosen decoding of the attention system is beam 3; the baseline has none."""
    captions = [example.label.lower().split() for example in KNOWN]
    vocab = Vocabulary.build(captions, cleaning="standard", min_count=1)
    sequences = [torch.tensor(vocab.encode(words)) for words in captions]
    tokens_BT = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=PAD)
    weights = load_encoder("efficientnet_lite0").weights_digest
    for system, grid, decoding in (("attention", 3, Decoding(beam=3)), ("baseline", 0, None)):
        made = untrained(
            system, tiny_system(system, encoder="efficientnet_lite0", hidden=32, embedding=32), vocab,
            decoding=decoding, dataset="scenes", encoder="efficientnet_lite0", encoder_weights=weights, grid=grid,
            pooled=1280, channels=1280,
        )  # fmt: skip
        model = made.model
        captioner = Captioner(model, vocab, made.identity, Decoding(), "cpu")
        features = captioner.features([example_photo(example.name) or b"" for example in KNOWN])
        model.standardise.fit([features.pooled_PD if features.grid_PRC is None else features.grid_PRC])
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            logits_BTV = model.train()(features, tokens_BT[:, :-1])
            loss = torch.nn.functional.cross_entropy(
                logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), ignore_index=PAD
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save_checkpoint(checkpoint_of(folder, system, "tiny"), made)


@contextmanager
def demo(root: Path) -> Iterator[int]:
    """Run the real command on a free port, which is yielded; Ctrl-C must end it cleanly."""
    command = [sys.executable, "-m", "captionlab.cli", "demo", "--port", "0", "--no-open"]
    paths = [str(Path(server.__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        line = running.stdout.readline()
        assert line.startswith("the demo is at http://127.0.0.1:"), line
        yield int(line.split(":")[2].split("/")[0])
        running.send_signal(2)
        assert running.wait(20) == 0
        assert running.stdout.read() == "stopped\n"
