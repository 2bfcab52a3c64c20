"""The reader of each dataset format.

A new format is a module with a reader, a case here and a name in ``core.dataset_formats``. Readers are imported on
demand, because pyarrow alone takes a second.
"""

import dataclasses
from pathlib import Path

from captionlab.config import DatasetParams
from captionlab.datasets import Found


def read(params: DatasetParams, source: Path, images: Path) -> Found:
    """Write the photos of the dataset in ``source`` into ``images``; returns captions and splits.

    Raises CaptionlabError if the dataset cannot be read.
    """
    match params.resolved_format:
        case "flickr8k":
            from captionlab.datasets.flickr8k import flickr8k

            return flickr8k(source, images)
        case "parquet":
            from captionlab.datasets.parquet import parquet

            return parquet(source, images)
        case "folder":
            from captionlab.datasets.folder import folder

            return folder(source, images)
        case "karpathy":
            from captionlab.datasets.karpathy import karpathy

            return karpathy(source, images)
        case "coco":
            from captionlab.datasets.coco import coco

            return coco(source, images)
        case "flickr30k":
            from captionlab.datasets.flickr30k import flickr30k

            return flickr30k(source, images)
        case _:
            from captionlab.datasets.scenes import scene_words, scenes

            records, truth = scenes(source, params.scenes, images)
            found = Found.of(records)
            return dataclasses.replace(found, split_source="drawn scenes", truth=truth, words=scene_words(source))
