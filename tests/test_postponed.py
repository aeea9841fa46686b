"""What the command line imports in passing is loaded at its first use, and is what it would be."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sandbox_runtime.cli.postponed import NAMES

_BEGIN = "import json, sys\nfrom sandbox_runtime.cli.loading import begin_loading\n"


def told(code: str) -> object:
    """What a fresh Python prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    value: object = json.loads(done.stdout)
    return value


def test_what_trio_names_of_tls_is_not_loaded_before_it_is_used() -> None:
    code = (
        "begin_loading()\nimport trio\nbefore = '_ssl' in sys.modules\n"
        "context = trio._ssl._stdlib_ssl.create_default_context()\n"
        "print(json.dumps([before, '_ssl' in sys.modules, context.check_hostname]))"
    )
    assert told(_BEGIN + code) == [False, True, True]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_postponed_module_is_what_it_would_have_been(name: str) -> None:
    look = (
        f"import {name}\nmodule = sys.modules['{name}']\ngetattr(module, '__all__', None)\n"
        "facts = {n: getattr(v, '__qualname__', None) for n, v in vars(module).items()}\n"
        "loader = type(module.__loader__).__name__, type(module.__spec__.loader).__name__\n"
        "print(json.dumps([facts, type(module).__name__, loader, module.__file__]))"
    )
    assert told(f"{_BEGIN}begin_loading()\n{look}") == told(_BEGIN + look)


def test_two_threads_that_use_a_module_first_both_find_it_whole() -> None:
    code = (
        "begin_loading()\nimport ssl, threading\nfound = []\nstart = threading.Barrier(2)\n"
        "def look():\n    start.wait()\n    found.append(ssl.match_hostname is not None "
        "if hasattr(ssl, 'match_hostname') else ssl.get_server_certificate is not None)\n"
        "threads = [threading.Thread(target=look) for _ in range(2)]\n"
        "[thread.start() for thread in threads]\n[thread.join() for thread in threads]\n"
        "print(json.dumps(found))"
    )
    assert told(_BEGIN + code) == [True, True]


def test_a_module_that_cannot_be_loaded_says_so_each_time() -> None:
    code = (
        "begin_loading()\nimport ssl\nsys.modules['_ssl'] = None\nfailed = []\n"
        "for _ in range(2):\n    try: ssl.SSLContext\n"
        "    except ImportError as error: failed.append(error.name)\n"
        "del sys.modules['_ssl']\nprint(json.dumps([failed, ssl.SSLContext.__name__]))"
    )
    assert told(_BEGIN + code) == [["_ssl", "_ssl"], "SSLContext"]


def test_a_server_that_has_loaded_postpones_nothing_more() -> None:
    code = (
        "from sandbox_runtime.cli.loading import end_loading\nbegin_loading()\nend_loading()\n"
        "import ssl\nprint(json.dumps('_ssl' in sys.modules))"
    )
    assert told(_BEGIN + code) is True
