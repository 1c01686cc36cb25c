"""Fuse trained networks of one architecture without training: their weights become one network's.

Weight summation and the change of nonessential weights are reconstructions from the abstract of arXiv 1809.09399; RegMean
is the strong baseline beside them. `rules` says how entries of one tensor are fused, `roles` what a tensor is, `states`
brings both together for state dicts. What parents' data is needed for is measured before, and handed over as tensors:
`importance` (Fisher), `inputs` (Grams). `layerwise` solves one layer after the other on the parents' images.
`normalisation` folds batch normalisation, `permutations` and `alignment` bring the channels of parents in one order,
`classifiers` joins private classifiers, `ensembles` are what results are measured against, `parents` refuses what cannot be
fused.
"""
