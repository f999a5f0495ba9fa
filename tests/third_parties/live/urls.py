import threading

from common import made_of, meet
from django.core.servers.basehttp import WSGIServer
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.urls import path

from live.models import Note

TOGETHER = 4
together = threading.Barrier(TOGETHER, timeout=20.0)


def notes(request: HttpRequest) -> HttpResponse:
    return HttpResponse("\n".join(note.text for note in Note.objects.order_by("id")))


def database(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(id(connections["default"])))


def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body)


def gather(request: HttpRequest) -> HttpResponse:
    together.wait()
    return HttpResponse("together")


def met(request: HttpRequest) -> HttpResponse:
    meet()
    return HttpResponse("met")


def made(request: HttpRequest) -> HttpResponse:
    return HttpResponse(made_of(WSGIServer))


urlpatterns = [
    path("notes", notes),
    path("database", database),
    path("echo", echo),
    path("gather", gather),
    path("meet", met),
    path("made", made),
]
