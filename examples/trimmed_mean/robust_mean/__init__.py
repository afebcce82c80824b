"""A robust aggregator: it replaces the mean of FedAvg, and nothing else."""
