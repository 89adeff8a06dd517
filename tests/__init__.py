"""The tests of qvm: `unit` mirrors `qvmsh/`, `qemu` runs real QEMUs, `guest` boots real guests."""

import pytest

pytest.register_assert_rewrite("tests.support")
