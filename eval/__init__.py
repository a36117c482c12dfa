"""What is asked of a reward model: benchmarks, their aggregation, and the statistics on top."""
