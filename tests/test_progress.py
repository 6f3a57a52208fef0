"""Progress bars: on stderr, counting, and silent when they are not wanted."""

from actionrec.progress import track


def test_items_pass_and_the_bar_counts_them_on_stderr(capsys):
    assert list(track("abc", "reading", total=5, completed=2)) == ["a", "b", "c"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "reading" in printed.err and "5/5" in printed.err


def test_a_disabled_bar_says_nothing(capsys):
    assert list(track(iter("abc"), "reading", disable=True)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
