"""Who can yield an architecture: a torch module, timm, torchvision."""
