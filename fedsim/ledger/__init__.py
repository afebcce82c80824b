"""Ledgers: what a run spent, in bytes and in privacy, kept outside the clients."""
