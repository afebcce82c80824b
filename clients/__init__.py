"""Client methods, one file each: what a site does with its data."""

if __name__ != "fedsim.clients":
    raise ImportError("this folder is the package 'fedsim.clients': import it under that name")
