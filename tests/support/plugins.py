"""Plugins that last as long as a test: what they register would reach all tests after it."""

import contextlib
import sys

from encapkeras import plugins


@contextlib.contextmanager
def plugins_forgotten():
    """Whatever plugins are loaded within are gone after it, with the files beside them."""
    before = [(registry, dict(registry._entries)) for registry in plugins._REGISTRIES]
    loaded, modules = dict(plugins._LOADED), set(sys.modules)
    try:
        yield
    finally:
        folders = {str(path.parent) for path in plugins._LOADED}
        for registry, entries in before:
            registry._entries = entries
        plugins._LOADED.clear()
        plugins._LOADED.update(loaded)
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.rpartition("/")[0] in folders:
                del sys.modules[name]


@contextlib.contextmanager
def without_plugins():
    """As a new process: no plugin is loaded within, and those before are back after it."""
    with plugins_forgotten():
        for plugin in plugins._LOADED.values():
            for registry in plugins._REGISTRIES:
                registry.forget(plugin.registers.get(registry.noun, ()))
        plugins._LOADED.clear()
        yield
