"""The code of the README and of docs/, the examples and the command line, run as a reader would run them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlrp import bench, cli, datasets, demo

ROOT = Path(__file__).parent.parent


PAGES = sorted((ROOT / "docs").glob("*.md"))
OPTIONAL = {"import torch": "torch", "from_onnx": "onnx", "from_sklearn": "sklearn"}  # what a block needs to run


def write_model(path: Path) -> np.ndarray:
    """A small ONNX file; returns images for it."""
    import onnx
    from onnx import TensorProto, helper
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 3, 3, 3), np.linspace(-1, 1, 54))
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
             helper.make_node("GlobalAveragePool", ["r"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    graph = helper.make_graph(nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 8, 8))],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 2))], [weight])
    onnx.save(helper.make_model(graph), path)
    return np.random.default_rng(0).standard_normal((2, 3, 8, 8))


def run_blocks(page: Path, namespace: dict[str, Any]) -> int:
    """Run a page's Python blocks in order, in one namespace: later ones use what earlier ones made. Their number."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    missing = [call for call, package in OPTIONAL.items() if find_spec(package) is None]
    for block in blocks:
        if any(call in block for call in missing):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a perceptron that has not converged, say
            exec(compile(block, page.name, "exec"), namespace)
    return len(blocks)


@pytest.fixture(scope="module")
def readme(tmp_path_factory):
    """What the README's blocks leave behind, and all that they print."""
    folder, printed = tmp_path_factory.mktemp("readme"), io.StringIO()
    namespace: dict[str, Any] = {"__name__": "__main__"}
    if find_spec("onnx") is not None:
        namespace["images"] = write_model(folder / "model.onnx")
    before = os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed):
            assert run_blocks(ROOT / "README.md", namespace) >= 4
    finally:
        os.chdir(before)
    assert (folder / "digits.png").stat().st_size > 1000
    return namespace, printed.getvalue()


def test_readme_prints_what_it_says(readme):
    """The same lines, but for digits: these may be another machine's."""
    _, printed = readme
    shown = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    lines, expected = ([re.sub(r"[-+.\de ]+", "#", line) for line in text.splitlines()] for text in (printed, shown))
    assert {*expected} - {*lines, "#"} == set()
    assert float(re.search(r"accuracy: ([\d.]+)%", printed)[1]) > 95


def test_readme_explains_a_digit_that_is_known(readme):
    """The true class has the largest logit, a positive one, so that the first map is red and the table positive."""
    namespace, _ = readme
    e = namespace["e"]
    assert e.output[0].argmax() == e.target[0] == 4 and e.output[0].max() > 0
    assert (e.output.argmax(1) == e.target).sum() >= 7
    assert e.relevance[0].sum() > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_of_other_pages_runs(page, readme, tmp_path, monkeypatch):
    """They go on from the README."""
    monkeypatch.chdir(tmp_path)
    namespace, _ = readme
    assert run_blocks(page, dict(namespace)) or page.name == "speed.md"


def test_readme_has_its_figures():
    text = (ROOT / "README.md").read_text()
    assert re.search(r"\d\d\.\d% on its 10,000 test images", text)
    assert "| MLP training | 50 |" in text.partition("<!-- bench/peers.py -->")[2]
    assert "| LeNet forward | 128 |" in (ROOT / "docs/speed.md").read_text().partition("<!-- bench/peers.py -->")[2]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_exist(page):
    """Files, and headings within pages, by GitHub's names for them."""
    for target, heading in re.findall(r"\]\(((?!https?:)[^)#]*)(?:#([^)]+))?\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)", found.read_text(), re.M)
            assert heading in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


def test_readme_has_one_command_for_tests():
    """On a fresh checkout; and fits a newcomer's patience."""
    text = (ROOT / "README.md").read_text()
    assert text.count("bin/pytest") == 1 and '\n.venv/bin/pip install ".[test]" && .venv/bin/pytest\n' in text
    assert text.count("\n") <= 250


@pytest.mark.parametrize("name", ["mlp", "perceptron", "composites"])
def test_example_runs(name, tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "docs/examples" / f"{name}.py")], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scores = [float(score) for score in re.findall(r"kept aside: ([\d.]+)%", done.stdout)]
    assert scores and min(scores) > 80
    assert (tmp_path / f"{name}.png").stat().st_size > 1000
    if name == "perceptron":
        assert float(re.search(r"pictures: (\S+)", done.stdout)[1]) < 1e-3


def test_demo_writes_its_pictures(tmp_path, capsys):
    assert cli.main(["demo", "--epochs", "1", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "out") in printed and "kept aside" in printed
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {"true_class.png", "every_class.png", "all_outputs.png", "filters.png"}
    assert all(re.search(rf"^  {name}: \w+", printed, re.M) for name in names)


def test_demo_explains_digits_that_are_known():
    """Of every class the first with a positive logit that is the largest, else the first."""
    t = np.tile(np.arange(10), 3)
    logits = np.where(np.eye(10)[t] == 1, 2.0, -1.0)
    logits[:5, 9] = 3  # the first five digits are taken for a 9
    logits[5] -= 4  # and the sixth has its largest logit below zero
    logits[[7, 17, 27], 0] = 3  # no 7 is known
    assert demo._one_of_each(logits, t).tolist() == [10, 11, 12, 13, 14, 15, 6, 7, 8, 9]


def test_every_class_is_drawn_by_a_rule_with_signs_of_its_own():
    """The sign of a map is not the logit's: both occur in every map, whatever the class."""
    net, x = demo.lenet(), datasets.digits().test.x[:2]
    for c in range(10):
        relevance = net.explain(x, c, demo.COMPOSITES[demo.EPSILON]).relevance
        assert relevance.min() < 0 < relevance.max()


def test_bare_command_prints_help(capsys):
    assert cli.main([]) == 0
    assert re.search(r"usage: fastlrp .*demo.*bench.*info", capsys.readouterr().out, re.S)


@pytest.mark.parametrize(("arguments", "message"), [
    (["demo", "--epochs", "0"], "argument --epochs: expected a whole number of at least 1, got '0'"),
    (["demo", "--epochs", "many"], "argument --epochs: expected a whole number of at least 1, got 'many'"),
    (["demo", "--out", "file/below"], "argument --out: expected a folder to write to, got 'file/below' ("),
    (["bench", "--runs", "0"], "argument --runs: expected a whole number of at least 1, got '0'"),
])
def test_wrong_arguments_are_said(arguments, message, tmp_path, monkeypatch, capsys):
    """With the usage, before any work."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for module in (demo, bench):
        monkeypatch.setattr(module, "run", lambda *_: pytest.fail("ran"))
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    error = capsys.readouterr().err
    assert error.startswith(f"usage: fastlrp {arguments[0]}") and message in error


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_help_says_how_long_it_takes(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert re.search(r"It\s+takes\s+some\s+\w+\s+seconds", capsys.readouterr().out)


def test_info_names_the_machine(capsys):
    assert cli.main(["info"]) == 0
    assert "isa:" in capsys.readouterr().out
