"""SQLAlchemy over psycopg2 as its users use it. Prints what it sees: the same lines from an ordinary Postgres and through
pgoutpost.

sqlalchemy_orm.py setup URL    make the tables
sqlalchemy_orm.py run   URL    everything else
"""

import argparse
import datetime as dt
import decimal

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql as pg


class Base(orm.DeclarativeBase):
    pass


tagged = sa.Table(
    "tagged",
    Base.metadata,
    sa.Column("sample_id", sa.ForeignKey("sample.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tag_id", sa.ForeignKey("tag.id"), primary_key=True),
)


class Station(Base):
    __tablename__ = "station"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40), unique=True)
    version: orm.Mapped[int] = orm.mapped_column()
    samples: orm.Mapped[list["Sample"]] = orm.relationship(
        back_populates="station", cascade="all, delete-orphan", order_by="Sample.id"
    )
    __mapper_args__ = {"version_id_col": version}


class Sample(Base):
    __tablename__ = "sample"
    id: orm.Mapped[int] = orm.mapped_column(sa.Identity(), primary_key=True)
    station_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("station.id"))
    taken: orm.Mapped[dt.datetime] = orm.mapped_column(sa.DateTime(timezone=True))
    value: orm.Mapped[decimal.Decimal] = orm.mapped_column(sa.Numeric(12, 4))
    details: orm.Mapped[dict] = orm.mapped_column(pg.JSONB, default=dict)
    flags: orm.Mapped[list[str]] = orm.mapped_column(pg.ARRAY(sa.Text), default=list)
    noted: orm.Mapped[dt.datetime] = orm.mapped_column(sa.DateTime, server_default=sa.func.now())
    station: orm.Mapped[Station] = orm.relationship(back_populates="samples")
    tags: orm.Mapped[list["Tag"]] = orm.relationship(secondary=tagged, order_by="Tag.word")
    __table_args__ = (sa.CheckConstraint("value > -1000", name="sane"), sa.Index("by_station", "station_id", "taken"))


class Tag(Base):
    __tablename__ = "tag"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    word: orm.Mapped[str] = orm.mapped_column(sa.Text, unique=True)


NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.timezone.utc)


def see(what, *values):
    print(what, *(repr(value) for value in values))


def sample(at, value, **rest):
    return Sample(taken=NOON + dt.timedelta(minutes=at), value=decimal.Decimal(value), **rest)


def unit_of_work(engine):
    """Objects, relations, optimistic locking, orphans, many to many."""
    with orm.Session(engine) as session:
        cold, wet = Tag(word="cold"), Tag(word="wet")
        north = Station(name="north", samples=[sample(1, "1.5", tags=[cold, wet]), sample(2, "-3.25", flags=["a", "b"])])
        session.add_all([north, Station(name="south", samples=[sample(i, i) for i in range(40)])])
        session.commit()
        see("ids", north.id, [one.id for one in north.samples], north.version)
        north.name = "far north"
        north.samples.pop()
        north.samples.append(sample(3, "7", details={"by": {"hand": True, "n": [1, 2]}}))
        session.flush()
        session.refresh(north)
        see("changed", north.name, north.version, [(one.id, one.value, one.details) for one in north.samples])
        session.rollback()
        see("rolled back", north.name, len(north.samples))
        north.samples[0].tags.remove(cold)
        north.name = "north pole"
        session.commit()
    with orm.Session(engine) as one, orm.Session(engine) as other:
        mine, theirs = (session.scalars(sa.select(Station).filter_by(name="north pole")).one() for session in (one, other))
        mine.name = "N"
        one.commit()
        theirs.name = "never"
        try:
            other.commit()
        except orm.exc.StaleDataError as error:
            see("stale", str(error))


def loading(engine):
    """Lazy, joined, select-in; aggregates, windows, CTEs, EXISTS, server-side cursors."""
    with orm.Session(engine) as session:
        query = sa.select(Station).options(orm.joinedload(Station.samples).selectinload(Sample.tags)).order_by(Station.id)
        for station in session.scalars(query).unique():
            see("station", station.name, len(station.samples), [tag.word for one in station.samples for tag in one.tags])
        totals = sa.select(Station.name, sa.func.count(), sa.func.sum(Sample.value)).join(Station.samples)
        see("totals", session.execute(totals.group_by(Station.id).order_by(Station.name)).all())
        rank = sa.func.rank().over(partition_by=Sample.station_id, order_by=Sample.value.desc()).label("rank")
        best = sa.select(Sample.station_id, Sample.value, rank).cte("best")
        see("best", session.execute(sa.select(best).where(best.c.rank < 3).order_by(best.c.station_id, best.c.rank)).all())
        see("any", session.scalars(sa.select(Station.name).where(Station.samples.any(sa.literal("a") == sa.any_(Sample.flags)))).all())
        streamed = session.scalars(sa.select(Sample.value).order_by(Sample.id).execution_options(yield_per=7))
        see("streamed", sum(streamed))
        see("json", session.scalars(sa.select(Sample.id).where(Sample.details["by"]["hand"].as_boolean())).all())


def statements(engine):
    """Core: many parameters, upsert, UPDATE and DELETE with RETURNING, savepoints, errors, isolation levels."""
    with engine.begin() as conn:
        ids = conn.execute(
            sa.insert(Tag).returning(Tag.id, sort_by_parameter_order=True), [{"word": f"tag {i}"} for i in range(250)]
        ).scalars().all()
        see("many", len(ids), ids[0], ids[-1])
        upsert = pg.insert(Tag).values([{"word": "wet"}, {"word": "new"}])
        upsert = upsert.on_conflict_do_update(index_elements=[Tag.word], set_={"word": upsert.excluded.word})
        see("upsert", conn.execute(upsert.returning(Tag.word)).scalars().all())
        changed = sa.update(Sample).where(Sample.value < 3).values(value=Sample.value * 2, flags=["low"])
        see("update", conn.execute(changed.returning(Sample.value)).scalars().all())
        moved = sa.delete(Tag).where(Tag.word.like("tag 1%")).returning(Tag.id).cte("moved")
        see("moved", conn.execute(sa.select(sa.func.count()).select_from(moved)).scalar_one())
        for statement in (
            sa.insert(Tag).values(word="wet"),
            sa.insert(Sample).values(station_id=4000, taken=NOON, value=1, details={}, flags=[]),
            sa.insert(Sample).values(station_id=1, taken=NOON, value=-2000, details={}, flags=[]),
            sa.insert(Station).values(name="x" * 41, version=1),
            sa.text("SELECT 1 / 0"),
        ):
            try:
                with conn.begin_nested():
                    conn.execute(statement)
            except sa.exc.DBAPIError as error:
                see("error", type(error).__name__, error.orig.pgcode, str(error.orig).splitlines()[0])
        see("after errors", conn.execute(sa.select(sa.func.count()).select_from(Tag)).scalar_one())
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as one, engine.connect() as other:
        before = one.execute(sa.select(sa.func.count()).select_from(Tag)).scalar_one()
        other.execute(sa.insert(Tag).values(word="late"))
        other.commit()
        see("snapshot", before == one.execute(sa.select(sa.func.count()).select_from(Tag)).scalar_one())
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        see("autocommit", conn.execute(sa.delete(Tag).where(Tag.word == "late")).rowcount)
    with orm.Session(engine) as session:
        locked = sa.select(Sample).order_by(Sample.id).limit(2).with_for_update(skip_locked=True)
        see("locked", [one.id for one in session.scalars(locked)])
        with orm.Session(engine) as other:
            see("beside it", [one.id for one in other.scalars(locked)])


def everything(engine):
    with engine.connect() as conn:
        conn.execution_options(isolation_level="REPEATABLE READ")
        for table in Base.metadata.sorted_tables:
            columns = [column for column in table.columns if column.name != "noted"]
            for row in conn.execute(sa.select(*columns).order_by(*table.primary_key.columns)):
                see(table.name, *row)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["setup", "run", "read"])
    parser.add_argument("dsn")
    arguments = parser.parse_args()
    engine = sa.create_engine(arguments.dsn.replace("postgres://", "postgresql+psycopg2://", 1))
    if arguments.action == "setup":
        Base.metadata.create_all(engine)
        see("tables", sorted(sa.inspect(engine).get_table_names()))
    elif arguments.action == "run":
        unit_of_work(engine)
        loading(engine)
        statements(engine)
    everything(engine)


main()
