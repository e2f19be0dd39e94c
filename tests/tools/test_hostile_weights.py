"""`mmkerv.load` on damaged and hostile folders: one message, and nothing in the folder is run."""

import hashlib
import json
import re
import shutil
import sys

import pytest

pytest.importorskip('mmpretrain')

import mmkerv
from mmkerv.errors import ConfigError, UnsafeCheckpointError
from tests.malicious_files import execute, hidden, write

NAME = 'small_coc'


@pytest.fixture
def folder(weights, tmp_path):
    return shutil.copytree(weights, tmp_path / 'weights')


def change(folder, changed):
    """Change the index by a function."""
    content = json.loads((folder / 'index.json').read_text())
    changed(content)
    (folder / 'index.json').write_text(json.dumps(content))


def files(folder):
    return json.loads((folder / 'index.json').read_text())['networks'][NAME]['forms']['trained']


def replace(folder, part, content):
    """Replace a file together with its hash."""
    name = files(folder)[part]['name']
    (folder / name).write_bytes(content)
    record = {'name': name, 'size': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
    change(folder, lambda index: index['networks'][NAME]['forms']['trained'].update({part: record}))


@pytest.mark.parametrize(
    ('changed', 'error', 'message'),
    [
        (
            lambda index: index.update(version=2, mmkerv='9.9'),
            ConfigError,
            r'version 2, written by mmkerv 9\.9; .*later',
        ),
        (lambda index: index.update(format='other'), ConfigError, r'is no index of published weights'),
        (lambda index: index.pop('networks'), ConfigError, r'is damaged: it lacks the files of a network'),
        (lambda index: index.update(version='1'), ConfigError, r'is damaged'),
        (lambda index: index['networks'][NAME].pop('forms'), ConfigError, r'is damaged'),
        (lambda index: index['networks'].update({'a\x1b[2J': index['networks'][NAME]}), ConfigError, r'is damaged'),
        (lambda index: index['networks'][NAME]['forms'].update(other={}), ConfigError, r'is damaged'),
    ],
)
def test_index_of_another_kind(folder, changed, error, message):
    change(folder, changed)
    for use in (mmkerv.list_weights, lambda place: mmkerv.load(NAME, place)):
        with pytest.raises(error, match=message):
            use(folder)


def test_what_is_listed_has_no_control_characters(folder):
    texts = {'task': 'a\x1b[2J', 'operator': ['b\x1b'], 'metric': 'c\x1b', 'data': 'd\x1b'}
    change(folder, lambda index: index['networks'][NAME].update(texts))
    (found,) = [each for each in mmkerv.list_weights(folder) if each.name == NAME]
    assert str(found).isprintable() and found.value is None


@pytest.mark.parametrize('name', ['../secret.pth', '/etc/passwd', 'a/b.pth', 'C:\\a.pth', '..', '', 3, None])
def test_index_names_files_of_the_folder_alone(folder, name):
    (folder.parent / 'secret.pth').write_bytes(b'secret')
    change(folder, lambda index: index['networks'][NAME]['forms']['trained']['weights'].update(name=name))
    with pytest.raises(ConfigError, match='is damaged'):
        mmkerv.load(NAME, folder)


@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '{"format": "mmkerv weights"}', '\xff'])
def test_index_that_is_none(folder, text):
    (folder / 'index.json').write_bytes(text.encode('latin-1'))
    with pytest.raises(ConfigError, match=r'cannot be read|is no index|is damaged'):
        mmkerv.list_weights(folder)


def test_what_is_missing_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"'.*absent' does not exist; give the folder"):
        mmkerv.load(NAME, folder / 'absent')
    (folder / files(folder)['weights']['name']).unlink()
    with pytest.raises(FileNotFoundError, match=r'\.pth. is missing, which index\.json names'):
        mmkerv.load(NAME, folder)
    (folder / 'index.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'has no index\.json, so it holds no published weights'):
        mmkerv.list_weights(folder)


@pytest.mark.parametrize(
    ('name', 'folded', 'message'),
    [
        ('small_cok', False, r"has no weights 'small_cok'; did you mean 'small_coc'\? mmkerv.list_weights\("),
        ('resnet50', False, r"has no weights 'resnet50'\. mmkerv.list_weights\("),
        ('small_plain', True, r"'small_plain' has no folded form \(it has no operators\); give folded=False"),
        ('small_kerv', True, r"'small_kerv' has no folded form \(.+\); give folded=False"),
    ],
)
def test_names_and_forms_that_are_not_there(weights, name, folded, message):
    with pytest.raises(ConfigError, match=message):
        mmkerv.load(name, weights, folded=folded)


@pytest.mark.parametrize('part', ['config', 'weights'])
@pytest.mark.parametrize('damage', ['shortened', 'changed'])
def test_damaged_file(folder, monkeypatch, part, damage):
    file = folder / files(folder)[part]['name']
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content[:-1] if damage == 'shortened' else content)

    def read(*args, **kwargs):
        raise AssertionError('read before its hash was compared')

    for reader in ('safe_load', 'config_from_text')[part == 'config' :]:
        monkeypatch.setattr(f'mmkerv.deploy.weights.{reader}', read)
    message = 'bytes, index.json says' if damage == 'shortened' else 'damaged or was replaced: its SHA-256 begins with'
    with pytest.raises(UnsafeCheckpointError, match=f'{re.escape(file.name)}.*{message}'):
        mmkerv.load(NAME, folder)


def test_weights_that_run_code(folder, tmp_path):
    target = tmp_path / 'target'
    replace(folder, 'weights', write(tmp_path / 'a.pth', hidden('state_dict', execute(target))).read_bytes())
    with pytest.raises(UnsafeCheckpointError, match='Nothing of it was executed'):
        mmkerv.load(NAME, folder)
    assert not target.exists()


# Each would create the file {target}, or import the module `evil`, if the config were run or built as mmengine does.
HOSTILE = {
    'statement': "import pathlib\npathlib.Path('{target}').touch()\n",
    'call': "a = __import__('pathlib').Path('{target}').touch()\n",
    'call in dict': "a = dict(b=open('{target}', 'w'))\n",
    'argument of dict': "a = dict(open('{target}', 'w'))\n",
    'formatted': "a = f\"{{open('{target}', 'w')}}\"\n",
    'function': "model['type'] = 'os.system'\nmodel['command'] = 'touch {target}'\n",
    'model': "model = dict(type='subprocess.Popen', args=['touch', '{target}'])\n",
    'nested': "test_pipeline = [dict(type='os.system', command='touch {target}')]\n",
    'function of a library': "model = dict(type='mmengine.fileio.load', file='{target}')\n",
    'function of torch': "model = dict(type='torch.hub.load', repo_or_dir='{target}', model='a', source='local')\n",
    'module': "model = dict(type='evil')\n",
    'scope': "model = dict(type='ResNet', _scope_='evil')\n",
    'default scope': "default_scope = 'evil'\nmodel = dict(type='ResNet')\n",
    'import': "custom_imports = dict(imports=['evil'])\n",
    'evaluated': "model = dict(type='mmpretrain.ImageClassifier', backbone=dict(type='open(1)'))\n",
    'evaluated by a library': "test_cfg = dict(warp_mode=\"open('{target}', 'w')\")\n",
    'fetched': "model = dict(type='mmpretrain.TIMMBackbone', model_name='a', pretrained=True)\n",
    'deep': 'a = ' + '-' * 200_000 + '1\n',
    'deeper': 'a = ' + '[' * 90 + ']' * 90 + '\n' + 'b = ' + '(' * 300 + ')' * 300 + '\n',
    'no text': 'a = "\x00"\n',
    'reserved': "filename = 'a'\n",
    'twice': 'a = b = 1\n',
}


@pytest.mark.parametrize('kind', HOSTILE)
def test_config_that_runs_code(folder, tmp_path, monkeypatch, kind):
    target = tmp_path / 'target'
    for name in ('evil.py', 'evil/registry.py'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'open({str(target)!r}, "w").close()\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (folder / files(folder)['config']['name']).read_text() + HOSTILE[kind].format(target=target)
    replace(folder, 'config', text.encode())
    with pytest.raises(UnsafeCheckpointError, match=r'Nothing of it was executed|Nothing was built'):
        mmkerv.load(NAME, folder)
    assert not target.exists() and 'evil' not in sys.modules
