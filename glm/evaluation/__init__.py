"""How good a model is: generating for a data set, and scoring what came of it."""
