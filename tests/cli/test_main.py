"""The command ``mmkerv``: its table of subcommands, their help, and what a misspelt one gets."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmkerv.cli import common
from mmkerv.cli.main import COMMANDS, main, overview, split
from mmkerv.errors import ArgumentError
from mmkerv.version import __version__

ROOT = Path(__file__).resolve().parents[2]
LARGE = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'matplotlib')
# Prints the help of every subcommand and the large libraries that were imported for it.
HELP = """
import contextlib, io, json, sys
from mmkerv.cli.main import COMMANDS, main

texts = {}
for name in ['', *COMMANDS, 'convert']:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*name.split(), '-h'])
    texts[name] = out.getvalue()
print(json.dumps([texts, sorted(set(sys.argv[1:]) & set(sys.modules))]))
"""


def python(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, **options)


def test_help_of_every_subcommand_imports_nothing_large():
    done = python('-c', HELP, *LARGE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    texts, imported = json.loads(done.stdout)
    assert imported == []
    for name, text in texts.items():
        assert text.startswith(f'usage: {f"mmkerv {name}".strip()} '), text


def test_every_tool_is_a_subcommand():
    modules = set()
    for file in (ROOT / 'tools').rglob('*.py'):
        modules |= set(re.findall(r'^from (mmkerv\.cli\.\S+) import main$', file.read_text(), re.MULTILINE))
    assert {'mmkerv.cli.train', 'mmkerv.cli.vis.cam'} <= modules
    assert modules <= {command.module for command in COMMANDS.values()}


def test_overview_lists_every_subcommand():
    for name, command in COMMANDS.items():
        assert re.search(rf'^  {name} +{re.escape(command.summary)}$', overview(), re.MULTILINE)
    assert max(map(len, overview().splitlines())) <= 100


def test_two_words_are_one_subcommand():
    assert split(['convert', 'dcls', 'a', 'dcls']) == ('convert dcls', ['a', 'dcls'])
    assert split(['train', 'convert']) == ('train', ['convert'])


@pytest.mark.parametrize(
    ('words', 'meant'),
    [
        (['trian', 'a.py'], "'train'"),
        (['viskernel'], "'vis-kernel'"),
        (['vis_kernel'], "'vis-kernel'"),
        (['get_flops'], "'flops'"),
        (['reparameterize_model'], "'fold'"),
        (['convert', 'dlcs'], "'convert dcls'"),
        (['Train'], "'train'"),
    ],
)
def test_a_misspelt_subcommand_gets_the_nearest(words, meant):
    with pytest.raises(ArgumentError, match=re.escape(f'did you mean {meant}')):
        main(words)


def test_an_unknown_subcommand_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmkerv', 'xyzzy'])
    with pytest.raises(SystemExit) as ended:
        common.run(main)
    assert ended.value.code == "error: mmkerv has no command 'xyzzy'; mmkerv -h lists the commands"


def test_errors_of_a_subcommand_name_it(capsys):
    before = sys.argv
    with pytest.raises(SystemExit) as ended:
        main(['convert', 'dcls', 'a.pth'])
    assert ended.value.code == 2 and sys.argv is before
    assert 'mmkerv convert dcls: error: the following arguments are required: DST' in capsys.readouterr().err


def test_status_of_a_subcommand_is_that_of_mmkerv(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit) as ended:
        main(['shapes', str(tmp_path)])
    assert ended.value.code == 1


def test_module_runs_as_the_command(tmp_path):
    done = python('-m', 'mmkerv', '--version', cwd=tmp_path, env={'PYTHONPATH': str(ROOT)})
    assert (done.returncode, done.stdout) == (0, f'mmkerv {__version__}\n'), done.stderr
