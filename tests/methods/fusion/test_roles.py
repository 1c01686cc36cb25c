from __future__ import annotations

import pytest
import torch

from kzoo.methods.fusion.roles import Role, roles_of


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("blocks.0.gamma_1", (768,), Role.SCALE),
        ("blocks.0.ls1", (1, 1, 384), Role.SCALE),
        ("layers.0.layer_scale", (96, 1, 1), Role.SCALE),
        ("attn.logit_scale", (4, 1, 1), Role.SCALE),
        ("attn.temperature", (4, 1, 1), Role.SCALE),
        ("stem.conv.gain", (16, 1, 1, 1), Role.SCALE),
        ("norm1.beta", (1, 1, 384), Role.SCALE),
        ("head.scale", (10, 20), Role.WEIGHT),
        ("cls_token", (1, 1, 384), Role.WEIGHT),
        ("pos_embed", (1, 197, 384), Role.WEIGHT),
        ("fc.weight", (1, 20), Role.WEIGHT),
        ("gammas.weight", (3, 20), Role.WEIGHT),
    ],
)
def test_scales_of_single_channels_are_told_by_name_and_shape(name, shape, role) -> None:
    assert roles_of({name: shape}, {name: torch.float32})[name] is role
