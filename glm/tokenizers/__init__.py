"""Text to token ids and back, for every family. Imports neither paddle nor paddlenlp."""

from glm.tokenizers.base import Tokenizer
from glm.tokenizers.batch_encoding import BatchEncoding
from glm.tokenizers.chatglm import ChatGLMTokenizer
from glm.tokenizers.chatglm2 import ChatGLM2Tokenizer, ChatGLM3Tokenizer
from glm.tokenizers.glm4 import GLM4JsonTokenizer, GLM4Tokenizer, GLM45Tokenizer
from glm.tokenizers.glm_chinese import GLMChineseTokenizer
from glm.tokenizers.registry import GLMTokenizer
from glm.tokenizers.stream import StreamDecoder

__all__ = [
    "BatchEncoding",
    "ChatGLM2Tokenizer",
    "ChatGLM3Tokenizer",
    "ChatGLMTokenizer",
    "GLM4JsonTokenizer",
    "GLM4Tokenizer",
    "GLM45Tokenizer",
    "GLMChineseTokenizer",
    "GLMTokenizer",
    "StreamDecoder",
    "Tokenizer",
]
