"""Figures and tables: one module each, `collect(results) -> DataFrame`, `draw(frame) -> Figure`."""
