"""The reader of a folder of photos with a captions file."""

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from captionlab.core.records import SPLITS
from captionlab.data.photos import SUFFIXES
from captionlab.datasets import Found
from captionlab.datasets.coco import coco
from captionlab.datasets.flickr8k import SPLIT_FILES, flickr8k
from captionlab.datasets.folder import folder
from captionlab.datasets.karpathy import karpathy
from captionlab.datasets.parquet import parquet
from captionlab.errors import CaptionlabError
from photo_sets import checked, jpeg, kinds

NAMES = [f"{number}.jpg" for number in range(10)]


def photo_folder(source: Path, captions: str | None = None, photos: str = "Images") -> Path:
    """Ten photos, with one caption each by default, and a file that is not a photo."""
    (source / photos).mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (source / photos / name).write_bytes(jpeg(number))
    (source / photos / "Thumbs.db").write_bytes(b"junk")
    rows = "".join(f"{name},Dog {name[0]}\n" for name in NAMES)
    (source / "captions.txt").write_text(f"image,caption\n{rows}" if captions is None else captions)
    return source


@pytest.mark.parametrize("photos", ["Images", "images", "."])
def test_photos_and_captions_are_read(tmp_path: Path, images: Path, photos: str) -> None:
    found = folder(photo_folder(tmp_path / "mine", photos=photos), images)
    assert found.captions == [(name, f"Dog {name[0]}") for name in NAMES]
    assert found.splits == {}
    assert (found.problems, found.notes) == ([], [])
    assert {path.name: path.read_bytes() for path in images.iterdir()} == {
        name: jpeg(number) for number, name in enumerate(NAMES)
    }


def test_names_are_matched_with_the_photos(tmp_path: Path, images: Path) -> None:
    """Names in captions files and split files, by the rules of photo_names."""
    source = photo_folder(tmp_path / "mine", "image,caption\nImages\\0.JPG,A\n1,B\nImages/2.jpg#0,C\nghost.jpg,D\n")
    for split, text in {"train": "Images/0.jpg\n1\n", "val": "2\n", "test": "3\n"}.items():
        (source / f"{split}.txt").write_text(text)
    found = folder(source, images)
    assert [name for name, _ in found.captions] == ["0.jpg", "1.jpg", "2.jpg", "ghost.jpg"]
    assert found.splits == {"train": ["0.jpg", "1.jpg"], "val": ["2.jpg"], "test": ["3.jpg"]}


def test_photos_in_subfolders_are_read(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine", "image,caption\n0.jpg,A\nsub/deep/0.jpg,B\nx.jpg,C\n")
    (source / "Images/sub/deep").mkdir(parents=True)
    (source / "Images/sub/deep/0.jpg").write_bytes(jpeg(20))
    (source / "Images/sub/x.jpg").write_bytes(jpeg(21))
    assert [name for name, _ in folder(source, images).captions] == ["0.jpg", "sub__deep__0.jpg", "x.jpg"]
    assert (images / "sub__deep__0.jpg").read_bytes() == jpeg(20)
    assert (images / "x.jpg").read_bytes() == jpeg(21)


def test_hidden_files_are_not_photos(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine")
    for hidden in ("Images/._0.jpg", "Images/.trash/9.jpg", "Images/__MACOSX/9.jpg"):
        (source / hidden).parent.mkdir(exist_ok=True)
        (source / hidden).write_bytes(b"junk")
    folder(source, images)
    assert {path.name for path in images.iterdir()} == set(NAMES)


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".webp", ".TIFF", ".ppm", ".jp2", ".mpo"])
def test_every_supported_format_is_a_photo(tmp_path: Path, images: Path, suffix: str) -> None:
    source = photo_folder(tmp_path / "mine", f"image,caption\nx{suffix},A\n")
    kind = Image.registered_extensions()[suffix.lower()]
    Image.new("RGB", (8, 8), "red").save(source / f"Images/x{suffix}", kind)
    assert folder(source, images).captions == [(f"x{suffix}", "A")]
    assert (images / f"x{suffix}").exists()
    assert suffix.lower() in SUFFIXES


def test_photos_in_unsupported_formats_are_counted(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine")
    for name in ("a.NEF", "b.dng", "c.dng", "d.x3f", "notes.txt"):
        (source / "Images" / name).write_bytes(b"raw")
    assert folder(source, images).notes == ["skipped 4 files of formats that are not read (.dng: 2, .nef: 1, .x3f: 1)"]


def test_heic_is_counted_without_its_library_and_read_with_it(tmp_path: Path, images: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed; pip install -e '.[dev]'")
    source = photo_folder(tmp_path / "mine", "image,caption\n0.jpg,A\nphone.HEIC,B\n")
    out = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(out, format="HEIF")
    (source / "Images/phone.HEIC").write_bytes(out.getvalue())
    found = folder(source, images)
    assert found.captions == [("0.jpg", "A"), ("phone.HEIC", "B")]
    assert found.notes == []
    script = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pathlib import Path\n"
        "from captionlab.data.photos import fault_of\n"
        "from captionlab.datasets.folder import folder\n"
        "source, images = map(Path, sys.argv[1:])\n"
        "print(folder(source, images).notes[0], fault_of(source / 'Images/phone.HEIC'), sep='\\n')"
    )
    command = [sys.executable, "-c", script, str(source), str(images)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == [
        "skipped 1 file of formats that are not read (.heic: 1); pip install 'captionlab[heic]'",
        "it is a HEIC file, which needs another package: pip install 'captionlab[heic]'",
    ]


def test_flickr8ks_captions_and_split_files_are_used(tmp_path: Path, images: Path) -> None:
    """They are the official splits of Flickr8k."""
    source = photo_folder(tmp_path / "mine")
    for name, text in zip(SPLIT_FILES.values(), ("0.jpg\n1.jpg\n", "2.jpg\n", "3.jpg\n"), strict=True):
        (source / name).write_text(text)
    official = folder(source, images)
    assert official.splits == {"train": ["0.jpg", "1.jpg"], "val": ["2.jpg"], "test": ["3.jpg"]}
    assert official.split_source == ", ".join(SPLIT_FILES.values())
    (source / "captions.txt").unlink()
    (source / "Flickr8k.token.txt").write_text("0.jpg#0\tA dog .\n")
    assert folder(source, images).captions == [("0.jpg", "A dog .")]
    for split in SPLITS:
        (source / f"{split}.txt").write_text(f"{split}.jpg\n")
    assert folder(source, images).splits == {split: [f"{split}.jpg"] for split in SPLITS}  # these take precedence


def test_a_split_column_is_used(tmp_path: Path, images: Path) -> None:
    rows = "0.jpg#0,train,A\n0.jpg#1,train,B\n1.jpg,val,C\n2.jpg,test,D\n3.jpg,,E\n"
    found = folder(photo_folder(tmp_path / "mine", f"image,split,caption\n{rows}"), images)
    assert found.splits == {"train": ["0.jpg"], "val": ["1.jpg"], "test": ["2.jpg"]}
    assert found.split_source == "the column split of the captions file"


def test_split_files_count_where_a_split_column_contradicts_them(tmp_path: Path, images: Path) -> None:
    rows = "0.jpg,train,A\n1.jpg,Val,B\n2.jpg,test,C\n3.jpg,,D\n4.jpg,fold 1,E\n"
    source = photo_folder(tmp_path / "mine", f"image,split,caption\n{rows}")
    for split, photos in {"train": "0.jpg\n3.jpg", "val": "1.jpg", "test": "2.jpg"}.items():
        (source / f"{split}.txt").write_text(photos)
    assert folder(source, images).notes == []
    (source / "val.txt").write_text("2.jpg")
    (source / "test.txt").write_text("1.jpg")
    found = folder(source, images)
    assert (found.splits["val"], found.splits["test"]) == (["2.jpg"], ["1.jpg"])
    assert found.notes == [
        "the column split of the captions file contradicts train.txt, val.txt, test.txt for 2 photos (1.jpg, 2.jpg);"
        " the files count"
    ]


def test_splits_that_share_a_photo_are_refused(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine")
    for split, text in {"train": "0.jpg\n1.jpg\n", "val": "2.jpg\n", "test": "Images/0.jpg\n"}.items():
        (source / f"{split}.txt").write_text(text)
    with pytest.raises(CaptionlabError, match=r"train and test share 1 photo \(0.jpg\)"):
        checked(folder(source, images), images)


def test_repeated_and_missing_photos_are_listed(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine")
    with (source / "captions.txt").open("a") as captions:
        captions.write("0.jpg,Dog 0\n1.jpg\n\nx.jpg,of nothing\n")
    for split, names in {"train": NAMES[:8], "val": NAMES[8:9], "test": NAMES[9:]}.items():
        (source / f"{split}.txt").write_text("\n".join(names))
    assert kinds(checked(folder(source, images), images).problems) == [
        ("caption without photo", "x.jpg"),
        ("duplicate caption", "0.jpg"),
        ("empty caption", "1.jpg"),
    ]


@pytest.mark.parametrize(("name", "expected"), [
    ("dataset_flickr8k.json", "karpathy"), ("captions_train2017.json", "coco"),
    ("annotations/captions_val2014.json", "coco"), ("train.parquet", "parquet"), ("data/test.parquet", "parquet"),
    ("Flickr8k_text.zip", "flickr8k"), ("Flickr8k_text/Flickr8k.token.txt", "flickr8k"),
])  # fmt: skip
def test_the_format_of_another_source_is_named(tmp_path: Path, images: Path, name: str, expected: str) -> None:
    source = photo_folder(tmp_path / "mine")
    (source / "captions.txt").unlink()
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_bytes(b"")
    message = rf"has no captions file \(.*\), but {name}; set dataset.format to {expected}$"
    with pytest.raises(CaptionlabError, match=message):
        folder(source, images)


def test_a_captions_file_two_folders_down_is_named(tmp_path: Path, images: Path) -> None:
    """As zips are often unpacked."""
    inner = photo_folder(tmp_path / "archive/flickr8k")
    message = rf"but archive/flickr8k/captions.txt; set dataset.format to folder, dataset.source to {inner}$"
    with pytest.raises(CaptionlabError, match=message):
        folder(tmp_path, images)


@pytest.mark.parametrize("read", [coco, karpathy, parquet, flickr8k])
def test_another_reader_names_this_format(
    tmp_path: Path, images: Path, read: Callable[[Path, Path], Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIONLAB_CACHE", str(tmp_path / "cache"))  # not that a download would succeed
    with pytest.raises(CaptionlabError, match=r", but captions.txt; set dataset.format to folder$"):
        read(photo_folder(tmp_path / "mine"), images)


@pytest.mark.parametrize(
    "files",
    [
        ("test.csv", "train.csv"),
        ("train.json",),
        ("splits/val.tsv",),
        ("splits.csv",),
        ("captions.csv",),
        ("train.lst",),
        ("Images/metadata.csv",),
        ("test_files.txt", "train_files.txt", "val_files.txt"),
        ("test_imgs.txt", "train_imgs.txt", "val_imgs.txt"),
        ("annotations/test.txt", "annotations/train.txt", "annotations/val.txt"),
        ("Text/train.txt",),
        ("partition.txt", "split.txt", "splits.json", "splits.tsv"),
        ("data_split.json",),
    ],
)
def test_files_of_splits_that_are_not_read_are_named(tmp_path: Path, images: Path, files: tuple[str, ...]) -> None:
    source = photo_folder(tmp_path / "mine")
    for name in ("splits", "annotations", "Text"):
        (source / name).mkdir()
    (source / ".ipynb_checkpoints").mkdir()
    (source / ".ipynb_checkpoints/captions.txt").write_text("image,caption\n")
    for name in files:
        (source / name).write_text("image,caption\n0.jpg,A dog\n")
    assert folder(source, images).notes == [
        f"not read: {', '.join(files)}; there may be one captions file, and for splits train.txt, val.txt and test.txt"
        " with a photo's name on each line, or a column split in the captions file"
    ]


@pytest.mark.parametrize("name", ["metadata.csv", "captions.txt", "Captions.TXT"])
def test_a_captions_file_may_be_among_the_photos(tmp_path: Path, images: Path, name: str) -> None:
    source = photo_folder(tmp_path / "mine")
    (source / "captions.txt").rename(source / "Images" / name)
    assert folder(source, images).captions[0] == ("0.jpg", "Dog 0")


def test_paths_in_different_folders_do_not_mean_one_photo(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine", "image,caption\ncats/1.jpg,A cat\ndogs/1.jpg,A dog\nImages/2.jpg,B\n2,B\n")
    found = folder(source, images)
    assert [name for name, _ in found.captions] == ["cats/1.jpg", "dogs/1.jpg", "2.jpg", "2.jpg"]


def test_a_name_of_photos_in_two_folders_is_named(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine", "image,caption\n1.jpg,A cat\n1.jpg,A dog\n2.jpg,B\n")
    for place in ("cats", "dogs"):
        (source / "Images" / place).mkdir()
        shutil.copy(source / "Images/1.jpg", source / "Images" / place)
    (source / "Images/1.jpg").unlink()
    found = folder(source, images)
    assert found.notes == ["1 names could mean several photos (1.jpg); write their folders and suffixes"]


@pytest.mark.parametrize("place", [".", "Images"])
def test_folders_of_splits_are_used_with_one_captions_file(tmp_path: Path, images: Path, place: str) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        (tmp_path / "mine" / place / split).mkdir(parents=True)
        (tmp_path / "mine" / place / split / f"{split}.jpg").write_bytes(jpeg(number))
    rows = "".join(f"{split}/{split}.jpg,A dog\n" for split in ("train", "valid", "test"))
    (tmp_path / "mine/metadata.csv").write_text(f"file_name,text\n{rows}")
    found = folder(tmp_path / "mine", images)
    assert found.splits == {"train": ["train.jpg"], "val": ["valid.jpg"], "test": ["test.jpg"]}


def test_the_folder_with_the_captions_is_named(tmp_path: Path, images: Path) -> None:
    photo_folder(tmp_path / "archive/mine")
    with pytest.raises(CaptionlabError, match=r", but mine/captions\.txt; .* dataset\.source to .*archive/mine$"):
        folder(tmp_path / "archive", images)


def test_a_folder_images_without_photos_is_passed_over(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine", photos="photos")
    (source / "images").mkdir()
    (source / "images/readme.txt").write_text("photos are elsewhere")
    assert len(folder(source, images).captions) == 10


def test_image_folders_with_splits_are_read(tmp_path: Path, images: Path) -> None:
    """As Hugging Face's: a folder for each split, with its photos and their metadata."""
    for number, split in enumerate(("train", "validation", "test")):
        (tmp_path / "hub" / split).mkdir(parents=True)
        (tmp_path / "hub" / split / "a.jpg").write_bytes(jpeg(number))
        (tmp_path / "hub" / split / "metadata.jsonl").write_text(f'{{"file_name": "a.jpg", "text": "Of {split}"}}\n')
    found = folder(tmp_path / "hub", images)
    assert found.captions == [
        ("test__a.jpg", "Of test"), ("train__a.jpg", "Of train"), ("validation__a.jpg", "Of validation"),
    ]  # fmt: skip
    assert found.splits == {"train": ["train__a.jpg"], "val": ["validation__a.jpg"], "test": ["test__a.jpg"]}
    assert found.split_source == "the folders' names"
    (tmp_path / "hub/train/metadata.csv").write_text("file_name,text\na.jpg,Of train\n")
    both = folder(tmp_path / "hub", images)
    assert (sorted(both.captions), len(both.notes)) == (sorted(found.captions), 1)


def test_a_folder_without_captions_or_photos_is_refused(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine")
    for photo in (source / "Images").glob("*.jpg"):
        photo.rename(photo.with_suffix(".nef"))
    with pytest.raises(CaptionlabError, match=r"mine has no photos \(.*\.avif, .*; skipped 10 files .*\.nef: 10"):
        folder(source, images)
    (source / "captions.txt").unlink()
    with pytest.raises(
        CaptionlabError, match=r"has no captions file \(captions.txt, captions.csv.*; put one there, with"
    ):
        folder(source, images)
    (source / "Notes.CSV").write_text("image,caption\na.jpg,A dog runs.\n")
    with pytest.raises(CaptionlabError, match=r"; if Notes.CSV holds the captions, rename it to captions.csv$"):
        folder(source, images)


def test_links_to_folders_are_named(tmp_path: Path, images: Path) -> None:
    """DVC would not see changes of what they lead to."""
    source = photo_folder(tmp_path / "mine")
    (source / "Images").rename(tmp_path / "disk")
    (source / "train").symlink_to(tmp_path / "disk")
    with pytest.raises(CaptionlabError, match=r"mine has no photos .*; links to folders \(train\) are not followed, "):
        folder(source, images)


def test_a_link_to_the_folder_of_photos_is_refused(tmp_path: Path, images: Path) -> None:
    """A link to the whole source is seen by DVC."""
    source = photo_folder(tmp_path / "mine")
    (tmp_path / "link").symlink_to(source)
    assert len(folder(tmp_path / "link", images).captions) == 10
    (source / "Images").rename(tmp_path / "disk")
    (source / "Images").symlink_to(tmp_path / "disk")
    with pytest.raises(
        CaptionlabError, match=r"mine/Images is a link .*; set dataset\.source to .*/disk, with the capt"
    ):
        folder(source, images)


def test_links_to_folders_beside_photos_are_noted(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine")
    photo_folder(tmp_path / "disk")
    (source / "Images/deep").mkdir()
    (source / "Images/deep/more").symlink_to(tmp_path / "disk/Images")
    found = folder(source, images)
    assert found.notes == [
        "links to folders (Images/deep/more) are not followed, because DVC would not see changes of photos there"
    ]
    assert len([*images.iterdir()]) == 10


def test_one_photo_cannot_stand_for_two_of_equal_name(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine")
    (source / "train.txt").write_text("cats/0.jpg\ndogs/0.jpg\n1.jpg\n")
    (source / "val.txt").write_text("2.jpg\n")
    (source / "test.txt").write_text("3.jpg\n")
    assert folder(source, images).splits["train"] == ["cats/0.jpg", "dogs/0.jpg", "1.jpg"]


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine")
    (source / "Images/z.jpg").symlink_to("/proc/self/mem")
    with pytest.raises(CaptionlabError, match=r"^cannot read .*z\.jpg: Input/output error$"):
        folder(source, images)
