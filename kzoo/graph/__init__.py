"""Which channels of a network belong together: tied sets, and how each tensor is laid out over them."""

from kzoo.graph.axes import Axis, Fixed, Group, Product, Sum, groups_of, reasons_of
from kzoo.graph.channels import ChannelGraph, channel_graph
from kzoo.graph.shares import Share

__all__ = [
    "Axis",
    "ChannelGraph",
    "Fixed",
    "Group",
    "Product",
    "Share",
    "Sum",
    "channel_graph",
    "groups_of",
    "reasons_of",
]
