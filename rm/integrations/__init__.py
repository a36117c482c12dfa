"""NormBT inside other libraries' trainers; each module needs its library installed."""
