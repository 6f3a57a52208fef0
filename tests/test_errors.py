"""Errors are sentences that may be logged: they hold no password."""

import pickle

import pytest

from actionrec.errors import ActionrecError, VideoError
from actionrec.video.address import Address


def test_a_password_in_an_address_is_left_out():
    # Nobody listens at port 1.
    address = Address("ftp://me:secret%40home@127.0.0.1:1/a.mp4")
    with pytest.raises(
        VideoError, match=r"^ftp://127\.0\.0\.1:1/a\.mp4 could not be read"
    ) as found:
        address.stat()
    assert "secret" not in str(found.value)


@pytest.mark.parametrize("secret", ["me:secret", "me:se@cret", ":secret", "secret", "secret:"])
@pytest.mark.parametrize("scheme", ["http", "https", "ftp"])
def test_whatever_stands_before_the_host_is_left_out(scheme, secret):
    error = ActionrecError(f"{scheme}://{secret}@host:21/a.mp4 and {scheme}://host/b@c.mp4 failed.")
    assert str(error) == f"{scheme}://host:21/a.mp4 and {scheme}://host/b@c.mp4 failed."


def test_other_sentences_stay_as_they_are():
    for sentence in (
        "https://example.org:8000/a@b.mp4 is not there.",
        "s3://bucket/me:you@work.mp4 is not there.",
        "abfs://container@account.dfs.core.windows.net/a.mp4 is not there.",
        "https://example.org?mail=me@example.org is not there.",
        "tar://a.mp4::/videos/x@y.tar is damaged.",
        "12:30 is no time; me@example.org knows.",
    ):
        error = pickle.loads(pickle.dumps(ActionrecError(sentence)))
        assert str(error) == sentence
