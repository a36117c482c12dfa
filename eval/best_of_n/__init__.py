"""Best-of-N: a policy samples, proxies pick the best of n, a gold scorer says how good it is."""
