"""The Python interface: models, tokenizers and pipelines as Hugging Face's, PaddleNLP's and MindFormers' users know."""
