"""What `python -m tests.fuzz` is made of: material, mutations, kinds of input, and the watch."""
