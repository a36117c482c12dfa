"""Best-of-N: sample from a policy, score by a gold, let proxies pick, measure what they pick."""
