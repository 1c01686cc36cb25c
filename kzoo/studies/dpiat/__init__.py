"""DPIAT (arXiv 2212.13970): is a network that starts from another one ahead of a random start, and what does it take?"""
