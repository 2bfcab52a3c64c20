"""The folder of an exported captioner: ONNX files, settings, and programs that run them.

Knows files; ``onnx_graphs`` makes what they hold.
"""

import dataclasses
import shutil
from pathlib import Path

from captionlab.core.files import atomic_folder, write_json
from captionlab.core.tokens import END, START
from captionlab.errors import CaptionlabError
from captionlab.exporting.onnx_graphs import build_graphs
from captionlab.exporting.smaller import store_in_8_bits, store_in_16_bits
from captionlab.inference.captioner import Captioner

RUNNER = Path(__file__).with_name("caption.py")
PAGE = Path(__file__).with_name("web")
WEB_VERSION = "1.30.0"  # of onnxruntime-web
CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{WEB_VERSION}/dist/"
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # what the page needs of onnxruntime-web
GET_RUNTIME = f"`npm pack onnxruntime-web@{WEB_VERSION}` gets them, in the archive's folder package/dist"


def export(captioner: Captioner, folder: Path, *, int8: bool = False, web_runtime: Path | None = None) -> None:
    """Write a captioner, its runner in Python and its web page; the same captioner gives the same bytes.

    With ``int8`` the decoder's weights are stored in 8 bits and the encoder's in 16, which changes some captions. The
    page loads onnxruntime-web from a CDN, or its own copy of ``web_runtime``, the folder dist of the npm package.
    Raises CaptionlabError for a captioner that cannot be exported, if the folder has files or cannot be written, and
    if ``web_runtime`` lacks the files of onnxruntime-web.
    """
    if folder.exists() and not folder.is_dir():
        raise CaptionlabError(f"{folder} is not a folder; name a new or empty one")
    if folder.exists() and any(folder.iterdir()):
        raise CaptionlabError(f"{folder} is not empty; name a new or empty folder")
    missing = [name for name in RUNTIME if web_runtime and not (web_runtime / name).is_file()]
    if missing:
        raise CaptionlabError(f"{web_runtime} has no {missing[0]}; {GET_RUNTIME}")
    graphs = build_graphs(captioner)
    encoder, step = (store_in_16_bits(graphs.encoder), store_in_8_bits(graphs.step)) if int8 else graphs
    identity = captioner.identity
    with atomic_folder(folder) as temporary:
        (temporary / "encoder.onnx").write_bytes(encoder)
        (temporary / "step.onnx").write_bytes(step)
        settings = {
            "name": f"{identity.system}.{identity.name}",
            "dataset": identity.dataset,
            "preprocessing": identity.preprocessing,
            "pixels": captioner.encoder.pixels,
            "decoding": dataclasses.asdict(captioner.decoding),
            "onnxruntime_web": "onnxruntime-web/" if web_runtime else CDN,
            "start": START,
            "end": END,
            "words": captioner.vocab.words,
        }
        write_json(temporary / "captioner.json", settings)
        shutil.copy(RUNNER, temporary)
        shutil.copytree(PAGE, temporary, dirs_exist_ok=True)
        if web_runtime:
            (temporary / "onnxruntime-web").mkdir()
            for name in RUNTIME:
                shutil.copyfile(web_runtime / name, temporary / "onnxruntime-web" / name)
