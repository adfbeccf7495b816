"""Fine-tuning: from arguments and rows to checkpoints, metrics and predictions."""
