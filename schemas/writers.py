"""The writer schemas that a job asks: a registry's, or without one the shipped schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.settings import registry_settings
from schemas.source import SchemaSource, ShippedSchemas


def for_registry(
    url: str | None,
    shipped: Mapping[str, Any],
    config: Mapping[str, str] | None = None,
    subject: str | None = None,
) -> SchemaSource:
    """The source of writer schemas.

    Args:
      url: of the registry (several with commas: the others are tried when one fails); None takes
        ``schema.registry.url`` of ``config``, and without that the shipped schema for every id.
      shipped: the schema of the use case.
      config: client properties, those of Kafka among them. ``schema.registry.NAME``, ``basic.auth.*`` and
        ``bearer.auth.*`` are the registry's; all others are left to Kafka.
      subject: of the records, ``<topic>-value``: a registry with contexts needs it to tell which one an id is of.

    Raises:
      UserError: a property that is not known, a secret that is not a reference, or a URL that is none.
    """
    settings = registry_settings(config or {})
    url = url or settings.pop("url", None)
    settings.pop("url", None)
    if not url:
        return ShippedSchemas(shipped)
    from schemas.client import RegistrySchemas  # confluent's client takes a quarter of a second to import

    return RegistrySchemas(url, settings, subject)
