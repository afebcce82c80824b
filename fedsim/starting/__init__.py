"""From a folder to a scenario: look at the data, and write a file that runs on them."""
