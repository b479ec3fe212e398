"""The grid's command lines are ones that the scripts take, and its runs have names of their own."""

import pytest

from captioner.errors import OptionError
from training import copying, sequential_mnist, word_language_model
from training.benchmarks.reproductions import RATES, REPRODUCTIONS, Run, restricted, runs_of
from training.command import build_parser
from training.methods import load_method, method_names

SCRIPTS = {
    "copying": copying.SCRIPT,
    "sequential_mnist": sequential_mnist.SCRIPT,
    "word_language_model": word_language_model.SCRIPT,
}


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_the_scripts_understand_every_run(name: str) -> None:
    for run in runs_of(REPRODUCTIONS[name], seeds=1):
        parser = build_parser(SCRIPTS[run.setting.script], {"model": run.row.model})
        given = vars(parser.parse_args(run.arguments))
        wanted = {"lr": run.lr, "seed": 0, **dict(run.row.options), **dict(run.setting.options)}
        assert {key: given[key] for key in wanted} == wanted


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_runs_that_differ_have_different_folders(name: str) -> None:
    runs = list(runs_of(REPRODUCTIONS[name], seeds=3))
    assert len({run.name for run in runs}) == len(runs)


def test_exhibits_share_their_runs() -> None:
    def names(name: str) -> set[str]:
        return {run.name for run in runs_of(REPRODUCTIONS[name], seeds=2)}

    assert names("table1") < names("figure2")
    assert names("figure3") < names("table2")
    assert names("table1_small") == names("figure2_small")
    assert {len(row.paper) for row in REPRODUCTIONS["table1"].rows} == {6}


def test_a_task_alone_keeps_its_printed_numbers() -> None:
    table = restricted(REPRODUCTIONS["table2"], ["pmnist"])
    assert {run.setting.short for run in runs_of(table, 1)} == {"pmnist"}
    assert [row.paper for row in table.rows[:3]] == [(91.1,), (92.3,), (82.0,)]
    assert restricted(REPRODUCTIONS["table1"], ["copying100"]) == REPRODUCTIONS["table1"]
    assert restricted(REPRODUCTIONS["table2"], []) == REPRODUCTIONS["table2"]
    with pytest.raises(OptionError, match="--only is 'mnits'; it can be mnist or pmnist"):
        restricted(REPRODUCTIONS["table2"], ["mnits"])


def test_the_second_table_has_a_row_for_every_method() -> None:
    assert {row.model for row in REPRODUCTIONS["table2"].rows} == set(method_names())
    for row in REPRODUCTIONS["table2"].rows:
        load_method(row.model).options(**dict(row.options))


def test_c_detach_runs_with_each_tasks_own_probability() -> None:
    found = {
        (run.setting.script, dict(run.row.options).get("cell_p"))
        for run in runs_of(REPRODUCTIONS["figure5"], seeds=1)
    }
    assert found == {
        ("copying", None),
        ("copying", 0.5),
        ("sequential_mnist", None),
        ("sequential_mnist", 0.25),
    }


def test_other_learning_rates_can_be_asked_for() -> None:
    def rates(*asked: float) -> set[float]:
        return {run.lr for run in runs_of(REPRODUCTIONS["figure3"], 1, asked)}

    assert rates() == set(RATES)
    assert rates(0.01, 0.02) == {0.01, 0.02}
    with pytest.raises(OptionError, match=r"--lr is 2; it must be above 0 and below 1"):
        list(runs_of(REPRODUCTIONS["figure3"], 1, (2.0,)))


def test_a_run_is_named_by_what_it_is() -> None:
    by_label = {row.label: row for row in REPRODUCTIONS["figure4"].rows}
    row = by_label["h-detach 0.25, not clipped"]
    run = Run(REPRODUCTIONS["figure4"].settings[0], row, 1e-4, 2)
    assert run.name == "mnist-lstm-clip0-p0.25-lr0.0001-seed2"
