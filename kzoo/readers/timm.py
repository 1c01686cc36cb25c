"""Architectures and checkpoints that timm knows, read without weights."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

import timm
from timm.models import get_arch_pretrained_cfgs

from kzoo.catalog import ArchitectureEntry, Checkpoint
from kzoo.layers import Architecture
from kzoo.licenses import OTHER, UNKNOWN, is_known_license
from kzoo.readers.module import module_architecture, without_weights
from kzoo.readers.variants import Variant, head_layers

LIBRARY = "timm"
VERSION = timm.__version__

# Data sets as timm's tags name them; a longer name comes before one that it contains.
_DATASETS = (
    ("inw21k", "imagenet-21k-winter"),
    ("in21k", "imagenet-21k"),
    ("in22k", "imagenet-22k"),
    ("in12k", "imagenet-12k"),
    ("in1k", "imagenet-1k"),
    ("jft", "jft-300m"),
    ("yfcc100m", "yfcc-100m"),
    ("yfcc15m", "yfcc-15m"),
    ("ig1b", "instagram-1b"),
    ("swag", "instagram-3.6b"),
    ("laion2b", "laion-2b"),
    ("laion400m", "laion-400m"),
    ("laiona", "laion-aesthetic"),
    ("lvd142m", "lvd-142m"),
    ("lvd1689m", "lvd-1689m"),
    ("sat493m", "sat-493m"),
    ("webli", "webli"),
    ("dfn2b", "dfn-2b"),
    ("dfn5b", "dfn-5b"),
    ("dfndr2b", "datacompdr-2b"),
    ("datacompxl", "datacomp-xl"),
    ("datacomp1b", "datacomp-1b"),
    ("merged2b", "merged-2b"),
    ("cc12m", "cc-12m"),
    ("sa1b", "sa-1b"),
    ("openai", "openai-wit-400m"),
)


def families() -> dict[str, list[str]]:
    """Architecture names by the module that defines them, both sorted."""
    by_family: dict[str, list[str]] = {}
    for name in sorted(timm.list_models()):
        by_family.setdefault(timm.models.model_entrypoint(name).__module__.rpartition(".")[2], []).append(name)
    return dict(sorted(by_family.items()))


def build(
    name: str,
    classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | None = None,
    submodule: str | None = None,
) -> Architecture:
    """The architecture ``name`` (or ``name.tag``), with another head, input channels or image size where given."""
    # Where the input size is not fixed, no layer depends on it and the constructor does not take it.
    fixed = _config(*name.partition(".")[::2]).fixed_input_size
    options: dict[str, Any] = {"num_classes": classes, "in_chans": in_chans, "img_size": img_size if fixed else None}
    with without_weights():
        module = timm.create_model(name, **{key: value for key, value in options.items() if value is not None})
    return module_architecture(module, f"{LIBRARY}:{name}", submodule)


def variants(entry: ArchitectureEntry) -> list[Variant]:
    """Every distinct form that the default and the checkpoints of ``entry`` need; the default is the first."""
    name = entry.name
    known = get_arch_pretrained_cfgs(name)
    own = {checkpoint.tag: checkpoint for checkpoint in entry.checkpoints if f"{name}.{checkpoint.tag}" not in known}
    found = _variants(name, tuple(checkpoint.tag for checkpoint in entry.checkpoints if checkpoint.tag not in own))
    for tag, checkpoint in own.items():
        # A checkpoint that people added: the registry says what timm does not know.
        channels, size = (None, None) if checkpoint.input_size is None else checkpoint.input_size[:2]
        found.append(Variant(build(name, checkpoint.classes, channels, size), (tag,)))
    return found


def _variants(name: str, tags: tuple[str, ...]) -> list[Variant]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for tag in ("", *tags):
        groups.setdefault(_form(_config(name, tag)), []).append(tag)
    found = []
    for members in groups.values():
        architecture = build(".".join(filter(None, (name, members[0]))))
        classes = _config(name, members[0]).num_classes
        heads, growth = None, 0
        if members[0] == "" and classes > 0:
            one_more = build(name, classes=classes + 1)
            heads, growth = head_layers(architecture, one_more), one_more.entries - architecture.entries
        found.append(Variant(architecture, tuple(members), heads, growth))
    return found


def _config(name: str, tag: str) -> Any:
    return timm.get_pretrained_cfg(f"{name}.{tag}" if tag else name) or timm.models.PretrainedCfg()


def _form(config: Any) -> tuple[Any, ...]:
    """What of a checkpoint's configuration changes the network that timm builds for it."""
    return config.num_classes, config.input_size[0], config.input_size if config.fixed_input_size else None


def entry(name: str) -> ArchitectureEntry:
    """The registry's entry for ``name`` with all its checkpoints, timm's default first."""
    default = _config(name, "")
    configs = {
        key.partition(".")[2]: config for key, config in get_arch_pretrained_cfgs(name).items() if config.has_weights
    }
    tags = sorted(configs, key=lambda tag: (tag != default.tag, tag))
    forms = _variants(name, tuple(tags))
    parameters = {tag: form.architecture.entries for form in forms for tag in form.tags}
    return ArchitectureEntry(
        name=name,
        parameters=parameters[""],
        classes=default.num_classes,
        input_size=list(default.input_size),
        checkpoints=[_checkpoint(name, configs[tag], parameters[tag]) for tag in tags],
    )


def _checkpoint(name: str, config: Any, parameters: int) -> Checkpoint:
    own = f"{LIBRARY}/{name}.{config.tag}"
    repository = config.hf_hub_id
    # Some repositories serve two architectures; the id must tell them apart.
    identifier = repository if repository and _repository_uses()[repository, config.hf_hub_filename] == 1 else own
    license, license_name, license_link = _license(config)
    return Checkpoint(
        id=identifier,
        tag=config.tag,
        license=license,
        license_name=license_name,
        license_link=license_link,
        classes=config.num_classes,
        input_size=list(config.input_size),
        trained_on=trained_on(config.tag),
        parameters=parameters,
        hub=repository if repository and repository != identifier else None,
        filename=config.hf_hub_filename or None,
        url=config.url if not repository else None,
        paper=config.paper_ids or None,
    )


def _license(config: Any) -> tuple[str, str | None, str | None]:
    """A checkpoint's license, and name and link of one that is on no list."""
    license = config.license or UNKNOWN
    if license == UNKNOWN or is_known_license(license):
        return license, None, None
    # timm gives a name of its own and no address; the repository of the weights states the license.
    return OTHER, license, f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url


@cache
def _repository_uses() -> Counter[tuple[str | None, str | None]]:
    configs = (_config(*name.partition(".")[::2]) for name in timm.list_pretrained())
    return Counter((config.hf_hub_id, config.hf_hub_filename) for config in configs)


def trained_on(tag: str) -> list[str]:
    """Data sets that a timm tag names, in its order (pretraining first); nothing is guessed."""
    pattern = "|".join(re.escape(short) for short, _ in _DATASETS)
    names = dict(_DATASETS)
    return list(dict.fromkeys(names[short] for short in re.findall(pattern, tag)))
