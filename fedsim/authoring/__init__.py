"""Where a plugin's author begins: a package that works, written by `fedsim new`."""
