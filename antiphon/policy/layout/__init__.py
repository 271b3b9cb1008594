"""How tensors and layers are split and grouped."""
