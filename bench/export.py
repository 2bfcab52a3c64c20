"""Size, speed and captions of an export, whole and with 8 bits, beside PyTorch's captioner.

    python bench/export.py [--photos FOLDER] [--rounds 5] [--smoke]

A first caption is timed in a new process whose files are in the page cache; captions a second in this process, after a
first one. Without a folder of photos they are drawn. Needs the released captioner.
"""

import os
import runpy
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from captionlab import Captioner
from captionlab.datasets.reading import photos_among
from captionlab.exporting.onnx_folder import export
from common import Rates, Workload, interleave, load, options, publish, section
from extraction import draw_photos
from startup import process

PYTORCH, WHOLE, INT8 = "captionlab caption", "export", "export, 8 bits"
SPEED_PHOTOS = 200
Captions = Callable[[Sequence[Path]], list[str]]


def pytorch(captioner: Captioner) -> Captions:
    """What captions photos with the captioner itself."""
    return lambda photos: [captions[0].caption for captions in captioner.caption([*photos])]


def runner(folder: Path) -> Captions:
    """What captions photos with an export, as its caption.py does."""
    caption = runpy.run_path(str(folder / "caption.py"))["Captioner"](folder).caption

    def captions(photos: Sequence[Path]) -> list[str]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(caption, photos))

    return captions


def main() -> None:
    """Measure the three and compare their captions."""
    parser = options(__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of photos")
    arguments = parser.parse_args()
    before, rounds = load(), 1 if arguments.smoke else max(5, arguments.rounds)
    captioner = Captioner.load(device="cpu")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        export(captioner, place / WHOLE)
        export(captioner, place / INT8, int8=True)
        photos = photos_among(sorted(arguments.photos.iterdir())) if arguments.photos else draw_photos(place, 100)
        photos = photos[: 4 if arguments.smoke else None]
        timed, one = photos[:SPEED_PHOTOS], str(photos[0])
        systems = {PYTORCH: pytorch(captioner), WHOLE: runner(place / WHOLE), INT8: runner(place / INT8)}
        said = {kind: system(photos) for kind, system in systems.items()}
        starts = {PYTORCH: process("-m", "captionlab.cli", "caption", one)}
        starts |= {kind: process(str(place / kind / "caption.py"), one) for kind in (WHOLE, INT8)}
        cold = interleave(starts, rounds)
        many = interleave({kind: _captions(system, timed) for kind, system in systems.items()}, rounds)
        sizes = {kind: sum(path.stat().st_size for path in (place / kind).glob("*.onnx")) for kind in (WHOLE, INT8)}
    rows = []
    for kind in systems:
        same = sum(ours == theirs for ours, theirs in zip(said[kind], said[PYTORCH], strict=True))
        seconds = Rates(tuple(1 / rate for rate in cold[kind].rounds))
        rows.append([
            kind, f"{100 * same / len(photos):.1f} %", f"{sizes[kind] / 1e6:.1f} MB" if kind in sizes else "",
            seconds.text(" s"), cold[kind].over(cold[PYTORCH]).text("x"), many[kind].text(),
            many[kind].over(many[PYTORCH]).text("x"),
        ])  # fmt: skip
    columns = ["", "same captions", "size", "first caption", "faster", "photos a second", "faster"]
    note = (
        f"{len(photos):,} photos of {'a folder' if arguments.photos else 'noise'} for the captions, {len(timed)} of "
        f"them for photos a second. The released captioner, {captioner.identity.encoder}, {captioner.decoding.label}."
    )
    publish(section("export", "Export", columns, rows, [note], load=before), arguments)


def _captions(system: Captions, photos: Sequence[Path]) -> Workload:
    return lambda: len(system(photos))


if __name__ == "__main__":
    main()
