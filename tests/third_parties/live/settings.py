"""A project of Django that is nothing but this package."""

SECRET_KEY = "that nobody needs to know"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["django.contrib.staticfiles", "live"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]  # without the length of replies, no connection stays open
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "live.urls"
STATIC_URL = "/static/"
