import pytest
from mapper_cases import write_record


@pytest.fixture
def record(tmp_path):
    return write_record(tmp_path)
