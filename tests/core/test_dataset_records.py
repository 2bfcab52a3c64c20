"""The files of the dataset and of its cleaned captions, as typed rows."""

from pathlib import Path

import pytest

from captionlab.core.records import CAPTIONS, DATASET, Caption, CaptionedImage
from captionlab.core.results.dataset import iter_cleaned, iter_dataset, write_cleaned, write_dataset
from captionlab.errors import CaptionlabError

PHOTOS = [CaptionedImage(image=f"{name}.jpg", split="val", captions=("A dog .", "Dogs .")) for name in "ab"]
CLEANED = [Caption(image="a.jpg", split="val", raw="A dog .", words=("a", "dog"))]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_dataset(tmp_path / DATASET, PHOTOS)
    write_cleaned(tmp_path, CLEANED)
    assert list(iter_dataset(tmp_path)) == PHOTOS
    assert list(iter_cleaned(tmp_path)) == CLEANED


@pytest.mark.parametrize("row", ['{"image": "c.jpg", "split": "val"}', '{"image": "c.jpg", "split": "dev"}', "[]", "7"])
def test_a_damaged_row_is_one_error_line(tmp_path: Path, row: str) -> None:
    write_dataset(tmp_path / DATASET, PHOTOS)
    write_cleaned(tmp_path, CLEANED)
    for path, read in ((DATASET / "dataset.jsonl", iter_dataset), (CAPTIONS, iter_cleaned)):
        with (tmp_path / path).open("a", encoding="utf-8") as file:
            file.write(f"{row}\n")
        with pytest.raises(
            CaptionlabError, match=r"jsonl, line \d, is not what its stage writes \(.*dvc repro"
        ) as caught:
            list(read(tmp_path))
        assert "\n" not in str(caught.value)
