"""Django's ORM as its users use it. Prints what it sees: the same lines from an ordinary Postgres and through pgoutpost.

django_orm.py setup URL    make the tables, as `migrate` does
django_orm.py run   URL    everything else
django_orm.py read  URL    only print the tables
"""

import argparse
import datetime as dt
import sys
from urllib.parse import urlparse

import django
from django.conf import settings

parser = argparse.ArgumentParser()
parser.add_argument("action", choices=["setup", "run", "read"])
parser.add_argument("dsn")
arguments = parser.parse_args()
url = urlparse(arguments.dsn)
database = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": url.path[1:],
    "USER": url.username,
    "HOST": url.hostname,
    "PORT": url.port,
}
settings.configure(
    DATABASES={"default": database, "beside": {**database, "OPTIONS": {"server_side_binding": True}}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "yard"],
    SECRET_KEY="not one",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
)
django.setup()

from django.contrib.auth.models import Group, Permission, User  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DatabaseError, IntegrityError, connection, models, transaction  # noqa: E402
from django.db.models import Avg, Case, Count, Exists, F, Max, OuterRef, Prefetch, Q, Subquery, Sum, Value, When, Window  # noqa: E402
from django.db.models.functions import Coalesce, RowNumber, TruncDay, Upper  # noqa: E402
from yard.models import Duty, Reading, Ship  # noqa: E402

MODELS = [User, Group, Ship, Duty, Reading]
NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.timezone.utc)


def see(what, *values):
    print(what, *(repr(value) for value in values))


def objects():
    """create, bulk_create, get_or_create, update_or_create, F(), related managers."""
    ships = [Ship.objects.create(name=name) for name in ("Fram", "Gauss", "Nimrod")]
    see("ships", [ship.pk for ship in ships])
    readings = [Reading(ship=ships[i % 2], at=NOON + dt.timedelta(hours=i), value=i, extra={"n": i}) for i in range(300)]
    see("bulk", [one.pk for one in Reading.objects.bulk_create(readings, batch_size=120)][-1])
    see("got", Ship.objects.get_or_create(name="Fram")[1], Ship.objects.get_or_create(name="Scotia")[1])
    for value in (5, 6):
        one, made = Reading.objects.update_or_create(ship=ships[2], at=NOON, defaults={"value": value})
        see("update_or_create", one.value, made)
    Reading.objects.filter(ship=ships[0], value__lt=10).update(value=F("value") * 2 + 1, extra={"doubled": True})
    changed = list(Reading.objects.filter(value__gte=290))
    for one in changed:
        one.value -= 1
    see("bulk_update", Reading.objects.bulk_update(changed, ["value"]))
    Ship.objects.bulk_create(
        [Ship(name="Fram"), Ship(name="Discovery")], update_conflicts=True, unique_fields=["name"], update_fields=["name"]
    )
    see("ignored", len(Ship.objects.bulk_create([Ship(name="Fram"), Ship(name="Aurora")], ignore_conflicts=True)))
    users = [User.objects.create_user(f"user{i}", password="x", first_name="A" * i) for i in range(4)]
    for i, user in enumerate(users):
        ships[i % 3].crew.add(user, through_defaults={"since": dt.date(2026, 1, i + 1)})
    group = Group.objects.create(name="night watch")
    group.user_set.set(users[:2])
    group.permissions.set(Permission.objects.order_by("codename")[:3])
    see("may", sorted(User.objects.get(username="user0").get_all_permissions()))
    store = SessionStore(session_key="0123456789abcdef0123456789abcdef")
    store["cart"] = [1, 2]
    store.save(must_create=True)
    see("session", dict(SessionStore(session_key=store.session_key).load()))
    first = Reading.objects.first()
    Reading.objects.create(ship=ships[2], at=NOON, value=1, corrects=first)
    see("deleted", first.delete())
    see("cascade", sorted(Ship.objects.filter(name="Gauss").delete()[1].items()))


def queries():
    """Joins, sub-selects, aggregates, windows, set operations, prefetching, JSON, server-side cursors."""
    see("count", Reading.objects.filter(ship__name__istartswith="f").exclude(extra__n__gt=200).count())
    ships = Ship.objects.annotate(n=Count("readings"), top=Max("readings__value"), mean=Avg("readings__value"))
    see("annotated", list(ships.order_by("name").values_list("name", "n", "top", "mean")))
    latest = Reading.objects.filter(ship=OuterRef("pk")).order_by("-at", "-id").values("value")[:1]
    see("subquery", list(Ship.objects.annotate(last=Subquery(latest)).order_by("name").values_list("name", "last")))
    manned = Ship.objects.filter(Exists(Duty.objects.filter(ship=OuterRef("pk"))))
    see("exists", list(manned.order_by(Upper("name").desc()).values_list("name", flat=True)))
    kinds = Case(When(value__lt=50, then=Value("low")), default=Value("high"))
    see("case", list(Reading.objects.annotate(kind=kinds).values("kind").annotate(n=Count("pk"), s=Sum("value")).order_by("kind")))
    days = Reading.objects.annotate(day=TruncDay("at")).values("day").annotate(n=Count("pk")).order_by("day")
    see("days", [(row["day"].isoformat(), row["n"]) for row in days][:4])
    numbered = Reading.objects.annotate(k=Window(RowNumber(), partition_by="ship", order_by="-value")).filter(k__lte=2)
    see("window", [(one.ship_id, one.k, one.value) for one in numbered.order_by("ship_id", "k")])
    see("union", sorted(Ship.objects.values_list("name").union(Group.objects.values_list("name"))))
    see("json", Reading.objects.filter(extra__doubled=True).count(), Reading.objects.filter(extra__has_key="n").count())
    crews = Ship.objects.prefetch_related(Prefetch("crew", User.objects.order_by("username")), "readings").order_by("name")
    see("prefetch", [(ship.name, [user.username for user in ship.crew.all()], len(ship.readings.all())) for ship in crews])
    see("related", [(duty.ship.name, duty.user.username) for duty in Duty.objects.select_related("ship", "user").order_by("id")])
    see("iterator", sum(one.value for one in Reading.objects.iterator(chunk_size=50)))
    see("iterator in a transaction", sum_in_transaction())
    see("coalesce", Reading.objects.filter(value__gt=10**6).aggregate(s=Coalesce(Sum("value"), Value(0), output_field=models.DecimalField())))
    see("raw", [ship.name for ship in Ship.objects.raw("SELECT * FROM yard_ship WHERE name LIKE %s ORDER BY id", ["%o%"])])
    see("distinct on", [one.ship_id for one in Reading.objects.order_by("ship_id", "-at").distinct("ship_id")])
    see("prepared on the server", Reading.objects.using("beside").filter(value__in=[1, 2, 3], ship__name="Fram").count())


def sum_in_transaction():
    with transaction.atomic():
        return sum(one.value for one in Reading.objects.filter(value__lt=70).iterator(chunk_size=20))


def transactions():
    """atomic, savepoints, errors and going on after them, select_for_update, deferred foreign keys, on_commit."""
    told = []
    try:
        with transaction.atomic():
            Ship.objects.create(name="never")
            transaction.on_commit(lambda: told.append("never"))
            raise KeyError
    except KeyError:
        see("rolled back", Ship.objects.filter(name="never").exists())
    with transaction.atomic():
        transaction.on_commit(lambda: told.append("told"))
        fram = Ship.objects.select_for_update().get(name="Fram")
        attempts = {
            "unique": lambda: Ship.objects.create(name="Nimrod"),
            "check": lambda: fram.readings.update(value=-101),
            "too long": lambda: Ship.objects.create(name="x" * 31),
            "null": lambda: Reading.objects.create(ship=fram, at=None, value=1),
            "protected": lambda: User.objects.filter(duty__ship=fram).delete(),
        }
        for what, attempt in attempts.items():
            try:
                with transaction.atomic():
                    attempt()
            except (DatabaseError, IntegrityError, models.ProtectedError) as error:
                cause = getattr(error.__cause__, "sqlstate", None)
                see(what, type(error).__name__, cause, str(error).splitlines()[0])
        Ship.objects.filter(pk=fram.pk).update(name=Upper("name"))
    see("on commit", told)
    try:
        with transaction.atomic():
            Reading.objects.create(ship_id=9999, at=NOON, value=1)
            see("deferred", "not told before the commit")
    except IntegrityError as error:
        see("deferred", error.__cause__.sqlstate, str(error).splitlines()[0])
    with transaction.atomic():
        Reading.objects.create(pk=100000, ship_id=100001, at=NOON, value=1)
        Ship.objects.create(pk=100001, name="later")
    see("skip locked", Ship.objects.using("beside").filter(name="later").count(), locked_elsewhere())


def locked_elsewhere():
    with transaction.atomic():
        list(Ship.objects.select_for_update().filter(name="later"))
        with transaction.atomic(using="beside"):
            rest = Ship.objects.using("beside").select_for_update(skip_locked=True).order_by("id")
            return [ship.name for ship in rest]


def everything():
    for model in MODELS:
        fields = [field.name for field in model._meta.concrete_fields if field.name not in ("password", "date_joined", "last_login")]
        for row in model.objects.order_by("pk").values_list(*fields):
            see(model.__name__, *row)


if arguments.action == "setup":
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        for model in (Ship, Duty, Reading):
            editor.create_model(model)
    see("tables", sorted(connection.introspection.table_names()))
elif arguments.action == "run":
    objects()
    queries()
    transactions()
everything()
sys.stdout.flush()
