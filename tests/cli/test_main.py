from __future__ import annotations

import subprocess
import sys


def test_help_does_not_wait_for_torch():
    program = """if True:
        import sys
        from retrograde.cli import main
        for line in sys.stdin:
            try:
                main(line.split())
            except SystemExit as end:
                assert end.code == (2 if "nonsense" in line else 0), (line, end.code)
            assert "torch" not in sys.modules, line
    """
    commands = "--help\ntrain --help\n--version\ntrain --nonsense\n"
    done = subprocess.run([sys.executable, "-c", program], input=commands, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_option_is_explained(retrograde):
    shown = retrograde("train", "--help").out
    options = (
        "--out --cell --nonlinearity --tokens --vocab-size --min-count --embedding-size --hidden-size --num-layers "
        "--dropout --tie --optimizer --lr --momentum --weight-decay --clip-norm --clip-value --bptt --batch-size "
        "--epochs --max-steps --max-time --schedule --warmup --seed --threads --device --resume --overwrite --json "
        "--encoding --validation-fraction --eval-every --no-report --quiet"
    )
    for option in options.split():
        assert option in shown, option
    assert "Examples" in shown


def test_no_arguments_show_the_help(retrograde):
    outcome = retrograde()
    assert outcome.code == 0 and "train" in outcome.out and "generate" in outcome.out


def test_an_unknown_command_gets_one_line(retrograde):
    outcome = retrograde("trian")
    assert outcome.code == 2 and outcome.err.count("\n") == 1
