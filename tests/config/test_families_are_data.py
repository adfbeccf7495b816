"""A family is data: no code outside the configuration and the checkpoint room asks which one it has."""

import ast
from pathlib import Path

import pytest

from glm.config.families import FAMILIES

GLM = Path(__file__).resolve().parents[2] / "glm"
ROOMS = {"config", "checkpoint"}
FILES = [path for path in sorted(GLM.rglob("*.py")) if path.relative_to(GLM).parts[0] not in ROOMS]
# What tells models apart: attributes and variables, and what they are compared with.
ASKED = {"model_type", "family", "checkpoint_table", "architectures", "architecture"}
VALUES = {
    *FAMILIES,
    *(each.model_type for each in FAMILIES.values()),
    *(each.architecture for each in FAMILIES.values()),
    *(each.parts["checkpoint_table"] for each in FAMILIES.values()),
} - {"glm"}  # also this package's name


def questions(source: str) -> list[int]:
    """Lines with a comparison, a `match` or a look-up by the kind of model."""
    return sorted({node.lineno for node in ast.walk(ast.parse(source)) if _asks(node)})


def _asks(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return any(map(_tells, ast.walk(node)))
    if isinstance(node, ast.Match):
        return _names(node.subject) or any(
            map(_tells, (child for case in node.cases for child in ast.walk(case.pattern)))
        )
    if isinstance(node, ast.Subscript):
        return _names(node.slice)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        keyed = node.func.attr in ("get", "startswith", "endswith") and any(map(_tells, node.args))
        return keyed or (node.func.attr in ("startswith", "endswith") and _names(node.func.value))
    return False


def _tells(node: ast.AST) -> bool:
    return _names(node) or (isinstance(node, ast.Constant) and node.value in (VALUES | ASKED))


def _names(node: ast.AST) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr in ASKED) or (isinstance(node, ast.Name) and node.id in ASKED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(GLM)))
def test_no_file_asks(path):
    assert questions(path.read_text(encoding="utf-8")) == []


def test_all_of_the_code_is_looked_at():
    assert len(FILES) > 50
    assert GLM / "model" / "network.py" in FILES


@pytest.mark.parametrize(
    "source",
    [
        "if config.model_type == 'glm4': pass",
        "if model_type in KNOWN: pass",
        "x = 1 if self.config.family != other else 2",
        "if kind == 'glm4-0414': pass",
        "if 'ChatGLMModel' in names: pass",
        "match config.model_type:\n    case 'x': pass",
        "match name:\n    case 'chatglm': pass",
        "TABLE[config.family]",
        "raw.get('model_type')",
        "config.model_type.startswith('glm')",
    ],
)
def test_the_look_finds_it(source):
    assert questions(source)


def test_a_table_of_parts_is_no_question():
    assert questions("norm = NORMS[config.norm_type](config)\nself.generation.run()\nif config.post_norms: pass") == []
