"""Evaluation of reward models: benchmarks, their aggregation, and the statistics on top."""
