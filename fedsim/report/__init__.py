"""Pictures and tables of run folders."""
