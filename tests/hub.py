"""The cache of the Hugging Face hub, filled without a network."""

from pathlib import Path

from captionlab.encoders import load


def downloaded(model: str, folder: Path) -> None:
    """Put random weights of timm's model where its download puts them; ``folder`` is HF_HOME."""
    load._import_torchvision()  # before timm, which imports it
    import timm
    from safetensors.torch import save_file

    cfg = timm.get_pretrained_cfg(model)
    assert cfg is not None
    assert cfg.hf_hub_id is not None
    place = folder / f"hub/models--{cfg.hf_hub_id.replace('/', '--')}"
    (place / "snapshots/abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs/main").write_text("abc")
    save_file(timm.create_model(model).state_dict(), place / "snapshots/abc/model.safetensors")
