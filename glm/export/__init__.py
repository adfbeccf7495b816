"""From a model to a directory that a runtime opens: graphs, weights, side files and manifest."""
