"""A service without a result backend says so."""

import click
import pytest

from tests.unit.stage import service


def test_a_result_is_refused_with_what_takes_its_place():
    with pytest.raises(NotImplementedError, match=r"payment keeps no results, because result_backend is not set"):
        service().AsyncResult("t-1").get()
    with pytest.raises(NotImplementedError, match=r"A handler has none: it announces events"):
        assert service().AsyncResult("t-1").state


def test_in_the_command_celery_result_it_is_one_line():
    with click.Context(click.Command("result"), info_name="result"), pytest.raises(click.ClickException) as refused:
        service().AsyncResult("t-1").get()

    assert "payment keeps no results" in refused.value.message


def test_a_backend_that_is_set_is_used(tmp_path):
    assert service(backend=f"file://{tmp_path}").AsyncResult("t-1").state == "PENDING"
