"""Names of the package mmkerv.visualization."""

from mmkerv import visualization


def test_no_name_is_hidden_by_its_module():
    # An imported module becomes an attribute of its package, in place of a function of the same name.
    assert not [name for name, module in visualization._MODULES.items() if name == module]
