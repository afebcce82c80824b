"""A strategy with two exchanges a round, and the client method that answers both."""
