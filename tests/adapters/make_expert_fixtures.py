"""An adapter of fused experts that PEFT made, and the logits of transformers with it. Run by hand:

    /tmp/parity/bin/python tests/adapters/make_expert_fixtures.py

in the environment of requirements-parity.txt. The base is tests/parity/fixtures/glm4moe-air.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import Glm4MoeForCausalLM

HERE = Path(__file__).parent
BASE = HERE.parents[0] / "parity" / "fixtures" / "glm4moe-air"
TARGET = HERE / "fixtures" / "experts"
SETTINGS = {
    "r": 3,
    "lora_alpha": 5,
    "target_modules": ["q_proj"],
    "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
}


def main() -> None:
    how = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = get_peft_model(Glm4MoeForCausalLM.from_pretrained(BASE, **how), LoraConfig(**SETTINGS)).eval()
    draw = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=draw)
    case = load_file(BASE / "reference.safetensors")
    names = ("input_ids", "attention_mask", "position_ids")
    inputs = {name: torch.from_numpy(case[f"right_padded.{name}"].astype("int64")) for name in names}
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits.numpy()
    model.save_pretrained(TARGET)
    (TARGET / "README.md").unlink(missing_ok=True)
    path = TARGET / "adapter_config.json"
    settings = json.loads(path.read_text("utf-8")) | {"base_model_name_or_path": None}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    save_file({"logits": logits}, TARGET / "results.safetensors")
    print(sorted(load_file(TARGET / "adapter_model.safetensors")), file=sys.stderr)


if __name__ == "__main__":
    main()
