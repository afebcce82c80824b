"""A strategy with two phases: train with all clients, then forget one of them."""
