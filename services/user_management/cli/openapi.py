"""`cli openapi`: prints the document of the API."""

import json

from services.user_management.main import create_app
from services.user_management.settings import Settings


def print_schema() -> None:
    """Print the OpenAPI document, as committed in documentation/openapi.json."""
    print(json.dumps(create_app(Settings.model_construct()).openapi(), indent=2, ensure_ascii=False))
