"""`cli openapi`: prints the OpenAPI document of this service's API."""

import json

from services.user_management.main import create_app
from services.user_management.settings import Settings


def print_schema() -> None:
    """Print the OpenAPI document of the API; documentation/openapi.json holds this output."""
    print(json.dumps(create_app(Settings.model_construct()).openapi(), indent=2, ensure_ascii=False))
