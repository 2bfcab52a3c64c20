"""Weights in the cache of the Hugging Face Hub, without a network."""

from pathlib import Path
from typing import Any

from captionlab.encoders.torchvision_models import import_torchvision


def downloaded(model: str, folder: Path) -> Any:
    """Write random weights of a timm model into the cache in ``folder`` (HF_HOME); returns the network."""
    import_torchvision()  # must precede timm, which imports it
    import timm
    from safetensors.torch import save_file

    cfg = timm.get_pretrained_cfg(model)
    assert cfg is not None
    assert cfg.hf_hub_id is not None
    place = folder / f"hub/models--{cfg.hf_hub_id.replace('/', '--')}"
    (place / "snapshots/abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs/main").write_text("abc")
    net = timm.create_model(model)
    save_file(net.state_dict(), place / "snapshots/abc" / (cfg.hf_hub_filename or "model.safetensors"))
    return net.eval()
