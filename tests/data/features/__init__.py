"""Tests of frozen features."""
