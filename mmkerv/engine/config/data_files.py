"""Readers of YAML and pickle files for mmengine that construct data only and run no code from the file."""

from typing import IO, Any

import yaml
from mmengine.fileio.handlers import PickleHandler, YamlHandler

from mmkerv.engine.checkpoint.unpickler import restricted_load
from mmkerv.errors import UnsafeCheckpointError


class SafeYamlLoader(yaml.SafeLoader):
    """PyYAML's safe loader, extended by tuples, which mmengine writes.

    Example:
        >>> yaml.load('!!python/tuple [1, 2]', SafeYamlLoader)
        (1, 2)
    """


SafeYamlLoader.add_constructor(
    'tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


class SafeYamlHandler(YamlHandler):
    """mmengine's YAML handler, restricted to numbers, strings, lists, tuples and dicts.

    Example:
        >>> import io
        >>> SafeYamlHandler().load_from_fileobj(io.StringIO('a: [1, 2]'))
        {'a': [1, 2]}
    """

    def load_from_fileobj(self, file: IO, **_: Any) -> Any:
        """Read a YAML file."""
        return yaml.load(file, SafeYamlLoader)  # noqa: S506, it is a SafeLoader


class SafePickleHandler(PickleHandler):
    """mmengine's pickle handler, restricted to arrays, numbers, strings and containers.

    Raises:
        UnsafeCheckpointError: for anything else; no code from the file has run.

    Example:
        >>> import io, pickle
        >>> SafePickleHandler().load_from_fileobj(io.BytesIO(pickle.dumps({'a': 1}, 2)))
        {'a': 1}
    """

    def load_from_fileobj(self, file: IO[bytes], **_: Any) -> Any:
        """Read a pickle."""
        try:
            return restricted_load(file)
        except OSError:
            raise
        # As in safe_load: the error that a damaged file leads to depends on its bytes.
        except Exception as error:
            name = getattr(file, 'name', 'a stream')
            raise UnsafeCheckpointError(
                f'pickle {name!r} was not read: it is damaged, or holds more than data ({error}). Nothing of it was '
                'executed. Write it as JSON, or, if you trust where it comes from, use --trust-checkpoint (in Python '
                'mmkerv.engine.apply_patches(trust=True))'
            ) from error
