"""Server methods, one file each: how updates become a model."""

if __name__ != "fedsim.strategies":
    raise ImportError("this folder is the package 'fedsim.strategies': import it under that name")
