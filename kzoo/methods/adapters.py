"""Source weights made to fit a target that sees other images, by timm's own functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CHANNELS = 3
_POSITIONS = ("pos_embed", "pos_embedding", "position_embedding", "position_embeddings")
_RELATIVE = "relative_position_bias_table"
_MOST_PREFIX_TOKENS = 8


def adapt_channels(weight: Tensor, in_chans: int) -> Tensor:
    """A first convolution (out, in, kh, kw) for ``in_chans`` input channels, by timm's rule.

    Its channels are summed for one, else repeated, and scaled so that the sum over them stays. With more than three it
    does not see colours (but pixels that were rearranged), and is returned as it is.
    """
    from timm.models._manipulate import adapt_input_conv

    channels = weight.shape[1]
    if in_chans == channels or channels > _CHANNELS:
        return weight
    if channels == _CHANNELS or in_chans == 1:
        return adapt_input_conv(in_chans, weight)
    repeated = weight.repeat(1, math.ceil(in_chans / channels), 1, 1)[:, :in_chans]
    return repeated * (channels / in_chans)


def adapt_positions(name: str, weight: Tensor, target_shape: tuple[int, ...]) -> Tensor:
    """A table of positions on the target's grid: interpolated; prefix tokens (class, registers) are kept.

    ``weight`` has the shape (1, tokens, channels), a table of relative positions ((2 h - 1)(2 w - 1), heads). Anything else,
    and grids that are not square, are returned as they are.
    """
    leaf = name.rpartition(".")[2]
    if leaf in _POSITIONS and weight.ndim == len(target_shape) == 3 and weight.shape[1] != target_shape[1]:
        return _absolute(weight, target_shape[1])
    if leaf == _RELATIVE and weight.ndim == len(target_shape) == 2 and weight.shape[0] != target_shape[0]:
        return _relative(weight, target_shape[0])
    return weight


def _absolute(weight: Tensor, tokens: int) -> Tensor:
    from timm.layers.pos_embed import resample_abs_pos_embed

    theirs, ours = _grid(weight.shape[1]), _grid(tokens)
    if theirs is None or ours is None:
        return weight
    (side, prefix), (new_side, new_prefix) = theirs, ours
    grid = resample_abs_pos_embed(weight[:, prefix:], [new_side, new_side], [side, side], num_prefix_tokens=0)
    kept = weight[:, : min(prefix, new_prefix)]
    # Tokens that the source does not have start at the position that fresh ones are drawn around.
    missing = weight.new_zeros(1, new_prefix - kept.shape[1], weight.shape[2])
    return torch.cat([kept, missing, grid], dim=1)


def _grid(tokens: int) -> tuple[int, int] | None:
    """The side of the square grid in so many tokens, and how many tokens come before it."""
    for prefix in range(min(_MOST_PREFIX_TOKENS, tokens)):
        side = math.isqrt(tokens - prefix)
        if side * side == tokens - prefix:
            return side, prefix
    return None


def _relative(weight: Tensor, rows: int) -> Tensor:
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

    side, new_side = math.isqrt(weight.shape[0]), math.isqrt(rows)
    if side * side != weight.shape[0] or new_side * new_side != rows or side % 2 == 0 or new_side % 2 == 0:
        return weight
    window, new_window = (side + 1) // 2, (new_side + 1) // 2
    found: Tensor = resize_rel_pos_bias_table(
        weight,
        new_window_size=(new_window, new_window),
        new_bias_shape=(rows, weight.shape[1]),
        old_window_size=(window, window),
    )
    return found
