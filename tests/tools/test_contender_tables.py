"""The tables of docs/speed.md say what was measured, and the check of packed rows can fail."""

from __future__ import annotations

from tools import contender_tables
from tools.result_tables import result


def test_every_contender_is_named_with_its_version_and_settings() -> None:
    text = contender_tables.contender_settings()
    for tool in result("contenders", "python benchmarks/against_contenders.py --save")["contenders"].values():
        assert tool["version"] in text
        assert tool["settings"] in text


def test_our_packed_documents_stay_apart_and_the_check_sees_where_they_do_not() -> None:
    found = result("contenders", "python benchmarks/against_contenders.py --save")["measures"]["leaks"]["contenders"]
    assert not found["ftcli"]["leaks"]
    assert found["ftcli"]["documents"] > 1
    assert found["ftcli"]["moved_itself"] > 0.1
    assert found["llamafactory, packing without neat_packing"]["leaks"]
