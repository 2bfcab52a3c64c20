"""The formats of datasets by name. ``datasets`` reads them; params.yaml and ``captionlab doctor`` only name them."""

from typing import Literal

Format = Literal["scenes", "folder", "flickr8k", "flickr30k", "coco", "karpathy", "parquet"]
FORMATS: dict[Format, str] = {  # what a source of each holds
    "scenes": "drawn scenes, built in",
    "folder": "photos in Images and captions.txt with the header image,caption; split in train.txt, val.txt, test.txt",
    "flickr8k": "Flickr8k's two zips, packed or unpacked; downloaded if they are not there",
    "flickr30k": "Flickr30k's results.csv and photos; split as for folder",
    "coco": "COCO's captions_train*.json and captions_val*.json, and photos; the test split is drawn from train",
    "karpathy": "Karpathy's dataset_flickr8k.json, dataset_flickr30k.json or dataset_coco.json, and photos; its split",
    "parquet": "Parquet files of photos and captions, as on Hugging Face; split in the files' names or a column",
}
