"""Data: what a data set is, the store it is kept in, splits, and partitions over clients."""
