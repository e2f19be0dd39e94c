"""Image files that a command line names."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmkerv.image_files import find_images, spread


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """A folder with three images, and something else."""
    folder = tmp_path / 'images'
    folder.mkdir()
    files = [folder / name for name in ('a.png', 'b.JPG', 'c.webp')]
    for file in (*files, folder / 'notes.txt'):
        file.touch()
    (folder / 'd.png').mkdir()
    return files


def test_files_folders_and_patterns_name_images(images, tmp_path):
    folder = images[0].parent
    (tmp_path / 'deep' / 'er').mkdir(parents=True)
    (tmp_path / 'deep' / 'er' / 'x.PNG').touch()
    assert find_images([folder]) == images
    assert find_images([images[1], folder, f'{folder}/*']) == [images[1], images[0], images[2]]
    assert find_images([f'{tmp_path}/deep/**/*']) == [tmp_path / 'deep' / 'er' / 'x.PNG']
    odd = tmp_path / 'a[1].jpg'
    odd.touch()
    assert find_images([odd]) == [odd], 'a file whose name looks like a pattern'


def test_what_names_no_image_is_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    for given, message in (
        ('absent', r"--images '.*absent' does not exist \(seen from /.*\); give an image file, a folder"),
        ('empty', r"--images '.*empty' holds no image \(\.jpg, "),
        ('*.png', r"--images '.*\*\.png' matches no image \(seen from /"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            find_images([tmp_path / given], '--images')


def test_a_part_of_the_files_is_spread_over_all_of_them():
    files = [Path(f'{number}.png') for number in range(10)]
    assert spread(files, 10) == spread(files, 99) == files
    assert [file.stem for file in spread(files, 4)] == ['0', '2', '5', '7']
    for most in range(1, 10):
        assert len(set(spread(files, most))) == most


def test_nothing_large_is_imported():
    code = 'import sys, mmkerv.image_files; sys.exit(any(name in sys.modules for name in ("torch", "cv2", "numpy")))'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
