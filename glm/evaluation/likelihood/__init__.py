"""How likely a model, or an export of one, finds texts behind a context. Imports no framework.

`glm.evaluation.likelihood.model` scores with a Paddle model, `.export` with a decoder step graph; both are what
`TextGenerator.scorer` gives (glm/inference/generator.py).
"""

from glm.evaluation.likelihood.rows import ContextTooLong, Likelihood, Row, Scorer
from glm.evaluation.likelihood.tokens import TokenRow

__all__ = ["ContextTooLong", "Likelihood", "Row", "Scorer", "TokenRow"]
