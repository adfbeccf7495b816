"""The network: layers, positions, attention and its cache, loss, adapters, weights in and out."""
