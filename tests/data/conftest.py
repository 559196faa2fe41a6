"""No test of data sets reaches the network or the user's own folders."""

import urllib.error
import urllib.request

import pytest


@pytest.fixture(autouse=True)
def apart_from_this_machine(monkeypatch, tmp_path_factory):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("ENCAPKERAS_DATA", raising=False)
