"""The models of django_orm.py, which makes their tables: the app has no migrations."""

from django.contrib.auth.models import User
from django.db import models
from django.db.models import Q


class Ship(models.Model):
    name = models.CharField(max_length=30, unique=True)
    crew = models.ManyToManyField(User, through="Duty")


class Duty(models.Model):
    ship = models.ForeignKey(Ship, on_delete=models.CASCADE)
    user = models.ForeignKey(User, on_delete=models.PROTECT)
    since = models.DateField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["ship", "user"], name="one_duty")]


class Reading(models.Model):
    ship = models.ForeignKey(Ship, on_delete=models.CASCADE, related_name="readings")
    at = models.DateTimeField()
    value = models.DecimalField(max_digits=10, decimal_places=3)
    extra = models.JSONField(default=dict)
    corrects = models.OneToOneField("self", null=True, on_delete=models.SET_NULL)

    class Meta:
        ordering = ["id"]
        constraints = [models.CheckConstraint(condition=Q(value__gte=-100), name="sane_value")]
