"""What a model is made of: families, presets, config.json, the shapes of every weight. Data, and no Paddle model."""
