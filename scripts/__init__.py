"""One command per file: compose the configuration, call pipeline, print."""
