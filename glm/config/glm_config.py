"""The configuration as PaddleNLP's Trainer and models know it; what a GLM is made of stands in glm/config/fields.py."""

from pathlib import Path
from typing import Any

from paddlenlp.transformers import PretrainedConfig

from glm.config.config_json import config_json, write_config_file
from glm.config.families import FAMILIES
from glm.config.fields import DTYPES, ConfigFields
from glm.config.mindformers_fields import from_mindformers
from glm.config.presets import PRESETS, UNTRAINED_PRESETS, preset_name

__all__ = ["DTYPES", "FAMILIES", "PRESETS", "UNTRAINED_PRESETS", "GLMConfig", "preset_name"]


class GLMConfig(ConfigFields, PretrainedConfig):
    """Configuration of `glm.GLMForCausalLM`; the sizes of GLM-Large-Chinese unless given.

    Args:
        family: key of `FAMILIES`; its `parts` fill position_type, norm_type, hidden_act, checkpoint_table.
        vocab_size: rows of the word embedding.
        hidden_size: H, width of the residual stream.
        num_hidden_layers, num_attention_heads: depth, and heads per layer.
        num_key_value_heads: heads of keys and values, which query heads share; as many as those unless given.
        head_dim: width of a head; H / heads unless given.
        intermediate_size: width inside the MLP, 4·H unless given.
        max_position_embeddings: the largest position id that is allowed, unless rope_scaling allows more.
        initializer_range: standard deviation of random weights.
        rope_theta, partial_rotary_factor: base, and share of a head that is rotated, of rotary positions.
        rope_scaling: how rotary positions are scaled, as transformers has it: {"rope_type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 32768}, or of type linear or llama3.
        sequence_parallel: in training the ranks of tensor parallelism divide the tokens of a row among them where they
            do not divide weights (glm/distributed/sequence_parallel.py); in no config.json.
        expert_parallel_degree, expert_parallel_rank: how many data-parallel ranks divide the experts among them, and
            which of them this process is (glm/distributed/expert_parallel.py); in no config.json.
        norm_eps, embedding_dropout, attention_dropout, hidden_dropout, attention_bias: epsilon of the norms, dropout
            probabilities in training, whether queries, keys and values have a bias; the family's unless given.
        n_routed_experts, num_experts_per_tok, moe_intermediate_size, n_shared_experts, first_k_dense_replace, n_group,
            topk_group, norm_topk_prob, routed_scaling_factor: experts of a layer, how many of them a token takes, their
            width, those that all tokens take, how many layers in front have none, and the router's numbers
            (glm/model/experts.py); of families glm4-moe and glm4-moe-lite alone, as is:
        num_nextn_predict_layers: layers that predict the token after the next; files have them, this model has not.
        use_qk_norm: RMSNorm of every head's query and key; of family glm4-moe alone.
        q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim: widths of the latents that queries,
            and keys and values, are made of; of a key what is not rotated, and what is; of a value
            (glm/model/latent_attention.py). Of family glm4-moe-lite alone, whose head_dim is that of a key, and whose
            partial_rotary_factor is 1.
        kwargs: of PaddleNLP's PretrainedConfig: dtype, tie_word_embeddings, eos_token_id and its like,
            tensor_parallel_degree, tensor_parallel_rank and others. Or MindFormers' fields of ChatGLM-6B, which then is
            the model (glm/config/mindformers_fields.py).

    Attributes:
        max_decode_length: as MindFormers has it; the model's positions unless given.

    Raises:
        GLMError: an unknown field, family or dtype, scaled positions that are not implemented, heads that do not
            divide the hidden size, or a tensor-parallel degree that does not divide heads and MLP, or that neither
            divides the key/value heads nor is a multiple of them, or sequence_parallel with one rank, or an
            expert-parallel degree that does not divide the experts.
    """

    model_type = "glm"

    def __init__(self, *args, **kwargs):
        kwargs, longest = (kwargs, None) if args else from_mindformers(kwargs)
        super().__init__(*args, **kwargs)
        self.max_decode_length = longest or self.max_position_embeddings

    def to_checkpoint_dict(self, shards: int = 1) -> dict[str, Any]:
        """The config.json, in the names that the family's own users and PaddleNLP know.

        Args:
            shards: tensor-parallel files that the weights beside it lie in.
        """
        return config_json(self, shards)

    def save_pretrained(self, save_directory: str | Path, *, shards: int = 1, **kwargs) -> None:
        """Writes config.json into a directory, whole or not at all."""
        write_config_file(self, Path(save_directory), shards)
