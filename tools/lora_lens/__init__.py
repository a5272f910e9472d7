"""Words that a change of weights reads and writes, in the base's own embeddings."""
