"""Stage ``clean_captions``: captions as written to words."""

import dataclasses
from pathlib import Path

from captionlab.config import Params
from captionlab.core.files import read_jsonl, write_json, write_jsonl
from captionlab.core.records import CAPTIONS, DATASET, Caption
from captionlab.data.text import clean


def clean_captions(params: Params, root: Path) -> list[str]:
    """Clean every caption of every split. One that is left empty stays in the file, with no words."""
    cleaning = params.clean_captions.cleaning
    captions = [
        Caption(image=row["image"], split=row["split"], raw=raw, words=clean(raw, cleaning))
        for row in read_jsonl(root / DATASET / "dataset.jsonl")
        for raw in row["captions"]
    ]
    summary = {
        "captions": len(captions),
        "changed": sum(" ".join(caption.words) != caption.raw for caption in captions),
        "dropped": sum(not caption.words for caption in captions),
        "longest": max((len(caption.words) for caption in captions), default=0),
    }
    write_jsonl(root / CAPTIONS, map(dataclasses.asdict, captions))
    write_json((root / CAPTIONS).with_name("summary.json"), summary)
    return [
        f"clean_captions: {summary['captions']:,} captions cleaned ({cleaning}): {summary['changed']:,} changed,"
        f" {summary['dropped']:,} dropped; the longest has {summary['longest']} words"
    ]
