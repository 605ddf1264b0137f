"""Checks example 01: sums, the nodes that it prints, gradients, what is no number."""

import numpy as np
import pytest

from examples import example01_add_two_numbers as example01


@pytest.mark.parametrize(("a", "b"), [(3, 4), (-3, 4.5), (0.1, 0.2), (1e-50, -1e5), (3e38, 3e38)])
def test_every_way_of_adding_gives_the_sum(a, b):
    result = example01.main([str(a), str(b)])
    with np.errstate(over="ignore"):
        expected = np.float32(a) + np.float32(b)
    for key in ("sum", "sum_from_graph", "sum_in_variable"):
        assert result[key] == expected, key
    assert result["gradients"]["a + b"] == [1, 1]
    assert result["gradients"]["a * b"] == [np.float32(b), np.float32(a)]
    assert example01.add.experimental_get_tracing_count() == 1  # whatever the numbers


def test_without_arguments_it_adds_the_numbers_of_its_help(capsys):
    assert example01.main([])["sum"] == example01.A + example01.B
    with pytest.raises(SystemExit):
        example01.main(["--help"])
    assert f"default {example01.A}" in capsys.readouterr().out


def test_what_is_printed(capsys):
    result = example01.main(["3", "4"])
    output = capsys.readouterr().out
    assert "a = 3.0, shape (), dtype float32" in output
    assert "a, after assign_add(b) = 7.0" in output
    assert "of a * b: 4.0 by a, 3.0 by b" in output
    assert f"computed on {result['device']}\n" in output
    # Follow the nodes by hand, from the placeholders to the last of them.
    values = {"a": 30.0, "b": 12.0}
    lines = [line.split() for line in output.splitlines()]
    for name, operation, inputs in result["nodes"]:
        assert [name, operation, *inputs.split()] in lines
        given = [values[source] for source in inputs.split(", ") if source]
        if operation != "Placeholder":
            values[name] = {"AddV2": sum, "Identity": lambda one: one[0]}[operation](given)
    assert values[result["nodes"][-1][0]] == 42


@pytest.mark.parametrize(
    "wrong", ["x", "", "1,5", "nan", "inf", "1e39", "1e400", "-inf", "0x10", "1 2", "--x"]
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_number_is_refused(wrong, capsys):
    with pytest.raises(SystemExit) as error:
        example01.main(["1", wrong])
    assert error.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    usage, reason = errors.splitlines()
    assert usage.startswith("usage: ")
    assert "argument b" in reason
    assert wrong in reason
