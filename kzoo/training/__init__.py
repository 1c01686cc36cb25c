"""Small image classification tasks, and what trains networks on them."""
