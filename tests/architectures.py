"""Random architectures for property tests, and small ones that can be worked by hand."""

from __future__ import annotations

from hypothesis import strategies as st

from kzoo.layers import WEIGHT_AXES, Architecture, Item, Layer

OTHER = Layer("other")


def conv(out: int, into: int, kernel: int = 3) -> Layer:
    return Layer("conv2d", (out, into, kernel, kernel))


def bn(channels: int) -> Layer:
    return Layer("bn2d", (channels,))


def fc(out: int, into: int) -> Layer:
    return Layer("linear", (out, into))


def residual(width: int) -> tuple[Layer, ...]:
    """A block of four typed layers."""
    return (conv(width, width), bn(width), OTHER, conv(width, width), bn(width))


def network(width: int, blocks: int) -> Architecture:
    """conv, blocks, fc."""
    return Architecture((conv(width, 3), *(residual(width) for _ in range(blocks)), fc(10, width)))


_sizes = st.sampled_from([1, 2, 3, 4, 8])


@st.composite
def _typed_layers(draw: st.DrawFn) -> Layer:
    kind = draw(st.sampled_from(["conv1d", "conv2d", "bn2d", "linear"]))
    return Layer(kind, tuple(draw(_sizes) for _ in range(WEIGHT_AXES[kind])), bias=draw(st.booleans()))


layers = st.one_of(_typed_layers(), st.just(OTHER))
blocks = st.lists(layers, min_size=1, max_size=6).map(tuple)
items: st.SearchStrategy[Item] = st.one_of(layers, blocks)


def architectures(least: int = 1, most: int = 7) -> st.SearchStrategy[Architecture]:
    """Architectures with at least one typed layer."""
    drawn = st.lists(items, min_size=least, max_size=most).map(lambda found: Architecture(tuple(found)))
    return drawn.filter(lambda architecture: architecture.typed_layers > 0)
