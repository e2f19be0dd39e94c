"""A file that does not exist is refused before anything large is imported, by every command that takes one."""

import json
import subprocess
import sys

import pytest

from mmkerv.cli.main import main

CONFIG = "config 'absent.py' does not exist; give the path of a config file"
CHECKPOINT = "checkpoint 'absent.pth' does not exist; give the path of a .pth file"
IMAGE = " 'absent.jpg' does not exist (seen from "
# Command line -> words of its message; c.py and c.pth are there.
REFUSED = {
    'train absent.py': CONFIG,
    'train c.py --resume absent.pth': CHECKPOINT,
    'compare absent.py': CONFIG,
    'plan absent.py': CONFIG,
    'flops absent.py': CONFIG,
    'print-config absent.py': CONFIG,
    'browse-dataset absent.py': CONFIG,
    'benchmark absent.py --task dataloader': CONFIG,
    'kernel-report absent.py': CONFIG,
    'statistics absent.py': CONFIG,
    'test absent.py c.pth': CONFIG,
    'test c.py absent.pth': CHECKPOINT,
    'predict absent.py c.pth c.jpg': CONFIG,
    'predict c.py absent.pth c.jpg': CHECKPOINT,
    'predict c.py c.pth absent.jpg': f'image{IMAGE}',
    'fold absent.py c.pth out.pth': CONFIG,
    'fold c.py absent.pth out.pth': CHECKPOINT,
    'fold c.py c.pth out.pth --images absent.jpg': f'--images{IMAGE}',
    'decompose c.py absent.pth out.pth --rate 2': CHECKPOINT,
    'publish absent.pth out.pth': CHECKPOINT,
    'vis-erf c.py c.pth --compare c.py absent.pth': CHECKPOINT,
    'vis-erf c.py c.pth --images absent.jpg': f'--images{IMAGE}',
    'vis-cam absent.jpg c.py c.pth': f'image{IMAGE}',
    'vis-featmap absent.jpg c.py c.pth': f'image{IMAGE}',
    'vis-kernel c.py c.pth --image absent.jpg': f'--image{IMAGE}',
    'vis-response c.py absent.pth': CHECKPOINT,
}
# Command line -> the file that it would overwrite.
OVERWRITING = {
    'convert plain c.pth ./c.pth': "DST: './c.pth'",
    'convert ckconv c.pth c.pth': "DST: 'c.pth'",
    'convert dcls c.pth c.pth': "DST: 'c.pth'",
    'convert unireplknet c.pth c.pth': "DST: 'c.pth'",
    'print-config c.py --save-path c.py': "--save-path: 'c.py'",
    'kernel-report c.json --out c.json': "--out: 'c.json'",
    'statistics c.json --out a.md c.json': "--out: 'c.json'",
    'vis-erf c.py c.pth --images c.png --save-path c.png': "--save-path: 'c.png'",
    'vis-cam c.png c.py c.pth --save-path c.png': "--save-path: 'c.png'",
    'vis-featmap c.png c.py c.pth --out-file c.png': "--out-file: 'c.png'",
    'vis-kernel c.py c.pth --image c.png --save-path c.png': "--save-path: 'c.png'",
}
# Command line -> words of the message: of values out of range, and of flags without an effect.
USELESS = {
    'test c.py c.pth --interval 0': '--interval must be >= 1, got 0',
    'test c.py c.pth --wait-time -1': '--wait-time must be >= 0, got -1',
    'fold c.py c.pth out.pth --shape 0 8': '--shape must be >= 1, got 0 8',
    'fold c.py c.pth out.pth --tolerance nan': '--tolerance must be a number >= 0, got nan',
    'decompose c.py c.pth out.pth --rate 2 --shape 8 0': '--shape must be >= 1, got 8 0',
    'browse-dataset c.py --show-interval -1': '--show-interval must be >= 0, got -1',
    'vis-response c.py c.pth --reach inf': '--reach must be > 0, got inf',
    'vis-response c.py c.pth --arrays c.pth': "--arrays must end in .npz, got 'c.pth'",
    'vis-kernel c.py c.pth --arrays c.pth': "--arrays must end in .npz, got 'c.pth'",
    'vis-kernel c.py c.pth --save-path out.png --format svg': '--format is for pictures in a folder, not for the file ',
    'vis-response c.py c.pth --save-path out.png --format png': '--format is for pictures in a folder',
    'vis-featmap c.png c.py c.pth --topk 2': '--topk is for --channel-reduction none, not squeeze_mean: leave it out',
    'vis-featmap c.png c.py c.pth --arrangement 1 2': '--arrangement is for --channel-reduction none',
    'vis-featmap c.png c.py c.pth --out-dir a --out-file a.png': 'not allowed with argument --out-dir',
    'demo --seed -1': '--seed must be from 0 to 4294967295, got -1',
}
CODE = """
import json, sys
from mmkerv.errors import UserError
from mmkerv.cli.main import main
# main raises what a command prints as its last line.
found = {}
for line in json.loads(sys.argv[1]):
    try:
        main(line.split())
    except (OSError, UserError) as error:
        found[line] = [str(error), sorted({'torch', 'mmengine', 'mmcv', 'numpy'} & set(sys.modules))]
print(json.dumps(found))
"""


def refused(lines, tmp_path):
    """Return the message of each command line, and the large packages that it has imported."""
    for name in ('c.py', 'c.pth', 'c.jpg', 'c.png', 'c.json'):
        (tmp_path / name).touch()
    done = subprocess.run(
        [sys.executable, '-c', CODE, json.dumps([*lines])], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_absent_files_are_refused_at_once(tmp_path):
    found = refused(REFUSED, tmp_path)
    assert not [line for line, words in REFUSED.items() if words not in found[line][0] or found[line][1]], found


def test_files_that_are_read_are_not_overwritten(tmp_path):
    found = refused(OVERWRITING, tmp_path)
    rule = 'is read, and would be overwritten; give another name or folder'
    assert {line: message for line, (message, _) in found.items()} == {
        line: f'{file} {rule}' for line, file in OVERWRITING.items()
    }
    assert not any(imported for _, imported in found.values())


@pytest.mark.parametrize(('line', 'words'), USELESS.items(), ids=[*USELESS])
def test_useless_flags_are_refused(line, words, tmp_path, monkeypatch, capsys):
    for name in ('c.py', 'c.pth'):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2 and words in capsys.readouterr().err
