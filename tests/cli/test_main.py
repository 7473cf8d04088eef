from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator

import click
import pytest

import steadyvlm as package
from steadyvlm.cli.main import cli, main
from steadyvlm.errors import RunError, SteadyVLMError, UsageError


@pytest.fixture
def failing() -> Iterator[list[BaseException]]:
    """A command that raises what the test puts in the list."""
    errors: list[BaseException] = []

    @cli.command("fail")
    def fail() -> None:
        raise errors[0]

    yield errors
    del cli.commands["fail"]


def test_help_names_every_command_and_the_exit_codes(steadyvlm):
    done = steadyvlm("--help")
    assert done.code == 0
    for name in ("demo", "run", "status", "compare", "report", "list", "pocket"):
        assert f"  {name}" in done.out
    assert "130 interrupted" in " ".join(done.out.split())


@pytest.mark.parametrize("name", [name for name in cli.commands if name != "pocket"])
def test_every_command_has_help_with_an_example(steadyvlm, name):
    done = steadyvlm(name, "--help")
    assert done.code == 0
    assert f"steadyvlm {name}" in done.out.split("Example", 1)[1]


def test_version(steadyvlm):
    assert steadyvlm("--version").out == f"steadyvlm {package.__version__}\n"


def test_unknown_command_suggests_the_nearest(steadyvlm):
    done = steadyvlm("comapre", "a", "b")
    assert done.code == 2
    assert "no command is called 'comapre'. Did you mean 'compare'?" in done.err


@pytest.mark.parametrize("arguments", [("compare",), ("compare", "a", "b", "--hmtl", "x"), ("demo", "--limit", "none")])
def test_wrong_usage_is_a_bad_request_with_the_way_to_help(steadyvlm, arguments):
    done = steadyvlm(*arguments)
    assert done.code == 2
    assert "--help" in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError("ask otherwise"), 2), (RunError("it broke"), 3), (SteadyVLMError("somehow"), 3)],
)
def test_known_errors_become_one_line_and_their_exit_code(steadyvlm, failing, error, code):
    failing.append(error)
    done = steadyvlm("fail")
    assert (done.code, done.out) == (code, "")
    assert done.err == f"{type(error).__name__}: {error}\n"


def test_an_unexpected_error_is_short_and_says_how_to_see_more(steadyvlm, failing):
    failing.append(ZeroDivisionError("division by zero"))
    done = steadyvlm("fail")
    assert done.code == 3
    assert done.err.startswith("ZeroDivisionError: division by zero\n")
    assert "--debug" in done.err


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch.nn", "models"), ("transformers", "models"), ("bitsandbytes", "int8"), ("sklearn", "pocket-train")],
)
def test_a_missing_optional_library_names_the_extra_to_install(steadyvlm, failing, module, extra):
    failing.append(ModuleNotFoundError(f"No module named '{module}'", name=module))
    done = steadyvlm("fail")
    assert done.code == 2
    assert done.err.startswith(f"MissingDependency: this command needs {module.split('.')[0]}")
    assert f"pip install 'steadyvlm[{extra}]'" in done.err


def test_another_missing_module_is_not_blamed_on_an_extra(steadyvlm, failing):
    failing.append(ModuleNotFoundError("No module named 'theirs'", name="theirs"))
    done = steadyvlm("fail")
    assert done.code == 3
    assert "steadyvlm[" not in done.err


@pytest.mark.parametrize("error", [RunError("it broke"), ZeroDivisionError("division by zero")])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(failing, capsys, error):
    failing.append(error)
    assert main(["--debug", "fail"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interruption_is_not_an_error(steadyvlm, failing, error):
    failing.append(error)
    done = steadyvlm("fail")
    assert done.code == 130
    assert done.err.strip() == "Interrupted."


class OwnWarning(UserWarning):
    """As if it came from the package."""


OwnWarning.__module__ = "steadyvlm.study.runner"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("arguments", "shown"), [((), ["ours"]), (("--debug",), ["ours", "theirs"])])
def test_our_warnings_are_sentences_and_others_are_for_debugging(capsys, arguments, shown):
    @cli.command("warn")
    def warn() -> None:
        warnings.warn("ours", OwnWarning, stacklevel=1)
        warnings.warn("theirs", UserWarning, stacklevel=1)

    try:
        assert main([*arguments, "warn"]) == 0
    finally:
        del cli.commands["warn"]
    assert capsys.readouterr().err.splitlines() == [f"Warning: {text}" for text in shown]


def test_output_may_be_cut_off_by_its_reader():
    code = "import sys; from steadyvlm.cli.main import main; sys.exit(main(['list', 'reductions']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "steadyvlm", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout == f"steadyvlm {package.__version__}\n"
