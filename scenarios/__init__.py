"""The scenarios that ship with fedsim, one YAML file per experiment."""

if __name__ != "fedsim.scenarios":
    raise ImportError("this folder is the package 'fedsim.scenarios': import it under that name")
