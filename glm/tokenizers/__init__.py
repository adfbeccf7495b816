"""Text to token ids and back, for every generation. Imports neither paddle nor paddlenlp."""

from glm.tokenizers.glm_chinese import GLMChineseTokenizer
from glm.tokenizers.registry import GLMTokenizer
from glm.tokenizers.stream import StreamDecoder

__all__ = ["GLMChineseTokenizer", "GLMTokenizer", "StreamDecoder"]
