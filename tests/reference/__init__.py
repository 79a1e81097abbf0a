"""Short, slow, obvious references: the truth for every backend and instruction set."""
