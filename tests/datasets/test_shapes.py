"""Writing of the data set of shapes: reproducible bytes, reuse, errors, the command."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from mmkerv.datasets import shapes
from mmkerv.datasets.shapes import LAYOUTS, ShapesSettings, main, write_shapes


def digests(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob('*') if path.is_file()]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class TestBytes:
    def test_a_seed_determines_the_bytes(self, data, tmp_path, write):
        assert digests(write(tmp_path / 'again', layouts=list(LAYOUTS))) == digests(data)

    def test_another_seed_gives_other_images(self, data, tmp_path, small, write):
        other, images = digests(write(tmp_path / 'other', seed=1)), [n for n in digests(data) if n.endswith('.jpg')]
        assert len(images) == 3 * (small['num_train'] + small['num_val'])
        assert not {other[name] for name in images} & {digests(data)[name] for name in images}

    def test_val_has_other_scenes_than_train(self, data, small):
        by_split = {s: [v for n, v in digests(data).items() if n.startswith(f'{s}2017/')] for s in ('train', 'val')}
        assert len(set(by_split['train'] + by_split['val'])) == small['num_train'] + small['num_val']

    def test_a_larger_data_set_begins_with_a_smaller_one(self, data, tmp_path, write):
        larger = digests(write(tmp_path / 'larger', num_train=9, layouts=['coco']))
        images = [name for name in digests(data) if name.startswith(('train2017/', 'val2017/'))]
        assert all(larger[name] == digests(data)[name] for name in images)

    def test_layouts_are_independent_of_each_other(self, data, tmp_path, write):
        for layout in LAYOUTS:
            alone = digests(write(tmp_path / layout, layouts=[layout]))
            assert len(alone) > 1
            assert {**digests(data), **alone, 'shapes.json': ''} == {**digests(data), 'shapes.json': ''}


class TestBadInput:
    @pytest.mark.parametrize(
        ('settings', 'words'),
        [
            ({'size': 31}, 'size must be from 32 to 4096, got 31'),
            ({'num_train': -1}, 'num_train must be from 1 to'),
            ({'num_val': 0}, 'num_val must be from 1 to'),
            ({'seed': -1}, 'seed must be from 0 to'),
            ({'max_shapes': 0}, 'max_shapes must be from 1 to'),
            ({'layouts': []}, 'layouts must be one or more of'),
            ({'layouts': 'coco'}, "layouts must be one or more of .*got 'coco'"),
            ({'layouts': ['coco', 'kitti']}, 'kitti'),
            ({'num_val': 2}, 'at least 3 for the imagenet layout'),
        ],
    )
    def test_settings_out_of_range_are_refused(self, settings, words):
        with pytest.raises(ValueError, match=words):
            ShapesSettings(**settings)

    @pytest.mark.parametrize('value', [1.5, True, '5'])
    def test_settings_of_wrong_types_are_refused(self, value):
        with pytest.raises(TypeError, match='num_train must be an int'):
            ShapesSettings(num_train=value)

    def test_a_file_as_out_dir_is_refused(self, tmp_path):
        (tmp_path / 'file').write_text('precious')
        with pytest.raises(FileExistsError, match='is a file; give another'):
            write_shapes(tmp_path / 'file')
        with pytest.raises(NotADirectoryError, match='file, which is a file'):
            write_shapes(tmp_path / 'file' / 'shapes')
        assert (tmp_path / 'file').read_text() == 'precious'

    def test_a_folder_with_other_files_is_refused(self, tmp_path):
        (tmp_path / 'file').write_text('precious')
        with pytest.raises(FileExistsError, match='holds other files'):
            write_shapes(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ['file']

    @pytest.mark.parametrize('record', ['{', '[]', '{"version": 1}'])
    def test_a_folder_with_a_foreign_record_is_refused(self, tmp_path, record):
        (tmp_path / 'shapes.json').write_text(record)
        with pytest.raises(FileExistsError, match='not a record of this program'):
            write_shapes(tmp_path)

    def test_a_data_set_of_other_settings_is_refused(self, data, small):
        before = digests(data)
        with pytest.raises(FileExistsError, match=r'size=96 \(wanted 64\), seed=0 \(wanted 3\)'):
            write_shapes(data, ShapesSettings(**{**small, 'seed': 3, 'size': 64}))
        assert digests(data) == before

    def test_a_failure_leaves_no_files(self, tmp_path, monkeypatch, write):
        def fail(self):
            raise OSError('disk full')

        monkeypatch.setattr(shapes.CocoWriter, 'close', fail)
        with pytest.raises(OSError, match='disk full'):
            write(tmp_path / 'data')
        assert list(tmp_path.iterdir()) == []


class TestReuse:
    def test_a_data_set_of_the_same_settings_is_kept(self, data, small):
        times = {path: path.stat().st_mtime_ns for path in data.rglob('*')}
        assert not write_shapes(data, ShapesSettings(**small))
        assert times == {path: path.stat().st_mtime_ns for path in data.rglob('*')}

    def test_a_data_set_with_more_layouts_is_kept(self, data, small):
        assert not write_shapes(data, ShapesSettings(**small, layouts=['voc']))

    def test_a_data_set_of_the_first_three_layouts_is_kept_by_default(self, tmp_path, small, write):
        root = write(tmp_path / 'data', layouts=['coco', 'voc', 'imagenet'])
        assert not write_shapes(root, ShapesSettings(**small))

    def test_a_data_set_without_a_requested_layout_is_refused(self, tmp_path, small, write):
        write(tmp_path / 'coco', layouts=['coco'])
        with pytest.raises(FileExistsError, match=r"layouts=\['coco'\] \(wanted \['coco', 'voc'\]\)"):
            write_shapes(tmp_path / 'coco', ShapesSettings(**small, layouts=['coco', 'voc']))

    def test_a_data_set_with_missing_files_is_refused(self, tmp_path, small, write):
        root = write(tmp_path / 'coco', layouts=['coco'])
        next((root / 'val2017').iterdir()).unlink()
        with pytest.raises(FileExistsError, match='has 13 of its 14 files left'):
            write_shapes(root, ShapesSettings(**small, layouts=['coco']))

    def test_an_empty_folder_is_used_and_missing_parents_are_created(self, tmp_path, write):
        (tmp_path / 'empty').mkdir()
        write(tmp_path / 'empty', layouts=['coco'])
        write(tmp_path / 'a' / 'b', layouts=['coco'])
        assert sorted(path.name for path in tmp_path.iterdir()) == ['a', 'empty']


class TestCommand:
    ARGS = ('--num-train', '3', '--num-val', '3', '--size', '32', '--layout', 'coco', 'imagenet')

    def test_the_command_writes_once_and_then_reuses(self, tmp_path, capsys):
        out = tmp_path / 'out'
        assert main([str(out), *self.ARGS]) == 0
        first = capsys.readouterr()
        # In a file, a bar would be one line of thousands of characters.
        assert 'Wrote 3 train and 3 val scenes' in first.out and first.err == ''
        assert main([str(out), *self.ARGS]) == 0
        assert 'already holds these scenes' in capsys.readouterr().out
        assert sorted(path.name for path in out.iterdir()) == [
            'annotations',
            'shapes.json',
            'train',
            'train2017',
            'val',
            'val2017',
        ]

    def test_a_terminal_shows_a_bar(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
        assert main([str(tmp_path / 'out'), *self.ARGS]) == 0
        bars = capsys.readouterr().err
        assert all(f'{split} {kind}: 100%' in bars for split in ('train', 'val') for kind in ('scenes', 'pictures'))

    @pytest.mark.parametrize('args', [('--size', '8'), ('--num-train', '-1'), ('--seed', '-5')])
    def test_errors_end_in_exit_status_1(self, tmp_path, capsys, args):
        assert main([str(tmp_path / 'out'), *args]) == 1
        assert capsys.readouterr().err.startswith('error: ')
        assert not (tmp_path / 'out').exists()

    def test_imports_neither_torch_nor_openmmlab(self):
        code = (
            'import sys; from mmkerv.datasets import shapes; '
            'print([m for m in ("torch", "mmcv", "mmdet", "mmseg", "mmpretrain") if m in sys.modules])'
        )
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == '[]'
