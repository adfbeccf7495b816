"""PaddleNLP's GLM with random weights, and ours with the same ones, which come through the checkpoint reader."""

from paddlenlp.transformers import GLMConfig, GLMForConditionalGeneration
from tiny_glm import scatter

from glm import GLMForCausalLM

SHAPE = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 384, "max_sequence_length": 64}
NO_DROPOUT = {"embedding_dropout_prob": 0.0, "attention_dropout_prob": 0.0, "output_dropout_prob": 0.0}


def reference_model(attention_scale: float = 1.0, spread: float = 0.3) -> GLMForConditionalGeneration:
    config = GLMConfig(**SHAPE, **NO_DROPOUT, output_predict=True, attention_scale=attention_scale)
    model = GLMForConditionalGeneration(config)
    scatter(model, seed=7, spread=spread)
    model.eval()
    return model


def load_ours(theirs: GLMForConditionalGeneration, directory) -> GLMForCausalLM:
    theirs.save_pretrained(directory)
    model = GLMForCausalLM.from_pretrained(directory)
    model.eval()
    return model
