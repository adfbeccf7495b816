"""transformers behind OpenAI's interface, one request after another: `python -m benchmarks.sides.transformers_server`.

`generate` completes what it is given, whole; texts that come meanwhile wait. Streams a chunk a token, as the load
client needs it, to /v1/completions with a prompt of ids. Runs in the peers' environment, and imports nothing of glm.
"""

import argparse
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Model:
    """Greedy search with transformers, by one thread at a time."""

    def __init__(self, directory: Path):
        import torch
        from transformers import AutoModelForCausalLM

        self._torch, self._turn = torch, threading.Lock()
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def write(self, prompt: list[int], count: int, told: Callable[[int], None]) -> None:
        """Writes exactly `count` tokens, each of which is told at once."""
        from transformers import StoppingCriteriaList

        torch = self._torch
        ids = torch.tensor([prompt])

        def watch(input_ids, scores, **_):
            told(int(input_ids[0, -1]))
            return torch.zeros(1, dtype=torch.bool)

        with self._turn, torch.no_grad():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([watch]),
            )


def handler_of(model: Model) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._head("application/json")
            self.wfile.write(b'{"data": [{"id": "glm"}]}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._head("text/event-stream")
            prompt, count = body["prompt"], body["max_tokens"]
            model.write(prompt, count, lambda token: self._event({"choices": [{"index": 0, "text": f" w{token}"}]}))
            usage = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
            self._event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

        def _head(self, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()

        def _event(self, value: dict) -> None:
            self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")

        def log_message(self, *_) -> None:
            """Nothing: a line a request would be in the way."""

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a checkpoint that transformers opens")
    parser.add_argument("--port", type=int, required=True, help="of the loopback")
    options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", options.port), handler_of(Model(options.directory)))
    server.serve_forever()


if __name__ == "__main__":
    main()
