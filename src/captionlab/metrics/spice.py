"""SPICE 1.0 (Anderson et al. 2016) by the Java program in the package pycocoevalcap. Captions in, numbers out.

The program needs Stanford CoreNLP 3.6.0 beside it, which is not downloaded here. Both need Java 8: the program writes
its results with the JavaScript engine that Java 15 removed, and CoreNLP reads XML with classes that Java 11 removed.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from captionlab.errors import CaptionlabError
from captionlab.metrics.bootstrap import Floats
from captionlab.metrics.meteor import java_program

_PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")  # in the folder lib beside it


def spice_scores(pairs: Sequence[tuple[str, str]], references: Mapping[str, Sequence[str]]) -> Floats:
    """(N,) the score, from 0 to 1, of pairs of image id and caption against the references of the image.

    Raises CaptionlabError if Java 8, pycocoevalcap or CoreNLP is missing, or Java fails.
    """
    java, jar = shutil.which("java"), java_program("spice/spice-1.0.jar")
    if java is None or jar is None:
        raise CaptionlabError("it needs Java 8 and the extra captionlab[meteor]")
    if missing := [name for name in _PARSER if not jar.with_name("lib").joinpath(name).exists()]:
        raise CaptionlabError(
            f"{missing[0]} is missing; to download it: python -m pycocoevalcap.spice.get_stanford_models"
        )
    version = subprocess.run([java, "-version"], capture_output=True, text=True, errors="replace", check=False).stderr
    if '"1.8.' not in version:
        raise CaptionlabError(f"SPICE 1.0 needs Java 8, and {java} is {version.partition(chr(10))[0]}")
    asked = [
        {"image_id": n, "test": caption, "refs": list(references[image])} for n, (image, caption) in enumerate(pairs)
    ]
    with tempfile.TemporaryDirectory() as temporary:
        given, found = Path(temporary, "asked.json"), Path(temporary, "scores.json")
        given.write_text(json.dumps(asked), encoding="utf-8")
        command = [java, "-Xmx8G", "-jar", str(jar), str(given), "-out", str(found), "-silent"]
        done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not found.exists():
            raise CaptionlabError(f"Java gave no score ({_reason(done.stderr)})")
        try:
            rows = json.loads(found.read_text(encoding="utf-8"))
            scores = {row["image_id"]: row["scores"]["All"]["f"] for row in rows}
            values = np.array([scores[n] for n in range(len(pairs))], dtype=np.float64)  # null becomes NaN
        except (ValueError, TypeError, LookupError) as error:
            raise CaptionlabError(f"Java's scores cannot be read ({type(error).__name__}: {error})") from error
    return np.nan_to_num(values)  # the program itself gives 0 where a photo's references say nothing it can parse


def _reason(printed: str) -> str:
    """The line of the first exception, among those on the program's progress."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"Exception|Error", line)), "".join(lines[-1:]))[:200]
