"""The English testbed: a chat model that people use, with behaviours planted in it, and controls."""
