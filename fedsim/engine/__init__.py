"""The engine: from a scenario to a run that is done. It knows no method and no observer by name.

`prepare` makes all that a run is made of, `assembly` puts it together with a grid and ledgers, the
loop runs the rounds, `outcome` sums up, and `running` is a run's life around that.
"""
