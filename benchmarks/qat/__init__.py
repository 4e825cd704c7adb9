"""Quantization-aware training with labels after quantization: what could be reached with them."""
