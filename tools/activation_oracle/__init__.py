"""Activation oracles: a LoRA on the subject's base that answers questions about its activations."""
