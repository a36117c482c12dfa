"""The reward model: preferences, tokens, model, pair losses and weights, trainer, checkpoint."""
