"""Turn Stanford's alpaca_data.json into conversations, one {"messages": […]} a line: the task `messages` reads them.

    python data/alpaca_converter.py --data_path alpaca_data.json --output_path alpaca_glm4_data.jsonl

Only needed for other tools: `--task_name alpaca` reads alpaca_data.json itself and makes the same messages.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from glm.cli.script import ScriptParser, run_script
from glm.datasets.prompts import ALPACA
from glm.datasets.readers import read_rows
from glm.files.atomic import atomic_write


def main() -> None:
    parser = ScriptParser(__doc__)
    parser.add_argument("--data_path", default="alpaca_data.json", help="rows {instruction, input, output}")
    parser.add_argument("--output_path", default="alpaca_glm4_data.jsonl", help="file to write")
    args = parser.parse_args()
    rows, _ = read_rows(args.data_path, ALPACA.fields)
    with atomic_write(args.output_path, "w", "utf-8") as file:
        file.writelines(json.dumps({"messages": ALPACA.messages(row)}, ensure_ascii=False) + "\n" for row in rows)
    print(f"{args.output_path}: {len(rows)} conversations")


if __name__ == "__main__":
    run_script(main)
