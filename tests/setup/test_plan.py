"""What mmcv is compiled for, by GPUs and variables."""

import pytest

from mmkerv.errors import InstallationError
from mmkerv.gpus import GPU

A100, H200, RTX = GPU('A100', (8, 0)), GPU('H200', (9, 0)), GPU('RTX 5090', (12, 0))


def plan(mmcv_build, *gpus, cuda='13.0', unseen=None, **variables):
    return mmcv_build.plan('2.11.0', cuda, gpus, unseen, variables)


def test_without_a_gpu_mmcv_is_for_cpus(mmcv_build):
    chosen = plan(mmcv_build, FORCE_CUDA='0', CUDA_HOME='/usr/local/cuda')
    assert (chosen.target, chosen.architectures, chosen.compiler) == ('cpu', '', '')


def test_the_gpus_at_hand_give_the_architectures(mmcv_build):
    chosen = plan(mmcv_build, RTX, A100, A100)
    assert chosen.target == 'cuda13.0-sm_80-sm_120' and chosen.architectures == '8.0;12.0'
    assert chosen.compiler.startswith('cuda-toolkit[nvcc,nvvm,crt,cccl]==13.')


def test_a_list_of_architectures_replaces_the_gpus_at_hand(mmcv_build):
    chosen = plan(mmcv_build, A100, TORCH_CUDA_ARCH_LIST='9.0+PTX 8.6,8.6')
    assert chosen.target == 'cuda13.0-sm_86-sm_90-compute_90' and chosen.architectures == '8.6;9.0+PTX'
    assert plan(mmcv_build, H200, TORCH_CUDA_ARCH_LIST='native').architectures == '9.0'


def test_forced_without_a_gpu_it_takes_a_stated_list(mmcv_build):
    chosen = plan(mmcv_build, FORCE_CUDA='1')
    assert chosen.architectures == mmcv_build.DEFAULT_ARCHITECTURES['13']
    assert 'TORCH_CUDA_ARCH_LIST' in chosen.sentence and '12.0+PTX' in chosen.sentence
    with pytest.raises(InstallationError, match='no default for CUDA 14'):
        plan(mmcv_build, FORCE_CUDA='1', cuda='14.0', CUDA_HOME='/cuda')


def test_a_list_without_a_gpu_says_that_it_has_no_effect(mmcv_build):
    chosen = plan(mmcv_build, TORCH_CUDA_ARCH_LIST='9.0')
    assert chosen.target == 'cpu' and 'FORCE_CUDA=1' in chosen.sentence


def test_a_gpu_that_torch_cannot_use_is_named(mmcv_build):
    assert 'the driver is too old' in plan(mmcv_build, unseen='the driver is too old').sentence


@pytest.mark.parametrize('text', ['Hopper', '90', '9.0;sm_80', '9', ';', '9.0+ptx'])
def test_what_is_no_architecture_is_refused(mmcv_build, text):
    with pytest.raises(InstallationError, match=r'TORCH_CUDA_ARCH_LIST.*no architecture'):
        plan(mmcv_build, FORCE_CUDA='1', TORCH_CUDA_ARCH_LIST=text)


def test_a_torch_without_cuda_cannot_be_forced(mmcv_build):
    with pytest.raises(InstallationError, match='has no CUDA'):
        plan(mmcv_build, cuda=None, FORCE_CUDA='1')


def test_cuda_12_needs_a_toolkit_of_the_system(mmcv_build, tmp_path):
    with pytest.raises(InstallationError, match=r'nvcc of CUDA 12\.1.*set CUDA_HOME'):
        plan(mmcv_build, H200, cuda='12.1', PATH=str(tmp_path))
    assert plan(mmcv_build, H200, cuda='12.1', CUDA_HOME='/cuda').compiler == ''
    (tmp_path / 'nvcc').touch()
    (tmp_path / 'nvcc').chmod(0o755)
    assert plan(mmcv_build, H200, cuda='12.1', PATH=str(tmp_path)).compiler == ''
    # nvcc of another version may be on PATH: for CUDA 13 only a CUDA_HOME counts.
    assert plan(mmcv_build, H200, PATH=str(tmp_path)).compiler != ''
    assert plan(mmcv_build, H200, CUDA_HOME='/cuda').compiler == ''


def test_more_architectures_and_fewer_jobs_take_longer(mmcv_build):
    targets = ['cpu', 'cuda13.0-sm_90', 'cuda13.0-sm_80-sm_90']
    times = [mmcv_build.minutes(target, 2) for target in targets]
    assert times == sorted(set(times)) and mmcv_build.minutes('cuda13.0-sm_90', 16) < times[1]
    assert mmcv_build.minutes('cpu', 1000) == 1


def test_the_plan_says_how_long_with_and_without_the_cache(mmcv_build, monkeypatch, capsys):
    pytest.importorskip('torch')
    monkeypatch.setattr(mmcv_build, 'present_gpus', list)
    monkeypatch.setattr(mmcv_build, 'unusable_gpu', lambda: None)
    monkeypatch.setenv('MAX_JOBS', '2')
    monkeypatch.setattr(mmcv_build, 'minutes', lambda target, jobs: 7)
    assert mmcv_build.main(['plan']) == 0
    # install.sh reads five lines.
    target, architectures, compiler, workers, sentence = capsys.readouterr().out.splitlines()
    assert (target, architectures, compiler, workers) == ('cpu', '', '', '2')
    assert 'about 7 min, 2 files at a time' in sentence and sentence.endswith("or seconds from uv's cache")


def test_jobs_are_those_asked_for_or_fit_the_machine(mmcv_build):
    assert mmcv_build.jobs({'MAX_JOBS': '3'}) == 3
    assert mmcv_build.jobs({}) >= 1
