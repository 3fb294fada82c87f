"""Which candidates are kept: greedy and beam search with the semantics of transformers' ``generate``."""
