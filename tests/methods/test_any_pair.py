"""Any architecture of timm to any other: transfers carried out for real, every entry of the target looked at."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping

import pytest
import timm

from kzoo.methods.surgery import Body, module_body
from kzoo.readers.module import without_weights
from kzoo.zoo import Zoo
from tests.methods.carried import assert_carried, assert_sums, fill, plan_and_carry, unfilled, walk

pytestmark = pytest.mark.usefixtures("one_thread")
#: Every third pair is carried by one of these too.
OTHERS: tuple[Mapping[str, str], ...] = ({"variant": "paper"}, {"method": "by_name"}, {"method": "weight_selection"})


def carry_along(names: list[str]) -> None:
    """Carry every network into the next one, with its entries looked at; see `OTHERS`."""
    source = unfilled(names[0])
    for step, name in enumerate(names[1:]):
        fill(source, 1)
        target = unfilled(name)
        for method in ({}, OTHERS[step // 3 % 3])[: 1 if step % 3 else 2]:
            fill(target, -1)
            body = module_body(source)
            told = plan_and_carry(body, module_body(target), **method)
            assert_carried(told, body, target)
        source = target


def test_sixty_pairs_of_as_many_families(zoo: Zoo) -> None:
    names = walk(zoo, 60_000_000, 60, seed=0)
    assert len({zoo.entries[name].family for name in names}) == 61
    carry_along(names)


@pytest.mark.parametrize(
    ("source", "target", "method"),
    [
        ("deit_small_patch16_224", "vit_small_patch16_224", "by_name"),
        ("resnet50d", "resnet26d", "by_name"),
        ("deit_small_patch16_224", "vit_tiny_patch16_224", "weight_selection"),
        ("resnetaa50", "resnet18", "weight_selection"),
        ("convnext_nano", "convnext_atto", "weight_selection"),
    ],
)
def test_relatives_whose_layers_have_the_same_names(source: str, target: str, method: str) -> None:
    ours, theirs = fill(unfilled(target), -1), fill(unfilled(source), 1)
    body = module_body(theirs)
    told = plan_and_carry(body, module_body(ours), method)
    assert told.transferred_layers > 20
    assert_carried(told, body, ours)


_DIGEST = """
import hashlib, sys
import torch
from kzoo.carrying import transfer
torch.set_num_threads(int(sys.argv[1]))
from kzoo.building import build_network, network_spec
from kzoo.zoo import load_zoo
for variant in sys.argv[2:]:
    source = build_network(network_spec("timm:regnety_002", load_zoo), load_zoo, seed=1)
    target = transfer(source, "timm:mobilevit_xxs", variant=variant, classes=10)
    digest = hashlib.sha256()
    for key, tensor in target.state_dict().items():
        digest.update(key.encode() + tensor.numpy().tobytes())
    print(digest.hexdigest())
"""


def test_same_bytes_whatever_the_hash_seed_and_the_number_of_threads() -> None:
    def digests(hash_seed: int, threads: int) -> str:
        command = [sys.executable, "-c", _DIGEST, str(threads), "paper", "full_state"]
        environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    first = digests(0, 1)
    assert len(set(first.split())) == 2
    assert digests(1, 2) == first


@pytest.mark.slow
def test_three_hundred_pairs_of_up_to_200_million_parameters(zoo: Zoo) -> None:
    carry_along(walk(zoo, 200_000_000, 300, seed=1))


@pytest.mark.slow
def test_two_thousand_pairs_of_all_architectures_on_paper(zoo: Zoo) -> None:
    """Every architecture once as source and once as target, and random pairs; nothing has values."""
    names = [name for name, entry in zoo.entries.items() if entry.library == "timm"]
    shuffler = random.Random(2)
    shuffler.shuffle(names)
    pairs = [*zip(names, names[1:] + names[:1], strict=True)]
    pairs += [
        (names[a], names[b]) for a, b in (shuffler.sample(range(len(names)), 2) for _ in range(2000 - len(names)))
    ]
    bodies = {name: without_values(name) for name in names}
    for source, target in pairs:
        for variant in ("full_state", "paper"):
            told = plan_and_carry(bodies[source], bodies[target], rehearsal=True, variant=variant)
            assert_sums(told, bodies[target], zoo.entries[target].default.parameters)


def without_values(name: str) -> Body:
    """A network on the meta device."""
    with without_weights():
        module = timm.create_model(name.removeprefix("timm:"))
    return module_body(module)
