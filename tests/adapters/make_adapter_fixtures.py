"""Writes tests/adapters/fixtures: adapters that the real PEFT made or loaded, and what its models gave with them.

    python tests/adapters/make_adapter_fixtures.py

Runs in the project's environment; PEFT runs beside it in .venv-bench or .venv-parity (requirements-parity.txt).

fixtures/bases/BASE           config.json and model.safetensors of a tiny random model, in its published form
fixtures/read/CASE            an adapter that PEFT saved (adapter_cases.READ), and results.safetensors of PEFT with it
fixtures/written/CASE         an adapter that this project saved (WRITTEN), and PEFT's results with it
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from adapter_cases import BASES, READ, WRITTEN, directory_name  # noqa: E402
from adapter_side import write_base, written_adapter  # noqa: E402
from peft_side import run_peft  # noqa: E402

FIXTURES = Path(__file__).parent / "fixtures"


def main() -> None:
    shutil.rmtree(FIXTURES, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        scratch, jobs = Path(name), []
        for base in BASES:
            write_base(base, FIXTURES / "bases" / base, scratch / base)
        for number, (case, (base, settings)) in enumerate(READ.items()):
            jobs.append(_job("read", case, base) | {"settings": settings, "seed": number})
        for case, (base, targets) in WRITTEN.items():
            job = _job("written", case, base)
            Path(job["adapter"]).mkdir(parents=True)
            written_adapter(base, targets, FIXTURES / "bases" / base, Path(job["adapter"]))
            jobs.append(job)
        run_peft(jobs, scratch)


def _job(kind: str, case: str, base: str) -> dict:
    adapter = FIXTURES / kind / directory_name(case)
    results = adapter / "results.safetensors"
    return {"base": str(FIXTURES / "bases" / base), "adapter": str(adapter), "results": str(results)}


if __name__ == "__main__":
    main()
