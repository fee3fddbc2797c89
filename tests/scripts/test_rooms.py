"""The count of rooms keeps the design's limits, and would see a room too many or an edge up."""

from scripts.maintain import rooms


def test_the_design_s_limits_hold():
    assert rooms.main([]) == 0


def test_an_edge_is_seen_once_and_whether_it_points_up():
    files = {
        "experiments/run.py": "from experiments.records import record, store\nimport torch",
        "experiments/records/record.py": "def f():\n    from experiments.tables import x",
        "experiments/records/store.py": "from experiments.records import record",
        "experiments/tables/x.py": "import experiments",
    }
    found = rooms.edges(files)
    assert found == {("run", "records"), ("records", "tables")}
    assert rooms.top_floor(files) == ["experiments/run.py"]
    assert [edge for edge in found if rooms.points_up(edge)] == [("records", "tables")]
