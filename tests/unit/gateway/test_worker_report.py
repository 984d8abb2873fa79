"""What a worker says of itself: written when it is news, read while its process lives, and added up over workers."""

from gateway.observability.worker_report import Report, Reporter, merged, path_of, read
from gateway.scheduling.waiting_room import MOST_TENANTS


def queue(server, **tenants):
    named = [{"tenant": name, "waiting": count, "longest_seconds": count / 2} for name, count in tenants.items()]
    total = sum(tenants.values())
    return {
        "server": server, "waiting": total, "estimated_seconds": total * 1.0, "tenants": named, "waiting_of_others": 0,
    }  # fmt: skip


def test_a_report_is_read_as_it_was_written(tmp_path):
    report = Report(7, [queue("s", a=2)], {"keys": 1})
    Reporter(tmp_path, 3).write(report)
    assert read(tmp_path, 3, 7) == report
    assert [one.name for one in tmp_path.iterdir()] == ["worker-3.json"]


def test_what_a_dead_worker_left_says_nothing(tmp_path):
    Reporter(tmp_path, 0).write(Report(7, [queue("s", a=2)]))
    assert read(tmp_path, 0, 8) == Report()
    assert read(tmp_path, 1, 7) == Report()
    path_of(tmp_path, 0).write_text("{")
    assert read(tmp_path, 0, 7) == Report()


def test_it_is_written_when_it_is_another(tmp_path):
    reporter = Reporter(tmp_path, 0)
    reporter.write(Report(7))
    path_of(tmp_path, 0).unlink()
    reporter.write(Report(7))
    assert not path_of(tmp_path, 0).exists()
    reporter.write(Report(7, [queue("s", a=1)]))
    assert path_of(tmp_path, 0).exists()


def test_a_tenant_that_waits_in_several_workers_is_counted_once():
    reports = [Report(1, [queue("s", a=2, b=1)]), Report(2, [queue("s", a=3), queue("t", c=1)])]
    first, second = merged(reports)
    assert (first["server"], first["waiting"], first["estimated_seconds"]) == ("s", 6, 3.0)
    assert first["tenants"] == [
        {"tenant": "a", "waiting": 5, "longest_seconds": 1.5},
        {"tenant": "b", "waiting": 1, "longest_seconds": 0.5},
    ]
    assert (second["server"], second["waiting"]) == ("t", 1)


def test_of_many_tenants_some_are_named():
    crowd = {f"t{number}": 1 for number in range(MOST_TENANTS)}
    (found,) = merged([Report(1, [queue("s", **crowd)]), Report(2, [queue("s", other=5)])])
    assert len(found["tenants"]) == MOST_TENANTS
    assert found["tenants"][0]["tenant"] == "other"
    assert found["waiting_of_others"] == 1
