"""Fusing trained networks without training: how far from the parents, their ensemble and joint training is the result?"""
