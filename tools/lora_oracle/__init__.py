"""Readers of weights that were trained on adapters with known behaviours."""
