"""The federation of one run: its data, who holds which records, and which method is where.

`opening` opens the data, `building` splits them and shares them out, `labelled` and `forgetting`
say which labels are hidden and which records are to be forgotten, and `clients` makes the methods.
"""
