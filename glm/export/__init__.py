"""From a model to a directory that a runtime opens: graphs, weights, text side and manifest."""
