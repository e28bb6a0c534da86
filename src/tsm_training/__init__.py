"""Learn from ground truth how far each worker of an image ensemble can be trusted."""
