"""The package that `fedsim new` writes."""
