"""Tuning: values of keys that are looked for by many runs, scored on validation records alone."""
