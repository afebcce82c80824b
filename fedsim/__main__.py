"""`python -m fedsim`."""

from fedsim.cli import command

command()
