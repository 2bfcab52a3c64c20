"""Caption photos with the files that `captionlab export` wrote beside this one.

    python caption.py photo.jpg ...

Needs onnxruntime, NumPy and Pillow; not PyTorch, and not captionlab. From Python: ``Captioner().caption("photo.jpg")``.
Shape letters: H and W pixels, B hypotheses, V words, X candidates.
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

TURNS = {  # EXIF's orientation, and what turns the photo upright
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip


class Captioner:
    """A trained captioner: encoder.onnx, step.onnx, and captioner.json with its words and settings."""

    def __init__(self, folder: Path = Path(__file__).parent) -> None:
        self.settings = json.loads((folder / "captioner.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # several photos at once use the cores better than several threads a photo
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # expands 8-bit weights once, when loading
        self.encoder, self.step = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "step.onnx")
        )

    def caption(self, photo: "Path | str | Image.Image") -> str:
        """The best caption of a photo."""
        image = photo if isinstance(photo, Image.Image) else Image.open(photo)
        words = self.search(read_photo(image, self.settings["pixels"], self.settings["preprocessing"]))
        return " ".join(self.settings["words"][word] for word in words)

    def search(self, pixels_HW3: Any) -> list[int]:
        """Beam search: the numbers of the words of the best caption.

        All hypotheses are equal before the first word, so only the first of them counts there. A caption's score is
        its log probability, divided by a power of its length. The search ends when ``beam`` captions have.
        """
        decoding = self.settings["decoding"]
        beam, penalty, longest = decoding["beam"], decoding["length_penalty"], decoding["max_words"]
        names = [output.name for output in self.encoder.get_outputs()]
        state = dict(zip(names, self.encoder.run(None, {"pixels": pixels_HW3[None]}), strict=True))
        names = [output.name.removeprefix("next_") for output in self.step.get_outputs()]
        start, end = self.settings["start"], self.settings["end"]
        tokens_B, parents_B = np.full(beam, start), np.arange(beam)
        words_B: list[list[int]] = [[]] * beam
        total_B = np.full(beam, -np.inf, np.float32)
        total_B[0] = 0
        ended = []
        for length in range(1, longest + 1):
            found = self.step.run(None, {"tokens": tokens_B, "parents": parents_B, **state})
            log_probs_BV = found[0]
            state |= zip(names[1:], found[1:], strict=True)
            if length <= decoding["min_words"]:
                log_probs_BV[:, end] = -np.inf
            for so_far, log_probs_V in zip(words_B, log_probs_BV, strict=True):
                log_probs_V[repeats(so_far, decoding["no_repeat_ngram"])] = -np.inf
            total_X = (total_B[:, None] + log_probs_BV).ravel()
            least = np.partition(total_X, -2 * beam)[-2 * beam]
            best_X = (total_X >= least).nonzero()[0]
            best_X = best_X[np.argsort(-total_X[best_X], kind="stable")][: 2 * beam]  # of equal ones the first
            parents, words = np.divmod(best_X, log_probs_BV.shape[1])
            for total, parent, word in zip(total_X[best_X[:beam]], parents[:beam], words[:beam], strict=True):
                if word == end and np.isfinite(total):
                    ended.append((float(total) / length**penalty, words_B[parent]))
            if len(ended) >= beam:
                break
            going = (words != end).nonzero()[0][:beam]
            tokens_B, parents_B, total_B = words[going], parents[going], total_X[best_X[going]]
            words_B = [[*words_B[parent], int(word)] for parent, word in zip(parents_B, tokens_B, strict=True)]
        else:  # what has not ended counts as it is
            left = [each for each in zip(total_B, words_B, strict=True) if np.isfinite(each[0])]
            ended += [(float(total) / longest**penalty, so_far) for total, so_far in left]
        return max(ended[:beam], key=lambda each: each[0])[1]


def repeats(words: list[int], n: int) -> list[int]:
    """The words that would end a sequence of ``n`` words that the caption already has; none where ``n`` is 0."""
    last = words[len(words) - n + 1 :]
    return [words[i + n - 1] for i in range(len(words) - n + 1) if words[i : i + n - 1] == last] if n else []


def read_photo(image: Image.Image, pixels: int, preprocessing: str) -> Any:
    """The photo upright, in RGB, on white where it is transparent, squeezed to a square: (H, W, 3) bytes."""
    image.draft("RGB", (2 * pixels, 2 * pixels))  # a large JPEG is decoded at a fraction of its size
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF, for which Pillow raises errors of any type
        turn = None
    image = image.transpose(Image.Transpose[turn]) if turn else image
    if image.mode.startswith("I;16"):  # the high 8 of 16 bits
        image = Image.fromarray((np.asarray(image, np.uint16) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("the photo has 32 bits per pixel; save it with 8")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    resampling = Image.Resampling[preprocessing.removeprefix("square_").upper()]
    return np.asarray(image.convert("RGB").resize((pixels, pixels), resampling))


def main(names: list[str]) -> int:
    """Print a caption of each photo; 1 if some photo cannot be read."""
    captioner = Captioner()

    def tried(name: str) -> str | Exception:
        try:
            return captioner.caption(name)
        except Exception as error:  # Pillow's are of many types
            return error

    failed = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, found in zip(names, pool.map(tried, names), strict=True):
            if isinstance(found, str):
                print(f"{name}\t{found}" if len(names) > 1 else found)
            else:
                print(f"cannot caption {name}: {found}", file=sys.stderr)
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if sys.argv[1:] else "usage: python caption.py PHOTO...")
