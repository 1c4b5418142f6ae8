"""What the data asks a network to remember, and what it has left to learn: the learning signal by lag.

``statistic`` is the idea: the consistency of gradients over sequences, and its null distribution. ``sweep`` finds what
each sequence contributes at every lag; ``stream`` does so over batches until it can decide.
"""
