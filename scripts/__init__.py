"""Thin entry points: read the configuration, call the packages, write the outputs."""
