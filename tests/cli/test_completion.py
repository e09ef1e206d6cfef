"""``nebfs completion``: what each shell is told, and that a real bash completes with it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("shell", "sign"), [("bash", "complete -o"), ("zsh", "#compdef nebfs"), ("fish", "complete ")]
)
def test_every_shell(invoke, shell, sign):
    done = invoke("completion", shell)
    assert done.exit_code == 0, done.output
    assert sign in done.output
    assert "_NEBFS_COMPLETE" in done.output


def test_another_shell_is_usage(invoke):
    assert invoke("completion", "tcsh").exit_code == 2


def test_bash_completes_a_command(tmp_path):
    program = tmp_path / "nebfs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nebfs.cli "$@"\n')
    program.chmod(0o755)
    script = f"""
        PATH={tmp_path}:$PATH
        eval "$(nebfs completion bash)"
        COMP_WORDS=(nebfs sta) COMP_CWORD=1
        _nebfs_completion nebfs
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["status"], done.stderr
