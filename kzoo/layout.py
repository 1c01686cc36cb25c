"""The names of the files in a model folder."""

WEIGHTS, CONFIG, RECIPE, CARD = "model.safetensors", "config.json", "recipe.yaml", "README.md"
#: Only of a network that was tested, and of one whose plan was given.
METRICS, PLAN = "metrics.json", "plan.json"
#: The class of machine that made it; and the picture of the matching, which `kzoo card` draws.
ENVIRONMENT, PICTURE = "environment.yaml", "matching.svg"
#: The target of recipes that fuse weights of networks that kzoo does not know, and what their results call the network.
TENSORS = "tensors"
