"""A model as a folder: ``model.safetensors``, ``config.json`` in timm's layout, ``recipe.yaml`` and a card.

timm loads such a folder of a timm network by itself: ``timm.create_model("local-dir:DIR", pretrained=True)``.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kzoo.building import NetworkSpec, build_network
from kzoo.errors import InputError, WorldError
from kzoo.facade import Registry, open_zoo
from kzoo.layout import CONFIG, TENSORS, WEIGHTS
from kzoo.loading import load_values
from kzoo.readers.files import SMALL, read_weights_file
from kzoo.readers.safetensors import parse_object, read_bounded
from kzoo.recipe import DataSection
from kzoo.sources import Options
from kzoo.training.batches import MEAN, STD

_MOST_CONFIG = 5_000_000
#: What a config.json may tell a network's constructor; others could make timm read files.
_ARGUMENTS = frozenset(
    {"num_classes", "in_chans", "img_size", "image_size", "global_pool", "drop_rate", "drop_path_rate"}
)
# What timm knows of the checkpoint that an architecture has by default; these weights are others.
_OF_OTHER_WEIGHTS = (
    "tag", "license", "paper_ids", "paper_name", "origin_url", "notes", "description", "label_names", "label_descriptions",
    "label_offset", "url", "hf_hub_id", "hf_hub_filename", "file", "source",
)  # fmt: skip


def write_weights(module: nn.Module, path: Path) -> None:
    """Write a module's tensors as a safetensors file whose only metadata is the format, so that its bytes are the same.

    Tensors that are one in the module are written once for each name, as loaders without the module expect.
    """
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for key, tensor in module.state_dict().items():
        stored = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory.
        tensors[key] = stored.clone() if stored.data_ptr() in seen and stored.numel() else stored
        seen.add(stored.data_ptr())
    # save_file leaves a file that only its owner may read.
    path.write_bytes(b"")
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # how it says that the disk is full
        raise WorldError(f"{path.name} cannot be written ({error!s:.200}): check the disk") from None
    path.chmod(mode)


def network_config(
    module: nn.Module,
    spec: NetworkSpec,
    extra: Mapping[str, Any],
    images: DataSection | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """What ``config.json`` holds: how to build the network, and under ``kzoo`` how its weights came to be.

    ``images`` are those that it was trained on, as timm's own transforms have to prepare others. ``labels`` are what its
    outputs stand for.
    """
    if spec.library == "timm":
        config = _timm_config(module)
        config["pretrained_cfg"] |= _preparation(images)
    else:
        config = {
            "library_name": "torchvision" if spec.library == "torchvision" else "kzoo",
            "architecture": spec.name if spec.library == "torchvision" else str(spec),
            "model_args": _sizes(spec.options),
        }
    if spec.edits:
        # A library that builds the network by its name would build another one.
        config |= {"library_name": "kzoo", "architecture": str(spec), "model_args": _sizes(spec.options)}
        config["edits"] = [dict(edit) for edit in spec.edits]
    if labels:
        config["label_names"] = list(labels)
    return config | {"kzoo": dict(extra)}


def label_names(folder: Path) -> list[str] | None:
    """What the outputs of a folder's network stand for, where its ``config.json`` says so.

    Raises:
        InputError: the ``config.json`` cannot be read.
    """
    found = read_config(folder).get("label_names")
    return [str(name) for name in found] if isinstance(found, list) and found else None


def _sizes(options: Options) -> dict[str, int]:
    args = {"num_classes": options.classes, "image_size": options.img_size, "in_chans": options.in_chans}
    return {key: value for key, value in args.items() if value is not None}


def _preparation(images: DataSection | None) -> dict[str, Any]:
    """Size and normalisation of images in timm's words."""
    if images is None or images.channels not in MEAN or images.size is None:
        return {}
    return {
        "input_size": [images.channels, images.size, images.size],
        "mean": list(MEAN[images.channels]),
        "std": list(STD[images.channels]),
        "crop_pct": 1.0,
        "crop_mode": "center",
    }


def _timm_config(module: nn.Module) -> dict[str, Any]:
    from timm.models._hub import save_config_for_hf

    # timm logs that it takes the mean of its statistics for other input channels, which is what we want.
    logger = logging.getLogger("timm")
    level = logger.level
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG
        logger.setLevel(logging.ERROR)
        try:
            save_config_for_hf(module, str(path))
        finally:
            logger.setLevel(level)
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    own = {key: value for key, value in config["pretrained_cfg"].items() if key not in _OF_OTHER_WEIGHTS}
    labels = ("label_names", "label_descriptions")
    config = {key: value for key, value in config.items() if key not in labels}
    return config | {"library_name": "timm", "pretrained_cfg": own}


def load(folder: str | Path, *, trust_code: bool = False, registry: Registry = None) -> nn.Module:
    """The network of a model folder, in evaluation mode; `kzoo.param_groups` knows what was carried into it.

    Raises:
        InputError: it is no such folder, its network is unknown, or its weights are not those of the network.
    """
    folder = Path(folder)
    config = read_config(folder)
    if not config:
        raise InputError(f"{folder} is no model folder: expected {CONFIG} and {WEIGHTS} in it")
    told = config.get("kzoo")
    if isinstance(told, dict) and told.get("network") == TENSORS:
        raise InputError(
            f"{folder} holds the weights of a network that kzoo does not know, so it cannot build it: load them with the library "
            "that made the networks that were fused"
        )
    read_weights_file(folder / WEIGHTS)
    module = _rebuilt(folder, config, trust_code, registry)
    try:
        load_values(module, load_file(folder / WEIGHTS))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder / WEIGHTS} does not fit the network of its config.json: {reason:.300}") from None
    _remember(module, config.get("kzoo"))
    return module.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """What the ``config.json`` of a folder holds; nothing where there is none.

    Raises:
        InputError: it is no JSON object, or too large.
    """
    path = folder / CONFIG
    return (
        parse_object(read_bounded(path, _MOST_CONFIG), f"{path} cannot be used", _MOST_CONFIG) if path.is_file() else {}
    )


#: What timm notes of images.
_PREPARATION = ("input_size", "mean", "std", "interpolation", "crop_pct")


def _rebuilt(folder: Path, config: Mapping[str, Any], trust_code: bool, registry: Registry) -> nn.Module:
    spec = config_network(folder, config)
    if spec.library != "timm" or spec.edits:
        return build_network(spec, lambda: open_zoo(registry), trust_code=trust_code)
    import timm

    try:
        with torch.random.fork_rng(devices=[]):
            given: dict[str, Any] = {"num_classes": config.get("num_classes")} | config.get("model_args", {})
            module: nn.Module = timm.create_model(spec.name, **given)
    except Exception as error:  # constructors raise what they like
        reason = " ".join(str(error).split())
        raise InputError(f"{folder / CONFIG} names {spec}, which cannot be built: {reason:.200}") from None
    told = config.get("pretrained_cfg")
    known: Any = getattr(module, "pretrained_cfg", None)
    if isinstance(told, dict) and isinstance(known, dict):
        # How its images were prepared, which timm's transforms and kzoo.fuse look for there.
        vars(module)["pretrained_cfg"] = known | {key: told[key] for key in _PREPARATION if key in told}
    return module


def config_network(folder: Path, config: Mapping[str, Any]) -> NetworkSpec:
    """The network that the ``config.json`` of a folder names, with the sizes and edits that it tells.

    Raises:
        InputError: it names none that kzoo can build, or would tell a constructor what no stranger may.
    """
    library, name = config.get("library_name", "timm"), config.get("architecture")
    args, edits = config.get("model_args", {}), config.get("edits", [])
    if library not in ("timm", "torchvision", "kzoo") or not isinstance(name, str) or not isinstance(args, dict):
        raise InputError(f"{folder / CONFIG} names no network that kzoo can build: expected one of timm or torchvision")
    if strange := args.keys() - _ARGUMENTS:
        raise InputError(f"{folder / CONFIG} has the model argument {min(strange)!r:.80}, which kzoo does not pass on")
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise InputError(f"{folder / CONFIG} has edits of the wrong form: expected a list of mappings")
    if library == "kzoo":
        library, _, name = name.partition(":")
    if library not in ("timm", "torchvision", SMALL, "py"):
        raise InputError(f"{folder / CONFIG} names {config['architecture']!r:.80}, which kzoo cannot build")
    if library == "timm":
        import timm

        if not timm.is_model(name):
            raise InputError(f"{folder / CONFIG} names {name!r:.80}, which is no network of timm")
    classes = args.get("num_classes", config.get("num_classes") if library == "timm" else None)
    options = Options(classes, args.get("in_chans"), _side(args.get("image_size", args.get("img_size"))))
    return NetworkSpec(library, name, options, tuple(edits))


def _side(size: Any) -> Any:
    """The side of square images, which timm notes as height and width."""
    return size[0] if isinstance(size, list) and len(size) == 2 and size[0] == size[1] else size


def _remember(module: nn.Module, told: object) -> None:
    from kzoo.carrying import remember

    shares = told.get("transferred") if isinstance(told, dict) else None
    if isinstance(shares, dict) and all(isinstance(share, (int, float)) for share in shares.values()):
        remember(module, {key: float(share) for key, share in shares.items()})
