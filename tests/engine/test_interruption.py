import os
import signal

import pytest

from mask2former.engine import stop_on_signals


def other_package():
    """Turn any exception into one of its own, as OmegaConf does."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        raise ValueError("broken") from None


def test_a_signal_within_another_package_has_its_status():
    with pytest.raises(SystemExit) as end, stop_on_signals():
        other_package()
    assert end.value.code == 143
    with pytest.raises(ValueError, match="own"), stop_on_signals():
        raise ValueError("own")


def test_a_full_disk_is_reported_after_a_signal():
    with pytest.raises(OSError, match="full"), stop_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise OSError(28, "full")
